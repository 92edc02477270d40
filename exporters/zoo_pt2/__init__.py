"""PT2 exporter: a `torch.export` archive of the network, with classes and preprocessing, for use with torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.exporter import Exporter


@hookimpl
def register_exporters(register: Register[Exporter]) -> None:
    from zoo.exporter import Exporter  # not at the top: most commands need no exporter
    from zoo.runtime import DEVICES

    register(
        Exporter(
            name="pt2",
            summary="torch.export archive with the network alone; preprocessing and classes are recorded as data",
            suffix=".pt2",
            write="zoo_pt2.archive:write",
            open="zoo_pt2.archive:open_file",
            devices=DEVICES,
            preprocessing=("outside",),
            verify="zoo_pt2.archive:verify",
        )
    )
