"""Engines of frozen layers: agreement with torch, the choice, what is kept, and runs that stay equal bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import digest
from tests_support import TINY, Killed
from torch import nn

import zoo_onnx.frozen_part as frozen_part
import zoo_openvino.frozen_part as openvino_part
from zoo import Experiment, Plugins, Run, ZooError, evaluate, plan, resume, train
from zoo.experiment import Cache, Engine
from zoo.exporter import Compute
from zoo.feature_cache import engine_choice
from zoo.feature_cache.engine import (
    AS_TORCH,
    BOUND,
    ROUNDED,
    EngineFailed,
    close_calls,
    engines_of,
    is_kept,
    lacking,
    open_engine,
)
from zoo.feature_cache.engine_choice import Work, _Memory, check_engine, expected_engine
from zoo.feature_cache.split_network import SplitNetwork, prefix_in_blocks
from zoo.networks.tracing import noise
from zoo.progress import Silent
from zoo.storage.cache import write_memo
from zoo.storage.tensor_store import SUFFIX, Store
from zoo.training import validation
from zoo.training.checkpoint import Checkpoints
from zoo.training.setup import build, resolve
from zoo_cli.main import run as run_zoo
from zoo_openvino.model import compile_network

ORT: Engine = "onnxruntime"
CACHED: tuple[tuple[str, Cache], ...] = (("kept", "on"), ("again", "on"), ("unkept", "off"))
BLOCK = 4
CPU = torch.device("cpu")
SOLVED = replace(TINY, strategy="linear", epochs=None, precision="fp32", engine=ORT)
STEPS = replace(TINY, strategy="partial:1", epochs=2, precision="fp32", engine=ORT)


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def split_of(plugins: Plugins, backbone: str = "timm/test_resnet", autocast: torch.dtype | None = None) -> SplitNetwork:
    experiment = replace(TINY, backbone=backbone)
    torch.manual_seed(0)
    network = build(resolve(experiment, plugins), experiment, 3)
    network.model.eval()
    return SplitNetwork(network.model, set(network.anatomy.head.parameters), noise(3, 32, CPU), autocast)


def images() -> torch.Tensor:
    return noise(BLOCK, 32, CPU)


def exports(cache: Path) -> list[Path]:
    return [file for file in cache.glob(f"store/*/*{SUFFIX}") if b'\\"kind\\":\\"engine\\"' in file.read_bytes()[:4096]]


def spoil(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
) -> None:
    """onnxruntime computes something else from now on."""
    opened = frozen_part.open_converted

    def spoilt(model: bytes, threads: int) -> Compute:
        compute = opened(model, threads)
        return lambda inputs: [change(value) for value in compute(inputs)]

    monkeypatch.setattr(frozen_part, "open_converted", spoilt)


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit", "timm/test_efficientnet"])
def test_rows_are_those_of_torch_wherever_an_image_stands(backbone: str, plugins: Plugins) -> None:
    split, inputs = split_of(plugins, backbone), images()
    opened = open_engine(ORT, split, BLOCK, inputs, engines=engines_of(plugins), store=None)
    for found, expected in zip(opened.compute(inputs), split.prefix(inputs)):
        assert (found - expected).abs().max() <= BOUND * expected.abs().max()
    alone = prefix_in_blocks(split, inputs[2:3], BLOCK, opened.compute)
    assert torch.equal(alone[0][0], opened.compute(inputs)[0][2])


def test_an_input_that_is_not_finite_gives_rows_that_are_not(plugins: Plugins) -> None:
    split, inputs = split_of(plugins), images()
    opened = open_engine(ORT, split, BLOCK, inputs, engines=engines_of(plugins), store=None)
    inputs[1] = torch.nan
    (rows,) = opened.compute(inputs)
    assert torch.isfinite(rows).all(1).tolist() == [True, False, True, True]


def test_an_engine_that_hides_inputs_that_are_not_finite_gives_rows_that_are_not(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, np.nan_to_num)
    test_an_input_that_is_not_finite_gives_rows_that_are_not(plugins)


def test_rows_are_rounded_where_what_trains_computes_in_bf16(plugins: Plugins) -> None:
    split, inputs = split_of(plugins, autocast=torch.bfloat16), images()
    opened = open_engine(ORT, split, BLOCK, inputs, engines=engines_of(plugins), store=None)
    assert [row.dtype for row in opened.compute(inputs)] == [row.dtype for row in split.prefix(inputs)]


def half_engine(plugins: Plugins, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> Any:
    """The engines, of which onnxruntime now has a bf16 of its own: what it computes in fp32, changed."""

    def opened(model: bytes, threads: int) -> Compute:
        compute = frozen_part.open_converted(model, threads)
        return lambda inputs: [change(value) for value in compute(inputs)]

    engines = engines_of(plugins)
    return {**engines, ORT: replace(engines[ORT], open_bf16=opened)}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_an_engine_computes_in_bf16_only_where_the_run_does(
    autocast: torch.dtype | None, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, inputs = split_of(plugins, autocast=autocast), images()
    opened = open_engine(ORT, split, BLOCK, inputs, engines=half_engine(plugins, lambda rows: rows * 0.995), store=None)
    expected = open_engine(ORT, split, BLOCK, inputs, engines=engines_of(plugins), store=None)
    apart = float((opened.compute(inputs)[0] - expected.compute(inputs)[0]).float().abs().max())
    assert (apart > 0) == (autocast is not None)


def test_an_engine_in_bf16_may_be_off_by_twice_what_torch_is(plugins: Plugins) -> None:
    split, inputs = split_of(plugins, autocast=torch.bfloat16), images()
    (exact,), (rounded,) = split.rows_of(split.computing(inputs), BLOCK), split.prefix(inputs)
    allowed = max(ROUNDED, AS_TORCH * float((exact - rounded.float()).abs().max() / exact.abs().max()))
    within = half_engine(plugins, lambda rows: rows * np.float32(1 - 0.4 * allowed))
    open_engine(ORT, split, BLOCK, inputs, engines=within, store=None)
    beyond = half_engine(plugins, lambda rows: rows * np.float32(1 - 1.5 * allowed))
    with pytest.raises(EngineFailed, match="differ from torch's"):
        open_engine(ORT, split, BLOCK, inputs, engines=beyond, store=None)


def test_only_an_engine_in_bf16_may_be_off_as_torch_is(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    split, inputs = split_of(plugins, autocast=torch.bfloat16), images()
    monkeypatch.setattr("zoo.feature_cache.engine.AS_TORCH", 1e3)
    open_engine(
        ORT, split, BLOCK, inputs, engines=half_engine(plugins, lambda rows: rows * np.float32(0.95)), store=None
    )
    spoil(monkeypatch, lambda rows: rows * np.float32(0.95))
    with pytest.raises(EngineFailed, match="differ from torch's"):
        open_engine(ORT, split, BLOCK, inputs, engines=engines_of(plugins), store=None)


def test_openvino_computes_in_bf16(plugins: Plugins) -> None:
    pytest.importorskip("openvino")
    split, inputs = split_of(plugins, autocast=torch.bfloat16), images()
    opened = open_engine("openvino", split, BLOCK, inputs, engines=engines_of(plugins), store=None)
    (rows,), (exact,) = opened.compute(inputs), split.rows_of(split.computing(inputs), BLOCK)
    assert rows.dtype == split.prefix(inputs)[0].dtype
    assert torch.equal(rows[[2]], prefix_in_blocks(split, inputs[2:3], BLOCK, opened.compute)[0])
    assert (rows.float() - exact).abs().max() <= 0.1 * exact.abs().max()


@pytest.mark.parametrize(("autocast", "precision"), [(None, "f32"), (torch.bfloat16, "bf16")])
def test_openvino_is_asked_for_the_precision_of_the_run(
    autocast: torch.dtype | None, precision: str, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    asked: list[str] = []

    def compiled(model: Any, threads: int, precision: str) -> Any:
        asked.append(precision)
        return compile_network(model, threads, precision)

    monkeypatch.setattr(openvino_part, "compile_network", compiled)
    split = split_of(plugins, autocast=autocast)
    open_engine("openvino", split, BLOCK, images(), engines=engines_of(plugins), store=None)
    assert asked == [precision]


def test_more_work_is_given_to_an_engine_that_has_bf16(plugins: Plugins, fresh: Path) -> None:
    split, work = split_of(plugins, autocast=torch.bfloat16), Work(images=100_000)
    split.seconds = 0.01
    engines = engines_of(plugins)
    without = {name: replace(engine, open_bf16=None) for name, engine in engines.items()}
    memory = _Memory.read()
    expected = {
        name: engine_choice._savings(split, BLOCK, work, {**without, name: engines[name]}, memory, None)
        for name in engines
        if engines[name].open_bf16 is not None and lacking(name, engines) is None
    }
    assert all(found[0] == name for name, found in expected.items())
    assert ORT not in engine_choice._savings(split, BLOCK, work, without, memory, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows * np.float32(1.001), "differ from torch's"),
        (lambda rows: rows + np.arange(BLOCK, dtype=np.float32)[:, None] * 1e-6, "depends on the place"),
        (lambda rows: rows[:, :-1], "shape"),
    ],
)
def test_an_engine_that_disagrees_is_refused(
    change: Callable[[Any], Any], reason: str, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, change)
    with pytest.raises(EngineFailed, match=reason):
        open_engine(ORT, split_of(plugins), BLOCK, images(), engines=engines_of(plugins), store=None)


def test_an_export_is_kept_and_a_damaged_one_made_anew(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, store, engines = split_of(plugins), Store(tmp_path), engines_of(plugins)
    made: list[int] = []
    convert = frozen_part.convert

    def counted(module: nn.Module, inputs: torch.Tensor) -> bytes:
        made.append(1)
        return convert(module, inputs)

    monkeypatch.setattr(frozen_part, "convert", counted)

    def rows() -> torch.Tensor:
        return open_engine(ORT, split, BLOCK, images(), engines=engines, store=store).compute(images())[0]

    first, second = rows(), rows()
    assert len(made) == 1 and is_kept(split, engines[ORT], BLOCK, store)
    (file,) = tmp_path.glob(f"*/*{SUFFIX}")
    file.write_bytes(file.read_bytes()[:-500])
    third = rows()
    assert len(made) == 2 and torch.equal(first, second) and torch.equal(first, third)


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
    st.floats(1e-6, 1e-1),
    st.integers(0, 2**31 - 1),
)
def test_only_close_calls_can_change_their_label(values: list[list[float]], bound: float, seed: int) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    shares = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    changed = logits + shares.sign() * bound * 0.999 * logits.abs().max()  # as far as allowed, in any direction
    sure = ~close_calls(logits, bound)
    assert torch.equal(logits.argmax(1)[sure], changed.argmax(1)[sure])


def outcome(run: Run) -> tuple[Any, ...]:
    return digest(run.path / "model.safetensors"), run.metrics, run.predictions().logits.tobytes()


HALF = replace(STEPS, precision="bf16", engine="openvino")


@pytest.mark.parametrize("asked", [SOLVED, STEPS, HALF], ids=["solved", "steps", "bf16"])
def test_kept_and_unkept_rows_give_the_same_run(
    asked: Experiment, two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path
) -> None:
    if lacking(asked.engine, engines_of(plugins)) is not None:
        pytest.skip(f"{asked.engine} is not installed")
    asked = replace(asked, data=str(two_splits))
    kept, again, unkept = (
        train(replace(asked, cache=cache), out=tmp_path / name, plugins=plugins) for name, cache in CACHED
    )
    assert outcome(kept) == outcome(again) == outcome(unkept)
    assert again.record["seconds"]["of_train"]["prefix"] == 0.0 < unkept.record["seconds"]["of_train"]["prefix"]
    assert {run.record["engine"]["name"] for run in (kept, again, unkept)} == {asked.engine} and exports(fresh)
    torch_run = train(replace(asked, engine="torch"), out=tmp_path / "torch", plugins=plugins)
    assert torch_run.record["seconds"]["of_train"]["prefix"] > 0.0  # the rows of another engine are not its own


def test_what_is_reported_has_the_labels_of_torch(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(SOLVED, data=str(two_splits))
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    found = evaluate(run, plugins=plugins)
    assert np.array_equal(run.predictions().logits.argmax(1), found.predictions.logits.argmax(1))
    assert run.metrics["loss"] == pytest.approx(found.metrics["loss"], rel=1e-5)
    # were every image a close call, torch would score each, with the bits of a run that torch computes alone
    monkeypatch.setattr(validation, "DOUBT", 1e9)
    monkeypatch.setattr("zoo.training.figures.fold_temperature", lambda *given: False)
    scored = train(asked, out=tmp_path / "scored", plugins=plugins)
    outputs = scored.predictions().logits
    assert np.abs(outputs - found.predictions.logits).max() <= BOUND * np.abs(outputs).max()


def test_an_engine_that_is_off_on_reported_images_reports_none_of_its_logits(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, by_engine = Said(), replace(SOLVED, data=str(two_splits))
    monkeypatch.setattr(validation, "BOUND", 0.0)
    run = train(by_engine, out=tmp_path / "run", plugins=plugins, progress=said)
    assert any("all reported images are scored by torch" in line for line in said.warnings)
    found = evaluate(run, plugins=plugins).predictions.logits
    assert np.array_equal(run.predictions().logits.argmax(1), found.argmax(1))


def test_a_resumed_run_keeps_its_engine(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(STEPS, data=str(two_splits), engine="auto", cache="off", save_every=0.0)
    eager(monkeypatch)
    whole = train(asked, out=tmp_path / "whole", plugins=plugins)
    assert whole.record["engine"]["name"] == ORT and whole.record["engine"]["images_per_second"].keys() == {
        ORT,
        "torch",
    }
    (fresh / "engines.json").unlink()  # the stopped run measures as well
    written = Checkpoints.write
    with monkeypatch.context() as patch:

        def dying(self: Checkpoints, *arguments: Any) -> None:
            written(self, *arguments)
            raise Killed

        patch.setattr(Checkpoints, "write", dying)
        with pytest.raises(Killed):
            train(asked, out=tmp_path / "stopped", plugins=plugins)
    begun = Run.open(tmp_path / "stopped").record["engine"]
    (fresh / "engines.json").unlink()
    monkeypatch.setattr(engine_choice, "_savings", lambda *given: [])  # a new run would take torch now
    resumed = resume(tmp_path / "stopped", plugins=plugins)
    assert resumed.record["engine"] == Run.open(tmp_path / "stopped").record["engine"] == begun
    assert begun["name"] == ORT and begun["images_per_second"] and outcome(resumed) == outcome(whole)


def test_a_run_that_is_resumed_past_its_frozen_layers_keeps_the_record_of_its_engine(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(STEPS, data=str(two_splits), strategy="linear,epochs=1+full,epochs=1", epochs=None, save_every=0.0)
    written = Checkpoints.write
    with monkeypatch.context() as patch:

        def dying(self: Checkpoints, tensors: Any, state: Any) -> None:
            written(self, tensors, state)
            if state["position"]["phase"] == 1:
                raise Killed

        patch.setattr(Checkpoints, "write", dying)
        with pytest.raises(Killed):
            train(asked, out=tmp_path / "stopped", plugins=plugins)
    begun = Run.open(tmp_path / "stopped").record["engine"]
    resumed = resume(tmp_path / "stopped", plugins=plugins)
    assert resumed.record["engine"] == begun and begun["name"] == ORT


def test_rows_and_exports_are_those_of_one_version_of_the_engine(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(SOLVED, data=str(two_splits), cache="on")
    prefixes = []
    for version in ("1", "1", "2"):
        monkeypatch.setattr("zoo.feature_cache.engine.package_version", lambda name, found=version: found)
        run = train(asked, out=tmp_path / "run", force=True, plugins=plugins)
        prefixes.append(run.record["seconds"]["of_train"]["prefix"])
    assert prefixes[0] > 0.0 == prefixes[1] < prefixes[2] and len(exports(fresh)) == 2


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` tries onnxruntime for any work, and takes it however long it takes."""
    monkeypatch.setattr(engine_choice, "_savings", lambda *given: [ORT])
    monkeypatch.setattr(engine_choice, "WORTH", 1e9)


