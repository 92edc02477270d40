"""Features by shard, with a kill at half: `python benchmarks/shards.py FOLDER [--shards 100] [--images 10000]`.

Makes WebDataset shards below FOLDER: the digits that come with zoo as JPEGs of 32 x 32, repeated with another comment
in each, so that every image has a digest of its own. With `--photos`, the photographs of a folder with class folders
are repeated in the same way, at their size. Nine tenths of the shards are `train`, the others `val`. Then

1. `zoo features --jobs N` is killed (SIGKILL to the session, whose workers end with it) when half of the shards are
   kept;
2. the same command goes on: shards that were kept must not be computed again;
3. once more: nothing is left to compute;
4. `zoo train --strategy linear` trains from what is kept;
5. and again with another cache folder and without a pass, if `--compare` is given: the weights must be the same.

Prints JSON, with what ten million images would take at the speed that was measured. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.storage.files import json_text
from zoo.system.environment import machine, versions

SIDE = 32
MANY = 10_000_000  # images that hours, dollars and bytes are computed for
DOLLARS = 0.045  # of a core-hour: about the list price of a rented CPU core in 2025
ZOO = [sys.executable, "-m", "zoo_cli.main"]


def pictures(photos: Path | None) -> list[tuple[str, bytes]]:
    """Class and JPEG of each picture."""
    if photos is not None:
        return [(file.parent.name, file.read_bytes()) for file in sorted(photos.glob("*/*.[jJ][pP]*[gG]"))]
    from zoo.data.opening import open_images
    from zoo.plugin import Plugins

    found = []
    for samples in open_images("digits", 0, Plugins()).splits.values():
        for sample in samples:
            stream = io.BytesIO()
            pixels = np.asarray(sample.source.open())
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(stream, "JPEG", quality=80)
            found.append((sample.label, stream.getvalue()))
    return found


def distinct(known: list[tuple[str, bytes]]) -> Iterator[tuple[str, str, bytes]]:
    """Name, class and bytes of images, each with a comment of its own."""
    order = np.random.default_rng(0).permutation(len(known))
    for number in itertools.count():
        label, picture = known[order[number % len(known)]]
        comment = f"{number:010d}".encode()
        head = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        yield f"{number:010d}", label, picture[:2] + head + picture[2:]


def make(place: Path, shards: int, images: int, photos: Path | None) -> str:
    """Write the shards; returns the text of `--data`."""
    train = shards - max(shards // 10, 1)
    texts = {"train": f"train-{{000..{train - 1:03d}}}.tar", "val": f"val-{{000..{shards - train - 1:03d}}}.tar"}
    data = "wds:" + ",".join(f"{split}={place}/{text}" for split, text in texts.items())
    if (place / "done").exists():
        return data
    place.mkdir(parents=True, exist_ok=True)
    endless = distinct(pictures(photos))
    for number in range(shards):
        name = f"train-{number:03d}" if number < train else f"val-{number - train:03d}"
        with tarfile.open(place / f"{name}.tar", "w") as archive:
            for key, label, picture in itertools.islice(endless, images):
                for suffix, content in (("jpg", picture), ("cls", label.encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (place / "done").touch()
    return data


def kept(store: Path) -> dict[str, tuple[int, int]]:
    """By the digest of each shard that the store has features of: the inode of its entry, and its size in bytes."""
    found = {}
    for file in store.glob("*/*.safetensors"):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            key = json.loads(json.loads(stream.read(length))["__metadata__"]["key"])
        if key.get("kind") == "shard":
            found[key["shard"]] = (file.stat().st_ino, file.stat().st_size)
    return found


def run(words: list[str], cache: Path) -> tuple[dict[str, Any], float, int]:
    """The JSON that a command prints, its seconds, and the peak of its own memory (RssAnon) in bytes."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        command = [*ZOO, *words, "--json"]
        process = subprocess.Popen(command, stdout=output, stderr=messages, env=around(cache))
        peak = 0
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        output.seek(0)
        messages.seek(0)
        if process.returncode:
            raise SystemExit(messages.read()[-2000:])
        return json.loads(output.read()), seconds, peak


