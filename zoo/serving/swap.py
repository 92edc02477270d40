"""Hot swap: a new version of a served file takes over when it verifies and fits; else the old one serves on.

The shadow's file is looked at too; a new version begins its comparison anew.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from zoo.data.pixel_budget import give_back_memory
from zoo.errors import ZooError
from zoo.serving.fault import where
from zoo.serving.served_model import ServedModel, open_served
from zoo.serving.service import Service

LOGGER = logging.getLogger("zoo.serve")

State = tuple[int, int, int]
T = TypeVar("T")
_UNSEEN = (-1, -1, -1)  # a state that no file has


Key = str | None  # the name of a served model; None: the shadow


class Swaps:
    """Looks at the files of a service, and replaces the models whose file has changed."""

    def __init__(self, service: Service, device: str, threads: int) -> None:
        self._service, self._device, self._threads = service, device, threads
        self._looking = asyncio.Lock()
        self._is_asked = False  # to look at all files again, which has not begun
        self._seen: dict[Key, State | None] = self._states()

    def _files(self) -> dict[Key, ServedModel]:
        """Every file that is looked at."""
        shadow = self._service.shadow
        files: dict[Key, ServedModel] = dict(self._service.models.items())
        return files if shadow is None else {**files, None: shadow.other}

    def _states(self) -> dict[Key, State | None]:
        return {key: _state(one.path) for key, one in self._files().items()}

    async def watch(self, seconds: float) -> None:
        """Look again and again; a file that is being written is looked at once it has come to rest."""
        before = dict(self._seen)
        while True:
            await asyncio.sleep(seconds)
            now = self._states()
            # Unchanged since the last look, so that a half copied file waits; each by itself
            await self.look({name for name, state in now.items() if state == before.get(name)})
            before = now

    async def look(self, names: Collection[Key] | None = None, *, force: bool = False) -> None:
        """Replace every model whose file has changed since it was looked at.

        Args:
            names: Look at the files of these models, where None is the shadow. None: all.
            force: Open files again that seem unchanged. Whoever asks while another look waits is served by that one.
        """
        if force and self._is_asked:
            return
        self._is_asked = self._is_asked or force
        async with self._looking:
            self._is_asked = self._is_asked and not force
            if await self._look(names, force):
                await _in_daemon_thread(_tidy)

    async def _look(self, names: Collection[Key] | None, force: bool) -> bool:
        """As `look`; returns whether a file was opened."""
        has_opened = False
        for key, model in self._files().items():
            if names is not None and key not in names:
                continue
            state = _state(model.path)
            if state == self._seen.get(key) and not force:
                continue
            self._seen[key] = state
            if state is None:
                self._refuse(model, "missing", "it is not there any more")
                continue
            has_opened = True
            try:
                await self._swap(key, model, state)
            except Exception as error:  # nothing that a file holds may end the watch
                self._refuse(model, "verification", where(error))
        return has_opened

    async def _swap(self, key: Key, old: ServedModel, state: State) -> None:
        from zoo.plugin import Plugins

        try:
            new = await _in_daemon_thread(
                lambda: open_served(
                    old.path,
                    name=old.name,
                    device=self._device,
                    threads=1 if key is None else self._threads,
                    plugins=Plugins(),
                )
            )
        except ZooError as error:
            if _state(old.path) == state:
                self._refuse(old, "verification", error.message)
            else:  # it was written while it was read: the next look takes it as it is then
                self._seen[key] = _UNSEEN
                LOGGER.info("`%s`: the new file changed while it was opened, and is not taken yet", old.name)
            return
        if new.digest == old.digest:
            LOGGER.info("`%s`: the file is the one that is served, %s", old.name, old.digest[:16])
        elif not new.takes_the_same_input(old):
            self._refuse(old, "input", f"it takes {_inputs(new)}, not {_inputs(old)}")
        elif new.classes != old.classes:
            self._refuse(old, "classes", f"its classes are others: {_difference(old.classes, new.classes)}")
        else:
            if key is None:
                assert self._service.shadow is not None
                self._service.shadow.replace(new)
            else:
                self._service.put(new)
            self._service.metrics.swaps.labels(new.name, "done").inc()
            LOGGER.info("`%s`: now %s (was %s)", new.name, new.digest[:16], old.digest[:16])

    def _refuse(self, old: ServedModel, outcome: str, why: str) -> None:
        self._service.metrics.swaps.labels(old.name, outcome).inc()
        LOGGER.warning("`%s`: the new file is refused and %s serves on: %s", old.name, old.digest[:16], why)


def _in_daemon_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run in a thread for which a server that stops does not wait: a file may be long, or its disk not answer."""
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    threading.Thread(target=run, name="zoo-serve-swap", daemon=True).start()
    return asyncio.wrap_future(future)


def _tidy() -> None:
    """Give back the memory of the file that is not served any more, and of verification."""
    gc.collect()
    give_back_memory()


def _inputs(model: ServedModel) -> str:
    return ", ".join(f"`{one}`" for one in model.record["inputs"])[:300]


def _state(path: Path) -> State | None:
    """What changes when a file is written or replaced; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _difference(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    gone, added = [one for one in old if one not in new], [one for one in new if one not in old]
    if not gone and not added:
        return "in another order"
    told = [f"`{gone[0]}` is missing"] if gone else []
    return ", ".join([*told, *([f"`{added[0]}` is new"] if added else [])])
