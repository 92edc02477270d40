"""`zoo cache`."""

from __future__ import annotations

import click

from zoo.errors import counted
from zoo_cli.options import console, json_option, print_json


@click.command()
@click.option("--clear", is_flag=True, help="Remove all entries.")
@json_option
def cache(clear: bool, as_json: bool) -> None:
    """Show the size of the feature cache, or clear it.

    The cache holds features of frozen stages and decoded images, so that later epochs and runs need not compute them
    again. Clearing it changes no result.

    The environment variable ZOO_CACHE sets the folder. ZOO_CACHE_BUDGET sets the largest size, such as 500M or 20G; 0
    turns the cache off. When it is full, the least recently used entries are removed.
    """
    from rich.markup import escape

    from zoo.storage.tensor_store import Store, size_text

    store = Store()
    store.check_folder()
    usage = store.clear() if clear else store.usage()
    if as_json:
        folder = None if usage.folder is None else str(usage.folder)
        print_json(
            {
                "folder": folder,
                "entries": usage.entries,
                "bytes": usage.bytes,
                "budget": usage.budget,
                "cleared": clear,
            }
        )
        return
    if usage.folder is None:
        console().print("there is no cache folder; set `ZOO_CACHE` to one")
        return
    held = f"{counted(usage.entries, 'entry', 'entries')}, {size_text(usage.bytes)}"
    tail = "removed" if clear else f"of {size_text(usage.budget)}"
    console().print(f"{escape(str(usage.folder))}: {held} {tail}")
