"""A process that takes trials of a search until there are no more; `hold` sleeps in its second one, to be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(storage: str, folder: str, count: str, what: str) -> None:
    import optuna

    from zoo.studies.search_queue import SearchQueue

    queue = SearchQueue(
        storage,
        "birds: net full",
        folder=Path(folder),
        identity={"search": int(count)},
        first=[{"x": 0.5}],
        count=int(count),
        pruner=optuna.pruners.NopPruner(),
        sampler=lambda number: optuna.samplers.RandomSampler(seed=number),
        session=what,
        grace=60.0,
    )
    taken = 0
    while len(queue.table()) < queue.count:
        claim = queue.claim()
        if claim is None:
            time.sleep(0.05)
            continue
        taken += 1
        with claim:
            x = claim.sample(lambda trial: trial.suggest_float("x", 0.0, 1.0))
            if what == "hold" and taken == 2:
                print(f"holds {claim.number}", flush=True)
                time.sleep(60)
            if claim.tell(optuna.trial.TrialState.COMPLETE, x):
                print(f"told {claim.number}", flush=True)
    queue.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
