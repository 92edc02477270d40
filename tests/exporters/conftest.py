"""One small network, exported once for all tests that read or damage the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from shared import digest
from small_export import small_spec

from zoo.exporter import ExportSpec


@pytest.fixture(scope="session")
def onnx_spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportSpec]:
    """The spec of an ONNX file that has been written. A copy of it by `replace` is written without a second export."""
    from zoo_onnx.write import write

    yield from _written(small_spec(tmp_path_factory.mktemp("onnx") / "small.onnx"), write)


@pytest.fixture(scope="session")
def pt2_spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportSpec]:
    """The spec of a PT2 archive that has been written."""
    from zoo_pt2.archive import write

    yield from _written(small_spec(tmp_path_factory.mktemp("pt2") / "small.pt2"), write)


def _written(spec: ExportSpec, write: Callable[[ExportSpec], None]) -> Iterator[ExportSpec]:
    write(spec)
    before = digest(spec.file.parent)
    yield spec
    assert digest(spec.file.parent) == before, f"a test changed `{spec.file}`, which others read"
