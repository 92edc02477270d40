"""`zoo bench`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_cli.options import console, device_option, force_option, json_option, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.latency.report import Estimate, LatencyReport, Outcome

BUSY = 0.2  # cores: an idle system keeps less than this busy; spinning threads suffer from any more


@click.command()
@click.argument("targets", metavar="RUN|FILE.onnx...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Images per call; may be given several times.",
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Only this one; may be given several times.")
@device_option
@click.option(
    "--threads", type=click.IntRange(1), default=None, help="That one call computes with.  [default: physical cores]"
)
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="Of timed calls per contender and batch size."
)
@click.option("--with-preprocess", is_flag=True, help="Time from photograph to probabilities, not the network alone.")
@click.option("--allow-fallback", is_flag=True, help="Time a file although nodes of its network left the device.")
@click.option(
    "--concurrent",
    "callers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Callers at once, each calling again when it has its answer.",
)
@click.option(
    "--noise-floor/--no-noise-floor",
    default=True,
    show_default=True,
    help="Time a second process of the fastest: what differs by no more is not told apart.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the JSON to this file.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw latency against batch, and accuracy against latency (.svg, .png or .pdf; extra `plot`).",
)
@force_option
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    targets: tuple[Path, ...],
    batch_sizes: tuple[int, ...],
    runtimes: tuple[str, ...],
    device: str,
    threads: int | None,
    seconds: float,
    with_preprocess: bool,
    allow_fallback: bool,
    callers: int,
    noise_floor: bool,
    out: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the latency of runs and exported files.

    A run brings torch, eager and compiled, and its `model.onnx` where there is one; a file brings onnxruntime on the
    CPU, CUDA and TensorRT, and OpenVINO, where they are. Contenders take turns, each in a process of its own.
    """
    from zoo.errors import UsageError, ZooError
    from zoo.latency.measurement import bench as measure
    from zoo.latency.plot import check_plot, draw
    from zoo.storage.files import write_json
    from zoo_cli.main import plugins

    for file in (out, plot):
        if file is None:
            continue
        if file.exists() and not force:
            raise UsageError(f"`{file}` exists", hint="pass `--force` to replace it")
        if not file.parent.is_dir():
            raise UsageError(f"there is no folder `{file.parent}`", hint="make it first, or pass another")
        if not os.access(file.parent, os.W_OK):
            raise ZooError(f"`{file.parent}` may not be written to", hint="pass another folder")
    if out is not None and out.suffix != ".json":
        raise UsageError(f"`{out}` does not end in `.json`", hint="pass `--out latency.json`")
    if plot is not None:
        check_plot(plot)
    screen = console()
    # Draws nothing where stderr is no terminal; seldom, because drawing computes while a contender is timed
    with screen.status("starting", refresh_per_second=1) as status:
        report = measure(
            targets,
            runtimes=runtimes or None,
            device=device,
            batch_sizes=batch_sizes,
            threads=threads,
            seconds=seconds,
            with_preprocess=with_preprocess,
            allow_fallback=allow_fallback,
            callers=callers,
            noise_floor=noise_floor,
            plugins=plugins(ctx),
            on_progress=status.update,
        )
    show(report, screen)
    if out is not None:
        write_json(out, report.to_json())
    if plot is not None and report.measured:
        draw(report, plot, plugins(ctx))
    if as_json:
        print_json(report.to_json())
    if not report.measured:
        raise ZooError("nothing could be measured", hint="the reasons stand above, the logs in `--json`")


def show(report: LatencyReport, screen: Console) -> None:
    """The table of figures, then what a reader of them must know."""
    from rich.markup import escape
    from rich.table import Table

    machine = report.machine
    at_once = f", {report.callers} callers at once" if report.callers > 1 else ""
    screen.print(f"[dim]timed: {escape(report.timed)}{at_once}[/dim]")
    screen.print(f"[dim]{escape(machine['processor'])}, threads per call: {report.threads}; 95 % intervals[/dim]")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("target")
    table.add_column("runtime")
    for heading in ("batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "vs fastest", "memory", "calls"):
        table.add_column(heading, justify="right")
    for size in report.batch_sizes:
        rows = [(o, m) for o in report.measured for m in o.measurements if m.batch_size == size]
        for outcome, found in sorted(rows, key=lambda row: row[1].p50.value):
            memory = _mebibytes(found.memory)
            if found.device_memory is not None:
                memory += f" + {_mebibytes(found.device_memory)} CUDA"
            table.add_row(
                escape(outcome.label),
                escape(outcome.name),
                str(size),
                *(_interval(figure, 1000) for figure in (found.p50, found.p90, found.p99)),
                _interval(found.images_per_second, 1),
                "fastest" if found.fastest else f"x {_interval(found.ratio, 1)}{'' if found.told_apart else ' ~'}",
                memory,
                str(found.calls),
            )
    if report.measured:
        screen.print(table)
    if any(not taken.fastest and not taken.told_apart for one in report.measured for taken in one.measurements):
        screen.print("[dim]~ cannot be told apart from the fastest[/dim]")
    for size, share in report.noise_floor.items():
        screen.print(f"[dim]noise floor, batch {size}: two processes of the fastest differed by {share:.1%}[/dim]")
    if report.others > BUSY:
        screen.print(
            f"[bold yellow]warning[/bold yellow]: other programs kept {report.others:.1f} of "
            f"{machine['logical_cores']} cores busy meanwhile; expect faster and steadier figures of a quiet machine"
        )
    for outcome in report.outcomes:
        for line in _remarks(outcome):
            screen.print(f"[dim]{escape(outcome.label)} on {escape(outcome.name)}[/dim]: {line}")


def _remarks(outcome: Outcome) -> list[str]:
    from rich.markup import escape

    if outcome.status == "unavailable":
        return [f"[dim]left out, {escape(outcome.reason)}[/dim]"]
    if outcome.status == "failed":
        hint = f" ({escape(outcome.hint)})" if outcome.hint else ""
        return [f"[bold red]failed[/bold red], {escape(outcome.reason)}{hint}"]
    found = [f"{outcome.provider}, {outcome.input}", *outcome.notes]
    found += [f"batch {taken.batch_size}: {'; '.join(taken.notes)}" for taken in outcome.measurements if taken.notes]
    return [f"[dim]{escape(line)}[/dim]" for line in found]


def _interval(figure: Estimate, scale: float) -> str:
    """A figure with its interval, to three digits of its size."""
    value = figure.value * scale
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ({figure.low * scale:.{digits}f}-{figure.high * scale:.{digits}f})"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f} MiB"
