"""Runtime: what executes a run or a file while its latency is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt


class Session(Protocol):
    """A network loaded for timing; lives in a worker process of its own."""

    @property
    def provider(self) -> str:
        """What really executes, read from the session and not from what was asked for."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know: nodes that left the provider, a layout that was chosen."""
        ...

    def prepare(self, batch: npt.NDArray[Any]) -> Callable[[], object]:
        """Bind one input batch; the call returned runs it once, to the end, outputs included."""
        ...


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A row of the catalogue.

    `available(device) -> str | None` says why it cannot run here (None: it can). `load(target, device, threads) ->
    Session` opens what it is given. `accepts` is `run` or an exporter's name.
    """

    name: str
    summary: str
    accepts: str
    available: str | Callable[[str], str | None] = field(repr=False)
    load: str | Callable[[Path, str, int], Session] = field(repr=False)
