"""Options and output shared by several commands: tables go to stderr, data to stdout."""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from zoo.errors import UsageError
from zoo.system.processors import MOST_THREADS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|rocm|xpu|mps",
    help="Device to compute on, also numbered as cuda:1; `auto` takes CUDA or ROCm if it can be used, else the CPU.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
force_option = click.option("--force", is_flag=True, help="Overwrite existing output.")


def _use_threads(ctx: click.Context, parameter: click.Parameter, count: int | None) -> None:
    if count is not None and not ctx.resilient_parsing:
        from zoo.system.processors import use_threads

        use_threads(count)
        ctx.meta[THREADS] = count


THREADS = "zoo.threads"  # where the context keeps what `--threads` asks for

threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    expose_value=False,
    callback=_use_threads,
    help="Threads that compute on the CPU, in place of OMP_NUM_THREADS.  [default: one per core, and in a container no "
    "more than its quota]",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    default=None,
    help="Threads that decode images.  [default: one per core, at most 8]",
)


levels_option = click.option(
    "--levels",
    type=click.Tuple([click.FLOAT, click.FLOAT]),
    metavar="LOW HIGH",
    default=None,
    help="Grey levels that become black and white, in grey images of more than 8 bits.  [default: those that the model "
    "was trained with]",
)


def classes_from_option(command: F) -> F:
    """The option `--classes-from`, which changes what the command is given for `--data`. It stands above all others."""

    @click.option(
        "--classes-from",
        type=click.Choice(["leaf", "top"]),
        help="Folders that are the classes: the lowest ones (`leaf`), or the highest ones, also those named train, val "
        "or test (`top`).  [default: the highest, below split folders if there are any]",
    )
    @functools.wraps(command)
    def with_classes(*arguments: Any, classes_from: str | None, **options: Any) -> Any:
        if classes_from is not None:
            from zoo.data.opening import with_classes_from
            from zoo_cli.main import plugins

            if options["data"] is None:
                raise UsageError("`--classes-from` needs `--data`", hint="pass the folder")
            known = plugins(click.get_current_context())
            options["data"] = with_classes_from(options["data"], classes_from, known)
        return command(*arguments, **options)

    return with_classes  # type: ignore[return-value]


def splits_option(command: F) -> F:
    """The option `--splits`, which changes what the command is given for `--data`, after `--classes-from`."""

    @click.option(
        "--splits",
        metavar="FILE",
        help="Table with the split of each image, such as a CSV with the columns path and split; a path is that below "
        "the data. Images that it does not name are left out.  [default: those of the data, else drawn at random]",
    )
    @functools.wraps(command)
    def with_splits(*arguments: Any, splits: str | None, **options: Any) -> Any:
        if splits is not None:
            from zoo.data.split_table import with_split_table

            if options["data"] is None:
                raise UsageError("`--splits` needs `--data`", hint="pass the data that the table divides")
            options["data"] = with_split_table(splits, options["data"])
        return command(*arguments, **options)

    return with_splits  # type: ignore[return-value]


# Columns below which figures would be cut off; a narrower terminal breaks the lines itself
NARROWEST = 40
WIDE = 160  # columns where there is no terminal


def console() -> Console:
    """The console for tables and progress: stderr, no colour if NO_COLOR is set, 160 columns if it is no terminal."""
    from rich.console import Console

    plain = Console(stderr=True, highlight=False, emoji=False)  # a class may be called `:dog:`
    width = plain.width if plain.is_terminal or "COLUMNS" in os.environ else WIDE
    return Console(stderr=True, highlight=False, emoji=False, width=max(width, NARROWEST))


def fits(screen: Console, table: Table) -> bool:
    """Whether a table can be printed without wrapping or truncating a cell."""
    from rich.measure import Measurement

    unbounded = screen.options.update_width(100_000)
    return Measurement.get(screen, unbounded, table).maximum <= screen.width


_data: TextIO | None = None  # the real stdout, while a command runs


def data_stream() -> TextIO:
    """The stream for data. `sys.stdout` is stderr while a command runs, for what plugins print."""
    return _data if _data is not None else sys.stdout


def echo(text: str, nl: bool = True) -> None:
    """Print data on stdout."""
    click.echo(text, file=data_stream(), nl=nl)


def with_data_on_stdout(command: click.Command) -> click.Command:
    """The same command; while it runs, only `echo` writes to stdout, and what other code prints goes to stderr."""

    def invoke(ctx: click.Context) -> Any:
        from zoo.system.stdout import stdout_to_stderr

        global _data
        with stdout_to_stderr() as stream:
            before, _data = _data, stream
            try:
                return command.invoke(ctx)
            finally:
                _data = before

    found = copy.copy(command)
    found.invoke = invoke  # type: ignore[method-assign]
    return found


def print_json(data: Any) -> None:
    """Print JSON on stdout."""
    echo(_indented_json(data))


def _indented_json(data: Any) -> str:
    """Indented JSON, with escapes where stdout cannot take every letter: `backslashreplace` would not write JSON."""
    from zoo.storage.files import json_text

    encoding = (getattr(data_stream(), "encoding", None) or "utf-8").lower()
    return json_text(data, indent=2, ascii_only=not encoding.startswith("utf"))


@contextmanager
def json_rows() -> Iterator[Callable[[Any], None]]:
    """Print a JSON list on stdout whose rows are printed one by one, as `print_json` would print them together.

    Yields the function that prints a row. The list is closed also where an error ends it.
    """
    begun = False

    def write(row: Any) -> None:
        nonlocal begun
        text = "".join(f"  {line}\n" for line in _indented_json(row).split("\n"))
        echo((",\n" if begun else "[\n") + text.rstrip("\n"), nl=False)
        begun = True

    try:
        yield write
    finally:
        echo("\n]" if begun else "[]")


def percent(value: float | None) -> str:
    """Format a fraction for a table, with three decimals; `-` if it is unknown."""
    return "-" if value is None else f"{value:.3f}"
