"""`zoo verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from zoo_cli.options import console, device_option, force_option, json_option, print_json, splits_option

if TYPE_CHECKING:
    from zoo.plugin import Plugins


@click.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--data", metavar="DATA", help="Also compare the file with its run on these photographs, the data of the run."
)
@click.option(
    "--split",
    metavar="train|val|test",
    help="Split of --data to compare on.  [default: the split that the run reports]",
)
@click.option(
    "--runtime",
    metavar="NAME",
    help="Also check the predictions of this runtime, such as onnxruntime-web; see `zoo list runtimes`.",
)
@click.option(
    "--script",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a Python program to this file, which checks such files with onnxruntime and numpy alone.",
)
@device_option
@force_option
@json_option
@splits_option
@click.pass_context
def verify(
    ctx: click.Context,
    file: str,
    data: str | None,
    split: str | None,
    runtime: str | None,
    script: Path | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Check an exported file for damage and wrong predictions.

    Use it wherever the file is deployed; torch and the run are not needed. It compares digests, and the predictions
    for generated test images (golden inputs) with those recorded in the file. With --data it also classifies every
    photograph of a split and compares the labels with those of the run, in whose folder the file must lie. With
    --runtime another engine must predict the same.

    \b
    zoo verify model.onnx
    zoo verify runs/first/model.onnx --data photos
    zoo verify model.onnx --runtime onnxruntime-web

    The exit code is 0 if all checks pass, and 1 if not, also if one cannot be made on this machine.
    """
    from zoo.exporting.verification import verify as check
    from zoo.storage.files import write_bytes
    from zoo_cli.main import plugins

    screen = console()
    program = _program(script, Path(file), force, plugins(ctx)) if script is not None else None
    checks = check(file, data=data, split=split, device=device, runtime=runtime, plugins=plugins(ctx))
    if script is not None and program is not None:
        write_bytes(script, program)
        screen.print(f"wrote {escape(str(script))}")
    for one in checks:
        mark = "[green]ok[/green]    " if one.passed else "[bold red]failed[/bold red]"
        if one.skipped:
            mark = "[bold yellow]skipped[/bold yellow]"
        screen.print(f"{mark} {one.name}: {escape(one.detail)}")
    passed = all(one.passed for one in checks)
    if as_json:
        rows = [
            {"name": one.name, "passed": one.passed, "skipped": one.skipped, "detail": one.detail} for one in checks
        ]
        print_json({"file": file, "passed": passed, "checks": rows})
    if not passed:
        ctx.exit(1)


def _program(script: Path, file: Path, force: bool, plugins: Plugins) -> bytes:
    """The program that checks files of this format; also checks that it can be written to `script`.

    Raises:
        UsageError: the format has none, or `script` is not a new `.py` file in an existing folder.
    """
    from zoo.errors import UsageError
    from zoo.inference.opening import find_exporter
    from zoo.row import check_returned
    from zoo.target import load_target

    exporter = find_exporter(file, plugins)
    if exporter.script is None:
        raise UsageError(
            f"`{exporter.name}` files have no program that checks them",
            hint="leave out `--script`; `zoo verify FILE` checks them",
        )
    if script.suffix.lower() != ".py":
        raise UsageError(f"`{script}` does not end in `.py`", hint="pass `--script verify_model.py`")
    if not script.parent.is_dir():
        raise UsageError(f"there is no folder `{script.parent}`", hint="make it first, or pass another `--script`")
    if script.exists() and not force:
        raise UsageError(f"`{script}` exists", hint="pass `--force` to replace it")
    text: str = load_target(exporter.script)()
    check_returned(text, str, exporter.script, f"exporter `{exporter.name}`")
    return text.encode()
