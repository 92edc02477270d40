"""Measures gain and cost of the feature cache, which stores the output of the frozen prefix.

    python benchmarks/frozen.py prefix strategies waiting growth memory --data hymenoptera

prefix      throughput of the prefix, from decoded pixels to the cache, relative to the forward pass alone
strategies  time of six strategies, one process each, with a shared cache, relative to `--cache off`
waiting     fraction of the time spent on augmentation and the cache, from the second epoch on
growth      time of the prefix and of the rest by number of images, and of runs by number of strategies
memory      anonymous memory of a run on 60,000 small images, relative to 2,000; memory-mapped pages do not count

Each part writes its results to `benchmarks/results/frozen.json`; `growth` also writes a plot (extra `bench`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from zoo.system.environment import machine, versions

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "efficientnet_lite0"
SIX = ("linear", "knn", "linear,solver=sgd", "linear,head=mlp:256", "partial:1", "partial:2")


def train(data: Path, strategy: str, out: Path, cache: Path, *settings: str, watch: bool = False) -> dict[str, Any]:
    """Run `zoo train` in a process: its wall time in seconds, its record, and its peak of anonymous memory in bytes."""
    command = [sys.executable, "-m", "zoo_cli.main", "train", "--data", str(data), "--backbone", BACKBONE]
    command += ["--strategy", strategy, "--out", str(out), *settings]
    most = [0]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "ZOO_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watcher = threading.Thread(target=_watch, args=(process, most))
    if watch:
        watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise SystemExit(errors[-2000:])
    if watch:
        watcher.join()
    return {"wall": seconds, "anonymous": most[0], "run": json.loads((out / "run.json").read_text()), "out": out}


def _watch(process: subprocess.Popen[str], most: list[int]) -> None:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    while process.poll() is None:
        try:
            found = re.search(r"^Anonymous:\s+(\d+) kB", rollup.read_text(), re.MULTILINE)
        except OSError:
            break
        most[0] = max(most[0], int(found[1]) * 1024 if found else 0)
        time.sleep(0.2)


def prefix(data: Path, folder: Path) -> dict[str, Any]:
    """Alternate, five times: from pixels to cached features, and the same forward pass on tensors in memory."""
    import torch

    from zoo import Experiment, Plugins
    from zoo.config.context import Context
    from zoo.data.augmentation import PLAIN
    from zoo.feature_cache.loader import AugmentedViews, PrefixOutputs
    from zoo.feature_cache.split_network import prefix_in_blocks
    from zoo.networks.freezing import apply_phase
    from zoo.progress import Silent
    from zoo.storage.tensor_store import Store
    from zoo.training.optimizer import trained_by
    from zoo.training.preparation import feature_cache, prepare
    from zoo.training.setup import resolve

    plugins, found = Plugins(), {}
    for precision in ("fp32", "bf16"):
        experiment = Experiment(data=str(data), backbone=BACKBONE, strategy="partial:2", precision=precision)  # type: ignore[arg-type]
        job = prepare(experiment, resolve(experiment, plugins), Context.of(plugins))
        model = job.network.model.to(memory_format=torch.channels_last)
        late = trained_by(job.network, job.phases.phases[0])
        apply_phase(model, late, "frozen")
        cut = feature_cache(job).split(job.network, late)
        assert cut is not None
        views = AugmentedViews(job.decoded["fit"], PLAIN, 0, job.setup.preprocess, job.setup.device.place)
        count = len(views.part.labels)
        ready = views.inputs(np.arange(count), [0] * count)
        rates: dict[str, list[float]] = {"stored": [], "bare": []}
        for turn in range(6):
            store = Store(folder / f"{precision}-{turn}")
            rows = PrefixOutputs(cut, views, store=store, key={}, batch_size=32, progress=Silent(), title="")
            began = time.perf_counter()
            rows.prepare(0)
            rates["stored"].append(count / (time.perf_counter() - began))
            began = time.perf_counter()
            prefix_in_blocks(cut, ready, rows.block)
            rates["bare"].append(count / (time.perf_counter() - began))
        shares = [one / other for one, other in zip(rates["stored"], rates["bare"])][1:]  # the first warms up
        found[precision] = {name: round(median(values[1:]), 1) for name, values in rates.items()}
        found[precision] |= {
            "ratio": round(median(shares), 3),
            "from": round(min(shares), 3),
            "to": round(max(shares), 3),
        }
    return found


def strategies(data: Path, folder: Path) -> dict[str, Any]:
    """Total time of six processes, one after the other, with a shared cache and without."""
    found: dict[str, Any] = {"strategies": SIX}
    for name, settings in (("shared", ()), ("off", ("--cache", "off"))):
        walls = [
            train(data, strategy, folder / f"{name}-{number}", folder / f"cache-{name}", *settings)["wall"]
            for number, strategy in enumerate(SIX)
        ]
        found[name] = {"each": [round(wall, 1) for wall in walls], "seconds": round(sum(walls), 1)}
    found["ratio"] = round(found["off"]["seconds"] / found["shared"]["seconds"], 2)
    return found


def waiting(data: Path, folder: Path) -> dict[str, Any]:
    """For `partial:2`, whose prefix is cached, and `full`, which has none."""
    found = {}
    for strategy in ("partial:2", "full"):
        made = train(data, strategy, folder / strategy.replace(":", ""), folder / "cache")
        lines = [json.loads(line)["seconds"] for line in (made["out"] / "history.jsonl").read_text().splitlines()][1:]
        whole = sum(sum(line.values()) for line in lines)
        found[strategy] = round(sum(line["data"] + line["store"] for line in lines) / whole, 4)
    return found


def photographs(folder: Path, count: int, side: int) -> Path:
    """Write noise images in two classes of equal size: `count` to train on and 20 for validation."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, images in (("train", count), ("val", 20)):
        for number in range(images):
            place = folder / split / ("blue", "red")[number % 2]
            if number < 2:
                place.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 160, (side, side, 3), dtype=np.uint8)
            pixels[..., 2 if number % 2 == 0 else 0] += 90
            Image.fromarray(pixels).save(place / f"{number:06d}.jpg", quality=90)
    return folder


