"""Options that say where the parts of a long work are carried out: trials of a study, shards of a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def place_options(part: str, elsewhere: str) -> Callable[[Any], Any]:
    """The options `--jobs`, `--on`, `--cpus-per-PART` and `--gpus-per-PART`.

    Args:
        part: What is carried out at a time, such as `trial`.
        elsewhere: What `--on` does, as the beginning of its help, up to what the other machines must see.
    """
    done = "trained" if part == "trial" else "computed"
    options = (
        click.option(
            "--jobs",
            type=click.IntRange(1, 1024),
            metavar="N",
            help=f"Number of {part}s that are {done} at a time on this machine, each by its share of the processors "
            "unless --threads says how many; with --on, the most at a time there.  [default: 1; with --on ray: what "
            "the cluster has room for; with --on slurm: 8]",
        ),
        click.option(
            "--on",
            "place",
            metavar="PLACE",
            help=f"{elsewhere} under the same paths: ray, ray://HOST:PORT, or slurm:partition=NAME; needs the extra "
            "`ray` or `slurm`.  [default: this machine]",
        ),
        click.option(
            f"--cpus-per-{part}",
            type=click.IntRange(1),
            metavar="N",
            help=f"With --on: processors of each {part}.  [default: 1]",
        ),
        click.option(
            f"--gpus-per-{part}",
            type=click.FloatRange(0),
            metavar="N",
            help=f"With --on: GPUs of each {part}; with Ray, 0.5 stands for two {part}s on one GPU.  [default: 0]",
        ),
    )

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add
