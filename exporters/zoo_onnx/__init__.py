"""ONNX exporter: one file with the network, its preprocessing, its class names and the data to verify it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.exporter import Exporter

# onnxruntime from 1.32 on sends events to its makers and keeps an identifier in the home, unless this is set before it
# is loaded. `ORT_DISABLE_TELEMETRY=0` allows it again
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@hookimpl
def register_exporters(register: Register[Exporter]) -> None:
    from zoo.exporter import Exporter, FrozenEngine  # not at the top: most commands need no exporter

    register(
        Exporter(
            name="onnx",
            summary="ONNX with preprocessing included: photographs in, probabilities out, with onnxruntime alone",
            suffix=".onnx",
            write="zoo_onnx.write:write",
            open="zoo_onnx.session:open_file",
            verify="zoo_onnx.verify:verify",
            golden="zoo_onnx.verify:golden",
            annotate="zoo_onnx.write:annotate",
            refer="zoo_onnx.write:refer",
            stages="zoo_onnx.stages:stages",
            inspect="zoo_onnx.inspection:inspect",
            foreign="zoo_onnx.foreign:open_foreign",
            script="zoo_onnx.script:source",
            serve="zoo_onnx.serve:open_to_serve",
            beside=("{name}.data",),
            runtimes={"cpu": "onnxruntime-cpu", "cuda": "onnxruntime-cuda"},
            precisions=("fp32", "fp16", "int8"),
            preprocessing=("graph", "outside"),
            scores_unknown=True,
            engine=FrozenEngine(
                name="onnxruntime",
                package="onnxruntime",
                convert="zoo_onnx.frozen_part:convert",
                open="zoo_onnx.frozen_part:open_converted",
            ),
        )
    )
