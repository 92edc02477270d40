"""What torchrun starts in tests: the program `zoo`, on a rank of which something may be wrong.

RANK_WITH names what rank 1 has differently: `data`, or another version of torch.
"""

from __future__ import annotations

import os
import sys

import zoo_cli.main
from zoo.experiment import Experiment
from zoo.training import rank_checks


def main() -> None:
    differs = os.environ.get("RANK_WITH", "") if os.environ["RANK"] == "1" else ""
    if differs == "torch":
        versions = rank_checks.versions
        rank_checks.versions = lambda: {**versions(), "torch": "1.0"}  # type: ignore[attr-defined]
    elif differs:
        read = Experiment.from_json
        Experiment.from_json = lambda data: read({**data, "data": differs})  # type: ignore[method-assign]
    zoo_cli.main.main(sys.argv[1:])


if __name__ == "__main__":
    main()
