"""Going on from a run (`--from`): what is taken over, what is refused, and what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests_support import TINY, Killed, make_photos

from zoo import Experiment, Plugins, Run, UsageError, ZooError, plan, resume, train
from zoo.config.context import Context
from zoo.networks.head import HEAD_STD
from zoo.progress import Silent
from zoo.runs.lineage import seen_by
from zoo.runs.parent import ClassMatch, run_to_go_on_from
from zoo.storage.files import read_json, write_json
from zoo.training.checkpoint import Checkpoints
from zoo.training.preparation import prepare
from zoo.training.start import start_of
from zoo_cli.main import run as run_zoo


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of a new class and of two that `exported_run` has."""
    folder = tmp_path_factory.mktemp("more")
    return make_photos(folder, {"train": 6, "val": 3}, classes=("green", "red"))


def _weights(run: Run) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


def _with_status(run: Path, status: str) -> None:
    write_json(run / "run.json", {**read_json(run / "run.json"), "status": status})


def going_on(data: Path, parent: Path, **changes: Any) -> Experiment:
    return replace(TINY, data=str(data), from_run=str(parent), epochs=1, **changes)


def started(experiment: Experiment, plugins: Plugins) -> tuple[dict[str, torch.Tensor], Said]:
    """The weights that a run begins with, and what it says."""
    said = Said()
    context = Context.of(plugins, said)
    start = start_of(experiment, "nowhere", False, plugins)
    job = prepare(start.experiment, start.setup, context)
    network = job.setup.plan.merge(job.network)
    return dict(network.model.state_dict()), said


def test_rows_of_known_classes_are_kept_by_name_and_new_ones_begin_anew(
    exported_run: Path, more: Path, plugins: Plugins
) -> None:
    found, said = started(going_on(more, exported_run), plugins)
    before = load_file(exported_run / "model.safetensors")
    head = ("fc.weight", "fc.bias")
    assert all(torch.equal(found[name], value) for name, value in before.items() if name not in head)
    assert torch.equal(found["fc.weight"][1], before["fc.weight"][1])  # red, after green and after blue
    assert torch.equal(found["fc.bias"], torch.stack([torch.zeros(()), before["fc.bias"][1]]))
    assert not torch.isin(found["fc.weight"][0], before["fc.weight"]).any()
    assert found["fc.weight"][0].std() == pytest.approx(HEAD_STD, rel=0.3)
    how = "the head keeps its rows of 1 class, and `green` begins anew"
    assert f"starts from the weights of run `{exported_run}`; {how}" in said.notes
    assert f"`blue` of run `{exported_run}` is not in the data, and is dropped" in said.notes
    assert not said.warnings


def test_classes_are_matched_in_any_unicode_form() -> None:
    match = ClassMatch.of(("caf\u00e9", "tea"), ("cafe\u0301", "milk"))
    assert match == ClassMatch(kept=("cafe\u0301",), new=("milk",), dropped=("tea",))


@pytest.mark.parametrize("strategy", ["full", "lora:2", "linear", "truncate:1", "knn:1", "linear,head=mlp:8"])
def test_every_strategy_goes_on(strategy: str, exported_run: Path, more: Path, plugins: Plugins) -> None:
    """What is below the head is the parent's before training begins, whatever the strategy does with it."""
    epochs = None if strategy in ("linear", "truncate:1", "knn:1") else 1  # of what is solved
    found, said = started(replace(going_on(more, exported_run, strategy=strategy), epochs=epochs), plugins)
    before = load_file(exported_run / "model.safetensors")
    shared = [name for name in found if name in before and not name.startswith("fc.")]
    assert len(shared) > 20 and all(torch.equal(found[name], before[name]) for name in shared)
    first = next(note for note in said.notes if note.startswith("starts from"))
    how = {
        "full": "keeps its rows", "lora:2": "keeps its rows", "linear,head=mlp:8": "of another kind (`full`)",
    }.get(strategy, "has no effect")  # fmt: skip
    assert how in first


