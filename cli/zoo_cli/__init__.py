"""The `zoo` command line. Its subcommands register as a third party's do; each is imported when it runs."""

from __future__ import annotations

from zoo import Command, hookimpl
from zoo.hookspecs import Register

_ROWS = (
    ("train", "Fine-tune a backbone on photographs"),
    ("plan", "Show what a strategy would train, without training"),
    ("evaluate", "Score a run or an exported file on a split"),
    ("predict", "Classify photographs with a run or an exported file"),
    ("export", "Write a run as one verified file"),
    ("verify", "Check an exported file, without torch"),
    ("inspect", "Show what an exported file says about itself"),
    ("bench", "Measure the latency of runs and exported files"),
    ("advise", "Rank backbones for photographs and name a strategy, without training"),
    ("study", "Compare backbones and strategies, and say which cannot be told apart"),
    ("compare", "Print runs side by side"),
    ("report", "Write what a run or a study found as one HTML file"),
    ("diff", "List the photographs that a second run fixes and breaks"),
    ("list", "List backbones, strategies and whatever else is registered"),
    ("cache", "Show what is kept of frozen prefixes, or remove it"),
    ("plugins", "Show installed plugins, what they provide and why they failed"),
)


@hookimpl
def register_commands(register: Register[Command]) -> None:
    for name, summary in _ROWS:
        attribute = "list_" if name == "list" else name  # `list` is Python's own
        register(Command(name=name, summary=summary, target=f"zoo_cli.{name}:{attribute}"))
