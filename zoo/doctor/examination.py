"""Examination: all checks of the doctor on one dataset. Nothing is changed and nothing is deleted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.config.context import Context
from zoo.data.alignment import Thumbnails
from zoo.data.exclusion import exclude as leave_out
from zoo.data.exclusion import read_exclusion
from zoo.data.near_duplicates import NearDuplicates, find_near_duplicates
from zoo.data.opening import note_images
from zoo.dataset import ROLES
from zoo.doctor.features import default_backbone, feature_network, image_features
from zoo.doctor.findings import BY_NAME, Finding, ranked
from zoo.doctor.label_errors import label_scores
from zoo.doctor.quality import judge_quality, odd_sizes
from zoo.doctor.strangers import find_strangers
from zoo.doctor.survey import Survey, open_anyhow, survey
from zoo.errors import UsageError, counted
from zoo.evaluation.power import SplitPower, split_power
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.runs.run import now
from zoo.storage.files import SCHEMA

RARE = 10.0  # times as many images as the rarest class has: more is called imbalance


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What the doctor found.

    Attributes:
        data: Name of the data.
        images: Number of readable images by split.
        classes: Number of readable images by class and split.
        backbone: The backbone of the features. None: there were none.
        findings: All findings, by kind, the worst first.
        notes: Lines about the data as a whole.
        power: What each split that is scored can tell.
        least_agreement: The least correlation of detail of near duplicates in these data.
        compared: Number of pairs that were aligned.
        label_accuracy: Share of images whose label a classifier gives that has not seen it. None: not known.
        seconds: Processor time of the checks, without decoding and features.
    """

    data: str
    images: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    backbone: str | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    power: tuple[SplitPower, ...]
    least_agreement: float
    compared: int
    label_accuracy: float | None
    seconds: Mapping[str, float]

    def counts(self) -> dict[str, int]:
        """Number of findings by kind, in the order of the kinds."""
        found = Counter(one.kind for one in self.findings)
        return {name: found[name] for name in BY_NAME if found[name]}

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "time": now(),
            "data": self.data,
            "images": dict(self.images),
            "classes": {name: dict(one) for name, one in self.classes.items()},
            "backbone": self.backbone,
            "counts": self.counts(),
            "notes": list(self.notes),
            "power": [one.to_json() for one in self.power],
            "near_duplicates": {"least_agreement": round(self.least_agreement, 4), "aligned": self.compared},
            "label_accuracy": self.label_accuracy,
            "seconds": dict(self.seconds),
            "findings": [vars(one) for one in self.findings],
        }


