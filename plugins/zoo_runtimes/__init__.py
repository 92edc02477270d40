"""The built-in runtimes: torch, onnxruntime, OpenVINO and onnxruntime-web. Imports none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.runtime import Runtime


@hookimpl
def register_runtimes(register: Register[Runtime]) -> None:
    from zoo_runtimes.catalogue import RUNTIMES  # not at the top: most commands need no runtime

    for runtime in RUNTIMES:
        register(runtime)
