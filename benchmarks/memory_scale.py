"""Memory by number of images: `python benchmarks/memory_scale.py FOLDER [--sizes 10000,100000] [--sources wds]`.

Makes sets of distinct JPEGs of 32 x 32 in ten classes below FOLDER, and for each source and size starts a process that
opens the data, scans them, and computes the features of a tiny network, as `zoo train` does. Of each stage it prints
the peak of memory that is the process's own (RssAnon), and of all that is resident, which includes mapped pages that
the system may drop (VmHWM). The slope between two sizes is the growth in bytes an image. Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.storage.files import json_text

SIDE = 32
CLASSES = [f"class_{number}" for number in range(10)]
PER_SHARD = 10_000
FOLDER_MOST = 100_000  # files in folders: a million would take longer to make than all else
STAGES = ("open", "scan", "features")


def encoded(count: int) -> Iterator[tuple[str, str, bytes]]:
    """Name, class and bytes of images whose contents differ: 64 pictures, each with a comment that counts."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        stream = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(stream, "JPEG", quality=20)
        pictures.append(stream.getvalue())
    for number in range(count):
        label, picture = CLASSES[number % len(CLASSES)], pictures[number % len(pictures)]
        comment = f"{number:08d}".encode()
        data = picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:]
        yield f"{label}/image_{number:08d}", label, data


