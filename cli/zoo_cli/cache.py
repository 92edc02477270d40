"""`zoo cache`."""

from __future__ import annotations

import click

from zoo_cli.options import console, json_option, print_json


@click.command()
@click.option("--clear", is_flag=True, help="Remove every entry.")
@json_option
def cache(clear: bool, as_json: bool) -> None:
    """Show where frozen prefixes are kept, how many and how large; or remove them.

    ZOO_CACHE names another cache folder; ZOO_CACHE_BUDGET says how large the store may grow: 500M, 20G, or 0 for
    no store at all. Entries that were used longest ago make room for new ones.
    """
    from rich.markup import escape

    from zoo.storage.tensor_store import Store, size_text

    store = Store()
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
        console().print("there is no cache folder: set ZOO_CACHE to one")
        return
    held = f"{usage.entries:,} entries, {size_text(usage.bytes)}"
    tail = "removed" if clear else f"of {size_text(usage.budget)}"
    console().print(f"{escape(str(usage.folder))}: {held} {tail}")
