"""What tests are written with: key words of messages, and what is shared and may not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from messages import refused, unsaid
from shared import digest, made_once, unchanged

from zoo import Plugins, UsageError, ZooError
from zoo.catalogue import Catalogue

MESSAGE = "strategy `partial:9` asks for 9 stages but `resnet18` has 5: stem layer1"


def test_key_words_are_found_whole_and_in_any_case() -> None:
    assert not unsaid(MESSAGE, "`partial:9`", "9 stages", "`resnet18`", "5", "Strategy", "layer1")
    for word in ("partial", "resnet", "layer", "stage", "1"):
        assert unsaid(f"{MESSAGE} layer12", word) == ([] if word == "partial" else [word])
    assert unsaid("a rate of 0.5 in 15 of 5.0 steps, 5,000 in all", "5") == ["5"]
    assert not unsaid("it has 5, of 5.", "5") and not unsaid("`a/b.onnx`", "b.onnx`")


def test_a_message_without_a_key_word_is_noticed() -> None:
    with refused(UsageError, "`partial:9`", "`lora`") as caught:
        raise UsageError(MESSAGE, hint="or use `lora`")
    assert caught.value.exit_code == 2
    with pytest.raises(AssertionError, match="`partial:8`"), refused(UsageError, "`partial:8`", "stages"):
        raise UsageError(MESSAGE)
    with pytest.raises(ZooError), refused(UsageError, "`partial:9`", "stages"):
        raise ZooError(MESSAGE)  # of another kind
    with pytest.raises(pytest.fail.Exception), refused(UsageError, "`partial:9`", "stages"):
        pass
    with pytest.raises(AssertionError, match="offending value"), refused(UsageError, "stages"):
        raise UsageError(MESSAGE)


def add(folder: Path) -> None:
    (folder / "new").touch()


def change(folder: Path) -> None:
    (folder / "file").write_text("CONTENT")  # of the same length


def remove(folder: Path) -> None:
    (folder / "file").unlink()


def rename(folder: Path) -> None:
    (folder / "file").rename(folder / "fila")


@pytest.mark.parametrize("meddle", [add, change, remove, rename])
def test_a_shared_folder_that_a_test_changed_is_noticed(
    meddle: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    for base in (tmp_path / "gw0", tmp_path / "gw1"):  # two processes, one after the other
        base.mkdir()
        with monkeypatch.context() as patch:
            patch.setenv("PYTEST_XDIST_WORKER", base.name)
            assert [digest(folder) for folder in made_once(base, "thing", make)] == [digest(tmp_path / "thing")]
    assert made == [tmp_path / "thing"]
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="must take a copy"):
        patch.setenv("PYTEST_XDIST_WORKER", "gw1")
        for folder in made_once(tmp_path / "gw1", "thing", make):
            meddle(folder)


def drop_a_metric(plugins: Plugins) -> None:
    plugins.__dict__["metrics"] = Catalogue("metric", "metrics", plugins.metrics.entries[1:])


def replace_a_method(plugins: Plugins) -> None:
    vars(plugins.metrics)["find"] = lambda name: None


def put_an_attribute(plugins: Plugins) -> None:
    vars(plugins)["load_everything"] = lambda: None


@pytest.mark.parametrize("meddle", [drop_a_metric, replace_a_method, put_an_attribute])
def test_shared_plugins_that_a_test_changed_are_noticed(meddle: Callable[[Plugins], None]) -> None:
    for plugins in unchanged(Plugins()):
        assert len(plugins.metrics.entries) > 1
    with pytest.raises(AssertionError, match="must make its own"):
        for plugins in unchanged(Plugins()):
            meddle(plugins)
