"""`zoo serve --to`."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from zoo.errors import UsageError
from zoo_cli.options import console, echo

WITH_TARGET = ("files", "to", "storage_uri", "force", "device")  # all other parameters are a server's


def check_options(ctx: click.Context) -> None:
    """Refuse options that would have no effect: of a server with `--to`, and of a target without it.

    Raises:
        UsageError: there is one.
    """
    to = ctx.params["to"]
    given = [
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    ]
    for name in given:
        option = next(one.opts[0] for one in ctx.command.params if one.name == name)
        if to is not None and name not in WITH_TARGET:
            raise UsageError(
                f"`{option}` is for a server, and `--to` starts none", hint=f"pass `{option}` or `--to`, not both"
            )
        if to is None and name in ("storage_uri", "force"):
            raise UsageError(f"`{option}` needs `--to`", hint="`zoo serve --help` has an example")
    if ctx.params["shadow"] is None and "shadow_share" in given:
        raise UsageError("`--shadow-share` needs `--shadow`", hint="pass the file that is to be compared too")
    if to is not None and to[0] != "kserve" and "storage_uri" in given:
        raise UsageError(f"`--storage-uri` is for `--to kserve`, not for `--to {to[0]}`", hint="leave it out")


def write_target(
    ctx: click.Context,
    files: tuple[Path, ...],
    kind: str,
    target: Path,
    storage_uri: str | None,
    force: bool,
    device: str,
) -> None:
    """Verify the files, and write what another server needs."""
    from zoo.serving.served_model import open_served
    from zoo.serving.target_files import check_target, write_kserve, write_triton
    from zoo.serving.targets import STORAGE, check_storage
    from zoo.system.processors import usable_cpus
    from zoo_cli.main import plugins

    if storage_uri is not None:
        check_storage(storage_uri)
    check_target(kind, target, force)
    known = plugins(ctx)
    models = []
    with console().status("verifying"):
        for file in files:
            models.append(open_served(file, name=file.stem, device=device, threads=usable_cpus(), plugins=known))
    if kind == "triton":
        written = write_triton(models, target, known)
    else:
        written = write_kserve(models, target, storage_uri)
    for path in written:
        echo(str(path))
    if kind == "kserve" and storage_uri is None:
        click.echo(f"replace `{STORAGE}` by where the folder of `--to triton` is, or pass `--storage-uri`", err=True)
