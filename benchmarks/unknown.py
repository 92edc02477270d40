"""Which score tells images of no class: the logits', or one of distances between features?

    python benchmarks/unknown.py FOLDER_OF_BOTH first
    python benchmarks/unknown.py FOLDER_OF_BOTH second

Features are EfficientNet-Lite0's, the head that of the strategy `linear`, with its temperature. Seven tasks: two
classes of `sign_digits` held out, five times; all of `sign_digits` known and `hymenoptera` unknown; the reverse. Images
of known classes are divided at random into 70 % train, 15 % val and 15 % test, by seed. Statistics are of train, the
threshold is of val, and the figures are of test against the unknown images, which nothing else has seen.

The rule, written before the first run. An AUROC is that of a task, the mean of its seeds. A difference of two scores is
the mean over tasks of the difference of their AUROC, and its interval is Student's over tasks (95 %). A score qualifies
if its difference from `msp` and that from `energy` are both above zero by their intervals. Of the scores that qualify,
the simplest is taken (the order of `SCORES`) whose difference from the best of them is not significant. If none
qualifies, the first of `SCORES` is taken. Nothing is tuned: each score has one setting.

The second round was written after the first, and before any of its figures. In the first, scores of logits were best
on held-out classes and worse than chance on foreign photographs, distances the reverse, and with seven tasks of two
kinds the interval over tasks tells nothing. So there are scores that combine both (`either_*`), and other tasks, seed
3 and at most 600 known images: other pairs of `sign_digits`, pairs of scikit-learn's handwritten digits, and sets that
are unknown to one another. The rule of this round: the mean AUROC over near tasks (held-out classes) and that over far
ones count equally; the interval of a difference is a paired bootstrap's over images (95 %), the tasks being fixed. A
score qualifies if it is above `msp` and above `energy` by these intervals; of those that qualify the simplest is taken
(the order of `SECOND`) that is not significantly below the best of them. If none qualifies, `msp` is taken.
"""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import t as student
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from zoo.config.context import Context
from zoo.data.opening import open_to_score
from zoo.embedding.extraction import Extractor
from zoo.solver import Task
from zoo.unknown import Space, _limits
from zoo_strategies.logistic import solve

SEEDS = (0, 1, 2)
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
RATES = (0.01, 0.05)
K = 5  # neighbours


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Known:
    """What is known of the training images: features, labels, the solved head."""

    def __init__(self, features, labels, seed: int) -> None:
        classes = int(labels.max()) + 1
        head = nn.Linear(features.shape[1], classes)
        found = solve(Task(head=head, features=features, labels=labels, classes=classes, seed=seed))
        self.weight = head.weight.detach().numpy().astype(np.float64)
        self.bias = head.bias.detach().numpy().astype(np.float64)
        self.temperature = float(found["temperature"])
        self.features, self.labels = features.astype(np.float64), labels
        self.means = np.stack([self.features[labels == each].mean(0) for each in range(classes)])
        self.mean = self.features.mean(0)
        self.space = Space.fit(features, labels)

    @cached_property
    def within(self):
        return LedoitWolf(assume_centered=True).fit(self.features - self.means[self.labels]).precision_

    @cached_property
    def overall(self):
        return LedoitWolf(assume_centered=True).fit(self.features - self.mean).precision_

    def logits(self, features):
        return (features @ self.weight.T + self.bias) / self.temperature


def msp(known, features):  # Hendrycks and Gimpel 2017
    return -softmax(known.logits(features), axis=1).max(1)


def max_logit(known, features):  # Hendrycks et al. 2022
    return -known.logits(features).max(1)


def energy(known, features):  # Liu et al. 2020
    return -logsumexp(known.logits(features), axis=1)


def cosine(known, features):  # nearest class mean; Techapanurak et al. 2020 train for it, here nothing is trained
    return -(unit(features - known.mean) @ unit(known.means - known.mean).T).max(1)


def neighbours(known, features):  # Sun et al. 2022
    return -np.sort(unit(features) @ unit(known.features).T, axis=1)[:, -K]


def distances(centres, precision, features):
    return np.stack([(((features - one) @ precision) * (features - one)).sum(1) for one in centres], axis=1)


