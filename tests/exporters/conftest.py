"""One small network, exported once for all tests that read or damage the file."""

from __future__ import annotations

import pytest
from small_export import small_spec

from zoo.exporter import ExportSpec


@pytest.fixture(scope="session")
def onnx_spec(tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    """The spec of an ONNX file that has been written."""
    from zoo_onnx.write import write

    spec = small_spec(tmp_path_factory.mktemp("onnx") / "small.onnx")
    write(spec)
    return spec


@pytest.fixture(scope="session")
def pt2_spec(tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    """The spec of a PT2 archive that has been written."""
    from zoo_pt2.archive import write

    spec = small_spec(tmp_path_factory.mktemp("pt2") / "small.pt2")
    write(spec)
    return spec
