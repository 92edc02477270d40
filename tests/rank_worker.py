"""What torchrun starts in tests: the program `zoo`, on a rank of which something may be wrong.

RANK_WITH names what rank 1 has differently: `data`, or another version of torch.
"""

from __future__ import annotations

import os
import sys

import zoo_cli.main
from zoo.experiment import Experiment
from zoo.system.environment import versions
from zoo.training import rank_checks


def main() -> None:
    differs = os.environ.get("RANK_WITH", "") if os.environ["RANK"] == "1" else ""
    if differs == "torch":
        here = versions()
        setattr(rank_checks, "versions", lambda: {**here, "torch": "1.0"})  # noqa: B010 (mypy knows no such name)
    elif differs:
        read = Experiment.from_json
        Experiment.from_json = lambda data: read({**data, "data": differs})  # type: ignore[method-assign]
    zoo_cli.main.main(sys.argv[1:])


if __name__ == "__main__":
    main()
