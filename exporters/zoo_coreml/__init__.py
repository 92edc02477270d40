"""Core ML exporter: the network as an `.mlpackage`, for Apple's systems. Extra `coreml`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.exporter import Exporter


@hookimpl
def register_exporters(register: Register[Exporter]) -> None:
    from zoo.exporter import Exporter  # not at the top: most commands need no exporter

    register(
        Exporter(
            name="coreml",
            summary="Core ML package with the network alone: normalised pixels in, logits out (extra `coreml`)",
            suffix=".mlpackage",
            write="zoo_coreml.package:write",
            open="zoo_coreml.package:open_file",
            verify="zoo_coreml.package:verify",
            annotate="zoo_coreml.package:annotate",
            executable="zoo_coreml.package:why_not_executable",
            folder=True,
            devices=("cpu",),
            preprocessing=("outside",),
        )
    )
