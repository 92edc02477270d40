"""The `zoo` command line. Its subcommands register like those of any plugin; each is imported when it runs."""

from __future__ import annotations

from zoo.command import Command
from zoo.hookspecs import Register, hookimpl

_ROWS = (
    ("doctor", "Find faults of your images before training: copies, wrong labels, strangers"),
    ("train", "Fine-tune a backbone on your images"),
    ("rerun", "Train again with the settings of a run, or with some changed"),
    ("plan", "Show what a strategy would train, without training"),
    ("evaluate", "Measure the accuracy of a run or an exported file on a split"),
    ("soup", "Average the weights of several runs into one network"),
    ("ensemble", "Combine several runs into one, whose probabilities are the mean of theirs"),
    ("predict", "Classify photographs with a run or an exported file"),
    ("export", "Export a run to a file, and verify that it predicts the same"),
    ("verify", "Check an exported file for damage and wrong predictions"),
    ("inspect", "Show the metadata of an exported file"),
    ("serve", "Serve exported files over HTTP"),
    ("bench", "Measure the latency of runs and exported files"),
    ("advise", "Rank backbones for your images and suggest a strategy, without training"),
    ("features", "Compute features of millions of images, shard by shard, for `zoo train`"),
    ("embed", "Write features of images to a file"),
    ("similar", "Find the most similar images"),
    ("label-next", "Choose which images to label next"),
    ("study", "Train and compare several backbones and strategies"),
    ("compare", "Compare finished runs, with significance tests"),
    ("report", "Write the results of a run or a study as one HTML file"),
    ("card", "Write the model card of a run as Markdown"),
    ("diff", "List the photographs that only one of two runs classifies correctly"),
    ("list", "List backbones, strategies, datasets and everything else that plugins provide"),
    ("cache", "Show the size of the feature cache, or clear it"),
    ("plugins", "Show installed plugins, what they provide and their errors"),
)


@hookimpl
def register_commands(register: Register[Command]) -> None:
    for name, summary in _ROWS:
        module = name.replace("-", "_")
        attribute = "list_" if name == "list" else module  # `list` is Python's own
        register(Command(name=name, summary=summary, target=f"zoo_cli.{module}:{attribute}"))