def test_auto_falls_back_to_torch_and_says_so(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(monkeypatch)
    spoil(monkeypatch, lambda rows: rows * np.float32(1.01))
    asked, said = replace(SOLVED, data=str(two_splits), engine="auto"), Said()
    run = train(asked, out=tmp_path / "run", plugins=plugins, progress=said)
    assert run.record["engine"]["name"] == "torch" and "differ from torch's" in run.record["engine"]["reason"]
    assert [line for line in said.notes if line.startswith("engine `onnxruntime` is not used: its values differ")]
    by_torch = train(replace(asked, engine="torch"), out=tmp_path / "torch", plugins=plugins)
    assert outcome(run) == outcome(by_torch)


def test_an_engine_that_was_asked_for_and_cannot_compute_ends_the_run(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda rows: rows * np.float32(1.01))
    with pytest.raises(ZooError, match=r"`--engine onnxruntime`: its values differ from torch's"):
        train(replace(SOLVED, data=str(two_splits)), out=tmp_path / "run", plugins=plugins)


@pytest.mark.parametrize("cache", ["on", "off"])
def test_an_engine_that_fails_in_the_middle_ends_the_run_with_one_line(
    cache: Cache, two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        calls.append(1)
        if len(calls) > 2:  # those of the comparison with torch
            raise RuntimeError("no room for a tensor\nat a place in its code")
        return rows

    spoil(monkeypatch, failing)
    with pytest.raises(ZooError, match="`onnxruntime` failed") as found:
        train(replace(SOLVED, data=str(two_splits), cache=cache), out=tmp_path / "run", plugins=plugins)
    assert found.value.message.endswith("no room for a tensor") and "--engine torch" in str(found.value.hint)


def test_an_engine_that_cannot_be_had_is_told_before_anything_is_read(plugins: Plugins) -> None:
    check_engine("torch", torch.device("cuda"), plugins)
    with pytest.raises(ZooError, match="computes on the CPU, and the run on `cuda`"):
        check_engine(ORT, torch.device("cuda"), plugins)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.feature_cache.engine.find_spec", lambda name: None)
        with pytest.raises(ZooError, match="`--engine onnxruntime` cannot be had: `onnxruntime` is not installed"):
            train(replace(SOLVED, data="nowhere"), plugins=plugins)


def test_an_engine_without_frozen_layers_is_noted(
    two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path
) -> None:
    said, asked = Said(), replace(STEPS, data=str(two_splits), strategy="full", epochs=1)
    run = train(asked, out=tmp_path / "run", plugins=plugins, progress=said)
    assert any("`--engine onnxruntime` has no effect" in line for line in said.notes)
    assert run.record["engine"] is None


def test_the_choice_follows_the_work_and_is_remembered(
    plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_of(plugins)
    split.seconds = 0.01
    names = [expected_engine("auto", split, BLOCK, Work(images=count), plugins) for count in (10, 100_000)]
    assert names[0] == "torch" and names[1] in (ORT, "openvino")
    said = Said()
    made = []

    def sample() -> torch.Tensor:
        made.append(1)
        return images()

    def choice(count: int, **given: Any) -> str:
        run = engine_choice.RunEngine(
            "auto", plugins=plugins, progress=said, store=Store(), work=Work(images=count), **given
        )
        run.choose(split, BLOCK, sample)
        assert run.choice is not None
        return run.choice.name

    assert choice(10) == "torch" and not made
    monkeypatch.setattr(engine_choice, "WORTH", 1e9)
    first = choice(100_000)
    assert first == names[1] and len(made) == 1
    assert choice(100_000) == first and len(made) == 1  # remembered
    assert choice(10) == "torch"  # as before, though an export is kept by now
    assert choice(10, shared={split.digest(): first}) == first  # as the other runs of the process
    assert choice(10, began_with=engine_choice.EngineChoice.from_json({"name": first})) == first
    assert expected_engine("auto", split, BLOCK, Work(images=100_000, networks=10_000), plugins) == "torch"
    monkeypatch.setattr(engine_choice, "lacking", lambda name, engines: "it is gone")
    assert choice(100_000) == "torch"  # what is remembered cannot be had any more


def test_torch_takes_over_where_the_engine_of_a_resumed_run_is_gone(
    plugins: Plugins, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, said = split_of(plugins), Said()
    began = engine_choice.EngineChoice(name=ORT, reason="fast", images_per_second={ORT: 2.0})
    told: list[engine_choice.EngineChoice] = []
    run = engine_choice.RunEngine(
        "auto", plugins=plugins, progress=said, store=None, work=Work(images=1), began_with=began
    )
    run.told = told.append
    monkeypatch.setattr("zoo.feature_cache.engine.find_spec", lambda name: None)
    run.choose(split, BLOCK, images)
    before = run.key(split)
    assert [run.compute(split, BLOCK, images) for _ in range(2)] == [None, None]
    assert run.name(split) == run.key(split) == "torch" and before.startswith(ORT)
    assert [line for line in said.warnings if "is not installed; torch computes them" in line] == said.warnings[:1]
    other = split_of(plugins, "timm/test_vit")
    assert run.compute(other, BLOCK, images) is None and len(said.warnings) == 1
    assert (
        told[-1].images_per_second == {ORT: 2.0}
        and told[-1].reason.count("not installed") == 1
        and "is not installed" in told[-1].reason
    )


def test_the_plan_names_the_engine(two_splits: Path, plugins: Plugins, fresh: Path) -> None:
    planned = plan(replace(SOLVED, data=str(two_splits)), plugins=plugins)
    assert "; by onnxruntime, if it agrees with torch" in str(planned.phases[0].frozen)


def test_the_other_commands_take_the_engine(
    two_splits: Path, tmp_path: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--device", "cpu"]
    for engine in ("torch", ORT):
        out = tmp_path / f"{engine}.npz"
        assert run_zoo(["embed", str(two_splits), *given, "--engine", engine, "--out", str(out)]) == 0
    found = [np.load(tmp_path / f"{engine}.npz")["features"] for engine in ("torch", ORT)]
    assert np.abs(found[0] - found[1]).max() <= BOUND * np.abs(found[0]).max() and len(exports(fresh)) == 1
    capsys.readouterr()
    assert run_zoo(["train", "--data", str(two_splits), *given, "--strategy", "linear", "--engine", "onnx"]) == 2
    assert "--engine" in capsys.readouterr().err


def test_folds_share_the_engine(two_splits: Path, tmp_path: Path, plugins: Plugins, fresh: Path) -> None:
    run = train(replace(SOLVED, data=str(two_splits), folds=2), out=tmp_path / "run", plugins=plugins)
    records = [json.loads((run.path / "folds" / number / "run.json").read_text()) for number in ("1", "2")]
    assert [record["engine"]["name"] for record in records] == [ORT, ORT] and len(exports(fresh)) == 1


@pytest.mark.parametrize(
    "kept",
    [
        {"choices": [], "rates": {}, "ready": {}},
        {"choices": {}, "rates": {"a": []}, "ready": {}},
        {"choices": {}, "rates": {"a": {"torch": "fast"}}, "ready": {}},
        {"choices": {}, "rates": {}, "ready": {"onnxruntime": None}},
        {"choices": {}, "rates": {}},
        "text",
    ],
)
def test_a_damaged_memory_of_engines_is_empty(kept: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    write_memo("engines", _Memory._key(), kept)
    assert _Memory.read() == _Memory({}, {}, {})
    write_memo("engines", _Memory._key(), {"choices": {"a": "torch"}, "rates": {"b": {"torch": 1}}, "ready": {"c": 2}})
    assert _Memory.read() == _Memory({"a": "torch"}, {"b": {"torch": 1.0}}, {"c": 2.0})
