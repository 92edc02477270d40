"""Measures `zoo doctor` on faults that are planted into real photographs: what it finds, and what it finds in vain.

    python benchmarks/doctor.py FOLDER hymenoptera=PATH sign_digits=PATH --seeds 0 1 2

Each data set is copied below FOLDER with planted faults (`plant`), `zoo doctor` is run on the copy, and its
`doctor.csv` is compared with what was planted. Data without splits are first split 85/15 of every class. Precision
counts every finding that was not planted as false, also where it is a true fault of the data.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

COPIES = ("copied", "resized", "cropped", "recompressed")  # five each
CHANGES = ("mirrored", "turned", "brightened", "grey")  # five each, of other images
SUFFIXES = (".jpg", ".jpeg", ".png")


def altered(image: Image.Image, how: str, generator: np.random.Generator) -> Image.Image:
    """A near duplicate of an image."""
    width, height = image.size
    if how == "resized":
        return image.resize((max(round(0.6 * width), 1), max(round(0.6 * height), 1)), Image.Resampling.BICUBIC)
    if how == "cropped":
        across, down = round(0.9 * width), round(0.9 * height)
        left, top = (int(generator.integers(0, 1 + excess)) for excess in (width - across, height - down))
        return image.crop((left, top, left + across, top + down))
    if how == "mirrored":
        return ImageOps.mirror(image)
    if how == "turned":
        return image.transpose(
            [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270][generator.integers(3)]
        )
    if how == "brightened":
        return ImageEnhance.Brightness(image).enhance(1.3)
    return ImageOps.grayscale(image) if how == "grey" else image


def split_of(source: Path, generator: np.random.Generator) -> dict[str, dict[str, list[Path]]]:
    """Files by split and class; data without splits are divided 85/15."""

    def files(folder: Path) -> dict[str, list[Path]]:
        return {
            one.name: sorted(path for path in one.iterdir() if path.suffix.lower() in SUFFIXES)
            for one in sorted(folder.iterdir())
            if one.is_dir()
        }

    if (source / "train").is_dir():
        return {role: files(source / role) for role in ("train", "val")}
    found: dict[str, dict[str, list[Path]]] = {"train": {}, "val": {}}
    for label, paths in files(source).items():
        order = [paths[index] for index in generator.permutation(len(paths))]
        held = round(0.15 * len(order))
        found["val"][label], found["train"][label] = sorted(order[:held]), sorted(order[held:])
    return found


def plant(source: Path, strangers: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Copy a data set with planted faults; returns what was planted, by kind, as ids.

    - `labels`: 5 % of the training images lie in the folder of another class;
    - `pairs`: 40 images of `val` are in `train` as well, five each as the kinds `COPIES` and `CHANGES`;
    - `dark`, `blurry`, `broken`: 8, 8 and 4 training images are darkened, blurred or cut short;
    - `foreign`: 10 images of the other data set are in `train`.
    """
    generator = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    parts = split_of(source, generator)
    classes = sorted(parts["train"])
    for role, by_label in parts.items():
        for label, paths in by_label.items():
            (folder / role / label).mkdir(parents=True)
            for path in paths:
                shutil.copyfile(path, folder / role / label / path.name)

    def drawn(role: str, count: int, without: set[Path]) -> list[Path]:
        """Readable images of a split that nothing was planted into."""
        known = sorted(path for path in (folder / role).rglob("*") if path.is_file() and path not in without)
        found: list[Path] = []
        for index in generator.permutation(len(known)):
            if known[index].read_bytes()[:4] != b"GIF8":
                found.append(known[index])
            if len(found) == count:
                break
        return found

    name = lambda path: path.relative_to(folder).as_posix()
    planted: dict[str, Any] = {"labels": [], "pairs": [], "dark": [], "blurry": [], "broken": [], "foreign": []}
    used: set[Path] = set()
    total = sum(map(len, parts["train"].values()))
    for kind, count in (("dark", 8), ("blurry", 8), ("broken", 4)):
        for path in drawn("train", count, used):
            used.add(path)
            planted[kind].append(name(path))
            if kind == "broken":
                data = path.read_bytes()
                path.write_bytes(data[: len(data) // 2])
                continue
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            if kind == "dark":
                image = ImageEnhance.Brightness(image).enhance(0.08)
            else:
                image = image.filter(ImageFilter.GaussianBlur(0.03 * min(image.size)))
            image.save(path, "JPEG", quality=95)
    for path in drawn("train", round(0.05 * total), used):
        other = [label for label in classes if label != path.parent.name][generator.integers(len(classes) - 1)]
        moved = path.parent.parent / other / f"moved-{path.parent.name}-{path.name}"
        path.rename(moved)
        used.add(moved)
        planted["labels"].append(name(moved))
    originals = drawn("val", 5 * len(COPIES + CHANGES), set())
    for number, path in enumerate(originals):
        how = (COPIES + CHANGES)[number // 5]
        twin = folder / "train" / path.parent.name / f"{how}-{number}.jpg"
        if how == "copied":
            shutil.copyfile(path, twin)
        else:
            with Image.open(path) as opened:
                image = altered(opened.convert("RGB"), how, generator)
            image.save(twin, "JPEG", quality=25 if how == "recompressed" else 95)
        planted["pairs"].append({"kind": how, "ids": sorted([name(path), name(twin)])})
    others = sorted(path for path in strangers.rglob("*") if path.suffix.lower() in SUFFIXES)
    others = [path for path in others if path.read_bytes()[:4] != b"GIF8"]
    one = generator.permutation([path.parent for path in others])[0]  # of one class, so that they form a cluster
    strange = [path for path in others if path.parent == one]
    for number, index in enumerate(generator.permutation(len(strange))[:10]):
        twin = folder / "train" / classes[generator.integers(len(classes))] / f"foreign-{number}.jpg"
        shutil.copyfile(strange[index], twin)
        planted["foreign"].append(name(twin))
    return planted
