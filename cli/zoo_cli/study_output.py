"""What `zoo study` prints."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from zoo.errors import ZooError, counted
from zoo_cli.figures import print_needed
from zoo_cli.options import percent

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.studies.results import Results


def board_of(results: Results) -> tuple[dict[str, Any] | None, str]:
    """The leaderboard, or None and the reason; the reason is empty if no trial is finished yet."""
    if not any(one.finished for one in results.outcomes):
        return None, ""
    try:
        return results.leaderboard, ""
    except ZooError as error:
        return None, str(error)


def print_study(results: Results, board: dict[str, Any] | None, why: str, screen: Console) -> None:
    """Print the trials that are not finished, the leaderboard with what it means, and what to do next."""
    from zoo.studies.running import running_trials
    from zoo.studies.trial import TrialState

    states = [one.state for one in results.outcomes]
    status = results.status
    if results.is_stopped:
        status = f"stopped, its session is gone (`zoo study {results.path}` continues it)"
    screen.print(
        f"study {escape(status)}: {counted(results.record['trials'], 'trial')}, "
        f"{states.count(TrialState.FINISHED)} finished, {states.count(TrialState.REFUSED)} not trained, "
        f"{states.count(TrialState.FAILED)} failed, "
        f"{results.record['trials'] - len(states)} left"
    )
    for name, note in running_trials(results.path).items():
        screen.print(f"[dim]{escape(name)}: running on {escape(str(note.get('host')))} since {note.get('time')}[/dim]")
    for one in results.outcomes:
        if not one.finished:
            hint = f" ({one.hint})" if one.hint else ""
            screen.print(f"[dim]{escape(one.name)}: {one.state}: {escape(one.failure + hint)}[/dim]")
    if why:
        screen.print(f"[yellow]warning[/yellow]: {escape(why)}")
    if board is None:
        return
    table = Table("backbone", "strategy", f"accuracy on {board['split']}", "95 %", "F1", "ms", "seconds", "on test", "")
    for row in board["rows"]:
        latency, test = row["latency"], row["test"]
        table.add_row(
            escape(row["backbone"]),
            escape(row["strategy"]),
            percent(row["accuracy"]),
            f"{row['interval'][0]:.3f}-{row['interval'][1]:.3f}",
            percent(row["f1"]),
            f"{latency[0] * 1000:.1f}" if latency else "-",
            f"{row['seconds']:.0f}",
            percent(test["accuracy"]) if test else "-",
            "cheapest winner" if row["cheapest"] else "winner" if row["winner"] else "",
        )
    screen.print(table)
    count, cheapest = len(board["winners"]), f"[bold]{escape(board['cheapest'])}[/bold]"
    if len(board["rows"]) == 1:
        screen.print(f"only one configuration was trained, so there is no comparison: {cheapest}")
    elif count > 1:
        images = board["rows"][0]["images"]
        screen.print(
            f"{count} configurations are not significantly different on {counted(images, 'photograph')}; "
            f"the cheapest is {cheapest}"
        )
    else:
        screen.print(f"{cheapest} is the only winner: all other configurations are significantly worse")
    if len(board["rows"]) > 1 and board["too_few"]:
        screen.print(f"[yellow]{escape(board['too_few'])}[/yellow]")
    if len(board["rows"]) > 1:
        print_needed(board["comparison"], screen)
    mixed = board.get("ensemble")
    if mixed and mixed["helps"]:
        screen.print(f"{mixed['name']} ({len(mixed['members'])}): accuracy {percent(mixed['metrics'].get('accuracy'))}")
    for note in board["notes"]:
        screen.print(f"[dim]{escape(note)}[/dim]")
    earlier = "".join(f"; {looks} more by study `{name}`" for name, looks in board["earlier_looks"].items())
    screen.print(f"[dim]evaluations on the test split: {board['looks']}{escape(earlier)}[/dim]")
    then = f"{shlex.join(['zoo', 'report', str(results.path)])}; {_next(results, board['cheapest'])}"
    screen.print(f"[dim]next: {escape(then)}[/dim]")


def _next(results: Results, cheapest: str) -> str:
    """What to do with the cheapest winner."""
    found = results.locked_run(results.first(cheapest))
    if found is not None:
        return shlex.join(["zoo", "export", str(found.path)])
    final = str(results.path.with_name(f"{results.path.name}-final"))
    train = shlex.join(["zoo", "train", "--final", str(results.path), "--out", final])
    return f"{train}; {shlex.join(['zoo', 'evaluate', final, '--split', 'test'])}"
