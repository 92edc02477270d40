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


@click.command()
@click.argument(
    "targets", metavar="RUN|FILE.onnx... [PHOTO...]", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Number of images in each call; may be given several times.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="Runtime to measure, see `zoo list runtimes`; may be given several times.  [default: all]",
)
@device_option
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=None,
    help="Number of threads for one call.  [default: the physical cores]",
)
@click.option(
    "--seconds",
    type=float,
    default=2.0,
    show_default=True,
    help="Seconds of timed calls for each model, runtime and batch size.",
)
@click.option(
    "--with-preprocess",
    is_flag=True,
    help="Include preprocessing: time from decoded photograph to probabilities, not the network alone.",
)
@click.option(
    "--allow-fallback",
    is_flag=True,
    help="Measure a file on CUDA even if parts of its network run on the CPU, instead of failing.",
)
@click.option(
    "--concurrent",
    "--callers",
    "callers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of simultaneous callers, each of which calls again as soon as it has its result.",
)
@click.option(
    "--noise-floor/--no-noise-floor",
    default=True,
    show_default=True,
    help="Measure the noise floor with a second process of the fastest model; smaller differences are not significant.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the measurements to this JSON file."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also plot latency against batch size, and accuracy against latency, to this .svg, .png or .pdf file; needs "
    "the extra `plot`.",
)
@click.option(
    "--serve",
    "url",
    metavar="URL",
    help="Measure the server at this address, which serves FILE.onnx, against decoding and the session alone. Further "
    "paths are photographs.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="With `--serve`: file with the token that the server wants.",
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
    url: str | None,
    token_file: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the latency of runs and exported files, or a server.

    Use it to choose a network, a precision or a runtime. For a run it measures torch, eager and compiled, and the
    run's `model.onnx` if there is one. For a file it measures every available runtime that reads it: onnxruntime on
    CPU, CUDA and TensorRT, and OpenVINO.

    \b
    zoo bench runs/first
    zoo bench model.onnx int8.onnx --batch-size 1 --batch-size 32
    zoo bench model.onnx holiday --serve http://127.0.0.1:8080 --callers 8

    Each model and runtime has a process of its own. Their calls are interleaved, so that a change of the machine's
    load affects all alike.
    """
    from zoo.errors import UsageError, ZooError
    from zoo.latency.measurement import bench as measure
    from zoo.latency.plot import check_plot, draw
    from zoo.storage.files import write_json
    from zoo_cli.bench_served import bench_server, check_options
    from zoo_cli.main import plugins

    check_options(ctx)
    for file in (out, plot):
        if file is None:
            continue
        if file.exists() and not force:
            raise UsageError(f"`{file}` exists", hint="pass `--force` to replace it")
        if not file.parent.is_dir():
            raise UsageError(f"there is no folder `{file.parent}`", hint="make it first, or pass another file")
        if not os.access(file.parent, os.W_OK):
            raise ZooError(f"folder `{file.parent}` is not writable", hint="pass a file in another folder")
    if out is not None and out.suffix.lower() != ".json":
        raise UsageError(f"`{out}` does not end in `.json`", hint="pass `--out latency.json`")
    if url is not None:
        report_json = bench_server(
            ctx, targets, url, token_file, device=device, threads=threads, seconds=seconds, callers=callers,
            noise_floor=noise_floor,
        )  # fmt: skip
        if out is not None:
            write_json(out, report_json)
        if as_json:
            print_json(report_json)
        return
    if plot is not None:
        check_plot(plot)
    screen = console()
    # Draws nothing if stderr is no terminal. Once a second only: drawing takes processor time from what is measured
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
        raise ZooError("nothing could be measured", hint="the reasons are printed above; `--json` also has the logs")


def show(report: LatencyReport, screen: Console) -> None:
    """Print the table of latencies, then remarks on how to read them."""
    from rich.markup import escape
    from rich.table import Table

    machine = report.machine
    at_once = f", {report.callers} simultaneous callers" if report.callers > 1 else ""
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
        screen.print("[dim]~ not significantly slower than the fastest[/dim]")
    for size, share in report.noise_floor.items():
        screen.print(
            f"[dim]noise floor, batch {size}: two processes of the fastest model differed by {share:.1%}[/dim]"
        )
    from zoo.system.other_load import BUSY, kept_busy

    if report.others > BUSY:
        screen.print(
            f"[bold yellow]warning[/bold yellow]: {kept_busy(report.others)} during the measurement; on an idle "
            "machine latencies are lower and vary less"
        )
    for outcome in report.outcomes:
        for line in _remarks(outcome):
            screen.print(f"[dim]{escape(outcome.label)} on {escape(outcome.name)}[/dim]: {line}")


def _remarks(outcome: Outcome) -> list[str]:
    from rich.markup import escape

    if outcome.status == "unavailable":
        return [f"[dim]not measured: {escape(outcome.reason)}[/dim]"]
    if outcome.status == "failed":
        hint = f" ({escape(outcome.hint)})" if outcome.hint else ""
        return [f"[bold red]failed[/bold red]: {escape(outcome.reason)}{hint}"]
    found = [f"{outcome.provider}, {outcome.input}", *outcome.notes]
    found += [f"batch {taken.batch_size}: {'; '.join(taken.notes)}" for taken in outcome.measurements if taken.notes]
    return [f"[dim]{escape(line)}[/dim]" for line in found]


def _interval(figure: Estimate, scale: float) -> str:
    """An estimate with its interval, to about three significant digits."""
    value = figure.value * scale
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ({figure.low * scale:.{digits}f}-{figure.high * scale:.{digits}f})"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f} MiB"
