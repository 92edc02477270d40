"""`zoo bench --serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from zoo.errors import UsageError
from zoo_cli.options import console

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.latency.report import Estimate
    from zoo.latency.served import ServedReport, Side

WITHOUT_SERVER = ("batch_sizes", "runtimes", "with_preprocess", "allow_fallback", "plot")  # have no meaning with one


def check_options(ctx: click.Context) -> None:
    """Refuse options that would have no effect.

    Raises:
        UsageError: there is one.
    """
    served = ctx.params["url"] is not None
    for name in (*WITHOUT_SERVER, "token_file"):
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        option = next(one.opts[0] for one in ctx.command.params if one.name == name)
        if served and name in WITHOUT_SERVER:
            raise UsageError(f"`{option}` has no effect with `--serve`", hint="leave it out")
        if not served and name == "token_file":
            raise UsageError(f"`{option}` needs `--serve`", hint="pass the server's address too")


def bench_server(
    ctx: click.Context,
    targets: tuple[Path, ...],
    url: str,
    token_file: Path | None,
    *,
    threads: int | None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a server, and print the figures; returns them as JSON values."""
    from zoo.inference.prediction import find_photographs
    from zoo.latency.served import bench_served
    from zoo_cli.main import plugins

    token = None
    if token_file is not None:
        from zoo.serving.access_token import read_token

        token = read_token(token_file)
    file, *paths = targets
    if file.is_dir():
        raise UsageError(f"`{file}` is a folder", hint="name the file that is served, then photographs")
    photographs = find_photographs(map(str, paths)) if paths else []
    screen = console()
    with screen.status("starting", refresh_per_second=1) as status:
        report = bench_served(
            file,
            url,
            photographs,
            threads=threads or 1,
            token=token,
            plugins=plugins(ctx),
            on_progress=status.update,
            **settings,
        )
    show(report, screen)
    return report.to_json()


def show(report: ServedReport, screen: Console) -> None:
    """Print both sides, then what they say of one another and of the machine."""
    from rich.markup import escape
    from rich.table import Table

    from zoo.system.other_load import BUSY, kept_busy

    def dim(line: str) -> None:
        screen.print(f"[dim]{escape(line)}[/dim]")

    workers = "" if report.workers is None else f", {report.workers} workers"
    dim(f"{report.machine['processor']}; {report.photographs} photographs, both sides give the same labels")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("images/s", "p50 ms", "p90 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    callers = f"{report.callers} caller{'s' * (report.callers != 1)}"
    threads = f"{report.bare_threads} thread{'s' * (report.bare_threads != 1)}"
    table.add_row(f"server, {callers}{workers}", *_cells(report.server))
    table.add_row(f"bare session, {threads}", *_cells(report.bare))
    screen.print(table)
    floor = report.noise_floor
    screen.print(
        f"server / bare session: rate {_interval(report.share, 1)}"
        + ("" if report.p50_ratio is None else f", p50 {_interval(report.p50_ratio, 1)}")
    )
    if floor:
        dim(
            f"noise floor: two processes of the bare session differed by {floor['rate']:.1%} in rate and "
            f"{floor['p50']:.1%} in p50"
        )
    if report.rejected:
        assert report.rejected_p99 is not None
        screen.print(
            f"rejected with 503: {report.rejected_share:.1%} of requests, p99 {report.rejected_p99 * 1e3:.0f} ms"
        )
    lacks = ", which the server lacks" if report.same_machine else ""
    dim(
        f"load generator: {report.client_seconds * 1e3:.2f} ms of processor for each request, "
        f"{report.client_processors:.2f} of {report.cores} processors{lacks}"
    )
    for note in report.notes:
        dim(note)
    if report.others > BUSY:
        screen.print(
            f"[bold yellow]warning[/bold yellow]: {kept_busy(report.others)} during the measurement; on an idle "
            "machine the figures vary less"
        )


def _cells(side: Side) -> list[str]:
    rate, *times = side.images_per_second, side.p50, side.p90, side.p99
    return [_interval(rate, 1), *(_interval(one, 1000) for one in times)]


def _interval(figure: Estimate, scale: float) -> str:
    value = figure.value * scale
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ({figure.low * scale:.{digits}f}-{figure.high * scale:.{digits}f})"