def make(source: str, count: int, place: Path) -> str:
    """Write the images in the form of a source; returns the text of `--data`."""
    done = place / "done"
    texts = {
        "parquet": f"parquet:{place}/part-*.parquet",
        "wds": f"wds:{place}/shard-{{000..{(count - 1) // PER_SHARD:03d}}}.tar",
        "folder": str(place / "photos"),
        "csv": f"csv:{place}/table.csv,root={place}/photos",
    }
    if done.exists():
        return texts[source]
    place.mkdir(parents=True, exist_ok=True)
    if source == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows: list[tuple[str, str, bytes]] = []
        for number, one in enumerate(encoded(count), 1):
            rows.append(one)
            if number % PER_SHARD == 0 or number == count:
                cells = [{"bytes": data, "path": f"{name}.jpg"} for name, _, data in rows]
                table = pyarrow.table({"image": cells, "label": [label for _, label, _ in rows]})
                file = place / f"part-{(number - 1) // PER_SHARD:03d}.parquet"
                pyarrow.parquet.write_table(table, file, row_group_size=1000, compression="none")
                rows = []
    elif source == "wds":
        images = encoded(count)
        for number in range(-(-count // PER_SHARD)):
            with tarfile.open(place / f"shard-{number:03d}.tar", "w") as archive:
                for name, label, data in islice(images, PER_SHARD):
                    for suffix, content in (("jpg", data), ("cls", label.encode())):
                        member = tarfile.TarInfo(f"{name}.{suffix}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    else:
        for label in CLASSES:
            (place / "photos" / label).mkdir(parents=True)
        with (place / "table.csv").open("w") as table:
            table.write("path,label\n")
            for name, label, data in encoded(count):
                (place / "photos" / f"{name}.jpg").write_bytes(data)
                table.write(f"{name}.jpg,{label}\n")
    done.touch()
    return texts[source]


class Peaks:
    """Peaks of memory in bytes and processor seconds, by stage."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is resident now
        own = [0]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.02):
                own[0] = max(own[0], status("RssAnon"))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        began = time.process_time()
        yield
        seconds = time.process_time() - began
        ended.set()
        watcher.join()
        own[0] = max(own[0], status("RssAnon"))
        self.found[name] = {"own": own[0], "resident": status("VmHWM"), "seconds": seconds}


def status(field: str) -> int:
    """A line of `/proc/self/status`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def measure(data: str, stages: list[str]) -> None:
    """Open, scan and compute features as a training run does, and print the peaks as JSON."""
    import torch

    from zoo import Experiment
    from zoo.config.context import Context
    from zoo.data.augmentation import PLAIN
    from zoo.data.decode_plan import decode_requests, store_keys
    from zoo.data.decoding import decode_parts
    from zoo.data.leakage import leaks_of
    from zoo.data.roles import assign_roles
    from zoo.data.selection import select_images
    from zoo.feature_cache.loader import AugmentedViews, EvaluationCrops
    from zoo.feature_cache.manager import FeatureCache
    from zoo.plugin import Plugins
    from zoo.progress import Silent
    from zoo.training.optimizer import changed_by
    from zoo.training.setup import build, plan_phases, resolve

    torch.set_num_threads(1)
    experiment = Experiment(
        data=data,
        backbone="timm/test_resnet",
        strategy="linear",
        weights="none",
        image_size=SIDE,
        device="cpu",
        workers=2,
    )
    plugins, progress = Plugins(), Silent()
    context = Context.of(plugins, progress)
    setup = resolve(experiment, plugins)
    # everything that is imported or allocated once, before the first stage
    network = build(setup, experiment, len(CLASSES))
    phase = plan_phases(setup, network, experiment).phases[0]
    network.model.to(memory_format=torch.channels_last).eval()
    cache = FeatureCache(
        asked="on",
        batch_size=32,
        preprocess=setup.preprocess,
        device=setup.device,
        progress=progress,
        backbone=setup.backbone.qualified,
        store=context.store,
    )
    split = cache.split(network, changed_by(network, phase))
    assert split is not None
    peaks = Peaks()
    with peaks.stage("open"):
        images = select_images(experiment, plugins).images
    if "scan" in stages:
        with peaks.stage("scan"):
            parts = decode_requests(images, assign_roles(images, experiment), setup.preprocess)
            decoded, _ = decode_parts(
                images,
                parts,
                on_bad_image="skip",
                workers=2,
                store=None if os.environ.get("ZOO_SCALE_UNSTORED") else context.store,
                keys=store_keys(parts, setup.preprocess),
            )
            leaks_of(decoded, "val")
    if "features" in stages:
        with peaks.stage("features"):
            for role, part in decoded.items():
                if role == "checked":
                    continue
                source = (
                    AugmentedViews(part, PLAIN, 0, setup.preprocess, setup.device.place)
                    if role == "fit"
                    else EvaluationCrops(part, setup.preprocess, setup.device.place)
                )
                outputs = cache.stored_outputs(split, source, f"features of {role}")
                outputs.prepare(0)
                for start in range(0, len(part.samples), 4096):
                    some = np.arange(start, min(start + 4096, len(part.samples)))
                    outputs.take(some, [0] * len(some))
    print(json_text(peaks.found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="10000,30000,100000,300000,1000000")
    parser.add_argument("--sources", default="parquet,wds,folder,csv")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--one", help="used by the script itself")
    args = parser.parse_args()
    stages = args.stages.split(",")
    if args.one:
        measure(args.one, stages)
        return
    print("| source | images | stage | own peak, MB | resident peak, MB | own, bytes an image | processor s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for source in args.sources.split(","):
        first: tuple[int, dict[str, dict[str, float]]] | None = None
        for count in map(int, args.sizes.split(",")):
            if source in ("folder", "csv") and count > FOLDER_MOST:
                continue
            shape = "folder" if source == "csv" else source
            make(shape, count, args.folder / f"{shape}-{count}")
            data = make(source, count, args.folder / f"{shape}-{count}")
            store = args.folder / "store"
            command = [sys.executable, __file__, str(args.folder), "--stages", args.stages, "--one", data]
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "ZOO_CACHE": str(store)}, check=False
            )
            subprocess.run(["rm", "-rf", str(store)], check=False)
            if done.returncode:
                print(f"| {source} | {count:,} | failed: {done.stderr.strip().splitlines()[-1]} |")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            for stage, one in found.items():
                slope = "" if first is None else f"{(one['own'] - first[1][stage]['own']) / (count - first[0]):,.0f}"
                print(
                    f"| {source} | {count:,} | {stage} | {one['own'] / 1e6:,.0f} | {one['resident'] / 1e6:,.0f} "
                    f"| {slope} | {one['seconds']:,.1f} |",
                    flush=True,
                )
            first = first or (count, found)


if __name__ == "__main__":
    main()
