"""PT2: a `torch.export` archive, its classes and preprocessing beside the network, for those who stay with torch."""

from __future__ import annotations

from zoo.exporter import Exporter
from zoo.hookspecs import Register, hookimpl


@hookimpl
def register_exporters(register: Register[Exporter]) -> None:
    register(
        Exporter(
            name="pt2",
            summary="torch.export archive: the network alone, its preprocessing and classes as data",
            suffix=".pt2",
            write="zoo_pt2.archive:write",
            open="zoo_pt2.archive:open_file",
            preprocessing=("outside",),
            verify="zoo_pt2.archive:verify",
        )
    )