def examine(
    data: str,
    *,
    backbone: str | None = None,
    weights: str = "default",
    split_seed: int = 0,
    group: str | None = None,
    exclude: Path | str | None = None,
    device: str = "auto",
    workers: int | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> tuple[Examination, Survey]:
    """Examine data; returns what was found, and the surveyed images, for drawing.

    Args:
        data: A folder, or `NAME:ARGUMENT` of a dataset.
        backbone: Backbone of the features. None: one whose weights are on this machine; `none`: no features.
        weights: Its weights: `default`, a published tag, or a file.
        split_seed: Seed of the split, where the data have none of their own.
        group: What images of one group share: a column of a table, or a pattern of paths; see
            `zoo.data.groups.match_groups`. None: groups are those of the data.
        exclude: CSV file of images to leave out, such as an edited `doctor.csv`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode images. None: one per core, at most 8.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: a name is wrong.
        ZooError: the data hold no images, or weights are not available.
    """
    context = Context.of(plugins, progress)
    plugins, progress = context.plugins, context.progress
    chosen = default_backbone(plugins) if backbone is None else None if backbone == "none" else backbone
    network = feature_network(chosen, weights, data, device, plugins) if chosen is not None else None
    if chosen is None and weights != "default":
        raise UsageError("`--weights` needs a backbone", hint="pass `--backbone`")
    images = open_anyhow(data, split_seed, plugins, group)
    if exclude is not None:
        images, _ = leave_out(images, read_exclusion(exclude))
    note_images(images, progress)
    notes = [*images.notes]
    preprocess = network.setup.preprocess if network is not None else Preprocess()
    seen = survey(images, preprocess, workers, context)
    features: npt.NDArray[np.float32] | None = None
    if network is None:
        why = "`--backbone none`" if backbone == "none" else "no backbone's weights are on this machine"
        notes.append(
            f"{why}: there are no features, so wrong labels and strangers are not looked for; digests and pixels are"
        )
    elif len(seen.samples):
        try:
            features = image_features(network, seen.parts, len(images.classes), context)
        except UsageError as error:
            notes.append(f"wrong labels and strangers are not looked for: {error.message}")
    found = _Checks(seen, features, progress)
    findings = ranked(found.all())
    progress.stop()
    sizes: dict[str, int] = {role: len(part.samples) for role, part in seen.parts.items()}
    own = [*notes[len(images.notes) :], *found.notes, *_balance(seen)]
    for text in own:
        progress.note(text)
    examination = Examination(
        data=images.name,
        images=sizes,
        classes=_class_counts(seen),
        backbone=network.setup.backbone.qualified if network is not None and features is not None else None,
        findings=findings,
        notes=(*images.notes, *own),
        power=tuple(split_power(role, sizes[role], found.accuracy) for role in ("val", "test") if role in sizes),
        least_agreement=found.near.least,
        compared=found.near.compared,
        label_accuracy=found.accuracy,
        seconds={name: round(value, 3) for name, value in found.seconds.items()},
    )
    return examination, seen


class _Checks:
    """The checks, one after another, each with its processor time."""

    def __init__(self, seen: Survey, features: npt.NDArray[np.float32] | None, progress: Progress) -> None:
        self.seen, self.features, self.progress = seen, features, progress
        self.notes: list[str] = []
        self.accuracy: float | None = None
        self.near = NearDuplicates(pairs=(), least=1.0, compared=0)
        self.seconds: dict[str, float] = {"survey": seen.seconds}

    def all(self) -> Iterator[Finding]:
        """Findings of every check."""
        from threadpoolctl import threadpool_limits

        checks = {
            "files": self._files,
            "copies": self._copies,
            "near duplicates": self._near_duplicates,
            "labels": self._labels,
            "strangers": self._strangers,
            "quality": self._quality,
            "groups": self._groups,
        }
        with threadpool_limits(1, user_api="blas"):  # threads would wait for one another more than they save
            for name, check in checks.items():
                began = process_time()
                yield from list(check())
                self.seconds[name] = process_time() - began

    def _of(self, kind: str, index: int, **values: Any) -> Finding:
        sample = self.seen.samples[index]
        return Finding(kind=kind, id=sample.id, split=self.seen.splits[index], label=sample.label, **values)

    def _files(self) -> Iterator[Finding]:
        place = {sample.id: (role, sample) for role, part in self.seen.images.splits.items() for sample in part}
        for kind, files in (("unreadable", self.seen.bad), ("doubtful", self.seen.doubtful)):
            for file in files:
                role, sample = place.get(file.id, ("", None))
                label = sample.label if sample is not None else ""
                yield Finding(kind=kind, id=file.id, split=role, label=label, why=file.reason)
        for index, format in self.seen.wrong_suffix.items():
            yield self._of("wrong_suffix", index, why=f"is a {format} file")

    def _copies(self) -> Iterator[Finding]:
        by_content: dict[str, list[int]] = defaultdict(list)
        for index, content in enumerate(self.seen.contents):
            by_content[content].append(index)
        for indices in by_content.values():
            if len(indices) > 1:
                yield from self._copies_of(indices)

    def _copies_of(self, indices: list[int]) -> Iterator[Finding]:
        """Findings for images of one content: each is told once, with a partner in the most important other place."""
        labels = {self.seen.samples[index].label for index in indices}
        kept = max(indices, key=lambda index: (ROLES.index(self.seen.splits[index]), -index))
        for index in indices:
            if index == kept:
                continue
            sample, role = self.seen.samples[index], self.seen.splits[index]
            same = len(labels) == 1
            if not same:
                kind = "copy_of_another_class"
                others = [one for one in indices if self.seen.samples[one].label != sample.label]
                partner = others[0]
            elif role != self.seen.splits[kept]:
                kind, partner = "copy_across_splits", kept
            else:
                kind, partner = "copy", kept
            yield self._of(
                kind,
                index,
                partner=self.seen.samples[partner].id,
                partner_split=self.seen.splits[partner],
                why=f"the same bytes; {counted(len(indices), 'image')} have them",
                exclude=same,
            )

    def _near_duplicates(self) -> Iterator[Finding]:
        firsts: dict[str, int] = {}
        for index, content in enumerate(self.seen.contents):
            firsts.setdefault(content, index)
        chosen = np.array(sorted(firsts.values()), np.int64)
        if len(chosen) < 2:
            return
        kept = Thumbnails(self.seen.thumbnails.grey[chosen], self.seen.thumbnails.clipped[chosen])
        splits = np.array([ROLES.index(self.seen.splits[index]) for index in chosen])
        self.progress.start("near duplicates", len(chosen))
        self.near = find_near_duplicates(kept, splits, self.progress.advance)
        for pair in self.near.pairs:
            first, second = int(chosen[pair.first]), int(chosen[pair.second])
            if ROLES.index(self.seen.splits[first]) > ROLES.index(self.seen.splits[second]):
                first, second = second, first
            across = self.seen.splits[first] != self.seen.splits[second]
            labels = [self.seen.samples[index].label for index in (first, second)]
            same = labels[0] == labels[1]
            kind = "near_copy_across_splits" if across else "near_copy" if same else "near_copy_of_another_class"
            other = "" if same else f"; labels `{labels[0]}` and `{labels[1]}`"
            yield self._of(
                kind,
                first,
                score=min(max(pair.agreement, 0.0), 1.0),
                partner=self.seen.samples[second].id,
                partner_split=self.seen.splits[second],
                why=f"{pair.how}; detail agrees by {pair.agreement:.3f}{other}",
                exclude=across and same,
            )

    def _labels(self) -> Iterator[Finding]:
        if self.features is None:
            return
        classes = self.seen.images.classes
        scores = label_scores(self.features, self.seen.labels, len(classes))
        if scores is None:
            self.notes.append("wrong labels are not looked for: that needs two classes of two images")
            return
        self.accuracy = scores.accuracy
        for index in np.flatnonzero(scores.wrong):
            meant = classes[scores.suggested[index]]
            yield self._of(
                "label",
                int(index),
                score=float(np.clip((1 - scores.margin[index]) / 2, 0, 1)),
                suggested=meant,
                why=f"looks like `{meant}`, not `{self.seen.samples[int(index)].label}`",
            )

    def _strangers(self) -> Iterator[Finding]:
        found = find_strangers(self.features) if self.features is not None else None
        if found is None:
            return
        sizes = Counter(found.cluster[found.cluster >= 0].tolist())
        for index, cluster in zip(found.order.tolist(), found.cluster.tolist()):
            sigma = float(found.distance[index])
            alone = f"cluster {cluster + 1} of {sizes[cluster]} alike" if cluster >= 0 else "alone"
            yield self._of(
                "stranger",
                index,
                score=float(1 - np.exp(-sigma / 4)),
                why=f"{sigma:.1f} deviations farther from the others than usual; {alone}",
            )

    def _quality(self) -> Iterator[Finding]:
        quality = judge_quality(self.seen.thumbnails)
        reasons = {
            "blank": "one colour",
            "dark": "almost black",
            "bright": "almost white",
            "blurred": "lacks the detail that others have",
        }
        for kind, reason in reasons.items():
            scores = getattr(quality, kind)
            for index in np.flatnonzero(scores):
                yield self._of(kind, int(index), score=float(scores[index]), why=reason)
        known = np.flatnonzero((self.seen.sizes > 0).all(1))
        for kind, factors in zip(("odd_size", "odd_shape"), odd_sizes(self.seen.sizes[known])):
            for index in known[factors > 1]:
                height, width = self.seen.sizes[index]
                factor = float(factors[np.searchsorted(known, index)])
                yield self._of(kind, int(index), score=1 - 1 / factor, why=f"{width} x {height} pixels")

    def _groups(self) -> Iterator[Finding]:
        by_group: dict[str, list[int]] = defaultdict(list)
        for index, sample in enumerate(self.seen.samples):
            if sample.group is not None:
                by_group[sample.group].append(index)
        torn = 0
        for group, indices in by_group.items():
            roles = Counter(self.seen.splits[index] for index in indices)
            if len(roles) < 2:
                continue
            torn += 1
            last = max(roles, key=ROLES.index)
            partner = next(index for index in indices if self.seen.splits[index] == last)
            shown = ", ".join(f"{count} in {role}" for role, count in roles.items())
            yield self._of(
                "group_across_splits",
                next(index for index in indices if self.seen.splits[index] != last),
                partner=self.seen.samples[partner].id,
                partner_split=last,
                why=f"group `{group}`: {shown}",
            )
        if torn:
            share = 100 * torn / len(by_group)
            self.notes.append(f"{counted(torn, 'group')} of {len(by_group)} ({share:.0f} %) lie in several splits")


def _class_counts(seen: Survey) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {name: {} for name in seen.images.classes}
    for role, part in seen.parts.items():
        counts = np.bincount(part.labels, minlength=len(seen.images.classes))
        for name, count in zip(seen.images.classes, counts):
            found[name][role] = int(count)
    return found


def _balance(seen: Survey) -> Iterator[str]:
    """Notes on rare classes, and on classes that a split lacks."""
    counts = np.bincount(seen.labels, minlength=len(seen.images.classes))
    present = counts[counts > 0]
    if len(present) > 1 and present.max() >= RARE * present.min():
        most, least = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
        names = seen.images.classes
        yield (
            f"imbalance: `{names[most]}` has {counts[most]:,} images, `{names[least]}` {counts[least]:,}; "
            "`--class-balance loss` compensates"
        )
    for role, part in seen.parts.items():
        lacking = np.flatnonzero(np.bincount(part.labels, minlength=len(counts)) == 0)
        if len(lacking):
            first = seen.images.classes[lacking[0]]
            yield f"{counted(len(lacking), 'class has', 'classes have')} no readable image in {role}, such as `{first}`"
