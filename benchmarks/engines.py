"""Engines of frozen layers: `python benchmarks/engines.py networks`, `... runs DATA...` or `... waiting DATA`.

`networks`: throughput of each engine, from decoded pixels to rows, beside the bare forward pass of the same engine on
tensors in memory; seconds to make it ready; largest difference from torch. In turns, the best of several.

`runs`: whole processes of `zoo train --strategy linear` in turns: `--engine torch` and `--engine auto`, with nothing
kept, and with nothing but the converted network kept.

`waiting`: where the time of a run with nothing kept goes, and how many cores it keeps busy meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from zoo.system.environment import machine

NETWORKS = ("efficientnet_lite0", "timm/mobilenetv3_large_100", "resnet18", "timm/vit_tiny_patch16_224")
ENGINES = ("onnxruntime", "openvino", "torch-compile")
BLOCK, BLOCKS_EACH, TURNS = 16, 4, 4


def networks(names: list[str], engines: list[str]) -> None:
    import numpy as np
    import torch

    from zoo import Experiment, Plugins, Sample
    from zoo.data.decoding import DecodedImages
    from zoo.feature_cache.engine import engines_of, open_engine
    from zoo.feature_cache.loader import EvaluationCrops
    from zoo.feature_cache.split_network import SplitNetwork, padded, prefix_in_blocks
    from zoo.networks.tracing import noise
    from zoo.training.optimizer import changed_by
    from zoo.training.setup import build, plan_phases, resolve

    plugins = Plugins()
    print("| network | engine | ready, s | bare, images/s | from pixels to rows | share | differs by |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in names:
        weights = "default" if name == "efficientnet_lite0" else "none"
        experiment = Experiment(data="none", backbone=name, strategy="linear", weights=weights, device="cpu")
        setup = resolve(experiment, plugins)
        torch.manual_seed(0)
        network = build(setup, experiment, 2)
        network.model.eval().to(memory_format=torch.channels_last)
        trained = changed_by(network, plan_phases(setup, network, experiment).phases[0])
        three = noise(3, setup.preprocess.crop, torch.device("cpu"))
        split = SplitNetwork(network.model, trained, three, None)
        half = SplitNetwork(network.model, trained, three, torch.bfloat16)
        count = BLOCK * BLOCKS_EACH
        pixels = np.random.default_rng(0).integers(0, 255, (count, *setup.preprocess.input_size, 3), np.uint8)
        samples = tuple(Sample(str(index), None, pixels[index]) for index in range(count))
        part = DecodedImages(samples, np.zeros(count, np.int64), pixels, "", tuple(map(str, range(count))))
        source, every = EvaluationCrops(part, setup.preprocess, torch.device("cpu")), np.arange(count)
        ready = source.inputs(every, [0] * count)
        ways: dict[str, tuple[Any, float, str]] = {"torch": (split.prefix, 0.0, "")}
        ways["torch, bf16"] = (half.prefix, 0.0, "")
        brought = engines_of(plugins)
        asked = [(engine, split, engine) for engine in engines]
        asked += [
            (engine, half, f"{engine}, bf16") for engine in engines if engine in brought and brought[engine].open_bf16
        ]
        for engine, divided, way in asked:
            began = time.perf_counter()
            try:
                opened = open_engine(engine, divided, BLOCK, padded(ready[:BLOCK], BLOCK), engines=brought, store=None)
            except Exception as error:  # of any type; the table goes on
                print(f"| {name} | {way} | {str(error)[:60]} | | | | |")
                continue
            took = time.perf_counter() - began
            rows, expected = opened.compute(ready[:BLOCK])[0].float(), split.prefix(ready[:BLOCK])[0]
            apart = float((rows - expected).abs().max() / expected.abs().max())
            ways[way] = (opened.compute, took, f"{apart:.0e}")
        best = {(way, kind): float("inf") for way in ways for kind in ("bare", "whole")}
        for _ in range(TURNS):
            for way, (compute, _, _) in ways.items():
                began = time.perf_counter()
                prefix_in_blocks(split, ready, BLOCK, compute)
                best[way, "bare"] = min(best[way, "bare"], time.perf_counter() - began)
                began = time.perf_counter()
                for start in range(0, count, BLOCK):
                    some = every[start : start + BLOCK]
                    prefix_in_blocks(split, source.inputs(some, [0] * BLOCK), BLOCK, compute)
                best[way, "whole"] = min(best[way, "whole"], time.perf_counter() - began)
        for way, (_, took, apart_text) in ways.items():
            bare, whole = count / best[way, "bare"], count / best[way, "whole"]
            print(f"| {name} | {way} | {took:.1f} | {bare:.0f} | {whole:.0f} | {whole / bare:.2f} | {apart_text} |")


def trained(data: str, cache: Path, folder: Path, engine: str, precision: str) -> tuple[float, dict[str, Any]]:
    """Seconds of a whole process, and the record of its run."""
    command = [sys.executable, "-m", "zoo_cli.main", "train", "--data", data, "--backbone", "efficientnet_lite0"]
    command += ["--strategy", "linear", "--precision", precision, "--engine", engine, "--out", str(folder), "--force"]
    began = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "ZOO_CACHE": str(cache)}, cwd=folder.parent
    )
    took = time.perf_counter() - began
    return took, json.loads((folder / "run.json").read_text())


def is_export(file: Path) -> bool:
    return b'\\"kind\\":\\"engine\\"' in file.open("rb").read(8192)


def runs(data: list[str], repeats: int, precision: str) -> None:
    print("| data | engine asked for | kept | engine | seconds | prefix | scoring | accuracy | loss |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|")
    for one in data:
        source = str(Path(one).resolve())
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            found: dict[tuple[str, str], list[tuple[float, dict[str, Any]]]] = {}
            for _ in range(repeats):
                for engine in ("torch", "auto"):
                    cache = place / engine
                    shutil.rmtree(cache, ignore_errors=True)
                    for kept in ("nothing", "the converted network"):
                        found.setdefault((engine, kept), []).append(
                            trained(source, cache, place / "run", engine, precision)
                        )
                        for file in cache.glob("store/*/*"):
                            if not is_export(file):
                                file.unlink()
        for (engine, kept), every in found.items():
            took = median(seconds for seconds, _ in every)
            record = every[-1][1]
            prefix = median(each["seconds"]["of_train"]["prefix"] for _, each in every)
            scoring = median(each["seconds"]["report"] for _, each in every)
            metrics = record["metrics"]
            print(
                f"| {Path(one).name} | {engine} | {kept} | {record['engine']['name']} | {took:.1f} | {prefix:.1f} | "
                f"{scoring:.1f} | {metrics['accuracy']:.4f} | {metrics['loss']:.6f} |"
            )


def waiting(data: str, engines: list[str], precision: str) -> None:
    import psutil

    source = str(Path(data).resolve())
    print("| engine | step | seconds | cores kept busy |\n|---|---|---:|---:|")
    for engine in engines:
        with tempfile.TemporaryDirectory() as name:
            busy: list[tuple[float, float]] = []
            stop = threading.Event()

            def watch(busy: list[tuple[float, float]] = busy, stop: threading.Event = stop) -> None:
                while not stop.wait(0.1):
                    times = psutil.cpu_times()
                    busy.append((time.time(), times.user + times.nice + times.system))  # decoding ahead is niced

            watcher = threading.Thread(target=watch)
            watcher.start()
            began = time.time()
            took, record = trained(source, Path(name) / "cache", Path(name) / "run", engine, precision)
            stop.set()
            watcher.join()
        laps = record["seconds"]
        order = [lap for lap in ("build", "scan", "train", "save", "report") if lap in laps]
        start = began + took - laps["total"] - 0.2  # the process ends soon after its clock
        print(f"| {engine} | start | {start - began:.1f} | {_cores(busy, began, start):.2f} |")
        for lap in order:
            print(f"| {engine} | {lap} | {laps[lap]:.1f} | {_cores(busy, start, start + laps[lap]):.2f} |")
            start += laps[lap]
        print(f"| {engine} | of train | {laps['of_train']} | |")


def _cores(busy: list[tuple[float, float]], since: float, until: float) -> float:
    inside = [one for one in busy if since <= one[0] <= until]
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0]) if len(inside) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["networks", "runs", "waiting"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    print(machine())
    if asked.part == "networks":
        networks(asked.names or list(NETWORKS), asked.engines)
    elif asked.part == "runs":
        runs(asked.names, asked.repeats, asked.precision)
    else:
        waiting(asked.names[0], asked.engines, asked.precision)


if __name__ == "__main__":
    main()
