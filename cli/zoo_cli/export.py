"""`zoo export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from zoo_cli.options import console, device_option, force_option, json_option, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from zoo.exporting.precision_search import PrecisionCandidate


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", default="onnx", show_default=True, metavar="FORMAT", help="See `zoo list exporters`.")
@click.option("--out", metavar="FILE", help="[default: RUN/model.onnx]")
@click.option("--data", metavar="DATA", help="The run's data, if they were moved since.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "auto"]),
    default="fp32",
    show_default=True,
    help="Of weights and values; `auto` times those that pass and keeps the fastest.",
)
@click.option("--max-drop", type=float, help="Accuracy that fp16 and int8 may lose, as a share.  [default: 0.01]")
@click.option(
    "--calibration",
    type=int,
    metavar="COUNT",
    help="Training photographs that int8 reads the ranges of values off.  [default: 32]",
)
@click.option(
    "--preprocess",
    "preprocessing",
    type=click.Choice(["graph", "outside"]),
    help="Photographs in, or `outside`: normalised pixels in.  [default: graph where the format can]",
)
@device_option
@force_option
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    run: str,
    to: str,
    out: str | None,
    data: str | None,
    precision: str,
    max_drop: float | None,
    calibration: int | None,
    preprocessing: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write a run as one verified file.

    The file holds the network and its preprocessing. It is kept only if it predicts, from the bytes of the reported
    split's photographs to their labels, what the run predicted; fp16 and int8 may lose `--max-drop` of accuracy.
    """
    from zoo.exporting.writing import export as write
    from zoo_cli.display import Display
    from zoo_cli.main import plugins

    screen = console()
    done = write(
        run,
        to=to,
        out=out,
        data=data,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # click has looked at it
        max_drop=max_drop,
        calibration=calibration,
        preprocessing=preprocessing,
        force=force,
        plugins=plugins(ctx),
        progress=Display(screen),
    )
    if done.candidates:
        screen.print(_table(done.candidates, done.parity.precision))
    screen.print(f"{done.parity}  [dim]{done.size / 1e6:.1f} MB[/dim]")
    for flip in done.parity.flips:
        screen.print(f"[dim]{escape(str(flip))}[/dim]")
    for stage in done.parity.stages:
        screen.print(f"[dim]{stage}[/dim]")
    if as_json:
        print_json(
            {
                "file": str(done.path),
                "bytes": done.size,
                "parity": done.parity.to_json(),
                "candidates": [one.to_json() for one in done.candidates],
            }
        )
    else:
        click.echo(str(done.path))


def _table(candidates: tuple[PrecisionCandidate, ...], chosen: str) -> Table:
    """What became of every precision."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("precision")
    for heading in ("accuracy", "lost", "flips", "p50 ms", "MB"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in candidates:
        parity = one.parity
        if parity is None or one.size is None:
            table.add_row(one.precision, "-", "-", "-", "-", "-", "[red]refused[/red]")
            continue
        middle, low, high = (value * 1000 for value in one.latency or (float("nan"),) * 3)
        table.add_row(
            one.precision,
            f"{parity.accuracy:.4f}",
            f"{parity.drop:.4f} ({parity.drop_interval[0]:.4f} to {parity.drop_interval[1]:.4f})",
            str(len(parity.flips)),
            f"{middle:.2f} ({low:.2f}-{high:.2f})" if one.latency else "-",
            f"{one.size / 1e6:.1f}",
            "kept" if one.precision == chosen else "",
        )
    return table
