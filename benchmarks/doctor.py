"""Measures `zoo doctor` on faults that are planted into real photographs: what it finds, and what it finds in vain.

    python benchmarks/doctor.py FOLDER hymenoptera=PATH sign_digits=PATH --seeds 0 1 2

Each data set is copied below FOLDER with planted faults (`plant`), `zoo doctor` is run on the copy, and its
`doctor.csv` is compared with what was planted. Data without splits are first split 85/15 of every class. Precision
counts every finding that was not planted as false, also where it is a true fault of the data.
"""

from __future__ import annotations

import argparse
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


def examined(folder: Path, out: Path) -> dict[str, Any]:
    """What `zoo doctor` says of a folder, as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zoo_cli.main", "doctor", "--data", str(folder), "--out", str(out)]
    command += ["--force", "--workers", "1"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((out / "doctor.json").read_text())
    return found


def share(found: set[Any], planted: set[Any]) -> tuple[float, float]:
    """Precision and recall."""
    right = len(found & planted)
    return (right / len(found) if found else 1.0), right / len(planted)


def measured(found: dict[str, Any], planted: dict[str, Any]) -> dict[str, Any]:
    """The figures of one planted data set."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in found["findings"]:
        by_kind.setdefault(one["kind"], []).append(one)

    def ids(*kinds: str) -> set[str]:
        return {one["id"] for kind in kinds for one in by_kind.get(kind, ())}

    kinds = ("copy_across_splits", "near_copy_across_splits")
    pairs = {tuple(sorted((one["id"], one["partner"]))) for kind in kinds for one in by_kind.get(kind, ())}
    wanted = {tuple(one["ids"]): one["kind"] for one in planted["pairs"]}
    labels = {name for name in ids("label") if name.startswith("train/")}
    figures: dict[str, Any] = {
        "pairs": len(pairs),
        "precision of pairs": len(pairs & wanted.keys()) / max(len(pairs), 1),
        "copies found, of 20": sum(wanted[pair] in COPIES for pair in pairs & wanted.keys()),
        "changes found, of 20": sum(wanted[pair] in CHANGES for pair in pairs & wanted.keys()),
        "least agreement": found["near_duplicates"]["least_agreement"],
        "labels": share(labels, set(planted["labels"])),
        "strangers": share(ids("stranger"), set(planted["foreign"])),
        "processor seconds": round(sum(found["seconds"].values()), 2),
        "images": sum(found["images"].values()),
    }
    for kind, planted_as in (("dark", "dark"), ("blurred", "blurry"), ("unreadable", "broken")):
        figures[kind] = share(ids(kind), set(planted[planted_as]))
    return figures


def label_ranking(folder: Path, planted: dict[str, Any], rivals: bool) -> dict[str, Any]:
    """Label errors in `train` by itself: average precision, and precision and recall, also of cleanlab's modes.

    cleanlab gets what is usually given to it: out-of-sample probabilities of a logistic regression on the standardised
    features, in five folds (C = 0.001).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from zoo.config.context import Context
    from zoo.doctor.features import feature_network, image_features
    from zoo.doctor.label_errors import label_scores
    from zoo.doctor.survey import open_anyhow, survey
    from zoo.progress import Silent

    context = Context.of(None, Silent())
    images = open_anyhow(str(folder), 0, context.plugins)
    network = feature_network("efficientnet_lite0", "default", str(folder), "cpu", context.plugins)
    seen = survey(images, network.setup.preprocess, 1, context)
    features = image_features(network, seen.parts, len(images.classes), context)
    train = np.array([index for index, split in enumerate(seen.splits) if split == "train"])
    values, labels = features[train], seen.labels[train]
    truth = np.isin([seen.samples[index].id for index in train], planted["labels"])
    scores = label_scores(values, labels, len(images.classes))
    assert scores is not None
    found: dict[str, Any] = {
        "zoo": {
            "average precision": float(average_precision_score(truth, -scores.margin)),
            "precision, recall": share(set(np.flatnonzero(scores.wrong)), set(np.flatnonzero(truth))),
        }
    }
    if not rivals:
        return found
    from cleanlab.filter import find_label_issues

    shares = np.zeros((len(labels), len(images.classes)))
    for fit, held in StratifiedKFold(5, shuffle=True, random_state=0).split(values, labels):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=300)).fit(values[fit], labels[fit])
        shares[held] = model.predict_proba(values[held])
    own = shares[np.arange(len(labels)), labels]
    found["cleanlab"] = {"average precision": float(average_precision_score(truth, -own))}
    for mode in ("prune_by_noise_rate", "both", "confident_learning", "low_self_confidence", "low_normalized_margin"):
        issues = find_label_issues(labels, shares, filter_by=mode, n_jobs=1)
        found["cleanlab"][mode] = share(set(np.flatnonzero(issues)), set(np.flatnonzero(truth)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the planted copies are made")
    parser.add_argument("data", nargs=2, metavar="NAME=PATH", help="two data sets; each lends strangers to the other")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "doctor.json")
    parser.add_argument("--cleanlab", action="store_true", help="measure cleanlab beside it; it must be installed")
    arguments = parser.parse_args()
    sources = {name: Path(path) for name, _, path in (one.partition("=") for one in arguments.data)}
    names = list(sources)
    results: dict[str, Any] = {}
    for seed in arguments.seeds:
        for name, other in zip(names, reversed(names)):
            folder = arguments.folder / f"{name}-{seed}"
            planted = plant(sources[name], sources[other], folder, seed)
            figures = measured(examined(folder, arguments.folder / f"{name}-{seed}-doctor"), planted)
            figures["labels of train alone"] = label_ranking(folder, planted, arguments.cleanlab)
            results.setdefault(name, {})[str(seed)] = figures
            print(name, seed, json.dumps(figures, allow_nan=False), flush=True)
            arguments.out.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
