"""Options that several commands share beside those of an experiment: the network of features, and the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from zoo_cli.settings import SIZE

F = TypeVar("F", bound=Callable[..., Any])


def weights_option(
    what: str = "the backbone", default: str | None = "default", otherwise: str = ""
) -> Callable[[F], F]:
    """The option `--weights` for the weights of `what`; without a default, `otherwise` says what is taken."""
    text = f"Weights of {what}: the default, none (random), a published tag, or a file."
    return click.option(
        "--weights",
        default=default,
        show_default=default is not None,
        metavar="default|none|TAG|FILE",
        help=text + (f"  [default: {otherwise}]" if otherwise else ""),
    )


def split_seed_option(otherwise: str = "") -> Callable[[F], F]:
    """The option `--split-seed`, 0 by default; `otherwise` says what is taken in place of 0."""
    return click.option(
        "--split-seed",
        type=click.IntRange(0),
        default=None if otherwise else 0,
        show_default=not otherwise,
        help="Seed of the split, for data that are not split yet." + (f"  [default: {otherwise}]" if otherwise else ""),
    )


def exclude_option(otherwise: str = "none") -> Callable[[F], F]:
    """The option `--exclude`; `otherwise` says what is left out without it."""
    return click.option(
        "--exclude",
        metavar="CSV",
        help="Images to leave out: a CSV file such as the `doctor.csv` of `zoo doctor`, which you may have edited.  "
        f"[default: {otherwise}]",
    )


def feature_network_options(otherwise: str = "", also: str = "") -> Callable[[F], F]:
    """The options `--backbone`, `--run`, `--weights` and `--image-size`, of the network that computes features.

    `otherwise` says where the network is taken from without `--backbone` and `--run`, and `also` what else of the run
    is used.
    """

    def with_options(command: F) -> F:
        before = f"{otherwise}, else " if otherwise else ""
        for option in reversed(
            (
                click.option(
                    "--backbone",
                    metavar="NAME",
                    help="Backbone whose features are used." + (f"  [default: {otherwise}]" if otherwise else ""),
                ),
                click.option(
                    "--run",
                    metavar="RUN",
                    help=f"Run whose network and preprocessing are used, in place of --backbone{also}.",
                ),
                weights_option(default=None, otherwise=f"{before}the backbone's default"),
                click.option(
                    "--image-size",
                    type=SIZE,
                    metavar="PIXELS|HxW",
                    help="Size of the network's input in pixels: 224 for a square, 160x320 for height x width.  "
                    f"[default: {before}the backbone's own]",
                ),
            )
        ):
            command = option(command)
        return command

    return with_options
