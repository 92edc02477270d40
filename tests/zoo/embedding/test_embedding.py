"""Features in files, similar images, and what to label next."""

from __future__ import annotations

import csv
import errno
import io
import json
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from messages import refused
from tests_support import COLOURS, make_photos, paint

from zoo import Experiment, Run, predict, train
from zoo.config.context import Context
from zoo.data.opening import open_to_score
from zoo.dataset import Sample
from zoo.embedding import file as features_file
from zoo.embedding.extraction import Extractor
from zoo.embedding.file import FeatureFile
from zoo.embedding.labelling import label_next
from zoo.embedding.selection import choose, k_centre, normalised
from zoo.embedding.similarity import similar
from zoo.embedding.writing import embed
from zoo.errors import DiskFull, UsageError, ZooError
from zoo.plugin import Plugins
from zoo.progress import Silent
from zoo.storage.tensor_store import Store

PLAIN: dict[str, Any] = {"weights": "none", "image_size": 32, "device": "cpu"}


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def run_embed(data: Path | str, out: Path, plugins: Plugins, **more: Any) -> Told:
    told = Told()
    embed(str(data), out, "small/plain", **{**PLAIN, **more}, plugins=plugins, progress=told)
    return told


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", {"train": 3, "val": 2})


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_file_has_one_row_an_image_and_comes_back(
    photos: Path, tmp_path: Path, suffix: str, small_plugins: Plugins
) -> None:
    (photos / "train" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    out = tmp_path / f"features{suffix}"
    told = run_embed(photos, out, small_plugins)
    assert any("broken.jpg" in text for text in told.said)
    opened = FeatureFile.open(out)
    (rows,) = opened.rows()
    assert rows.features.shape == (10, 32) and rows.features.dtype == np.float32
    assert rows.texts["id"][0] == "train/blue/000.jpg" and set(rows.texts["label"]) == {"blue", "red"}
    assert sorted(set(rows.texts["split"])) == ["train", "val"]
    assert all(len(content) == 64 for content in rows.texts["content"])
    assert opened.origin.backbone.endswith("plain") and opened.origin.image_size == 32
    # from the cache, without decoding: the same bits; without it: the same, too
    for more in ({}, {"cache": "off"}):
        run_embed(photos, out, small_plugins, force=True, **more)
        assert next(FeatureFile.open(out).rows()).features.tobytes() == rows.features.tobytes()
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_features_are_read_by_others(photos: Path, tmp_path: Path, small_plugins: Plugins) -> None:
    run_embed(photos, tmp_path / "f.npz", small_plugins)
    run_embed(photos, tmp_path / "f.parquet", small_plugins)
    arrays = np.load(tmp_path / "f.npz", allow_pickle=False)
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.column("id").to_pylist() == arrays["id"].tolist()
    assert np.array_equal(np.array(table.column("features").to_pylist(), np.float32), arrays["features"])


def test_chunks_are_row_groups(
    photos: Path, tmp_path: Path, small_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_embed(photos, tmp_path / "one.parquet", small_plugins)
    monkeypatch.setattr("zoo.embedding.extraction.CHUNK", 4)
    run_embed(photos, tmp_path / "three.parquet", small_plugins)
    assert parquet.ParquetFile(tmp_path / "three.parquet").num_row_groups == 3
    one, three = (np.concatenate([r.features for r in FeatureFile.open(tmp_path / f).rows()]) for f in
                  ("one.parquet", "three.parquet"))  # fmt: skip
    assert np.array_equal(one, three)


def test_images_without_labels(tmp_path: Path, small_plugins: Plugins) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    paint(COLOURS["red"], 1).save(folder / "=1+1, two\n.png")
    with pytest.raises(ZooError, match=r".") as caught:
        run_embed(folder, tmp_path / "f.npz", small_plugins)
    assert "--no-labels" in str(caught.value) and not (tmp_path / "f.npz").exists()
    for name in ("f.npz", "f.parquet"):
        run_embed(folder, tmp_path / name, small_plugins, labels=False)
        (rows,) = FeatureFile.open(tmp_path / name).rows()
        assert rows.texts["id"][0].endswith("=1+1, two\n.png") and rows.texts["label"] == [""]


def test_nothing_to_embed(tmp_path: Path, small_plugins: Plugins) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(ZooError):
        run_embed(folder, tmp_path / "f.npz", small_plugins, labels=False)
    (folder / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ZooError, match="can be read"):
        run_embed(folder, tmp_path / "f.npz", small_plugins, labels=False)
    assert [one.name for one in tmp_path.iterdir()] == ["new"]


def test_outputs_that_cannot_be_written(
    photos: Path, tmp_path: Path, small_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.npz"
    out.write_bytes(b"mine")
    for name, match in (("f.npz", "exists already"), ("f.csv", "neither"), ("no/f.npz", "no folder"), ("photos", ".")):
        with pytest.raises(UsageError, match=match):
            run_embed(photos, tmp_path / name, small_plugins)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name, kind in (("f.npz", "_NpzWriter"), ("f.parquet", "_ParquetWriter")):
        for step in ("_add", "_end"):
            with monkeypatch.context() as patch:
                patch.setattr(getattr(features_file, kind), step, full)
                with pytest.raises(DiskFull):
                    run_embed(photos, tmp_path / name, small_plugins, force=True)
    assert out.read_bytes() == b"mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["f.npz", "photos"]


def test_an_unwritable_store_costs_nothing_but_time(
    photos: Path, tmp_path: Path, small_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_embed(photos, tmp_path / "a.npz", small_plugins)
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    told = run_embed(photos, tmp_path / "b.npz", small_plugins)
    assert any("not kept" in text for text in told.said)
    a, b = (next(FeatureFile.open(tmp_path / name).rows()).features for name in ("a.npz", "b.npz"))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_damaged_files(photos: Path, tmp_path: Path, suffix: str, small_plugins: Plugins) -> None:
    out = tmp_path / f"f{suffix}"
    run_embed(photos, out, small_plugins)
    whole = out.read_bytes()
    for data in (b"", b"no file", whole[: len(whole) // 2], whole[:-4]):
        out.write_bytes(data)
        with pytest.raises(ZooError, match=r"damaged|holds no features"):
            list(FeatureFile.open(out).rows())
    refused = 0
    for place in range(64, len(whole) - 64, 97):
        out.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            list(FeatureFile.open(out).rows())
        except ZooError as error:
            assert "\n" not in error.message
            refused += 1
    assert refused > 10
    with pytest.raises(UsageError, match="there is no file"):
        FeatureFile.open(tmp_path / f"none{suffix}")


def test_nothing_is_unpickled(photos: Path, tmp_path: Path, small_plugins: Plugins) -> None:
    out, ran = tmp_path / "f.npz", tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    run_embed(photos, out, small_plugins)
    arrays = dict(np.load(out))
    for name in ("zoo", "id", "features"):
        np.savez(out, **{**arrays, name: np.array([Trap()], dtype=object)})
        with pytest.raises(ZooError, match="damaged"):
            list(FeatureFile.open(out).rows())
    out.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ZooError, match="damaged"):
        FeatureFile.open(out)
    assert not ran.exists()


def test_files_that_claim_too_much(photos: Path, tmp_path: Path, small_plugins: Plugins) -> None:
    out = tmp_path / "f.npz"
    run_embed(photos, out, small_plugins)
    arrays = dict(np.load(out))
    np.savez_compressed(out, **{**arrays, "features": np.zeros((1_000_000, 32), np.float32)})
    with pytest.raises(ZooError, match="times as large"):
        FeatureFile.open(out)
    for change in (
        {"features": arrays["features"][:, :5]},
        {"features": arrays["features"] * np.nan},
        {"label": arrays["label"][:2]},
        {"zoo": np.asarray(json.dumps({"schema": 1, "origin": {"backbone": 3}}))},
    ):
        np.savez(out, **{**arrays, **change})
        with pytest.raises(ZooError, match="damaged"):
            list(FeatureFile.open(out).rows())
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("other.npy", b"")
    with pytest.raises(ZooError, match="holds no features"):
        FeatureFile.open(out)


def test_similar_tells_the_same_image(photos: Path, tmp_path: Path, small_plugins: Plugins) -> None:
    out = tmp_path / "f.parquet"
    run_embed(photos, out, small_plugins)
    query = tmp_path / "query.jpg"
    shutil.copy(photos / "val" / "red" / "001.jpg", query)
    (tmp_path / "bad.jpg").write_bytes(b"")
    found, bad = similar(
        [str(query), str(tmp_path / "bad.jpg")], features=out, top=50, device="cpu", plugins=small_plugins
    )
    assert [one.path for one in found] == [str(query)] and len(bad) == 1
    first, second = found[0].matches[:2]
    assert (first.id, first.label, first.similarity, first.same) == ("val/red/001.jpg", "red", 1.0, True)
    assert not second.same and second.similarity <= 1 and len(found[0].matches) == 10
    (rows,) = FeatureFile.open(out).rows()
    unit = normalised(rows.features)
    cosines = unit @ unit[rows.texts["id"].index("val/red/001.jpg")]
    assert second.similarity == pytest.approx(float(np.sort(cosines)[-2]), abs=1e-5)
    other, _ = similar([str(query)], data=str(photos), backbone="small/plain", top=3, **PLAIN, plugins=small_plugins)
    assert [one.id for one in other[0].matches] == [one.id for one in found[0].matches[:3]]


def test_features_of_another_backbone_are_refused(photos: Path, tmp_path: Path, small_plugins: Plugins) -> None:
    out, query = tmp_path / "f.npz", str(photos / "val" / "red" / "001.jpg")
    run_embed(photos, out, small_plugins)
    with pytest.raises(UsageError, match=r"small/plain.*not of `small/vit`"):
        similar([query], features=out, backbone="small/vit", plugins=small_plugins)
    with pytest.raises(UsageError, match=r"32 pixels, not of .*64 pixels"):
        similar([query], features=out, image_size=64, device="cpu", plugins=small_plugins)
    arrays = dict(np.load(out))
    described = json.loads(str(arrays["zoo"]))
    described["origin"]["digest"] = "0" * 64
    np.savez(out, **{**arrays, "zoo": np.asarray(json.dumps(described))})
    with pytest.raises(UsageError, match="digest 000000000000"):
        similar([query], features=out, device="cpu", plugins=small_plugins)
    for arguments in ({}, {"features": out, "data": str(photos)}, {"data": str(photos)}):
        with pytest.raises(UsageError):
            similar([query], **arguments, plugins=small_plugins)


def test_k_centre_spreads_and_margin_asks_where_the_head_is_unsure() -> None:
    rows = np.array([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99], [0.7, 0.7]], np.float32)
    unit = normalised(rows)
    found = k_centre(unit, unit[:1], 2)
    assert found.indices.tolist() == [2, 4] and found.distances[0] == pytest.approx(1.0)
    cold = choose(rows, rows[:0], 5, margins=None, method="k-centre")
    assert sorted(cold.indices.tolist()) == [0, 1, 2, 3, 4] and cold.indices[0] == 4 and np.isnan(cold.distances[0])
    centres = choose(rows[:4], rows[:0], 2, margins=None).indices.tolist()
    assert len({index // 2 for index in centres}) == 2  # one of each pair
    alike = choose(np.tile(rows[:1], (4, 1)), rows[:0], 3, margins=None).indices.tolist()
    assert len(set(alike)) == 3
    margins = np.array([0.9, 0.8, 0.1, 0.2, 0.5])
    assert choose(rows, rows[:1], 2, margins=margins, method="margin").indices.tolist() == [2, 3]
    assert choose(rows, rows[:1], 2, margins=margins, method="k-centre").indices.tolist() == [2, 4]
    many = np.tile(rows, (10, 1)) + np.arange(50, dtype=np.float32)[:, None] * 1e-3
    doubt = np.linspace(0, 1, 50)
    assert set(choose(many, rows[:1], 2, margins=doubt).indices.tolist()) <= set(range(20))  # 10 times as many


def test_label_next_writes_a_table_that_is_read_when_it_is_filled_in(tmp_path: Path, small_plugins: Plugins) -> None:
    labelled = make_photos(tmp_path / "labelled", {"": 4})
    new = tmp_path / "new"
    new.mkdir()
    for number, (colour, name) in enumerate(
        [("red", "=a,b.png"), ("blue", "c\nd.png"), ("green", "e.png"), ("red", "f.png"), ("blue", "g.png")]
    ):
        paint(COLOURS[colour], 1000 + number).save(new / name)
    shutil.copy(new / "e.png", new / "e again.png")
    shutil.copy(labelled / "red" / "000.jpg", new / "known.jpg")
    (new / "bad.jpg").write_bytes(b"nothing")
    out, told = tmp_path / "next.csv", Told()
    more: dict[str, Any] = {**PLAIN, "plugins": small_plugins, "progress": told}
    found = label_next(str(new), "small/plain", data=str(labelled), count=50, out=out, **more)
    assert len(found) == 5 and not any("known.jpg" in one.path for one in found)
    for text in ("bad.jpg", "fewer than the 50", "among the labelled ones", "1 copy of other"):
        assert any(text in one for one in told.said), text
    with out.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [one.path for one in found]
    assert all(row["predicted"] in ("blue", "red") and row["label"] == "" for row in rows)
    assert all(0 <= float(row["margin"]) <= 1 for row in rows)
    for number, row in enumerate(rows):
        row["label"] = "ab"[number % 2]
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    images = open_to_score(f"csv:{out}", 0, small_plugins)
    read = [sample for part in images.splits.values() for sample in part]
    assert len(read) + len(images.rejected) == 5 and {sample.label for sample in read} == {"a", "b"}
    with pytest.raises(UsageError, match="exists already"):
        label_next(str(new), "small/plain", out=out, **more)


def test_label_next_without_labels_or_with_one_class(tmp_path: Path, small_plugins: Plugins) -> None:
    new = make_photos(tmp_path / "new", {"": 3})
    told = Told()
    more: dict[str, Any] = {**PLAIN, "plugins": small_plugins, "progress": told}
    first = label_next(str(new), "small/plain", count=4, **more)
    assert len({one.path for one in first}) == 4 and first[0].margin is None and first[0].distance is None
    assert any("no image is labelled" in text for text in told.said)
    one_class = make_photos(tmp_path / "one", {"": 2}, ("green",))
    found = label_next(str(new), "small/plain", data=str(one_class), count=2, **more)
    assert found[0].margin is None and found[0].distance is not None
    assert any("have one class" in text for text in told.said)
    with pytest.raises(ZooError, match="no image left"):
        label_next(str(new), "small/plain", data=str(new), **more)


def test_the_digest_tells_networks_apart(small_plugins: Plugins) -> None:
    context = replace(Context.of(small_plugins, Silent()), store=None)
    known = {Extractor("small/plain", **PLAIN, context=context).origin.digest for _ in range(2)}
    assert len(known) == 1
    wider = Extractor("small/plain", **{**PLAIN, "image_size": 48}, context=context).origin.digest
    other = Extractor("small/vit", **PLAIN, context=context).origin.digest
    assert len({*known, wider, other}) == 3


class Unsteady:
    """An image whose reads are told one by one: a file's bytes, or None for a failure. The last is repeated."""

    def __init__(self, *reads: bytes | None) -> None:
        self.reads = list(reads)

    def open(self) -> io.BytesIO:
        data = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        if data is None:
            raise OSError(errno.EIO, "no answer")
        return io.BytesIO(data)

    def __str__(self) -> str:
        return "unsteady"


def test_features_are_kept_by_the_content_that_was_decoded(
    photos: Path, tmp_path: Path, small_plugins: Plugins
) -> None:
    """Else one failed read stays in the store as damaged weights, or another image's features as this one's."""
    first, second = (file.read_bytes() for file in sorted(photos.rglob("*.jpg"))[:2])
    context = replace(Context.of(small_plugins, Silent()), store=Store(tmp_path / "store"))
    extractor = Extractor("small/plain", **PLAIN, context=context)

    def features(*reads: bytes | None) -> Any:
        return extractor.all([Sample("a.jpg", "", Unsteady(*reads))], "reads").features

    with pytest.raises(ZooError, match="`unsteady` cannot be read: no answer, and could be read a moment before"):
        features(first, None)
    with pytest.raises(ZooError, match=r"`a.jpg` has changed while it was read"):
        features(first, second)
    alone = replace(Context.of(small_plugins, Silent()), store=None)
    expected = Extractor("small/plain", **PLAIN, context=alone).all([Sample("a.jpg", "", Unsteady(first))], "reads")
    assert np.array_equal(features(first), expected.features)


def test_the_commands(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from zoo_cli.main import run

    same = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--device", "cpu"]
    out, query = str(tmp_path / "f.npz"), str(photos / "val" / "red" / "001.jpg")
    assert run(["embed", str(photos), *same, "--out", out]) == 0
    assert capfd.readouterr().out == f"{out}\n"
    assert run(["embed", str(photos), *same, "--out", out]) == 2
    assert run(["similar", query, "--features", out, "--device", "cpu", "--top", "1"]) == 0
    assert capfd.readouterr().out == f"{query}\t1.0000\tval/red/001.jpg\tred\tsame\n"
    assert run(["label-next", str(photos / "val"), *same, "--count", "2", "--out", str(tmp_path / "n.csv")]) == 0
    paths = capfd.readouterr().out.splitlines()
    assert len(paths) == 2 and all(Path(path).is_file() for path in paths)
    made, small = str(tmp_path / "run"), [*same[:4], "--image-size", "32x48", "--device", "cpu"]
    assert run(["train", "--data", str(photos), *small, "--strategy", "linear", "--out", made]) == 0
    of = ["--run", made, "--device", "cpu"]
    assert run(["embed", str(photos), *of, "--out", str(tmp_path / "r.npz")]) == 0
    capfd.readouterr()
    assert run(["similar", query, *of, "--top", "1"]) == 0
    assert capfd.readouterr().out == f"{query}\t1.0000\tval/red/001.jpg\tred\tsame\n"
    new = make_photos(tmp_path / "new", {"": 2}, ("green",))
    assert run(["label-next", str(new), *of, "--count", "1", "--out", str(tmp_path / "m.csv")]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_plugins: Plugins) -> Run:
    """A run at another size and fit than the backbone's own, that leaves an image out."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_photos(folder / "photos", {"train": 6, "val": 3, "test": 2})
    (folder / "list.csv").write_text("id\ntrain/red/000.jpg\n")
    asked = Experiment(
        data=str(data), backbone="small/plain", strategy="full", epochs=1, image_size=(32, 64), fit="squash",
        weights="none", device="cpu", batch_size=8, exclude=str(folder / "list.csv"),
    )  # fmt: skip
    return train(asked, out=folder / "run", plugins=small_plugins)


def test_features_of_a_run_are_those_of_its_network(trained: Run, tmp_path: Path, small_plugins: Plugins) -> None:
    data = trained.experiment.data
    out = tmp_path / "f.npz"
    embed(data, out, run=trained.path, device="cpu", plugins=small_plugins)
    opened = FeatureFile.open(out)
    assert opened.origin.image_size == (32, 64) and opened.origin.run == str(trained.path)
    assert opened.origin.preprocess == json.loads(json.dumps(trained.preprocess.to_json()))
    (rows,) = opened.rows()
    head = trained.load_network(small_plugins).model.get_submodule("head")
    with torch.no_grad():
        logits = head(torch.from_numpy(rows.features)).numpy()
    table = trained.predictions()  # through the whole network
    place = [rows.texts["id"].index(name) for name in table.ids]
    assert np.abs(logits[place] - table.logits).max() < 1e-4
    query = f"{data}/val/red/001.jpg"
    (found,), _ = similar([query], features=out, device="cpu", plugins=small_plugins)
    assert found.matches[0].id == "val/red/001.jpg" and found.matches[0].same
    with pytest.raises(UsageError, match="holds features of"):
        similar([query], features=out, backbone="small/plain", weights="none", device="cpu", plugins=small_plugins)
    settings: tuple[dict[str, Any], ...] = ({"backbone": "small/plain"}, {"image_size": 32}, {"weights": "none"})
    for more in settings:
        with pytest.raises(UsageError, match="cannot be given with `--run`"):
            embed(data, tmp_path / "g.npz", run=trained, plugins=small_plugins, **more)
    with pytest.raises(UsageError, match="neither `--backbone` nor `--run`"):
        embed(data, tmp_path / "g.npz", plugins=small_plugins)


def test_similar_searches_the_images_of_a_run(trained: Run, small_plugins: Plugins) -> None:
    query = f"{trained.experiment.data}/train/red/000.jpg"  # which the run leaves out
    (found,), _ = similar([query], run=trained, top=99, device="cpu", plugins=small_plugins)
    assert len(found.matches) == 21 and {one.label for one in found.matches} == {"blue", "red"}
    assert "train/red/000.jpg" not in {one.id for one in found.matches}


def test_label_next_asks_the_run_s_own_network(trained: Run, tmp_path: Path, small_plugins: Plugins) -> None:
    new = make_photos(tmp_path / "new", {"": 3}, ("green",))
    shutil.copy(f"{trained.experiment.data}/train/red/001.jpg", new / "green" / "known.jpg")
    told = Told()
    more: dict[str, Any] = {"device": "cpu", "plugins": small_plugins, "progress": told}
    found = label_next(str(new), run=trained.path, count=3, method="margin", **more)
    assert any("1 unlabelled image is among the labelled ones" in text for text in told.said)
    predicted, _ = predict(trained, [one.path for one in found], top=2, plugins=small_plugins)
    for one, known in zip(found, predicted, strict=True):
        top = known.top
        assert one.predicted == top[0][0]
        assert one.margin == pytest.approx(top[0][1] - top[1][1], abs=1e-4)


def test_rectangles_are_embedded(photos: Path, tmp_path: Path, small_plugins: Plugins) -> None:
    out = tmp_path / "f.parquet"
    run_embed(photos, out, small_plugins, image_size="32x64")
    assert FeatureFile.open(out).origin.image_size == (32, 64)
    query = str(photos / "val" / "red" / "001.jpg")
    (found,), _ = similar([query], features=out, device="cpu", plugins=small_plugins)
    assert found.matches[0].same


def test_a_run_that_is_gone_is_named(trained: Run, tmp_path: Path, small_plugins: Plugins) -> None:
    copy = shutil.copytree(trained.path, tmp_path / "copy")
    out = tmp_path / "f.npz"
    embed(trained.experiment.data, out, run=copy, device="cpu", plugins=small_plugins)
    copy.rename(tmp_path / "moved")
    query = f"{trained.experiment.data}/val/red/001.jpg"
    with refused(ZooError, "copy", "--run"):
        similar([query], features=out, device="cpu", plugins=small_plugins)
    (found,), _ = similar([query], features=out, run=tmp_path / "moved", device="cpu", plugins=small_plugins)
    assert found.matches[0].same
