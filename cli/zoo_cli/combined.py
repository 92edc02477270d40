"""Tables for `zoo soup` and `zoo ensemble`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo.combining.parts import chosen_among
from zoo_cli.figures import print_run
from zoo_cli.options import percent

if TYPE_CHECKING:
    from zoo.combining.making import Combined


def print_combined(found: Combined, screen: Console) -> None:
    """Print what a run was made of, its metrics, and its difference from the best part."""
    run = found.run
    told = run.record.get("soup") or run.record["ensemble"]
    table = Table("run", "loss", "accuracy", *(("taken",) if "soup" in run.record else ()))
    for part in sorted(found.parts, key=lambda one: one.get("place", 0)):
        taken = [] if "taken" not in part else ["yes" if part["taken"] else "no"]
        table.add_row(escape(str(part["run"])), f"{part['loss']:.4f}", percent(part["accuracy"]), *taken)
    screen.print(table)
    screen.print(f"[dim]figures of {escape(chosen_among(told['images'], told['chosen_on']))}[/dim]")
    if "soup" in run.record and told["norms"] != "kept":
        screen.print(f"[dim]statistics of batch norms were {told['norms']}[/dim]")
    print_run(run, screen)
    against, split = found.against, run.record["reported_split"]
    interval = against["difference_interval_95"]
    shown = "" if interval is None else f" (95 % interval {interval[0]:+.4f} to {interval[1]:+.4f})"
    screen.print(
        f"against the best of them, {escape(against['run'])}: accuracy {against['difference']:+.4f}{shown}, "
        f"p {against['p_value']:.3g}; loss {against['loss'][0]:.4f}, then {against['loss'][1]:.4f}"
    )
    if "soup" in run.record and told["chosen_on"] == split:
        screen.print(
            f"[yellow]`{split}` also decided which runs were taken, so these figures are optimistic; for unbiased "
            f"ones, run `zoo evaluate {escape(str(run.path))} --split test` where the data have one[/yellow]"
        )
