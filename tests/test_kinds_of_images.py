"""Kinds of images through the commands: a data set of HEIC, AVIF and DICOM, one without colour, and what is said."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, features
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from zoo_cli.main import run

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def ct(values: np.ndarray, file: Path) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3")
    data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME1", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = values.astype(np.uint16).tobytes()
    data.save_as(file, enforce_file_format=True)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and light grey images: in each class two of HEIC, AVIF, DICOM (inverted, 12 bits) and PNG."""
    root = tmp_path_factory.mktemp("kinds") / "scans"
    random = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        for split in ("train", "val"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                values = np.clip(random.normal(level, 20, (40, 48)), 0, 255).astype(np.uint8)
                image = Image.fromarray(values)
                pillow_heif.from_pillow(image).save(folder / f"{number}.heic", quality=90)
                image.save(folder / f"{number}a.avif", quality=90)
                image.save(folder / f"{number}p.png")
                ct((255 - values.astype(int)) * 16, folder / f"{number}d.dcm")
    return root


def test_a_data_set_of_every_kind_is_trained_on_predicted_and_said_to_be_grey(
    grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--backbone", "timm/test_efficientnet", "--weights", "none", "--strategy", "linear", "--fit", "pad"]
    out = str(tmp_path / "run")
    code = run(["train", "--data", str(grey), *settings, "--image-size", "32", "--device", "cpu", "--out", out])
    said = " ".join(capsys.readouterr().err.split())
    assert code == 0, said
    assert "all of 16 training images looked at are grey" in said and "three equal channels" in said
    files = sorted(str(file) for file in (grey / "val/light").iterdir())
    torn = tmp_path / "torn.heic"
    torn.write_bytes(Path(files[0]).read_bytes()[:300])
    assert run(["predict", out, *files, str(torn), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 9 and [row["label"] is None for row in rows] == [False] * 8 + [True]
    assert "cannot be decoded: HEIC" in rows[-1]["error"]
    # one picture in four formats has nearly one answer: MONOCHROME1 is inverted, and nothing is turned
    for number in range(2):
        shares = [row["top"][0]["probability"] for row in rows[:8] if Path(row["path"]).name[0] == str(number)]
        labels = {row["label"] for row in rows[:8] if Path(row["path"]).name[0] == str(number)}
        assert len(shares) == 4 and len(labels) == 1 and max(shares) - min(shares) < 0.1


def test_one_image_with_a_colour_and_it_is_not_said(
    grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 30, 40)).save(stream, "PNG")
    root = tmp_path / "few"
    for split, label in itertools.product(("train", "val"), ("dark", "light")):
        (root / split / label).mkdir(parents=True)
        for number in range(2):
            image = grey / f"{split}/{label}/{number}p.png"
            (root / split / label / f"{number}.png").write_bytes(image.read_bytes())
    (root / "train/dark/red.png").write_bytes(stream.getvalue())
    settings = ["--backbone", "timm/test_efficientnet", "--weights", "none", "--strategy", "linear", "--device", "cpu"]
    assert run(["train", "--data", str(root), *settings, "--image-size", "32", "--out", str(tmp_path / "run")]) == 0
    assert "looked at are grey" not in capsys.readouterr().err
