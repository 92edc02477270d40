"""`zoo export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from zoo_cli.options import console, device_option, echo, force_option, json_option, print_json, splits_option

if TYPE_CHECKING:
    from rich.table import Table

    from zoo.exporting.precision_search import PrecisionCandidate


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--to", default="onnx", show_default=True, metavar="FORMAT", help="File format; see `zoo list exporters`."
)
@click.option("--out", metavar="FILE", help="File to write.  [default: in the run's folder, such as RUN/model.onnx]")
@click.option("--data", metavar="DATA", help="New place of the run's data, if they were moved since training.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "auto"]),
    default="fp32",
    show_default=True,
    help="Number format of weights and activations; `auto` tries each and keeps the fastest that is accurate enough.",
)
@click.option(
    "--max-drop",
    type=float,
    help="Largest loss of accuracy allowed for fp16 and int8, as a fraction.  [default: 0.01, one percentage point]",
)
@click.option(
    "--calibration",
    type=int,
    metavar="COUNT",
    help="Number of training photographs that calibrate the value ranges of int8.  [default: 32]",
)
@click.option(
    "--preprocess",
    "preprocessing",
    type=click.Choice(["graph", "outside"]),
    help="Where preprocessing happens. `graph`: inside the file, which takes photographs. `outside`: before it; the "
    "file takes normalised pixels.  [default: graph if the format supports it]",
)
@click.option(
    "--tta",
    type=click.Choice(["flip", "five-crop", "ten-crop"]),
    help="Test-time augmentation inside the file. `flip`: the mean of the probabilities of each photograph and of its "
    "mirror image, at twice the time. `five-crop`: that of its four corners and its centre; `ten-crop`: of these and "
    "their mirror images. The file is RUN/model.flip.onnx, or of the other name.",
)
@device_option
@force_option
@json_option
@splits_option
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
    tta: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Export a run to a file, and verify that it predicts the same.

    Use it to deploy a run. The file holds the network, its preprocessing and the class names; an ONNX file needs only
    onnxruntime to run.

    \b
    zoo export runs/first
    zoo export runs/first --precision int8 --max-drop 0.005 --out int8.onnx

    Every photograph that the run was scored on is classified again by the file. An fp32 file must give the same label
    for each; fp16 and int8 may lose --max-drop of accuracy. Otherwise the file is not written, and the exit code is 1.
    With --tta it is compared with the run over the same views, and its own figures are stored in it.
    """
    from zoo.exporting.writing import export as write
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    screen = console()
    done = write(
        run,
        to=to,
        out=out,
        data=data,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # click has checked it
        max_drop=max_drop,
        calibration=calibration,
        preprocessing=preprocessing,
        tta=tta,
        force=force,
        plugins=plugins(ctx),
        progress=ProgressBar(screen),
    )
    if done.candidates:
        screen.print(_table(done.candidates, done.parity.precision))
    compared = done.comparison
    said = f"not compared: {escape(done.not_compared)}" if compared is None else str(compared)
    screen.print(f"{said}  [dim]{done.size / 1e6:.1f} MB[/dim]")
    for flip in () if compared is None else compared.flips:
        screen.print(f"[dim]{escape(str(flip))}[/dim]")
    for stage in () if compared is None else compared.stages:
        screen.print(f"[dim]{stage}[/dim]")
    if as_json:
        print_json(
            {
                "file": str(done.path),
                "bytes": done.size,
                "compared": compared is not None,
                "parity": None if compared is None else compared.to_json(),
                "candidates": [one.to_json() for one in done.candidates],
            }
        )
    else:
        echo(str(done.path))


def _table(candidates: tuple[PrecisionCandidate, ...], chosen: str) -> Table:
    """A row for each precision that was tried."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("precision")
    for heading in ("accuracy", "accuracy lost", "labels changed", "p50 ms", "MB"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in candidates:
        parity = one.parity
        if parity is None or one.size is None:
            table.add_row(one.precision, "-", "-", "-", "-", "-", "[red]rejected[/red]")
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
