"""Context: plugins, progress, tensor store and clock, which long calls pass on."""

from __future__ import annotations

from dataclasses import dataclass, field

from zoo.plugin import Plugins
from zoo.progress import LogProgress, Progress, with_later
from zoo.storage.tensor_store import Store
from zoo.system.clock import Clock
from zoo.system.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Context:
    """Objects that a long call passes on to the functions it calls.

    Attributes:
        plugins: Loaded plugins.
        progress: Receives reports for the user.
        store: The store of cached tensors. None: nothing may be cached on disk.
        clock: Measures the time of the run and of its steps.
        ranks: The processes that train together.
    """

    plugins: Plugins = field(default_factory=Plugins)
    progress: Progress = field(default_factory=LogProgress)
    store: Store | None = field(default_factory=Store)
    clock: Clock = field(default_factory=Clock)
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, plugins: Plugins | None = None, progress: Progress | None = None) -> Context:
        """A context from the optional arguments of a public function.

        Raises:
            UsageError: `ZOO_CACHE_BUDGET` is not a size.
        """
        return cls(plugins=plugins or Plugins(), progress=with_later(progress) if progress else LogProgress())
