"""Micro-benchmarks of start-up, decoding, frozen prefix, head, feature cache and saving; times are not asserted.

pip install -e '.[offline,bench]'
pytest benchmarks/test_micro.py --benchmark-json benchmarks/results/micro.json
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import save
from torch import nn

from zoo import Network, Plugins
from zoo.data.image import canvas, decode
from zoo.data.prefetch import SPARE
from zoo.feature_cache.split_network import BLOCKS, SplitNetwork, prefix_in_blocks
from zoo.networks.building import build_network
from zoo.networks.freezing import apply_phase
from zoo.networks.tracing import noise
from zoo.preprocess import Preprocess
from zoo.solver import Task
from zoo.storage.files import write_bytes
from zoo.storage.tensor_store import Store
from zoo.system.cpu_memory import keep_freed_memory
from zoo_strategies import logistic

PREPROCESS = Preprocess(resize=256, crop=224, interpolation="bicubic")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Network:
    keep_freed_memory()
    network = build_network(Plugins().backbones.find("efficientnet_lite0").value, classes=2)
    network.model.to(memory_format=torch.channels_last)
    return network


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "from zoo_cli.main import run; run(['list', 'strategies'])",
        "import torch",
        "import zoo.training.session",
    ],
)
def test_startup(benchmark: BenchmarkFixture, code: str) -> None:
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, check=True), rounds=5, warmup_rounds=1
    )


@pytest.mark.parametrize("size", [(500, 375), (4000, 3000)])
@pytest.mark.parametrize("whole", [True, False])
def test_decode_to_a_canvas(benchmark: BenchmarkFixture, tmp_path: Path, size: tuple[int, int], whole: bool) -> None:
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.int16)
    pixels = pixels + generator.integers(-8, 9, pixels.shape, dtype=np.int16)
    file = tmp_path / "photograph.jpg"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, quality=92)
    at_least = None if whole else SPARE * PREPROCESS.canvas
    benchmark(lambda: canvas(decode(file, at_least), PREPROCESS))


@pytest.mark.parametrize("stages", [0, 2])
def test_prefix_of_64_images(benchmark: BenchmarkFixture, network: Network, stages: int) -> None:
    late = network.anatomy.parameters_of([*network.anatomy.names[len(network.anatomy.names) - stages :], "head"])
    apply_phase(network.model, late, "frozen")
    cut = SplitNetwork(network.model, late, noise(3, 224, CPU), None)
    images = noise(64, 224, CPU)
    benchmark.pedantic(lambda: prefix_in_blocks(cut, images, BLOCKS["cpu"]), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize(("images", "classes"), [(244, 2), (2000, 10)])
def test_solve_a_head(benchmark: BenchmarkFixture, images: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(images) % classes
    features = generator.normal(size=(classes, 1280))[labels] * 0.2 + generator.normal(size=(images, 1280))

    def solve() -> Any:
        head = nn.Linear(1280, classes)
        found = features.astype(np.float32)
        return logistic.solve(Task(head=head, features=found, labels=labels, classes=classes, seed=0))

    benchmark.pedantic(solve, rounds=3)


@pytest.mark.parametrize("what", ["write", "read"])
def test_store_of_20_mebibytes(benchmark: BenchmarkFixture, tmp_path: Path, what: str) -> None:
    store, rows = Store(tmp_path / "store"), {"0": torch.randn(244, 14, 14, 112)}
    store.write({"rows": 0}, rows)
    if what == "write":
        benchmark.pedantic(lambda number: store.write({"rows": number}, rows), setup=_numbers(), rounds=5)
    else:
        benchmark(lambda: store.read({"rows": 0}))


def _numbers() -> Any:
    numbers = iter(range(1, 1000))
    return lambda: ((next(numbers),), {})


def test_save_the_weights(benchmark: BenchmarkFixture, network: Network, tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in network.model.state_dict().items()}
    benchmark(lambda: write_bytes(tmp_path / "model.safetensors", save(state)))
