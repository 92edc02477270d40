"""Shadow: a share of the live images also goes through another file, and is only counted.

The other file runs in a thread of its own after the answer was given, one image at a time, and only if no image waits
for a worker at that moment. On Linux the thread has the lowest priority, so that workers do not lose their cores to it.
An image that is not taken is counted as dropped. No image and no answer is kept.

Without labels nobody knows which file is right. What can be said: the accuracies of two files differ at most by the
share of images to which they give different labels.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from zoo.data.image import Pixels
from zoo.errors import ZooError
from zoo.evaluation.statistics import Z, paired_interval_of_counts, wilson_interval
from zoo.predictions import softmax
from zoo.serving.served_model import ServedModel
from zoo.serving.worker_pool import Answer, WorkerPool

LOGGER = logging.getLogger("zoo.serve")

SHARE = 0.1  # of the live images that the other file classifies
SHOWN = 20  # pairs of classes, the most frequent flips
MOST_PAIRS = 10_000  # pairs of classes that are counted by name
OUTCOMES = ("same", "flipped", "dropped", "failed")
LOGGED = (1, 2, 5)  # times a power of ten: numbers of compared images at which a line is logged, from 100 on
NICE = 19


class Shadow(Collector):
    """A file that classifies a share of the images that another one answers.

    Args:
        live: The file that answers.
        other: The file that is compared with it.
        pool: The workers that go first.
        share: Of the live images, from 0 to 1.
        seed: Of the choice of images. None: drawn.

    Raises:
        ZooError: the other file takes another input, or has other classes.
    """

    def __init__(
        self, live: ServedModel, other: ServedModel, pool: WorkerPool, *, share: float = SHARE, seed: int | None = None
    ) -> None:
        check_fits(live, other)
        self.live, self.other, self.share = live, other, share
        self._pool = pool
        self._random = random.Random(seed)
        self._changed = threading.Condition()  # guards everything below
        self._job: tuple[Answer, Pixels] | None = None
        self._busy = self._closed = False
        self._begin(live.digest)
        self._thread = threading.Thread(target=self._work, name="zoo-serve-shadow", daemon=True)
        self._thread.start()

    def _begin(self, digest: str) -> None:
        """Count anew: one of the files is another one."""
        self._digest = digest
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self._same = np.zeros(len(self.other.classes), np.int64)
        self._flips: Counter[tuple[int, int]] = Counter()  # by the class of the live file and of the other
        self._further = 0  # flips that are not counted by name
        self._sums = np.zeros(4)  # of the live confidence, the other's, their difference and its square

    def replace(self, other: ServedModel) -> None:
        """Compare with another file from now on, and count anew.

        Raises:
            ZooError: it takes another input, or has other classes.
        """
        check_fits(self.live, other)
        with self._changed:
            self.other = other
            self._begin(self._digest)

    # as a part of the pool's observer, in its threads

    def answered(self, answer: Answer, pixels: Pixels) -> None:
        """Take an image, if it is drawn and nobody waits; see `zoo.serving.worker_pool.Observer`."""
        if answer.model.name != self.live.name:
            return
        with self._changed:
            if self._random.random() >= self.share or self._closed:
                return
            if answer.model.digest != self._digest:
                self._begin(answer.model.digest)
            if self._busy or self._pool.queued or not self._pool.hold(_count_of(pixels)):
                self.outcomes["dropped"] += 1
                return
            self._job, self._busy = (answer, pixels), True
            self._changed.notify_all()

    # in the thread

    def _work(self) -> None:
        _lower_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._closed)
                if self._closed:
                    return
                assert self._job is not None
                (answer, pixels), other = self._job, self.other
                self._job = None
            logits: npt.NDArray[np.float32] | None = None
            try:
                logits = other.predictor.logits([pixels])[0]
            except Exception as error:  # the other file must never be in the way of the live one
                LOGGER.debug("shadow `%s`: %s", other.name, error)
            held = _count_of(pixels)
            del pixels
            self._pool.release(held)
            with self._changed:
                self._busy = False
                if answer.model.digest == self._digest and other is self.other:
                    self._count(answer.logits, logits)
                self._changed.notify_all()

    def _count(self, live: npt.NDArray[np.float32], other: npt.NDArray[np.float32] | None) -> None:
        if other is None or not np.isfinite(other).all():
            self.outcomes["failed"] += 1
            return
        ours, theirs = int(live.argmax()), int(other.argmax())
        first, second = (float(softmax(one[None]).max()) for one in (live, other))
        self._sums += (first, second, second - first, (second - first) ** 2)
        if ours == theirs:
            self.outcomes["same"] += 1
            self._same[ours] += 1
        else:
            self.outcomes["flipped"] += 1
            if (ours, theirs) in self._flips or len(self._flips) < MOST_PAIRS:
                self._flips[ours, theirs] += 1
            else:
                self._further += 1
        count = self.outcomes["same"] + self.outcomes["flipped"]
        if count >= 100 and int(str(count).rstrip("0")) in LOGGED:
            LOGGER.info("shadow `%s`: %s", self.other.name, self._told())

    def wait(self) -> None:
        """Wait until the image that was taken, if any, is counted."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy or self._closed)

    def close(self) -> None:
        """End the thread; the image that it classifies is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    # what is known

    def _told(self) -> str:
        """The result in words, under the lock."""
        flipped, count = self.outcomes["flipped"], self.outcomes["same"] + self.outcomes["flipped"]
        if not count:
            return "no image compared yet"
        low, high = wilson_interval(flipped, count)
        text = f"{flipped} of {count} labels differ from `{self.live.name}`'s: "
        text += f"{flipped / count:.2%} ({low:.2%} to {high:.2%})"
        for (ours, theirs), times in self._flips.most_common(1):
            text += f"; most often `{self.other.classes[ours]}` becomes `{self.other.classes[theirs]}` ({times})"
        return f"{text}; {self.outcomes['dropped']} dropped since workers were busy"

    def report(self) -> dict[str, Any]:
        """What is known now, as JSON values."""
        with self._changed:
            outcomes, same, flips = dict(self.outcomes), self._same.copy(), Counter(self._flips)
            sums, further, digest, told = self._sums.copy(), self._further, self._digest, self._told()
        flipped, count = outcomes["flipped"], outcomes["same"] + outcomes["flipped"]
        names = self.other.classes
        found: dict[str, Any] = {
            "live": {"model": self.live.name, "digest": digest},
            "shadow": {"file": self.other.path.name, "digest": self.other.digest, "precision": self.other.precision},
            "share": self.share,
            "images": count,
            "outcomes": outcomes,
            "says": told,
            "flipped": None,
            "accuracies_differ_at_most": None,
            "expected_accuracy": None,
            "pairs": [
                {"live": names[ours], "shadow": names[theirs], "images": times}
                for (ours, theirs), times in flips.most_common(SHOWN)
            ],
            "further_pairs": max(len(flips) - SHOWN, 0) + (further > 0),
            "classes": {},
        }
        if count:
            interval = wilson_interval(flipped, count)
            found["flipped"] = {"share": flipped / count, "interval_95": list(interval)}
            found["accuracies_differ_at_most"] = interval[1]
        if count > 1:
            live, shadow, difference, squared = (float(one) for one in sums / count)
            side = Z * (max(squared - difference**2, 0.0) / (count - 1)) ** 0.5
            found["expected_accuracy"] = {
                "live": live,
                "shadow": shadow,
                "difference": difference,
                "interval_95": [difference - side, difference + side],
                "holds": "as long as the probabilities of both files are calibrated",
            }
        found["classes"] = _class_shares(names, same, flips, count)
        return found

    def collect(self) -> Iterator[Any]:
        """Metrics for Prometheus."""
        with self._changed:
            outcomes = dict(self.outcomes)
        images = CounterMetricFamily(
            "zoo_shadow_images", "Live images that were drawn for the shadow", labels=("model", "outcome")
        )
        for outcome, number in outcomes.items():
            images.add_metric((self.live.name, outcome), number)
        share = GaugeMetricFamily(
            "zoo_shadow_flip_share", "Share of labels that the shadow changes", labels=("model", "bound")
        )
        flipped, count = outcomes["flipped"], outcomes["same"] + outcomes["flipped"]
        if count:
            low, high = wilson_interval(flipped, count)
            for bound, value in (("", flipped / count), ("low", low), ("high", high)):
                share.add_metric((self.live.name, bound), value)
        yield from (images, share)


def _count_of(pixels: Pixels) -> int:
    return int(pixels.shape[0] * pixels.shape[1])


def check_fits(live: ServedModel, other: ServedModel) -> None:
    """Check that two files can be given the same images and answer with the same classes.

    Raises:
        ZooError: they cannot.
    """
    hint = "the shadow must be of the same data as the file that is served"
    if other.classes != live.classes:
        raise ZooError(f"shadow `{other.path}` has other classes than `{live.path}`", hint=hint)
    if not other.takes_the_same_input(live):
        raise ZooError(f"shadow `{other.path}` takes another input than `{live.path}`", hint="export both alike")
    levels = (live.predictor.preprocess.levels, other.predictor.preprocess.levels)
    if levels[0] != levels[1]:
        raise ZooError(
            f"shadow `{other.path}` reads other grey levels than `{live.path}`: {levels[1]}, not {levels[0]}", hint=hint
        )


def _class_shares(
    names: tuple[str, ...], same: npt.NDArray[np.int64], flips: Counter[tuple[int, int]], count: int
) -> dict[str, Any]:
    """Shares of the classes that flips change, with Newcombe's paired interval of the difference."""
    only_live: Counter[int] = Counter()
    only_other: Counter[int] = Counter()
    for (ours, theirs), times in flips.items():
        only_live[ours] += times
        only_other[theirs] += times
    changed = sorted(only_live.keys() | only_other.keys(), key=lambda one: (-only_live[one] - only_other[one], one))
    found = {}
    for index in changed[:SHOWN]:
        both, ours, theirs = int(same[index]), only_live[index], only_other[index]
        low, high = paired_interval_of_counts(both, theirs, ours, count - both - ours - theirs)
        found[names[index]] = {
            "live": (both + ours) / count,
            "shadow": (both + theirs) / count,
            "difference": (theirs - ours) / count,
            "interval_95": [low, high],
        }
    return found


def _lower_priority() -> None:
    """Let all other threads go first; on Linux, where each thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
