"""One set of images through every source: the same ids, digests, weights and predictions, bit for bit."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import running
from tests_support import TINY, make_photos

from zoo import predict, train
from zoo.data.opening import open_images, open_unlabelled
from zoo.plugin import Plugins

SOURCES = ("csv", "tsv", "jsonl", "parquet", "wds", "zip", "hf", "list", "coco", "remote", "s3", "csv-s3")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of two classes."""
    return make_photos(tmp_path_factory.mktemp("same") / "photos", {"train": 4, "val": 3})


def files_of(photos: Path) -> list[tuple[str, str, str]]:
    """Path, class and split of each image, the last first: the order of rows must not matter."""
    names = sorted((file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg")), reverse=True)
    return [(name, name.split("/")[1], name.split("/")[0]) for name in names]


def written(kind: str, photos: Path, place: Path) -> str:
    """The images in the form of a source; returns the text of `--data`."""
    rows = files_of(photos)
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        text = "".join(mark.join(row) + "\n" for row in [("path", "label", "split"), *rows])
        (place / f"t.{kind}").write_text(text)
        return f"csv:{place}/t.{kind},root={photos}"
    if kind == "jsonl":
        lines = [json.dumps({"file": name, "species": label, "set": split}) for name, label, split in rows]
        (place / "t.jsonl").write_text("\n".join(lines))
        return f"csv:{place}/t.jsonl,root={photos}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        cells = [{"bytes": (photos / name).read_bytes(), "path": name} for name, _, _ in rows]
        table = pyarrow.table({"image": cells, "label": [r[1] for r in rows], "split": [r[2] for r in rows]})
        pyarrow.parquet.write_table(table, place / "p-0.parquet", row_group_size=3)
        return f"parquet:{place}/p-*.parquet"
    if kind == "wds":
        for shard, some in (("train-000", "train"), ("val-000", "val")):
            with tarfile.open(place / f"{shard}.tar", "w") as archive:
                for name, label, split in rows:
                    if split == some:
                        archive.add(photos / name, name)
                        member = tarfile.TarInfo(name.replace(".jpg", ".txt"))
                        member.size = len(label)
                        archive.addfile(member, io.BytesIO(label.encode()))
        return f"wds:{place}/{{train,val}}-{{000..000}}.tar"
    if kind == "zip":
        with zipfile.ZipFile(place / "p.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for name, _, _ in rows:
                packed.write(photos / name, f"photos/{name}")
        return f"zip:{place}/p.zip"
    if kind == "list":
        for split in ("train", "val"):
            (place / f"{split}.txt").write_text("\n".join(f"{name} {label}" for name, label, s in rows if s == split))
        return f"list:{place}/train.txt,{place}/val.txt,root={photos}"
    if kind == "coco":
        names = ["blue", "red"]
        for split in ("train", "val"):
            wanted = [(i, name, label) for i, (name, label, s) in enumerate(rows) if s == split]
            found = {
                "images": [{"id": i, "file_name": name} for i, name, _ in wanted],
                "annotations": [{"id": i, "image_id": i, "category_id": names.index(la)} for i, _, la in wanted],
                "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
            }
            (place / f"{split}.json").write_text(json.dumps(found))
        return f"coco:train={place}/train.json,val={place}/val.json,root={photos}"
    return f"folder:file://{photos}" if kind == "remote" else f"hf:{photos}"


@pytest.fixture(scope="module")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run on the folder gives."""
    return trained(str(photos), tmp_path_factory.mktemp("reference"), photos)


def trained(data: str, place: Path, photos: Path) -> dict[str, object]:
    run = train(replace(TINY, data=data, epochs=1, cache="off"), out=place / "run")
    found, bad = predict(run, [photos / "val/blue/000.jpg", photos / "val/red/000.jpg"])
    assert not bad
    return {
        "data": run.record["data"],
        "splits": json.loads((run.path / "splits.json").read_text()),
        "weights": run.record["weights_sha256"],
        "predictions": [one.top for one in found],
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_gives_the_same_run(
    kind: str, photos: Path, reference: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if kind.endswith("s3"):
        with running(monkeypatch, tmp_path) as store:
            store.objects |= {f"photos/{name}": (photos / name).read_bytes() for name, _, _ in files_of(photos)}
            text = "path,label,split\n" + "".join(",".join(row) + "\n" for row in files_of(photos))
            store.objects["photos/t.csv"] = text.encode()
            data = "csv:s3://bucket/photos/t.csv" if kind == "csv-s3" else "s3://bucket/photos"
            check(data, photos, reference, tmp_path)
        return
    check(written(kind, photos, tmp_path), photos, reference, tmp_path)


def check(data: str, photos: Path, reference: dict[str, object], tmp_path: Path) -> None:
    images, folder = open_images(data, 0, Plugins()), open_images(str(photos), 0, Plugins())
    assert images.splits == folder.splits and images.classes == folder.classes and not images.rejected
    assert {one.id for one in open_unlabelled(data, Plugins()).samples} == {row[0] for row in files_of(photos)}
    assert trained(data, tmp_path, photos) == reference
