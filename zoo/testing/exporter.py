"""The laws of exporters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.catalogue import Entry
from zoo.errors import ZooError, type_and_first_line
from zoo.exporter import Exporter, ExportSpec
from zoo.exporting.target_files import companions
from zoo.inference.opening import checks_of, open_exported, recorded_by
from zoo.networks.predictor import TorchPredictor
from zoo.plugin import Plugins
from zoo.predictor import Predictor
from zoo.preprocess import FitSetting, ImageSize, Preprocess, height_width
from zoo.storage.files import json_text
from zoo.target import load_target
from zoo.testing.law import CLASSES, ROUNDING, NotChecked, Violation, require

SIZE = 32  # pixels of the input of the network that is exported
NAMES = ("a b", "ü", "c")


def check_exporter(exporter: str, *, plugins: Plugins | None = None) -> None:
    """Check an exporter on a small network of convolutions, in fp32 on the CPU.

    Its suffix is found by `zoo predict`, and its runtimes accept its files. `write` leaves the network as it was,
    writes the file and no other but those of `beside`, and writes the same bytes for the same network. The file works
    in another folder. It gives classes, preprocessing and the logits of the network, for images of several sizes, alone
    as in a batch. It passes `verify`, also after `annotate`, and records itself as JSON values. A file that is cut off
    or has another byte does not pass, and is no other error than a `zoo.ZooError`.

    Args:
        exporter: Its name.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        NotChecked: it writes no fp32, its files do not run on the CPU, or a package that it needs is not installed.
        UsageError: there is no such exporter.
    """
    plugins = plugins or Plugins()
    entry = plugins.exporters.find(exporter)
    row = entry.value
    _check_suffix(entry, plugins)
    _check_runtimes(row, plugins)
    if "fp32" not in row.precisions or "cpu" not in row.devices:
        raise NotChecked("it writes no file in fp32 for the CPU, which is what is checked")
    with tempfile.TemporaryDirectory() as folder:
        first, second, moved = (Path(folder) / name for name in ("first", "second", "moved"))
        model, preprocess = small_network(), Preprocess(resize=SIZE + 8, crop=SIZE)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        first.mkdir()
        file = _write(row, model, preprocess, first)
        unchanged = all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
        require(
            unchanged and not model.training and next(model.parameters()).requires_grad,
            f"`{row.name}` changes the network that it writes",
            hint="write a copy: `copy.deepcopy(spec.model)`",
        )
        second.mkdir()
        again = _write(row, small_network(), preprocess, second)
        for name in sorted(one.name for one in first.iterdir()):
            require(
                (first / name).read_bytes() == (second / name).read_bytes(),
                f"`{row.name}` writes other bytes to `{name}` when it writes the same network again",
                hint="leave out times, random names and the order of sets, such as `mtime=0` of gzip",
            )
        first.rename(moved)
        _check_file(row, moved / file.name, model, preprocess)
        _check_damage(row, again)


def small_network(classes: int = CLASSES) -> nn.Module:
    """A convolution, a batch norm with statistics of its own, and a linear head, in eval mode; always the same."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return model.eval()


def _check_suffix(entry: Entry[Exporter], plugins: Plugins) -> None:
    row = entry.value
    suffix = Path(f"model{row.suffix}").suffix.lower()
    require(
        suffix == row.suffix,
        f"`{row.name}`: files are looked up by `{suffix}`, never by its suffix `{row.suffix}`",
        hint="a suffix is one dot and small letters",
    )
    owner = next(other for other in plugins.exporters if other.value.suffix == row.suffix)
    require(
        owner is entry,
        f"`{row.name}`: files that end in `{row.suffix}` are opened by `{owner.qualified}`",
        hint="choose another suffix",
    )


def _check_runtimes(row: Exporter, plugins: Plugins) -> None:
    for device, name in row.runtimes.items():
        require(device in row.devices, f"`{row.name}` has a runtime for `{device}`, which is none of its `devices`")
        require(name in plugins.runtimes, f"`{row.name}` names the runtime `{name}`, which no plugin registers")
        runtime = plugins.runtimes.find(name).value
        require(
            runtime.accepts == row.name and device in runtime.devices,
            f"`{row.name}` names the runtime `{name}` for `{device}`, which takes `{runtime.accepts}` on "
            f"{' '.join(runtime.devices)}",
        )


def _write(row: Exporter, model: nn.Module, preprocess: Preprocess, folder: Path) -> Path:
    file = folder / f"model{row.suffix}"
    spec = ExportSpec(
        model=model,
        preprocess=preprocess,
        classes=NAMES,
        metadata={"backbone": "small/ü", "metrics": {"accuracy": 0.5}, "data": None},
        file=file,
        preprocessing=row.preprocessing[0],
    )
    try:
        load_target(row.write)(spec)
    except (ZooError, ImportError) as error:
        if isinstance(error, ImportError) or isinstance(error.__cause__, ImportError):
            raise NotChecked(type_and_first_line(error) if isinstance(error, ImportError) else error.message) from error
        raise
    found = {one.name for one in folder.iterdir()}
    require(
        file.name in found,
        f"`{row.name}` does not write `spec.file`, but {' '.join(sorted(found)) or 'nothing'}",
        hint="write to the very path of `spec.file`, whose suffix is there already",
    )
    more = sorted(found - {file.name} - {one.name for one in companions(file, row)})
    require(
        more == [],
        f"`{row.name}` writes `{more[0] if more else ''}`, which is none of its `beside` and would be deleted",
        hint='name it in `beside`, such as `beside=("{stem}.bin",)`',
    )
    return file