def growth(data: Path, folder: Path) -> dict[str, Any]:
    """Small images, so that there can be many: only the growth of the times matters."""
    found: dict[str, Any] = {"images": {}, "strategies": {}}
    for count in (500, 1000, 2000, 4000, 8000):
        photos = photographs(folder / f"photos-{count}", count, 64)
        run = train(photos, "partial:2", folder / f"run-{count}", folder / f"cache-{count}", "--image-size", "64")[
            "run"
        ]
        of = run["seconds"]["of_train"]
        found["images"][count] = {
            "scan": run["seconds"]["scan"], "prefix": of["prefix"], "store": of["store"], "rest": of["rest"],
            "total": run["seconds"]["total"],
        }  # fmt: skip
    photos = folder / "photos-2000"
    names = ("linear", "linear,solver=sgd", "partial:1", "partial:2", "partial:2,lr=0.5", "partial:2,ema=0.9",
             "partial:1,lr=0.5", "linear,solver=sgd,lr=0.5")  # fmt: skip
    for count in (1, 2, 4, 8):
        walls = [
            train(photos, name, folder / f"s-{count}-{number}", folder / f"cache-s-{count}", "--image-size", "64")[
                "wall"
            ]
            for number, name in enumerate(names[:count])
        ]
        found["strategies"][count] = round(sum(walls), 1)
    found["slopes"] = slopes(found)
    plot(found, ROOT / "benchmarks" / "results" / "growth.svg")
    return found


def memory(data: Path, folder: Path) -> dict[str, Any]:
    """The peak of a run's anonymous memory, read from the kernel five times a second."""
    found = {}
    for count in (2000, 60_000):
        photos = photographs(folder / f"photos-{count}", count, 32)
        made = train(
            photos, "partial:2", folder / f"run-{count}", folder / f"cache-{count}", "--image-size", "32",
            "--epochs", "1", watch=True,
        )  # fmt: skip
        found[str(count)] = {"anonymous_mib": round(made["anonymous"] / 2**20), "seconds": round(made["wall"], 1)}
    found["ratio"] = round(found["60000"]["anonymous_mib"] / found["2000"]["anonymous_mib"], 3)
    return found


def plot(found: dict[str, Any], file: Path) -> None:
    """Plot time against images and against strategies, on log-log axes: proportional growth has slope 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = [int(count) for count in found["images"]]
    for name in ("scan", "prefix", "rest", "total"):
        left.plot(counts, [row[name] for row in found["images"].values()], marker="o", label=name)
    left.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds", title="one run of `partial:2`")
    strategies = [int(count) for count in found["strategies"]]
    right.plot(strategies, list(found["strategies"].values()), marker="o", label="shared cache")
    first = found["strategies"][next(iter(found["strategies"]))]
    right.plot(strategies, [first * count for count in strategies], linestyle=":", label="proportional")
    right.set(xscale="log", yscale="log", xlabel="strategies", ylabel="total seconds", title="2,000 images")
    for panel, ticks in ((left, counts), (right, strategies)):
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.legend()
    figure.savefig(file)


def slopes(found: dict[str, Any]) -> dict[str, float]:
    """Exponents of the growth with the number of images; 1 is proportional."""
    counts = np.log([int(count) for count in found["images"]])
    return {
        name: round(float(np.polyfit(counts, np.log([row[name] for row in found["images"].values()]), 1)[0]), 2)
        for name in ("scan", "prefix", "rest", "total")
    }


PARTS = {"prefix": prefix, "strategies": strategies, "waiting": waiting, "growth": growth, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, help="what to measure, see above")
    parser.add_argument("--data", type=Path, required=True, help="hymenoptera, with train/ and val/")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "frozen.json", help="file of results"
    )
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = {"machine": machine(), "versions": versions(), **PARTS[name](options.data, Path(folder))}
        options.out.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
        print(json.dumps({name: found[name]}, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
