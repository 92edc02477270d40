"""Compare two strategies on the same photographs with a study, and say whether the difference is significant.

Run it so: `python examples/compare_strategies.py photos runs/example-study`
"""

from __future__ import annotations

import sys

import zoo


def main(data: str, out: str) -> None:
    study = zoo.Study(
        data=data,
        backbones=("efficientnet_lite0",),
        strategies=("linear", "partial:1"),
        seeds=(0,),  # one seed is quick; take at least two where it matters
        settings={"image_size": 32, "epochs": 2},
    )
    results = zoo.study(study, out=out)
    for row in results.leaderboard["rows"]:
        low, high = row["interval"]
        print(f"{row['strategy']:12} accuracy on val {row['accuracy']:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    if len(results.winners) > 1:
        print(f"not significantly different: {', '.join(results.winners)}")
    print(f"the cheapest of the best: {results.leaderboard['cheapest']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
