"""`torchvision:NAME`: datasets of torchvision, read from generated files in the layout of each."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from messages import refused
from PIL import Image

from zoo import UsageError, ZooError
from zoo.data.opening import absolute, open_images
from zoo.plugin import Plugins

RANDOM = np.random.default_rng(0)


def draw(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (12, 10, 3), np.uint8)).save(file)


def cifar(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        data = {"data": RANDOM.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 0, 1]}
        (folder / name).write_bytes(pickle.dumps(data))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}))


def flowers(root: Path) -> None:
    import scipy.io

    folder = root / "flowers-102"
    draw(*(folder / f"jpg/image_{number:05d}.jpg" for number in range(1, 13)))
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2] * 6])})
    numbers = {"trnid": np.arange(1, 5)[None], "valid": np.arange(5, 9)[None], "tstid": np.arange(9, 13)[None]}
    scipy.io.savemat(folder / "setid.mat", numbers)


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part in ("trainval", "test"):
        names = [f"{('Abyssinian', 'great_pyrenees')[number % 2]}_{part}{number}" for number in range(4)]
        draw(*(folder / f"images/{name}.jpg" for name in names))
        lines = [f"{name} {number % 2 + 1} 1 1" for number, name in enumerate(names)]
        (folder / f"annotations/{part}.txt").write_text("\n".join(lines))


def food(root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part in ("train", "test"):
        names = {name: [f"{name}/{part}{number}" for number in range(2)] for name in ("apple_pie", "ramen")}
        draw(*(folder / f"images/{name}.jpg" for each in names.values() for name in each))
        (folder / f"meta/{part}.json").write_text(json.dumps(names))
    (folder / "meta/classes.txt").write_text("apple_pie\nramen")


def eurosat(root: Path) -> None:
    draw(*(root / f"eurosat/2750/{name}/{name}_{n}.jpg" for name in ("Forest", "River") for n in range(8)))


def imagenette(root: Path) -> None:
    ids = ("n01440764", "n02102040")
    draw(*(root / f"imagenette2/{part}/{one}/{n}.JPEG" for part in ("train", "val") for one in ids for n in range(2)))


@pytest.mark.parametrize(
    ("name", "make", "classes", "counts"),
    [
        ("CIFAR10", cifar, ("airplane", "automobile"), {"train": 20, "test": 4}),
        ("Flowers102", flowers, None, {"train": 4, "val": 4, "test": 4}),
        ("OxfordIIITPet", pets, ("Abyssinian", "Great Pyrenees"), {"train": 4, "test": 4}),
        ("Food101", food, ("apple_pie", "ramen"), {"train": 4, "test": 4}),
        ("EuroSAT", eurosat, ("Forest", "River"), None),
        ("Imagenette", imagenette, ("English springer, English springer spaniel", "tench, Tinca tinca"), None),
    ],
)
def test_layouts_of_torchvision(
    name: str,
    make: Callable[[Path], None],
    classes: tuple[str, ...] | None,
    counts: dict[str, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("cifar", "flowers102"):  # generated files are not those whose digests torchvision knows
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)
    make(tmp_path)
    images = open_images(f"torchvision:{name},root={tmp_path}", 0, Plugins())
    assert classes is None or images.classes == classes
    assert counts is None or {role: len(part) for role, part in images.splits.items()} == counts
    assert images.drawn == (name == "EuroSAT")
    opened = images.splits["train"][0].source.open()
    assert isinstance(opened, np.ndarray) and opened.shape[2] == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("EMNIST", ["no splits that are known", "class folders"]),
        ("Kinetics", ["frames_per_clip", "class folders"]),
        ("VisionDataset", ["VisionDataset", "class folders"]),
        ("ImageFolder", ["ImageFolder", "root"]),
        ("Food101", ["Food101", "download=yes"]),
    ],
)
def test_datasets_that_cannot_be_read(name: str, words: list[str], tmp_path: Path) -> None:
    with refused(ZooError, *words):
        open_images(f"torchvision:{name},root={tmp_path / 'none'}", 0, Plugins())


def test_a_download_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.EuroSAT, "download", lambda self: (_ for _ in ()).throw(OSError("no net")))
    with refused(UsageError, "EuroSAT", "no net", "network"):
        open_images(f"torchvision:EuroSAT,root={tmp_path},download=yes", 0, Plugins())


def test_a_dataset_of_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, count) + bytes(index % 2 for index in range(count))
        )
    assert absolute(f"torchvision:MNIST,root={tmp_path}/x/..", Plugins()) == f"torchvision:MNIST,root={tmp_path}"
    images = open_images(f"torchvision:MNIST,root={tmp_path}", 0, Plugins())
    assert images.classes == ("0 - zero", "1 - one") and {r: len(p) for r, p in images.splits.items()} == {
        "train": 20,
        "test": 10,
    }
    opened = images.splits["train"][0].source.open()
    assert isinstance(opened, np.ndarray) and opened.shape == (28, 28, 3)
    with refused(UsageError, "MNIT", "did you mean `MNIST`"):
        open_images(f"torchvision:MNIT,root={tmp_path}", 0, Plugins())
    with refused(UsageError, "CIFAR10", "download=yes"):
        open_images(f"torchvision:CIFAR10,root={tmp_path}", 0, Plugins())