def mahalanobis(known, features):  # Lee et al. 2018, the covariance shrunk (Ledoit and Wolf 2004)
    return distances(known.means, known.within, features).min(1)


def relative(known, features):  # Ren et al. 2021
    return mahalanobis(known, features) - distances(known.mean[None], known.overall, features)[:, 0]


def vim(known, features):  # Wang et al. 2022; the width of the principal space by their rule
    origin = -np.linalg.pinv(known.weight) @ known.bias
    centred = known.features - origin
    width = features.shape[1]
    kept = min(512 if width <= 1500 else 1000, len(centred) // 2)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    residual = vectors[:, np.argsort(-values)[kept:]]
    own = np.linalg.norm(centred @ residual, axis=1)
    alpha = known.logits(known.features).max(1).mean() / own.mean()
    return alpha * np.linalg.norm((features - origin) @ residual, axis=1) + energy(known, features)


def subspace(known, features):
    """Mahalanobis with the covariance of probabilistic principal components (Tipping and Bishop 1999), as in zoo."""
    return known.space.distances(features)


RATE = 0.05  # of false alarms, for the units of scores that combine two


def either(distance):
    """The larger of `msp` and a distance, each in the unit of val: 0 is its median, 1 its limit, as zoo sets both."""

    def score(known, features, held):
        parts = [one(known, held) for one in (msp, distance)]
        units = [(limit, np.median(part)) for limit, part in zip(_limits(parts, RATE), parts)]
        scaled = [(one(known, features) - low) / (high - low) for one, (high, low) in zip((msp, distance), units)]
        return np.maximum(*scaled)

    score.__name__ = f"either_{distance.__name__}"
    return score


# from the simplest on: those of the logits alone, then by the numbers that a file must hold
SCORES = (msp, max_logit, energy, cosine, neighbours, mahalanobis, relative, vim)
SECOND = (msp, energy, cosine, subspace, neighbours, either(subspace), either(neighbours))


def threshold(values, rate: float) -> float | None:
    """The value that a new image of a known class exceeds with at most this probability; None: too few values.

    It is the ceil((n + 1)(1 - rate))-th smallest, as in split conformal prediction (Vovk et al. 2005).
    """
    rank = int(np.ceil(round((len(values) + 1) * (1 - rate), 9)))
    return None if rank > len(values) else float(np.sort(values)[rank - 1])


def features_of(root: Path, name: str):
    context = Context.of()
    images = open_to_score(str(root / name), 0, context.plugins)
    samples = [sample for part in images.splits.values() for sample in part]
    found = Extractor("efficientnet_lite0", device="cpu", context=context).all(samples, name)
    classes = sorted({sample.label for sample in samples})
    return found.features, np.array([classes.index(samples[index].label) for index in found.indices])


def measure(features, labels, strange, seed: int):
    """By score: AUROC, false positives at 95 % true positives, and realised rates of false alarms."""
    order = np.random.default_rng(seed).permutation(len(labels))
    first, second = round(0.7 * len(order)), round(0.85 * len(order))
    fit, val, test = order[:first], order[first:second], order[second:]
    known = Known(features[fit], labels[fit], seed)
    found = {}
    for score in SCORES:
        own, other, held = score(known, features[test]), score(known, strange), score(known, features[val])
        truth = np.r_[np.zeros(len(own)), np.ones(len(other))]
        values = np.r_[own, other]
        # as in Hendrycks and Gimpel: the share of strangers that pass where 95 % of the known images do
        passed, false, _ = roc_curve(1 - truth, -values)[1], roc_curve(1 - truth, -values)[0], None
        alarms = []
        for rate in RATES:
            limit = threshold(held, rate)
            alarms += [np.nan, np.nan] if limit is None else [(own > limit).mean(), (other > limit).mean()]
        found[score.__name__] = (roc_auc_score(truth, values), false[np.searchsorted(passed, 0.95)], *alarms)
    return found, (len(fit), len(val), len(test), len(strange))


def interval(differences) -> tuple[float, float, float]:
    mean, error = differences.mean(), differences.std(ddof=1) / len(differences) ** 0.5
    reach = student.ppf(0.975, len(differences) - 1) * error
    return mean, mean - reach, mean + reach


OTHER_PAIRS = ((0, 5), (1, 6), (2, 7), (3, 8), (4, 9))
OTHER_SEEDS = (3,)
MOST_KNOWN = 600
RESAMPLES = 100


def handwritten():
    """900 of scikit-learn's handwritten digits."""
    context = Context.of()
    images = open_to_score("digits", 0, context.plugins)
    samples = [sample for part in images.splits.values() for sample in part]
    some = [samples[index] for index in np.random.default_rng(0).permutation(len(samples))[:900]]
    found = Extractor("efficientnet_lite0", device="cpu", context=context).all(some, "digits")
    classes = sorted({sample.label for sample in some})
    return found.features, np.array([classes.index(some[index].label) for index in found.indices])


def areas(own, other, generator):
    """AUROC of every score, of the images as they are and of resampled ones; `own`, `other`: scores x images."""
    rows = [(np.arange(own.shape[1]), np.arange(other.shape[1]))]
    rows += [tuple(generator.integers(0, one.shape[1], one.shape[1]) for one in (own, other)) for _ in range(RESAMPLES)]
    found = []
    for left, right in rows:
        truth = np.r_[np.zeros(len(left)), np.ones(len(right))]
        found.append([roc_auc_score(truth, np.r_[a[left], b[right]]) for a, b in zip(own, other)])
    return np.array(found)  # 1 + resamples x scores


def second(root: Path) -> None:
    torch.set_num_threads(1)
    sets = {"signs": features_of(root, "sign_digits"), "hymenoptera": features_of(root, "hymenoptera")}
    sets["written"] = handwritten()
    tasks = {}
    for name, pairs in (("signs", OTHER_PAIRS), ("written", PAIRS)):
        for pair in pairs:
            out = np.isin(sets[name][1], pair)
            again = np.unique(sets[name][1][~out], return_inverse=True)[1]
            tasks[f"near: {name} without {pair[0]}, {pair[1]}"] = (sets[name][0][~out], again, sets[name][0][out])
    for name, other in (
        ("signs", "written"),
        ("hymenoptera", "written"),
        ("written", "signs"),
        ("written", "hymenoptera"),
    ):
        tasks[f"far: {name}, {other} unknown"] = (*sets[name], sets[other][0])
    names = [score.__name__ for score in SECOND]
    table, flags = {}, {}
    for task, (features, labels, strange) in tasks.items():
        for seed in OTHER_SEEDS:
            order = np.random.default_rng(seed).permutation(len(labels))[:MOST_KNOWN]
            first, middle = round(0.7 * len(order)), round(0.85 * len(order))
            known = Known(features[order[:first]], labels[order[:first]], seed)
            parts = [features[order[middle:]], strange, features[order[first:middle]]]
            values = [
                [score(known, part, parts[2]) if "either" in score.__name__ else score(known, part) for part in parts]
                for score in SECOND
            ]
            own, other = (np.stack([one[index] for one in values]) for index in (0, 1))
            print(task, seed, file=sys.stderr, flush=True)
            table.setdefault(task, []).append(areas(own, other, np.random.default_rng(seed)))
            limits = np.array([threshold(one[2], 0.05) for one in values])[:, None]
            flags.setdefault(task, []).append(np.stack([(own > limits).mean(1), (other > limits).mean(1)]))
    means = {task: np.mean(rows, axis=0) for task, rows in table.items()}
    print(f"| task | {' | '.join(names)} |\n| --- |" + " --- |" * len(names))
    for task, rows in means.items():
        print(f"| {task} | " + " | ".join(f"{value:.3f}" for value in rows[0]) + " |")
    kinds = [
        np.mean([rows for task, rows in means.items() if task.startswith(kind)], axis=0) for kind in ("near", "far")
    ]
    for kind, rows in zip(("near", "far"), kinds):
        print(f"| mean, {kind} | " + " | ".join(f"{value:.4f}" for value in rows[0]) + " |")
    both = np.mean(kinds, axis=0)
    print("| both | " + " | ".join(f"{value:.4f}" for value in both[0]) + " |")
    shares = {task: np.mean(rows, axis=0) for task, rows in flags.items()}
    for row, title in enumerate(("false alarms at 0.05", "unknown images flagged at 0.05")):
        for kind in ("near", "far"):
            cells = np.mean([one[row] for task, one in shares.items() if task.startswith(kind)], axis=0)
            print(f"| {title}, {kind} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")

    def bounds(one: int, other: int):
        apart = both[:, one] - both[:, other]
        return apart[0], *np.quantile(apart[1:], (0.025, 0.975))

    good = []
    print("\n| score | AUROC - that of msp | - that of energy | qualifies |\n| --- | --- | --- | --- |")
    for index, name in enumerate(names):
        pairs = [bounds(index, names.index(other)) for other in ("msp", "energy")]
        if all(low > 0 for _, low, _ in pairs):
            good.append(index)
        cells = " | ".join(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" for mean, low, high in pairs)
        print(f"| {name} | {cells} | {'yes' if index in good else 'no'} |")
    if not good:
        print("\nNone qualifies: `msp`.")
        return
    best = max(good, key=lambda index: both[0, index])
    taken = next(index for index in good if index == best or bounds(best, index)[1] <= 0)
    print(f"\nBest of those that qualify: `{names[best]}`. Taken by the rule: `{names[taken]}`.")


def main(root: Path) -> None:
    torch.set_num_threads(1)
    digits, bees = features_of(root, "sign_digits"), features_of(root, "hymenoptera")
    tasks = {}
    for pair in PAIRS:
        out = np.isin(digits[1], pair)
        again = np.unique(digits[1][~out], return_inverse=True)[1]
        tasks[f"digits without {pair[0]}, {pair[1]}"] = (digits[0][~out], again, digits[0][out])
    tasks["digits, hymenoptera unknown"] = (*digits, bees[0])
    tasks["hymenoptera, digits unknown"] = (*bees, digits[0])
    names = [score.__name__ for score in SCORES]
    figures, sizes = {}, {}
    for task, parts in tasks.items():
        for seed in SEEDS:
            found, sizes[task] = measure(*parts, seed)
            for name in names:
                figures.setdefault(name, {}).setdefault(task, []).append(found[name])
    table = {name: np.array([figures[name][task] for task in tasks]).mean(1) for name in names}  # tasks x figures
    titles = ["AUROC", "false positives where 95 % of known images pass"]
    for rate in RATES:
        titles += [f"false alarms at the rate {rate:g}", f"unknown images flagged at the rate {rate:g}"]
    for column, title in enumerate(titles):
        print(f"\n## {title}\n\n| task (train, val, test, unknown images) | {' | '.join(names)} |")
        print("| --- |" + " --- |" * len(names))
        for row, task in enumerate(tasks):
            cells = " | ".join(f"{table[name][row, column]:.3f}" for name in names).replace("nan", "-")
            print(f"| {task} ({', '.join(map(str, sizes[task]))}) | {cells} |")
        cells = " | ".join(f"{np.nanmean(table[name][:, column]):.4f}" for name in names)
        print(f"| mean | {cells} |")
    print("\n## The rule\n\n| score | AUROC - that of msp | - that of energy | qualifies |\n| --- | --- | --- | --- |")
    auroc = {name: table[name][:, 0] for name in names}
    good = []
    for name in names:
        pairs = [interval(auroc[name] - auroc[other]) for other in ("msp", "energy")]
        qualifies = all(low > 0 for _, low, _ in pairs)
        good += [name] if qualifies else []
        cells = " | ".join(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" for mean, low, high in pairs)
        print(f"| {name} | {cells} | {'yes' if qualifies else 'no'} |")
    if not good:
        print(f"\nNone qualifies: `{names[0]}`, the simplest.")
        return
    best = max(good, key=lambda name: auroc[name].mean())
    taken = next(name for name in good if name == best or interval(auroc[best] - auroc[name])[1] <= 0)
    print(f"\nBest of those that qualify: `{best}`. Taken by the rule: `{taken}`.")


if __name__ == "__main__":
    {"first": main, "second": second}[sys.argv[2]](Path(sys.argv[1]))