def _check_file(row: Exporter, file: Path, model: nn.Module, preprocess: Preprocess) -> None:
    images = _images(SIZE)
    ours = TorchPredictor(model, NAMES, preprocess, torch.device("cpu")).logits(images)
    predictor = open_exported(row, file, "cpu")
    require(
        predictor.classes == NAMES,
        f"`{row.name}`: the opened file has the classes {predictor.classes}, and {NAMES} were written",
    )
    require(
        predictor.preprocess == preprocess,
        f"`{row.name}`: the opened file has the preprocessing {predictor.preprocess}, and {preprocess} was written",
    )
    _check_logits(row, predictor, images, ours)
    _check_verified(row, file, "the file that it wrote")
    if row.annotate is not None:
        del predictor  # some systems do not replace a file that is open
        load_target(row.annotate)(file, {"agreement": 1.0, "note": "ü"})
        _check_verified(row, file, "an annotated file")
        _check_logits(row, open_exported(row, file, "cpu"), images, ours)
    if row.inspect is not None:
        try:
            json_text(recorded_by(row, file))
        except (TypeError, ValueError) as error:
            raise Violation(f"`{row.name}`: what `inspect` returns is no JSON: {error}") from error


def _check_logits(
    row: Exporter, predictor: Predictor, images: list[npt.NDArray[np.uint8]], ours: npt.NDArray[np.float32]
) -> None:
    theirs = np.asarray(predictor.logits(images))
    require(
        theirs.shape == ours.shape,
        f"`{row.name}`: logits of {len(images)} images have the shape {theirs.shape}, not {ours.shape}",
    )
    bound = ROUNDING * max(1.0, float(np.abs(ours).max()))
    apart = float(np.abs(theirs - ours).max())
    require(apart <= bound, f"`{row.name}`: the file's logits differ from the network's by {apart:.2g}")
    alone = np.concatenate([np.asarray(predictor.logits([image])) for image in images])
    apart = float(np.abs(alone - theirs).max())
    require(apart <= bound, f"`{row.name}`: logits of an image alone and in a batch differ by {apart:.2g}")


def _check_verified(row: Exporter, file: Path, what: str) -> None:
    checks = checks_of(row, file, "cpu")
    require(checks != [], f"`{row.name}`: `verify` makes no check")
    for check in checks:
        require(check.passed, f"`{row.name}`: {what} does not pass `verify`: {check.name}: {check.detail}")


def _check_damage(row: Exporter, file: Path) -> None:
    """Check what `verify` and `open` make of files with one byte changed, cut off, or gone."""
    for part in sorted(file.parent.iterdir()):
        whole = part.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
        for what, content in (("with another byte", flipped), ("cut off", whole[:middle]), ("emptied", b"")):
            part.write_bytes(content)
            checks = _explained(row, f"`verify` of a file {what}", lambda: checks_of(row, file, "cpu"))
            require(
                checks is None or any(not check.passed for check in checks),
                f"`{row.name}`: `verify` passes a file whose `{part.name}` is {what}",
                hint="keep a SHA-256 of the content in the file, and compare it",
            )
            _explained(row, f"`open` of a file {what}", lambda: open_exported(row, file, "cpu"))
        part.write_bytes(whole)


def _explained(row: Exporter, what: str, call: Callable[[], Any]) -> Any:
    """What a call returns, or None where it explains why not."""
    try:
        return call()
    except ZooError:
        return None
    except Exception as error:
        raise Violation(
            f"`{row.name}`: {what} ends in {type_and_first_line(error)}",
            hint="raise `zoo.ZooError` with a message and a hint",
        ) from error


def _images(size: ImageSize) -> list[npt.NDArray[np.uint8]]:
    """Noise of the input's width, and of its height, half and twice of it."""
    generator, (height, width) = np.random.default_rng(0), height_width(size)
    return [
        generator.integers(0, 256, (tall, width, 3), dtype=np.uint8)
        for tall in (height, height, height, height // 2, 2 * height)
    ]


def check_export(
    network: Network,
    *,
    to: str = "onnx",
    image_size: ImageSize,
    fit: FitSetting = "crop",
    plugins: Plugins | None = None,
) -> None:
    """Check that an exporter writes a network to a file that verifies itself and gives the network's logits.

    The images are noise of the input's size, and of half and twice its height.

    Args:
        network: A network with `CLASSES` classes, such as the one that `check_strategy` returns.
        to: Name of the exporter.
        image_size: Of the input, in pixels: a number, or height and width.
        fit: How images become that size, as `--fit` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
    """
    exporter = (plugins or Plugins()).exporters.find(to).value
    preprocess = Preprocess(resize=image_size, crop=image_size).fitted(fit)
    classes = tuple("abc"[:CLASSES])
    network.model.eval()
    images = _images(image_size)
    ours = TorchPredictor(network.model, classes, preprocess, torch.device("cpu")).logits(images)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{exporter.suffix}"
        load_target(exporter.write)(
            ExportSpec(model=network.model, preprocess=preprocess, classes=classes, metadata={}, file=file)
        )
        for check in load_target(exporter.verify)(file, "cpu"):
            require(check.passed, f"{check.name}: {check.detail}")
        theirs = load_target(exporter.open)(file, "cpu").logits(images)
    difference = float(np.abs(ours - theirs).max())
    require(
        difference <= ROUNDING * max(1.0, float(np.abs(ours).max())),
        f"the file's logits differ from the network's by {difference:.2g}",
    )