def test_a_truncated_run_is_gone_on_from_by_what_truncates_alone(
    exported_run: Path, more: Path, plugins: Plugins, tmp_path: Path
) -> None:
    short = train(
        replace(going_on(more, exported_run, strategy="truncate:1"), epochs=None),
        out=tmp_path / "short",
        plugins=plugins,
    )
    found, _ = started(going_on(more, short.path, strategy="truncate:1+full"), plugins)
    before = load_file(short.path / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in before.items() if "new_head" not in name)
    with pytest.raises(UsageError, match="do not fit") as error:
        started(going_on(more, short.path, strategy="full"), plugins)
    assert error.value.hint is not None and "`truncate" in error.value.hint


def test_a_resumed_run_is_the_uninterrupted_one(
    exported_run: Path, more: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen layers and the head are built again from the parent; without it, or with others, a line says so."""
    parent = shutil.copytree(exported_run, tmp_path / "parent")
    asked = replace(going_on(more, parent, strategy="linear,solver=sgd+partial:1", save_every=0.0), epochs=2)
    whole = train(asked, out=tmp_path / "whole", plugins=plugins)
    write, left = Checkpoints.write, [3]

    def dying(self: Checkpoints, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(self, *arguments)

    monkeypatch.setattr(Checkpoints, "write", dying)
    with pytest.raises(Killed):
        train(asked, out=tmp_path / "killed", plugins=plugins)
    parent.rename(tmp_path / "away")
    with pytest.raises(ZooError, match="whose weights it needs to be resumed: there is no run"):
        resume(tmp_path / "killed", plugins=plugins)
    other = shutil.copytree(tmp_path / "away", parent)
    shutil.copyfile(whole.path / "model.safetensors", other / "model.safetensors")
    with pytest.raises(ZooError, match="damaged or was replaced"):
        resume(tmp_path / "killed", plugins=plugins)
    sha256 = Run.open(whole.path).record["weights_sha256"]
    write_json(other / "run.json", {**read_json(other / "run.json"), "weights_sha256": sha256})
    with pytest.raises(ZooError, match="and they have changed since"):
        resume(tmp_path / "killed", plugins=plugins)
    shutil.rmtree(other)
    (tmp_path / "away").rename(parent)
    done = resume(tmp_path / "killed", plugins=plugins)
    assert _weights(done) == _weights(whole)
    shutil.rmtree(parent)  # a finished run needs it no more
    assert Run.open(done.path).load_network(plugins).model is not None


def test_stored_features_of_the_parent_are_read_again(
    exported_run: Path, two_splits: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's keys hold the content of the frozen weights, not where they come from."""
    from zoo.feature_cache.loader import PrefixOutputs

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    asked = replace(
        TINY, data=str(two_splits), strategy="linear,solver=sgd", cache="on", epochs=1, from_run=str(exported_run)
    )
    first = train(asked, out=tmp_path / "first", plugins=plugins)
    computed: list[int] = []
    monkeypatch.setattr(PrefixOutputs, "_compute", lambda self, indices, *_: computed.append(len(indices)))
    again = train(replace(asked, from_run=str(first.path), lr=1e-3), out=tmp_path / "second", plugins=plugins)
    assert not computed
    assert again.record["from"]["id"] == first.record["id"]
    assert _weights(again) != _weights(first)


@pytest.mark.parametrize("augment", ["light", "none"])
def test_features_are_computed_of_new_images_alone(
    augment: str,
    exported_run: Path,
    two_splits: Path,
    plugins: Plugins,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store has other sets of images, in which the old ones are found; the weights are as without the store."""
    from zoo.feature_cache.loader import PrefixOutputs

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    asked = replace(
        TINY, data=str(two_splits), strategy="linear,solver=sgd", cache="on", epochs=1, augment=augment, engine="torch"
    )
    asked = replace(asked, from_run=str(exported_run))
    first = train(asked, out=tmp_path / "first", plugins=plugins)
    grown = shutil.copytree(two_splits, tmp_path / "grown")
    make_photos(grown, {"train": 5, "val": 2}, classes=("green",))
    shutil.copy(grown / "train" / "green" / "000.jpg", grown / "train" / "blue" / "001.jpg")  # the name is an old one
    (grown / "train" / "red" / "003.jpg").rename(grown / "train" / "red" / "new.jpg")  # the content is
    computed: list[int] = []
    compute = PrefixOutputs._compute

    def counting(self: PrefixOutputs, indices: Any, *rest: Any) -> Any:
        computed.append(len(indices))
        return compute(self, indices, *rest)

    monkeypatch.setattr(PrefixOutputs, "_compute", counting)
    asked = replace(asked, data=str(grown), from_run=str(first.path), epochs=1)
    again = train(asked, out=tmp_path / "second", plugins=plugins)
    assert sorted(computed) == [2, 5 + 1 + (augment == "light")]  # a random view is drawn by the name
    whole = train(replace(asked, cache="off"), out=tmp_path / "third", plugins=plugins)
    assert sum(computed) > 40 and _weights(again) == _weights(whole)
    assert again.predictions().logits.tolist() == whole.predictions().logits.tolist()


def test_what_the_parent_was_trained_on_is_counted_where_it_is_scored(
    exported_run: Path, two_splits: Path, plugins: Plugins, tmp_path: Path
) -> None:
    """Also what the run before the parent was trained on; `--on-leak fail` refuses it."""
    data = tmp_path / "data"
    shutil.copytree(two_splits / "val", data / "train")
    shutil.copytree(two_splits / "val", data / "val")
    for name in ("blue", "red"):
        (data / "val" / name / "000.jpg").unlink()
        shutil.copy(two_splits / "train" / name / "003.jpg", data / "val" / name / "x.jpg")
    middle = train(going_on(data, exported_run, strategy="full"), out=tmp_path / "middle", plugins=plugins)
    assert middle.record["from"]["trained_on"] == {"reported": 2}
    asked = going_on(two_splits, middle.path, strategy="full")
    _, said = started(asked, plugins)
    assert sum("was trained on 12 images of 12 that this run is reported on" in text for text in said.warnings) == 1
    with pytest.raises(ZooError, match="was trained on 12 images of 12"):
        started(replace(asked, on_leak="fail"), plugins)
    with pytest.raises(ZooError, match="was trained on 12 images of 12"):
        plan(replace(asked, on_leak="fail"), plugins=plugins)
    fitted, unknown = seen_by(middle)
    assert len(fitted) == 24 + 12 and not unknown
    moved = {**middle.record["from"], "run": str(tmp_path / "no")}
    write_json(middle.path / "run.json", {**middle.record, "from": moved})
    assert seen_by(Run.open(middle.path))[1] == (str(tmp_path / "no"),)


def test_the_same_training_images_are_said(exported_run: Path, two_splits: Path, plugins: Plugins) -> None:
    _, said = started(going_on(two_splits, exported_run), plugins)
    assert f"the training images are those of run `{exported_run}`, so it is trained further on the same" in said.notes
    assert not said.warnings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 64}, "`--image-size 64`, where the run has 32"),
        ({"fit": "squash"}, "`--fit squash`, where the run has crop"),
        ({"levels": (0, 4095)}, "`--levels 0 4095`, where the run has none"),
        ({"weights": "some.pth"}, "`--weights some.pth`, where the weights are those of the run"),
        ({"backbone": "timm/test_vit"}, "`--backbone timm/test_vit` is another network"),
        ({"strategy": "scratch"}, "would be ignored"),
        ({"from_run": "nowhere"}, "there is no run `nowhere`"),
    ],
)
def test_what_contradicts_the_run_is_refused(
    change: dict[str, Any], message: str, exported_run: Path, more: Path, plugins: Plugins
) -> None:
    with pytest.raises(UsageError) as error:
        start_of(replace(going_on(more, exported_run), **change), "nowhere", False, plugins)
    assert message in error.value.message


def test_a_run_does_not_replace_the_one_that_it_goes_on_from(exported_run: Path, more: Path, plugins: Plugins) -> None:
    for out in (exported_run, exported_run.parent):
        with pytest.raises(UsageError, match="holds the run that the new run goes on from"):
            start_of(going_on(more, exported_run), out, True, plugins)


def test_what_a_soup_or_an_ensemble_is_made_of_was_seen_with_all_that_came_before(
    exported_run: Path, tmp_path: Path
) -> None:
    def made(name: str, contents: list[str], **record: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_json(folder / "run.json", {**Run.open(exported_run).record, "id": name, **record})
        splits = Run.open(exported_run).splits()
        roles = {**splits["roles"], "fit": contents}
        write_json(folder / "splits.json", {**splits, "roles": roles, "sha256": {**splits["sha256"], "fit": contents}})
        return folder

    def named(path: Path, **more: Any) -> dict[str, Any]:
        return {"run": str(path), "id": path.name, "weights_sha256": "0" * 64, **more}

    oldest, other = made("oldest", ["old"]), made("other", ["not"])
    part = made("part", ["new"], **{"from": named(oldest)})
    gone = {"run": str(tmp_path / "gone"), "id": "gone"}
    soup = made("soup", ["new"], soup={"ingredients": [named(part, taken=True), named(other, taken=False), gone]})
    ensemble = made("ensemble", ["new"], ensemble={"members": [named(part), gone]})
    for whole in (soup, ensemble):
        assert seen_by(Run.open(whole)) == (frozenset({"old", "new"}), ())


def test_an_ensemble_cannot_be_gone_on_from(exported_run: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(exported_run, tmp_path / "whole")
    write_json(whole / "run.json", {**Run.open(whole).record, "ensemble": {"members": []}})
    with pytest.raises(UsageError, match="is an ensemble of several networks"):
        run_to_go_on_from(whole)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda run: (run / "model.safetensors").write_bytes(b"x" * 100), "damaged or was replaced"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "has no weights"),
    "killed": (lambda run: _with_status(run, "running"), "is running, not finished"),
    "failed": (lambda run: _with_status(run, "failed"), "is failed, not finished"),
    "no run": (lambda run: (run / "run.json").unlink(), "is not a run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_that_cannot_be_gone_on_from_is_told(
    kind: str, exported_run: Path, more: Path, plugins: Plugins, tmp_path: Path
) -> None:
    parent = shutil.copytree(exported_run, tmp_path / "parent")
    damage, message = DAMAGE[kind]
    damage(parent)
    with pytest.raises(ZooError, match=message):
        start_of(going_on(more, parent), "nowhere", False, plugins)


def test_the_command_line_takes_the_backbone_of_the_run(
    exported_run: Path, more: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", str(more), "--from", str(exported_run), "--strategy", "linear", "--device", "cpu"]
    assert run_zoo([*words, "--out", str(out)]) == 0
    capsys.readouterr()
    record = json.loads((out / "run.json").read_text())
    assert record["backbone"] == "timm/test_resnet" and record["preprocess"]["crop"] == 32
    assert record["experiment"]["from_run"] == str(exported_run.resolve())
    assert record["weights"]["tag"] == "run" and record["from"]["classes"]["new"] == ["green"]
    words[words.index("--from") + 1] = str(exported_run / "model.onnx")
    assert run_zoo(words) == 2
    said = capsys.readouterr().err
    assert "is a file, and a run goes on from the folder of a run" in said and f"`--from {exported_run}`" in said
    assert run_zoo(["plan", "--from", str(exported_run), "--strategy", "full"]) == 0
    assert "2 classes, those of run" in capsys.readouterr().err
    assert run_zoo(["train", "--resume", str(out), "--from", str(exported_run)]) == 2
    assert "`--from` cannot be changed with `--resume`" in capsys.readouterr().err


def test_weights_beside_the_run_to_go_on_from_are_refused(
    exported_run: Path, more: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "plan"):
        words = [command, "--data", str(more), "--from", str(exported_run), "--strategy", "linear"]
        assert run_zoo([*words, "--weights", "default"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"`--from {exported_run}` and `--weights default`" in said and "leave `--weights` out" in said
    assert run_zoo(words) == 0
