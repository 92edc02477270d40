"""An exporter: compresses what the built-in one writes, and unpacks it to open or verify it."""

import gzip
import tempfile
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from zoo import Plugins, ZooError
from zoo.target import load_target

ONNX = Plugins().exporters.find("onnx/onnx").value


def write(spec):
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        load_target(ONNX.write)(replace(spec, file=plain))
        spec.file.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))  # the same bytes for the same network


def open_file(file, device):
    with unpacked(file) as plain:
        return load_target(ONNX.open)(plain, device)


def verify(file, device):
    with unpacked(file) as plain:
        return load_target(ONNX.verify)(plain, device)


@contextmanager
def unpacked(file):
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ZooError(f"`{file}` cannot be unpacked: {error}", hint="export the run again") from error
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        plain.write_bytes(content)
        yield plain