def own_memory(process: int) -> int:
    """Memory of a process that is no file's, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def around(cache: Path) -> dict[str, str]:
    return {**os.environ, "ZOO_CACHE": str(cache)}


def killed_at_half(words: list[str], cache: Path, shards: int) -> dict[str, Any]:
    """Begin the pass, and kill its session when half of the shards are kept."""
    began = time.perf_counter()
    null = subprocess.DEVNULL
    session = subprocess.Popen([*ZOO, *words], stdout=null, stderr=null, env=around(cache))
    while len(kept(cache / "store")) < shards // 2 and session.poll() is None:
        time.sleep(0.2)
    alive = session.poll() is None
    session.send_signal(signal.SIGKILL)
    session.wait()
    time.sleep(2)  # workers end with it
    return {"killed": alive, "kept": len(kept(cache / "store")), "seconds": round(time.perf_counter() - began, 1)}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    data = make(args.folder / f"shards-{args.shards}-{args.images}", args.shards, args.images, args.photos)
    cache = args.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    network = ["--backbone", args.backbone, "--image-size", str(args.image_size), "--device", "cpu"]
    network += ["--weights", args.weights, "--precision", args.precision, "--engine", args.engine]
    pass_words = ["features", "--data", data, *network, "--jobs", str(args.jobs)]
    if args.threads is not None:
        pass_words += ["--threads", str(args.threads)]
    first = killed_at_half(pass_words, cache, args.shards)
    before = kept(cache / "store")
    second, seconds, session_memory = run(pass_words, cache)
    after = kept(cache / "store")
    written_again = sum(after[shard] != entry for shard, entry in before.items())
    third, third_seconds, _ = run(pass_words, cache)
    words = ["train", "--data", data, *network, "--strategy", "linear", "--force"]
    trained, train_seconds, train_memory = run([*words, "--out", str(args.folder / "run")], cache)
    compared = None
    if args.compare:
        other, _, _ = run([*words, "--out", str(args.folder / "plain")], args.folder / "other-cache")
        compared = other["weights_sha256"] == trained["weights_sha256"]
        shutil.rmtree(args.folder / "other-cache")
    images = args.shards * args.images
    a_core = second["computed"] / second["core_seconds"]
    size = sum(bytes for _, bytes in after.values())
    core_hours = MANY / a_core / 3600
    return {
        "shards": args.shards,
        "images": images,
        "backbone": args.backbone,
        "image_size": args.image_size,
        "precision": args.precision,
        "engine": second["engine"],
        "jobs": args.jobs,
        "first_pass": first,
        "second_pass": {
            "seconds": round(seconds, 1),
            "computed_shards": second["computed_shards"],
            "computed": second["computed"],
            "kept": second["kept"],
            "core_seconds": second["core_seconds"],
            "images_per_core_second": round(a_core, 1),
            "peak_memory_of_a_worker": second["peak_memory"],
            "own_peak_memory_of_the_session": session_memory,
        },
        "shards_kept_before_and_computed_again": written_again,
        "third_pass": {"seconds": round(third_seconds, 1), "computed": third["computed"]},
        "bytes": size,
        "bytes_an_image": round(size / images, 1),
        "train": {
            "seconds": round(train_seconds, 1),
            "peak_memory_with_mapped_pages": trained["peak_memory"],
            "own_peak_memory": train_memory,
            "seconds_of": trained["seconds"],
            "accuracy": trained["metrics"]["accuracy"],
        },
        "same_weights_without_a_pass": compared,
        "ten_million": {
            "core_hours": round(core_hours, 1),
            "dollars": round(core_hours * DOLLARS, 2),
            "dollars_a_core_hour": DOLLARS,
            "bytes": round(size / images * MANY),
        },
        "machine": machine(),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--images", type=int, default=10_000, help="images in a shard")
    parser.add_argument("--photos", type=Path, help="a folder with class folders of JPEGs")
    parser.add_argument("--backbone", default="timm/test_resnet")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--image-size", type=int, default=SIDE)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compare", action="store_true")
    print(json_text(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
