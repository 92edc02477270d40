"""Drift: whether the images that a server gets are like those that its file was scored on, and what accuracy to expect.

For each served file the last images are remembered by seven numbers and the predicted class; no image is. They are
compared with `zoo.reference` of the file: by effect sizes with intervals over the last images, and by a sequential test
with a stated rate of false alarms over all of them; see `zoo.serving.shift_detector`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from zoo.data.image import Pixels
from zoo.data.image_statistics import measure
from zoo.errors import ZooError
from zoo.evaluation.statistics import Z, difference_interval, superiority_interval
from zoo.exporting.reference import DITHER, NAMES, Reference, statistics_of
from zoo.predictions import softmax
from zoo.serving.bounds import Rejection
from zoo.serving.served_model import ServedModel
from zoo.serving.shift_detector import ClassDetector, ValueDetector
from zoo.serving.worker_pool import Answer

LOGGER = logging.getLogger("zoo.serve")

WINDOW = 1000  # images that estimates are made of
FEWEST = 200  # images, below which nothing is said
RECENT = 200  # images, of which an alarm ends when they are like the reference
LOOK = 50  # images between such looks
TOGETHER = 32  # images that are taken in at once, since the first of them takes four times as long as the others
IMAGES_PER_FALSE_ALARM = 1_000_000  # at least, over all statistics of a file
CLASSES = "classes"
STATISTICS = (*NAMES, CLASSES)
SHOWN_CLASSES = 1000

# What smaller and larger values of a statistic mean
_WORDS = {
    "confidence": ("the file is less sure", "the file is surer"),
    "entropy": ("the file is surer", "the file is less sure"),
    "brightness": ("images are darker", "images are brighter"),
    "contrast": ("images have less contrast", "images have more contrast"),
    "sharpness": ("images are more blurred", "images are sharper or noisier"),
    "aspect": ("images are narrower", "images are wider"),
    "size": ("images are smaller", "images are larger"),
}


class DriftMonitor:
    """Watches the images that one file answers. Threads may call it at once.

    Args:
        name: What the file is called in logs.
        classes: Names of its classes.
        reference: What it is compared with. None: a file without one.
        accuracy: Its accuracy as it records it, with its interval, where there is no reference.
        window: Images that estimates are made of.
        images_per_false_alarm: How many images there are at least, on average, for each false alarm.
        seed: Of the noise that breaks ties. None: drawn.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        reference: Reference | None,
        *,
        accuracy: tuple[float, tuple[float, float]] | None = None,
        window: int = WINDOW,
        images_per_false_alarm: float = IMAGES_PER_FALSE_ALARM,
        seed: int | None = None,
    ) -> None:
        self.name, self.classes, self.reference = name, classes, reference
        self.alarms = dict.fromkeys(STATISTICS, 0)
        self._accuracy = accuracy if reference is None else (reference.accuracy, reference.accuracy_interval)
        self._rate = images_per_false_alarm
        self._threshold = images_per_false_alarm * len(STATISTICS)
        self._lock = threading.Lock()
        self._values = np.zeros((window, len(NAMES)))
        self._predicted = np.zeros(window, np.int64)
        self._seen = 0
        self._since = dict.fromkeys(STATISTICS, -1)  # the image at which an alarm that lasts began
        self._random = np.random.default_rng(seed)
        self._pending: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]] = []
        if reference is not None:
            self._of_values = ValueDetector(reference)
            self._of_classes = ClassDetector(reference, self._random)

    def observe(self, logits: npt.NDArray[np.float32], measured: npt.NDArray[np.float64]) -> None:
        """Take in an answer: logits `(classes,)`, and `zoo.data.image_statistics.measure` of the image."""
        with self._lock:
            self._pending.append((logits, measured))
            if len(self._pending) >= TOGETHER:
                self._take_in()

    def _take_in(self) -> None:
        """Add the images that wait for it to the window and to the tests, under the lock."""
        if not self._pending:
            return
        logits = np.stack([one for one, _ in self._pending])
        values = statistics_of(softmax(logits), [one for _, one in self._pending])
        noise = self._random.random((len(values), len(STATISTICS)))
        values += noise[:, :-1] * DITHER
        self._pending.clear()
        for row, best, drawn in zip(values, logits.argmax(axis=1).tolist(), noise[:, -1].tolist()):
            place = self._seen % len(self._predicted)
            self._values[place], self._predicted[place] = row, best
            self._seen += 1
            if self.reference is not None:
                self._test(row.tolist(), best + drawn)

    def _test(self, values: list[float], number: float) -> None:
        """Continue the tests, and begin and end alarms."""
        active = None
        if any(since >= 0 for since in self._since.values()):
            active = np.array([self._since[name] >= 0 for name in NAMES])
        evidence = self._of_values.observe(values, active)
        of_classes = 0.0 if self._since[CLASSES] >= 0 else self._of_classes.observe(number)
        if self._seen < FEWEST:
            return
        if evidence.max() >= self._threshold or of_classes >= self._threshold:
            for name, found in zip(STATISTICS, (*evidence.tolist(), of_classes)):
                if found >= self._threshold and self._since[name] < 0:
                    self._begin(name)
        for name, since in self._since.items():
            if since >= 0 and self._seen - since >= RECENT and (self._seen - since) % LOOK == 0:
                self._end_if_over(name)

    def _begin(self, name: str) -> None:
        self._since[name] = self._seen
        self.alarms[name] += 1
        LOGGER.warning(
            "`%s`: drift alarm: %s; without a change there is at most one false alarm in %s images",
            self.name,
            self._told(name, *self._last(TOGETHER)),  # most others may be from before the change
            f"{self._rate:,.0f}",
        )

    def _end_if_over(self, name: str) -> None:
        """End an alarm if the last images are no more different from the reference than by chance."""
        values, predicted = self._last(RECENT)
        low, high = (self._class_shift(predicted) if name == CLASSES else self._shift(name, values))["interval_95"]
        if low <= 0 <= high:
            self._since[name] = -1
            if name == CLASSES:
                self._of_classes.restart()
            else:
                self._of_values.restart(NAMES.index(name))
            LOGGER.info("`%s`: the drift alarm of %s is over", self.name, name)

    def _last(self, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Statistics `(n, 7)` and predicted classes `(n,)` of the last images, at most `count`, in no order."""
        size = len(self._predicted)
        count = min(count, self._seen, size)
        places = np.arange(self._seen - count, self._seen) % size
        return self._values[places], self._predicted[places]

    # estimates, from what `_last` gave

    def _shift(self, name: str, values: npt.NDArray[np.float64]) -> dict[str, Any]:
        """How far a statistic moved: Cliff's delta, the share of pairs with a larger value less that with a smaller."""
        assert self.reference is not None
        count, edges = self.reference.images, self.reference.quantiles[name]
        column = values[:, NAMES.index(name)]
        below = (np.array(self.reference.ranks) - 0.5) / count
        share = float(np.interp(column, edges, below, left=0.0, right=1.0).mean())
        low, high = superiority_interval(share, len(column), count)
        return {
            "effect": 2 * share - 1,
            "interval_95": [2 * low - 1, 2 * high - 1],
            "median": float(np.median(column)),
            "median_of_held_out": float(np.interp(0.5, below, edges)),
        }

    def _class_shift(self, predicted: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The class whose share moved most, in standard errors; its interval holds for all classes at once."""
        assert self.reference is not None
        counts = np.bincount(predicted, minlength=len(self.classes))
        held, images = np.array(self.reference.predicted), self.reference.images
        shares, before = counts / len(predicted), held / images
        pooled = (counts + held + 0.5) / (len(predicted) + images + 1)
        most = int((np.abs(shares - before) / np.sqrt(pooled * (1 - pooled))).argmax())
        ours, theirs = (int(counts[most]), len(predicted)), (int(held[most]), images)
        compared = len(self.classes) if len(self.classes) > 2 else 1  # of two classes, one says it all
        return {
            "class": self.classes[most],
            "share": float(shares[most]),
            "share_of_held_out": float(before[most]),
            "effect": float(shares[most] - before[most]),
            "interval_95": list(difference_interval(ours, theirs, level=0.05 / compared)),
        }

    def _expected(self, values: npt.NDArray[np.float64]) -> dict[str, Any]:
        """The mean confidence, less what it exceeded the accuracy by on the held-out images.

        The interval includes how well those know this excess. Angelopoulos et al. 2023, "Prediction-powered inference".
        """
        confidence = values[:, 0]
        mean = float(confidence.mean())
        value, variance = mean, float(confidence.var(ddof=1) / len(confidence))
        if self.reference is not None:
            value -= self.reference.gap
            variance += self.reference.gap_error**2
        low, value, high = (min(max(value + side * variance**0.5, 0.0), 1.0) for side in (-Z, 0.0, Z))
        return {"value": value, "interval_95": [low, high], "mean_confidence": mean}

    def _told(self, name: str, values: npt.NDArray[np.float64], predicted: npt.NDArray[np.int64]) -> str:
        """How a statistic moved, in words."""
        if name == CLASSES:
            found = self._class_shift(predicted)
            shares = f"{found['share']:.0%} of the images, {found['share_of_held_out']:.0%} of the held-out ones"
            return f"class `{found['class']}` is {shares}"
        found = self._shift(name, values)
        low, high = found["interval_95"]
        words = _WORDS[name][found["effect"] > 0] if low > 0 or high < 0 else "no difference is shown"
        return (
            f"{words} (median {name} {found['median']:.4g}, held out "
            f"{found['median_of_held_out']:.4g}; effect {found['effect']:+.2f}, {low:+.2f} to {high:+.2f})"
        )

    def report(self) -> dict[str, Any]:
        """What is known now, as JSON values; below 200 images only that nothing can be said."""
        with self._lock:
            self._take_in()
            values, predicted = self._last(len(self._predicted))
            seen, alarms, since = self._seen, dict(self.alarms), dict(self._since)
        reference = self.reference
        active = [name for name, at in since.items() if at >= 0]
        found: dict[str, Any] = {
            "model": self.name,
            "images": seen,
            "window": len(predicted),
            "fewest": FEWEST,
            "says": "",
            "expected_accuracy": None,
            "held_out": None,
            "statistics": {},
            "classes": None,
            "alarms": {"active": active, "begun": alarms, "images_per_false_alarm": self._rate},
        }
        if self._accuracy is not None:
            found["held_out"] = {"accuracy": self._accuracy[0], "interval_95": list(self._accuracy[1])}
        if reference is not None:
            found["held_out"] |= {
                "images": reference.images,
                "split": reference.split,
                "confidence_minus_accuracy": reference.gap,
                "confidence_minus_accuracy_interval_95": list(reference.gap_interval),
            }
        if len(predicted) < FEWEST:
            found["says"] = f"nothing can be said: {len(predicted)} images, {FEWEST} are needed"
            return found
        holds = "as long as the probabilities are calibrated, as on the held-out images"
        if active:
            holds += "; these images are others, so it may be far too high"
        found["expected_accuracy"] = self._expected(values) | {"holds": holds}
        if reference is None:
            found["says"] = (
                "the file has no `zoo.reference`, so its images are compared with none; export the run again"
            )
            return found
        shares = np.bincount(predicted, minlength=len(self.classes)) / len(predicted)
        found["statistics"] = {
            name: self._shift(name, values) | {"alarm": name in active, "says": self._told(name, values, predicted)}
            for name in NAMES
        }
        found["classes"] = self._class_shift(predicted) | {
            "alarm": CLASSES in active,
            "shares": {
                name: [float(share), count / reference.images]
                for name, share, count in list(zip(self.classes, shares, reference.predicted))[:SHOWN_CLASSES]
            },
        }
        if active:
            found["says"] = "alarm: " + "; ".join(self._told(name, values, predicted) for name in active)
        else:
            found["says"] = "no alarm: these images are not shown to differ from the held-out ones"
        return found


class Drift(Collector):
    """The drift monitors of all files of a server, and their metrics."""

    def __init__(self) -> None:
        self._monitors: dict[str, tuple[str, DriftMonitor]] = {}

    def serves(self, model: ServedModel) -> None:
        """Watch a file from now on, in the place of the one with its name."""
        told = model.record.get("metadata", {})
        reference = None
        if "zoo.reference" in told:
            try:
                reference = Reference.from_json(told["zoo.reference"])
                if len(reference.predicted) != len(model.classes):
                    raise ZooError("the reference of held-out images has other classes")
            except ZooError as error:
                LOGGER.warning("`%s`: no drift alarms: %s", model.name, error.message)
                reference = None
        accuracy = (told.get("zoo.metrics") or {}).get("accuracy")
        interval = told.get("zoo.accuracy_interval_95")
        recorded = None if accuracy is None or not interval else (accuracy, (interval[0], interval[1]))
        monitor = DriftMonitor(model.name, model.classes, reference, accuracy=recorded)
        self._monitors[model.name] = (model.digest, monitor)

    def answered(self, answer: Answer, pixels: Pixels) -> None:
        """Take in an answer; see `zoo.serving.worker_pool.Observer`."""
        digest, monitor = self._monitors.get(answer.model.name, ("", None))
        if monitor is not None and digest == answer.model.digest:  # not of a file that was replaced meanwhile
            monitor.observe(answer.logits, measure(pixels))

    def failed(self, model: ServedModel, rejection: Rejection) -> None:
        """An image without an answer is not part of any estimate."""

    def report(self, name: str) -> dict[str, Any]:
        """What is known of a file; see `DriftMonitor.report`."""
        digest, monitor = self._monitors[name]
        return {**monitor.report(), "digest": digest}

    def collect(self) -> Iterator[Any]:
        """Metrics for Prometheus; a file has no estimates below 200 images."""
        expected = GaugeMetricFamily(
            "zoo_expected_accuracy", "By calibrated confidence, over the last images", labels=("model", "bound")
        )
        effects = GaugeMetricFamily(
            "zoo_drift",
            "Cliff's delta from the held-out images, -1 to 1; classes: share",
            labels=("model", "statistic"),
        )
        alarms = CounterMetricFamily("zoo_drift_alarms", "Drift alarms that began", labels=("model", "statistic"))
        for name, (_, monitor) in list(self._monitors.items()):
            found = monitor.report()
            if found["expected_accuracy"] is not None:
                low, high = found["expected_accuracy"]["interval_95"]
                for bound, value in (("", found["expected_accuracy"]["value"]), ("low", low), ("high", high)):
                    expected.add_metric((name, bound), value)
            for statistic, told in found["statistics"].items():
                effects.add_metric((name, statistic), told["effect"])
            if found["classes"] is not None:
                effects.add_metric((name, CLASSES), found["classes"]["effect"])
            if monitor.reference is not None:
                for statistic, count in found["alarms"]["begun"].items():
                    alarms.add_metric((name, statistic), count)
        yield from (expected, effects, alarms)
