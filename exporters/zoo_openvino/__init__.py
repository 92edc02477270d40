"""OpenVINO exporter: the network as IR (`.xml` and `.bin`), for Intel processors. Extra `openvino`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.exporter import Exporter


@hookimpl
def register_exporters(register: Register[Exporter]) -> None:
    from zoo.exporter import Exporter, FrozenEngine  # not at the top: most commands need no exporter

    register(
        Exporter(
            name="openvino",
            summary="OpenVINO IR with the network alone: normalised pixels in, logits out (extra `openvino`)",
            suffix=".xml",
            write="zoo_openvino.model:write",
            open="zoo_openvino.model:open_file",
            verify="zoo_openvino.model:verify",
            golden="zoo_openvino.model:golden",
            annotate="zoo_openvino.model:annotate",
            beside=("{stem}.bin",),
            runtimes={"cpu": "openvino-ir"},
            devices=("cpu",),
            preprocessing=("outside",),
            engine=FrozenEngine(
                name="openvino",
                package="openvino",
                convert="zoo_onnx.frozen_part:convert",
                open="zoo_openvino.frozen_part:open_converted",
                open_bf16="zoo_openvino.frozen_part:open_converted_in_bf16",
            ),
        )
    )
