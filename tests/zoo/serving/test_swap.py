"""Hot swap: a new version of a served file takes over only if it verifies and fits; else the old one serves on."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from hostile_images import encoded, photograph
from serving_support import Client, new_version

from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.serving import swap
from zoo.serving.served_model import Batching, ServedModel, open_served
from zoo.serving.service import Service
from zoo.serving.swap import Swaps

JPEG = encoded(photograph())
ANY = Batching(size=1, seconds={1: 1.0})


class Anything(dict[str, Batching]):
    """Batching of any file, so that it need not be measured."""

    def get(self, digest: str, default: Any = None) -> Any:
        return ANY


def opened(path: Path, plugins: Plugins) -> ServedModel:
    return open_served(path, name=path.stem, device="cpu", threads=1, plugins=plugins, measured=Anything())


@pytest.fixture
def file(exported_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx"))


@pytest.fixture
def service(file: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    def quickly(path: Path, **settings: Any) -> ServedModel:
        return open_served(path, **{**settings, "measured": Anything()})

    monkeypatch.setattr(swap, "open_served", quickly)
    service = Service([opened(file, plugins)], workers=1)
    yield service
    service.close()


def changed(file: Path, change: Any) -> None:
    new_version(file, file, change)


def with_note(model: Any) -> None:
    model.doc_string = "another version"


def look(service: Service, **how: Any) -> None:
    asyncio.run(Swaps(service, "cpu", 1).look(**how))


def outcomes(service: Service) -> dict[str, float]:
    family = next(one for one in service.metrics.registry.collect() if one.name == "zoo_swaps")
    return {one.labels["outcome"]: one.value for one in family.samples if one.name.endswith("_total")}


def test_a_file_that_verifies_and_fits_takes_over(service: Service, file: Path, caplog: Any) -> None:
    old = service.model()
    swaps = Swaps(service, "cpu", 1)
    changed(file, with_note)
    asyncio.run(swaps.look())
    new = service.model()
    assert new.digest != old.digest and outcomes(service) == {"done": 1}
    assert Client(service).predict(JPEG).json()["digest"] == new.digest
    assert service.metrics.text().count(b"zoo_model_info{") == 1
    asyncio.run(swaps.look())
    assert outcomes(service) == {"done": 1}


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(10_000))


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF  # within the weights
    file.write_bytes(data)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def foreign(file: Path) -> None:
    model = onnx.load(str(file))
    model.ClearField("metadata_props")
    file.write_bytes(model.SerializeToString())


def vanished(file: Path) -> None:
    file.unlink()


# Of files that are no ONNX, one on every push
SPOILT = [
    half,
    flipped,
    folder,
    foreign,
    vanished,
    *(pytest.param(one, marks=pytest.mark.slow) for one in (truncated, empty, garbage)),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_that_does_not_verify_changes_nothing(
    service: Service, file: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old = service.model()
    good = file.read_bytes()
    swaps = Swaps(service, "cpu", 1)
    spoil(file)
    asyncio.run(swaps.look())
    asyncio.run(swaps.look())
    (told,) = [record for record in caplog.records if record.name == "zoo.serve"]  # once, and not at every look
    assert "serves on" in told.getMessage() and "\n" not in told.getMessage() and not told.exc_info
    assert outcomes(service) == {"missing" if spoil is vanished else "verification": 1}
    assert service.model() is old and Client(service).predict(JPEG).json()["digest"] == old.digest
    assert service.is_ready()
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    file.write_bytes(good)
    changed(file, with_note)
    asyncio.run(swaps.look())
    assert service.model() is not old  # a bad file does not end the watch


def test_other_classes_and_another_input_are_refused(
    service: Service, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = service.model()
    real: Callable[..., ServedModel] = vars(swap)["open_served"]
    other: dict[str, Any] = {}

    class Predictor:
        classes = ("blue", "green")

    def spoiled(path: Path, **settings: Any) -> ServedModel:
        return dataclasses.replace(real(path, **settings), digest="1" * 64, **other)

    monkeypatch.setattr(swap, "open_served", spoiled)
    other = {"predictor": Predictor()}
    look(service, force=True)
    other = {"record": {**old.record, "inputs": ["photographs float (N, 3, 224, 224)"]}}
    look(service, force=True)
    assert service.model() is old and outcomes(service) == {"classes": 1, "input": 1}
    said = [record.getMessage() for record in caplog.records if record.name == "zoo.serve"]
    assert "`red` is missing, `green` is new" in said[0] and "float (N, 3, 224, 224)" in said[1]


def test_a_real_file_of_other_classes_is_refused(service: Service, file: Path) -> None:
    old = service.model()

    def rename(model: Any) -> None:
        for entry in model.metadata_props:
            entry.value = entry.value.replace('"red"', '"scarlet"')

    changed(file, rename)
    look(service, force=True)
    assert service.model() is old and outcomes(service) == {"classes": 1}


def test_an_equal_file_is_not_swapped(service: Service, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zoo.serve")
    old = service.model()
    os.utime(file, ns=(1, 1))
    asyncio.run(Swaps(service, "cpu", 1).look(force=True))
    assert service.model() is old and outcomes(service) == {}
    assert "the file is the one that is served" in caplog.text


def test_a_fault_while_a_file_is_opened_does_not_end_the_watch(
    service: Service, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = service.model()

    async def watch() -> None:
        swaps = Swaps(service, "cpu", 1)
        task = asyncio.ensure_future(swaps.watch(0.01))
        real: Callable[..., ServedModel] = vars(swap)["open_served"]
        for error in (MemoryError(), RuntimeError("onnxruntime\nis broken"), KeyError("inputs"), ZooError("damaged")):
            before = sum(outcomes(service).values())

            def fails(path: Path, error: Exception = error, **settings: Any) -> ServedModel:
                raise error

            monkeypatch.setattr(swap, "open_served", fails)
            os.utime(file)
            while sum(outcomes(service).values()) == before:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(swap, "open_served", real)
        changed(file, with_note)
        while service.model() is old:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(watch(), 200))


def test_a_file_that_is_being_written_waits_and_does_not_hold_up_others(
    service: Service, file: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Path(shutil.copy(file, file.with_name("second.onnx")))
    service.put(opened(second, plugins))
    looked: list[str] = []

    def look_at(path: Path, **settings: Any) -> ServedModel:
        looked.append(path.name)
        return service.model("model")

    monkeypatch.setattr(swap, "open_served", look_at)

    async def watch() -> None:
        task = asyncio.ensure_future(Swaps(service, "cpu", 1).watch(0.05))
        os.utime(second)
        step = 0
        while "second.onnx" not in looked:
            step += 1
            os.utime(file, ns=(step, step))  # always changing, as a copy does
            await asyncio.sleep(0.001)
        assert "model.onnx" not in looked
        while "model.onnx" not in looked:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(watch(), 100))


def test_a_file_that_changes_while_it_is_opened_is_looked_at_again(
    service: Service, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = service.model()
    real: Callable[..., ServedModel] = vars(swap)["open_served"]
    writes = [1]

    def changing(path: Path, **settings: Any) -> ServedModel:
        if writes:
            writes.pop()
            changed(file, with_note)
            raise ZooError("it changed while it was opened")
        return real(path, **settings)

    monkeypatch.setattr(swap, "open_served", changing)
    swaps = Swaps(service, "cpu", 1)
    os.utime(file)
    asyncio.run(swaps.look())
    assert service.model() is old and outcomes(service) == {}
    asyncio.run(swaps.look())
    assert service.model() is not old


def test_requests_of_the_old_file_are_answered_by_it(service: Service, file: Path) -> None:
    """A request that has begun keeps its model, whatever is swapped meanwhile."""

    async def ask() -> None:
        old = service.model()
        asked = [asyncio.ensure_future(service.ask(old, [JPEG] * 8)) for _ in range(4)]
        await asyncio.sleep(0)
        changed(file, with_note)
        await Swaps(service, "cpu", 1).look(force=True)
        assert service.model() is not old
        for answers in await asyncio.gather(*asked):
            assert {answer.model for answer in answers} == {old}

    asyncio.run(ask())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_in_the_place_of_a_file_is_refused_and_never_opened(service: Service, file: Path) -> None:
    """To open it would wait for a writer, and no later version would be seen."""
    file.unlink()
    os.mkfifo(file)
    look(service, force=True)
    assert outcomes(service) == {"verification": 1}
    with pytest.raises(ZooError, match="is not a file"):
        opened(file, Plugins())


def test_a_server_that_stops_does_not_wait_for_a_file_that_is_opened(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, end = threading.Event(), threading.Event()

    def slow(path: Path, **settings: Any) -> ServedModel:
        begun.set()
        end.wait(100)
        return service.model()

    monkeypatch.setattr(swap, "open_served", slow)

    async def stop() -> None:
        looking = asyncio.ensure_future(Swaps(service, "cpu", 1).look(force=True))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        looking.cancel()

    try:
        asyncio.run(stop())  # which ends the loop, and waits for its threads
        assert not end.is_set()
    finally:
        end.set()


def test_many_who_ask_at_once_are_served_by_one_further_look(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_files: list[Path] = []

    def count(path: Path, **settings: Any) -> ServedModel:
        opened_files.append(path)
        return service.model()

    monkeypatch.setattr(swap, "open_served", count)

    async def storm() -> None:
        swaps = Swaps(service, "cpu", 1)
        await asyncio.gather(*(swaps.look(force=True) for _ in range(50)))
        assert len(opened_files) == 2  # the look that has begun, and one for all who asked since
        await swaps.look(force=True)

    asyncio.run(storm())
    assert len(opened_files) == 3


def test_a_new_version_of_the_shadow_is_compared_anew(
    service: Service, file: Path, tmp_path: Path, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    beside = Path(shutil.copy(file, tmp_path / "next.onnx"))
    service.compare_with(opened(beside, plugins), 1.0)
    assert service.shadow is not None
    assert Client(service).predict(JPEG).status_code == 200
    service.shadow.wait()
    swaps = Swaps(service, "cpu", 1)
    old, live = service.shadow.other, service.model()
    changed(beside, with_note)
    asyncio.run(swaps.look())
    assert service.shadow.other.digest != old.digest and service.model() is live
    assert service.shadow.report()["images"] == 0 and outcomes(service) == {"done": 1}
    beside.write_bytes(b"")
    asyncio.run(swaps.look())
    assert outcomes(service) == {"done": 1, "verification": 1}
