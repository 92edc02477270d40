"""Drift of `zoo serve` in simulation and on corrupted photographs: false alarms, delays, coverage, cost.

    python benchmarks/drift_simulation.py RUN DATA

`RUN` is a run folder with `model.onnx` (its reported split is scored), `DATA` the folder of that split. Writes
`benchmarks/results/serving_drift.md`. One process; about ten minutes.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import chi2

from zoo.data.image import Pixels, decode
from zoo.data.image_statistics import measure
from zoo.exporting.reference import Reference, make_reference
from zoo.predictions import Predictions, softmax
from zoo.serving.drift import CLASSES, FEWEST, STATISTICS, DriftMonitor

RESULT = Path(__file__).parent / "results" / "serving_drift.md"
NAMES = ("a", "b", "c")
Draws = tuple[np.ndarray, np.ndarray]  # logits (N, 3) and measured (N, 5)


def draw(count: int, random: np.random.Generator, **change: float) -> Draws:
    """Simulated images: skewed values, and sizes and aspects with many ties. `change` is in standard deviations."""
    shares = np.array([0.5, 0.3, 0.2 + change.get("class", 0.0)])
    best = random.choice(3, count, p=shares / shares.sum())
    margin = np.maximum(random.gamma(2.0, 1.5, count) * (1 - change.get("confidence", 0.0)), 0)
    logits = np.zeros((count, 3), np.float32)
    logits[np.arange(count), best] = margin
    brightness = 120 + 30 * (random.standard_normal(count) - change.get("brightness", 0.0))
    contrast = random.gamma(9.0, 6.0, count)
    sharpness = np.exp(3.4 + 0.5 * (random.standard_normal(count) - change.get("sharpness", 0.0)))
    some = random.random(count) < change.get("some", 0.0)
    sharpness[some] *= 0.3
    aspect = random.choice([4 / 3, 3 / 4, 1.5], count, p=[0.6, 0.2, 0.2])
    size = random.choice([433.0, 500.0, 1000.0], count, p=[0.7, 0.2, 0.1])
    return logits, np.stack([brightness, contrast, sharpness, aspect, size], axis=1)


def reference_of(draws: Draws, labels: np.ndarray | None = None, names: tuple[str, ...] = NAMES) -> Reference:
    logits, measured = draws
    labels = logits.argmax(axis=1) if labels is None else labels
    ids = tuple(map(str, range(len(logits))))
    table = Predictions(split="val", classes=names, ids=ids, labels=labels.astype(np.int64), logits=logits)
    return make_reference(table, list(measured))


def watch(monitor: DriftMonitor, draws: Draws) -> tuple[int, str] | None:
    """Show images until a further alarm begins; returns after how many, and of what."""
    before = dict(monitor.alarms)
    for number, (logits, measured) in enumerate(zip(*draws), 1):
        monitor.observe(logits, measured)
        if monitor.alarms != before:
            return number, next(name for name in STATISTICS if monitor.alarms[name] != before[name])
    return None


def false_alarms(lines: list[str], random: np.random.Generator, streams: int) -> None:
    lines += [
        "## No change\n",
        "Streams that are drawn like the reference, eight statistics each (tied sizes and aspects among them). An",
        "alarm that is over may be followed by others. Stated: at most images / (images per false alarm) alarms in a",
        "stream, on average. The bound is the upper end of the 95 % interval of the mean (Poisson, exact).\n",
        "| reference | images in a stream | streams | images per false alarm, stated | alarms | in a stream | bound | "
        "stated |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    cases = [(size, 2000, streams, 10_000.0) for size in (30, 153, 1000)]
    cases += [(153, 50_000, max(streams // 30, 2), 100_000.0)]
    for size, images, count, rate in cases:
        alarms = 0
        for _ in range(count):
            seed = int(random.integers(2**31))
            monitor = DriftMonitor("m", NAMES, reference_of(draw(size, random)), images_per_false_alarm=rate, seed=seed)
            for logits, measured in zip(*draw(images, random)):
                monitor.observe(logits, measured)
            alarms += sum(monitor.report()["alarms"]["begun"].values())
        bound = float(chi2.ppf(0.975, 2 * (alarms + 1))) / 2 / count
        lines.append(
            f"| {size} | {images:,} | {count} | {rate:,.0f} | {alarms} | {alarms / count:.3f} | {bound:.3f} | "
            f"{images / rate:g} |"
        )
        print(lines[-1], flush=True)


def delays(lines: list[str], random: np.random.Generator, streams: int) -> None:
    lines += [
        "\n## A change after 1,000 images\n",
        f"References of 153 and of 1,000 images, one false alarm in 1,000,000 images, {streams} streams each. Changes",
        "are in standard deviations of the statistic. Answers are taken in 32 at a time. Delay: images from the change",
        "to the first alarm.\n",
        "| change | reference | found within 3,000 images | median delay | 90 % within | first alarm most often |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    changes: list[tuple[str, dict[str, float]]] = [
        *((f"darker by {size:g}", {"brightness": size}) for size in (0.25, 0.5, 1.0, 2.0)),
        *((f"more blurred by {size:g}", {"sharpness": size}) for size in (0.5, 1.0)),
        *((f"{size:.0%} of the images blurred", {"some": size}) for size in (0.1, 0.3)),
        *((f"logits smaller by {size:.0%}", {"confidence": size}) for size in (0.2, 0.5)),
        *((f"share of a class 20 % to {(0.2 + size) / (1 + size):.0%}", {"class": size}) for size in (0.15, 0.4, 1.2)),
    ]
    for name, change in changes:
        for size in (153, 1000):
            found, first = [], []
            for _ in range(streams):
                seed = int(random.integers(2**31))
                monitor = DriftMonitor("m", NAMES, reference_of(draw(size, random)), seed=seed)
                watch(monitor, draw(1000, random))
                told = watch(monitor, draw(3000, random, **change))
                found.append(np.inf if told is None else told[0])
                first += [] if told is None else [told[1]]
            reached = np.isfinite(found)
            typical = [np.quantile(found, share, method="higher") for share in (0.5, 0.9)]
            shown = ["-" if np.isinf(one) else f"{one:.0f}" for one in typical]
            most = max(set(first), key=first.count) if first else "-"
            lines.append(f"| {name} | {size} | {reached.mean():.0%} | {shown[0]} | {shown[1]} | {most} |")
            print(lines[-1], flush=True)


def coverage(lines: list[str], random: np.random.Generator, times: int) -> None:
    """How often the intervals hold the truth: the effect, and the expected accuracy."""
    lines += [
        "\n## Intervals\n",
        f"How often 95 % intervals hold the true value, {times} windows each. Labels are drawn by the confidence.\n",
        "| change | reference | window | brightness | accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    huge = draw(400_000, random)
    for shift in (0.0, 0.5, 1.5):
        other = draw(400_000, random, brightness=shift)
        truth = 2 * float((other[1][:, 0] > huge[1][:, 0]).mean()) - 1
        accuracy = float(softmax(other[0]).max(axis=1).mean())
        for size in (153, 1000):
            held = [0, 0]
            for _ in range(times):
                draws = draw(size, random)
                labels = draws[0].argmax(axis=1)
                wrong = random.random(size) >= softmax(draws[0]).max(axis=1)
                labels[wrong] = (labels[wrong] + 1) % 3
                monitor = DriftMonitor("m", NAMES, reference_of(draws, labels), seed=1)
                for logits, measured in zip(*draw(500, random, brightness=shift)):
                    monitor.observe(logits, measured)
                told = monitor.report()
                for index, (interval, value) in enumerate(
                    (
                        (told["statistics"]["brightness"]["interval_95"], truth),
                        (told["expected_accuracy"]["interval_95"], accuracy),
                    )
                ):
                    held[index] += interval[0] <= value <= interval[1]
            lines.append(f"| darker by {shift:g} | {size} | 500 | {held[0] / times:.3f} | {held[1] / times:.3f} |")
            print(lines[-1], flush=True)


def _scaled(image: Image.Image, share: float) -> Image.Image:
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def _noisy(image: Image.Image, width: float) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, width, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


CORRUPTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "darker: x 0.8": lambda image: image.point(lambda level: level * 0.8),
    "darker: x 0.5": lambda image: image.point(lambda level: level * 0.5),
    "blurred: radius 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "blurred: radius 3": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "noisy: 10 levels": lambda image: _noisy(image, 10),
    "noisy: 40 levels": lambda image: _noisy(image, 40),
    "smaller: half": lambda image: _scaled(image, 0.5),
    "smaller: an eighth": lambda image: _scaled(image, 0.125),
}


def photographs(lines: list[str], run: Path, data: Path, random: np.random.Generator, times: int) -> None:
    from zoo_onnx.session import open_file

    predictor = open_file(run / "model.onnx", "cpu", 1)
    files = sorted(file for file in data.glob("*/*") if file.is_file())
    labels = np.array([predictor.classes.index(file.parent.name) for file in files])
    images = [decode(file) for file in files]
    costs = cost(files, predictor.logits)
    drawn: dict[str, Draws] = {}
    for name, corrupt in CORRUPTIONS.items():
        seen: list[Pixels] = [np.asarray(corrupt(Image.fromarray(image)).convert("RGB")) for image in images]
        logits = np.concatenate([predictor.logits([one]) for one in seen])
        drawn[name] = logits, np.stack([measure(one) for one in seen])
    lines += [
        "\n## Corrupted photographs through a real file\n",
        f"{len(files)} photographs. The reference is a random half of them. The stream is drawn from the other half,",
        f"with replacement: 500 as they are, then corrupted ones; {times} halves. The expected accuracy is the mean",
        "over the halves after 1,000 corrupted ones, beside the accuracy by the labels. The last column is how often",
        "the interval held the latter; one half has another accuracy than the other by chance",
        "alone, which the interval of an endless stream does not cover.\n",
        "| corruption | alarm within 1,000 | median delay | alarms, most often first | accuracy | expected | within |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (logits, measured) in drawn.items():
        found, told, expected, actual, inside = [], dict.fromkeys(STATISTICS, 0), [], [], 0
        for _ in range(times):
            order = random.permutation(len(files))
            half, rest = order[: len(order) // 2], order[len(order) // 2 :]
            plain = drawn["none"]
            reference = reference_of((plain[0][half], plain[1][half]), labels[half], predictor.classes)
            monitor = DriftMonitor("m", predictor.classes, reference, seed=int(random.integers(2**31)))
            early = random.choice(rest, 500)
            watch(monitor, (plain[0][early], plain[1][early]))
            late = random.choice(rest, 1000)
            first = watch(monitor, (logits[late], measured[late]))
            found.append(np.inf if first is None else first[0])
            for row in late[0 if first is None else first[0] :]:
                monitor.observe(logits[row], measured[row])
            report = monitor.report()
            for statistic, count in report["alarms"]["begun"].items():
                told[statistic] += count > 0
            expected.append(report["expected_accuracy"]["value"])
            actual.append(float((logits[late].argmax(axis=1) == labels[late]).mean()))
            low, high = report["expected_accuracy"]["interval_95"]
            inside += low <= actual[-1] <= high
        middle = np.quantile(found, 0.5, method="higher")
        which = ", ".join(f"{one} {count}" for one, count in sorted(told.items(), key=lambda item: -item[1]) if count)
        delay = "-" if np.isinf(middle) else f"{middle:.0f}"
        lines.append(
            f"| {name} | {np.isfinite(found).mean():.0%} | {delay} | {which or '-'} | "
            f"{np.mean(actual):.3f} | {np.mean(expected):.3f} | {inside} of {times} |"
        )
        print(lines[-1], flush=True)
    lines += costs


def cost(files: list[Path], logits: Callable[[list[Pixels]], np.ndarray]) -> list[str]:
    """The processor time that drift adds to an image, beside decoding and the graph, by turns in one thread."""
    some = np.stack([measure(decode(file)) for file in files[:30]])
    reference = reference_of((np.tile(np.array([1, 0], np.float32), (30, 1)), some), names=("a", "b"))
    monitor = DriftMonitor("m", ("a", "b"), reference)
    spent = [0.0, 0.0]
    for file in [*files, *files]:
        began = time.thread_time()
        image = decode(file)
        found = logits([image])[0]
        between = time.thread_time()
        monitor.observe(found, measure(image))
        spent[1] += time.thread_time() - between
        spent[0] += between - began
    each = [total / len(files) / 2 * 1e3 for total in spent]
    text = (
        "Processor time of an image, by turns in one thread, on a machine with other work: decode and graph "
        f"{each[0]:.2f} ms, drift {each[1]:.3f} ms: {each[1] / each[0]:.1%}. HTTP is not counted."
    )
    print(text)
    return ["\n## Cost\n", text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--streams", type=int, default=600)
    asked = parser.parse_args()
    logging.getLogger("zoo.serve").setLevel(logging.ERROR)
    random = np.random.default_rng(16)
    lines = [
        "# Drift of `zoo serve`: false alarms, delays, intervals\n",
        "`python benchmarks/drift_simulation.py RUN DATA`, seed 16. Nothing is said below "
        f"{FEWEST} images; statistics are {', '.join(STATISTICS[:-1])} and {CLASSES}.\n",
    ]
    false_alarms(lines, random, asked.streams)
    delays(lines, random, max(asked.streams // 12, 5))
    coverage(lines, random, max(asked.streams // 2, 10))
    photographs(lines, asked.run, asked.data, random, 20)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
