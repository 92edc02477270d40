"""Export: a file is kept only if it predicts what its run predicts, from bytes to label."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused
from shared import digest
from tests_support import make_photos
from torch import nn

import zoo.exporting.precision_search
import zoo.exporting.writing
from zoo import (
    Experiment,
    Exporter,
    ExportSpec,
    Plugins,
    Run,
    UsageError,
    ZooError,
    evaluate,
    export,
    predict,
    train,
    verify,
)
from zoo.data.splitting import balanced_order
from zoo.dataset import Sample
from zoo.evaluation.statistics import paired_difference_interval
from zoo.exporter import Check, Precision, StageDifference
from zoo.exporting.metadata import file_metadata
from zoo.exporting.parity import TOLERANCE, compare, images_to_tell, verdict
from zoo.exporting.precision_search import PrecisionCandidate, fastest
from zoo.networks.freezing import digest_of_state
from zoo.predictions import Predictions
from zoo.preprocess import Interpolation
from zoo.storage.files import read_json, write_json
from zoo.storage.folder_lock import LOCK_FILE
from zoo.target import load_target
from zoo_onnx.network import ExportedNetwork, export_network
from zoo_onnx.session import open_file as open_onnx


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data"), {"train": 10, "val": 5, "test": 4})


@pytest.fixture(scope="module")
def plugins(small_plugins: Plugins) -> Plugins:
    return small_plugins


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Run]:
    """A run of a network that is exported in a second: what the gate does is the same for all."""
    experiment = Experiment(
        data=str(data), backbone="small/plain", strategy="full", weights="none", image_size=32, epochs=2, lr=0.02,
        batch_size=8, device="cpu",
    )  # fmt: skip
    run = train(experiment, out=tmp_path_factory.mktemp("trained") / "run", plugins=plugins)
    before = digest(run.path)
    yield run
    assert digest(run.path) == before


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """The run's network is made a graph once for all tests, which are about what becomes of it."""
    made: dict[tuple[str, Any, str | None], bytes] = {}

    def once(model: nn.Module, size: Any, head: str | None = None) -> ExportedNetwork:
        key = digest_of_state(model), size, head
        if key not in made:
            made[key] = pickle.dumps(export_network(model, size, head))
        found: ExportedNetwork = pickle.loads(made[key])  # noqa: S301 (it was made here)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_onnx.write.export_network", once)
        yield


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(trained.path, tmp_path / "run"))


def files(run: Run) -> set[str]:
    return {path.name for path in run.path.iterdir() if path.name != LOCK_FILE}


def test_run_and_file_agree_everywhere(run: Run, data: Path, plugins: Plugins) -> None:
    done = export(run, plugins=plugins)
    assert done.parity.passed and done.parity.images == 10 and done.parity.largest_difference < 1e-3
    assert files(run) >= {"model.onnx"} and not [name for name in files(run) if name.startswith(".")]
    ours, theirs = (evaluate(model, split="test", plugins=plugins) for model in (run, done.path))
    assert ours.metrics["accuracy"] == theirs.metrics["accuracy"]
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-3)
    assert run.looks("test") == 2  # a look through the file is a look
    photos = sorted((data / "val").rglob("*.jpg"))
    a, b = (predict(model, photos, plugins=plugins)[0] for model in (run, done.path))
    assert [one.top[0][0] for one in a] == [one.top[0][0] for one in b]
    with pytest.raises(UsageError, match="`--split` needs `--data`"):
        verify(done.path, split="val", plugins=plugins)
    checks = verify(done.path, data=str(data), plugins=plugins)
    assert all(check.passed for check in checks) and checks[-1].name == "photographs"


def test_a_file_with_other_predictions_is_not_kept(run: Run, plugins: Plugins) -> None:
    table = run.predictions()
    flipped = Predictions(
        split=table.split,
        classes=table.classes,
        ids=table.ids,
        labels=table.labels,
        logits=table.logits[:, ::-1].copy(),
    )
    flipped.save(run.path / "predictions-val.safetensors")
    before = files(run)
    with pytest.raises(ZooError, match=r"predictions differ from .* not kept: 0 of 10 labels") as error:
        export(run, plugins=plugins)
    assert "val/" in error.value.message and files(run) == before


def test_changed_preprocessing_is_not_kept(run: Run, plugins: Plugins) -> None:
    record = read_json(run.path / "run.json")
    record["preprocess"]["mean"] = [0.9, 0.1, 0.9]
    write_json(run.path / "run.json", record)
    with pytest.raises(ZooError, match="was not kept"):
        export(run.path, plugins=plugins)
    assert "model.onnx" not in files(run)


def test_changed_photographs_are_noticed(run: Run, data: Path, tmp_path: Path, plugins: Plugins) -> None:
    other = make_photos(tmp_path / "other", {"train": 10, "val": 3, "test": 4})
    with pytest.raises(ZooError, match="is not among the photographs"):
        export(run, data=str(other), plugins=plugins)
    shutil.rmtree(other)
    shutil.copytree(data, other)
    (other / "val/red/000.jpg").write_bytes((other / "val/red/001.jpg").read_bytes())
    with pytest.raises(ZooError, match="the photographs changed"):
        export(run, data=str(other), plugins=plugins)
    assert "model.onnx" not in files(run)


def test_a_writer_that_fails_leaves_nothing(run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(spec: ExportSpec) -> None:
        spec.file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    broken = Exporter(name="onnx", summary="x", suffix=".onnx", write=write, open="a:b", verify="a:b")
    entry = plugins.exporters.find("onnx")
    monkeypatch.setattr(plugins.exporters, "find", lambda name: type(entry)("test", broken))
    before = files(run)
    with pytest.raises(ZooError, match="No space left on device"):
        export(run, plugins=plugins)
    assert files(run) == before


def standing_in(plugins: Plugins, patch: pytest.MonkeyPatch, **verbs: object) -> None:
    """Have the ONNX exporter answer otherwise."""
    entry = plugins.exporters.find("onnx")
    changed = replace(entry.value, **verbs)  # type: ignore[arg-type]
    patch.setattr(plugins.exporters, "find", lambda name: type(entry)("test", changed))


def raising(*given: object) -> None:
    raise ValueError("a graph of\nanother kind")


@pytest.mark.parametrize(
    ("verbs", "message"),
    [
        ({"stages": raising}, "cannot be compared stage by stage: a graph of another kind"),
        ({"write": raising}, "the file cannot be written: ValueError: a graph of another kind"),
        (
            {"verify": lambda *given: [Check(name="weights", passed=False, detail="one was changed")]},
            "so it was not kept: weights: one was changed",
        ),
    ],
)
def test_a_file_that_cannot_be_compared_is_not_kept(
    verbs: dict[str, object], message: str, run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(plugins, monkeypatch, **verbs)
    before = files(run)
    with pytest.raises(ZooError, match=message):
        export(run, plugins=plugins)
    assert files(run) == before


def truncating(file: Path, summary: object) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def test_the_annotated_file_is_verified_again(run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written into it after it was compared may damage it."""
    standing_in(plugins, monkeypatch, annotate=truncating)
    before = files(run)
    with pytest.raises(ZooError):
        export(run, plugins=plugins)
    assert files(run) == before


def test_a_file_that_this_machine_cannot_execute_is_not_said_to_be_compared(
    run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[dict[str, Any]] = []
    standing_in(
        plugins,
        monkeypatch,
        executable=lambda: "it runs elsewhere",
        open=raising,  # not asked
        verify=lambda *given: [Check(name="golden inputs", passed=False, skipped=True, detail="it runs elsewhere")],
        annotate=lambda file, summary: recorded.append(summary),
    )
    done = export(run, plugins=plugins)
    assert "model.onnx" in files(run) and done.comparison is None and done.not_compared == "it runs elsewhere"
    assert recorded == [{"compared": False, "reason": "it runs elsewhere"}]
    with refused(ZooError, "model.onnx` was not compared", "it runs elsewhere"):
        assert done.parity.passed
    for precision in ("int8", "auto"):
        with refused(ZooError, f"--precision {precision}", "it runs elsewhere"):
            export(run, precision=precision, force=True, plugins=plugins)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_record_of_other_preprocessing_is_refused(
    run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Graph and record agree with each other but not with the run; in fp16 no other check would find it."""
    write = load_target(plugins.exporters.find("onnx").value.write)

    def otherwise(spec: ExportSpec) -> None:
        other: Interpolation = "bilinear" if spec.preprocess.interpolation == "bicubic" else "bicubic"
        write(replace(spec, preprocess=replace(spec.preprocess, interpolation=other)))

    standing_in(plugins, monkeypatch, write=otherwise)
    with pytest.raises(ZooError, match="other preprocessing than the run"):
        export(run, precision=precision, plugins=plugins)
    assert "model.onnx" not in files(run)


def test_a_file_for_both_devices_is_compared_on_both(run: Run, plugins: Plugins) -> None:
    """Where a CUDA provider is taken of itself, the CPU's is held to the run as well."""

    class Other:
        def __init__(self, device: str) -> None:
            self.real = open_onnx(path_of[0], "cpu")
            self.classes, self.preprocess = self.real.classes, self.real.preprocess
            self.device = "CUDAExecutionProvider:0" if device == "auto" else "CPUExecutionProvider"
            self.sign = 1 if device == "auto" else -1

        def logits(self, photographs: Sequence[np.ndarray]) -> np.ndarray:
            found: np.ndarray = self.real.logits(photographs) * self.sign
            return found

    path_of: list[Path] = []

    def opened(path: Path, device: str) -> Other:
        path_of[:] = [path]
        return Other(device)

    with pytest.MonkeyPatch.context() as patch:
        standing_in(plugins, patch, open=opened)
        with pytest.raises(ZooError, match="predictions differ from the run"):
            export(run, plugins=plugins)
    assert export(run, device="auto", precision="fp32", plugins=plugins, force=True).parity.passed


def test_an_existing_file_needs_force(run: Run, plugins: Plugins) -> None:
    (run.path / "model.onnx").write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists"):
        export(run, plugins=plugins)
    assert (run.path / "model.onnx").read_bytes() == b"precious"
    with pytest.raises(UsageError, match=r"does not end in `\.onnx`"):
        export(run, out=run.path / "model.bin", plugins=plugins)
    with pytest.raises(UsageError, match="unknown exporter `onx`") as error:
        export(run, to="onx", plugins=plugins)
    assert error.value.hint is not None and "`onnx`" in error.value.hint


def test_files_contain_no_local_paths(run: Run, data: Path, plugins: Plugins) -> None:
    done = export(run, plugins=plugins)
    assert str(data).encode() not in done.path.read_bytes()
    assert str(run.path).encode() not in done.path.read_bytes()


def table(logits: list[list[float]], ids: tuple[str, ...] = ("a", "b")) -> Predictions:
    return Predictions(
        split="val",
        classes=("x", "y"),
        ids=ids,
        labels=np.zeros(len(ids), np.int64),
        logits=np.array(logits, np.float32),
    )


def test_compare_matches_images_by_name_and_lists_flips() -> None:
    ours, theirs = table([[2, 0], [0, 2]]), table([[0, 2], [2, 0]], ("b", "a"))
    assert compare(ours, theirs).passed
    parity = compare(ours, table([[2, 0], [2, 0]]))
    assert not parity.passed and (parity.agreeing, parity.images) == (1, 2)
    assert str(parity.flips[0]) == "b: run y 0.8808, file x 0.8808" and parity.flips[0].label == "x"
    near = compare(ours, table([[2.2, 0], [0, 2]]))
    assert near.agreeing == 2 and near.largest_difference > TOLERANCE and not near.passed
    with pytest.raises(ZooError, match="`b` is not among the photographs"):
        compare(ours, table([[2, 0]], ("a",)))


@hypothesis.settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 400),
    lost=st.integers(0, 60),
    gained=st.integers(0, 10),
    wrong=st.integers(0, 60),
    max_drop=st.sampled_from([0.0, 0.01, 0.1]),
)
def test_the_interval_decides_what_is_lost(images: int, lost: int, gained: int, wrong: int, max_drop: float) -> None:
    kinds = ([(True, False)] * lost + [(False, True)] * gained + [(False, False)] * wrong)[:images]
    pairs = np.array(kinds + [(True, True)] * (images - len(kinds)))
    run_right, right = pairs[:, 0], pairs[:, 1]
    low, high = paired_difference_interval(run_right, right)
    found = verdict((low, high), max_drop)
    assert (found == "exceeds") == (low > max_drop) and (found == "within") == (high <= max_drop)
    needed = images_to_tell(run_right, right, max_drop)
    assert needed is None or (found == "undecided" and needed > images)


def test_how_many_images_would_tell() -> None:
    same = np.ones(153, np.bool_)
    needed = images_to_tell(same, same, 0.01)
    assert needed is not None and 380 <= needed <= 420  # 3.84 / 0.01, of Wilson's interval without a difference
    assert images_to_tell(np.ones(500, np.bool_), np.ones(500, np.bool_), 0.01) is None
    one, two = (np.arange(153) >= lost for lost in (1, 2))  # 0.0065 and 0.0131: the same verdict
    assert {verdict(paired_difference_interval(same, some), 0.01) for some in (one, two)} == {"undecided"}
    assert verdict(paired_difference_interval(same, np.arange(153) >= 20), 0.01) == "exceeds"


def test_max_drop_bounds_the_accuracy_lost_in_fp16_and_int8() -> None:
    ours = table([[0.03, 0], [0, 0.03], [0.03, 0], [0.03, 0]], ("a", "b", "c", "d"))  # all show x: three are right
    theirs = table([[0.02, 0], [0.02, 0], [0, 0.02], [0, 0.02]], ("a", "b", "c", "d"))  # two of four; three flips
    parity = compare(ours, theirs, precision="int8", max_drop=0.25)
    assert parity.passed and parity.drop == pytest.approx(0.25) and len(parity.flips) == 3
    assert parity.verdict == "undecided" and "4 images do not tell whether more than 0.25 is lost" in str(parity)
    unsure = table([[3, 0], [0, 3], [3, 0], [3, 0]], ("a", "b", "c", "d"))
    soft = compare(ours, unsure, precision="int8", max_drop=0.25)
    assert soft.agreeing == 4 and soft.mean_difference > 0.3 and not soft.passed  # labels hold, probabilities do not
    lost = replace(unsure, logits=np.full((4, 2), np.nan, np.float32))
    assert not compare(ours, lost, precision="fp16", max_drop=1.0).passed
    resize = StageDifference(name="resize", largest=9, mean=1, bound=2, unit="grey levels")
    assert not compare(ours, ours, precision="int8", max_drop=1.0, stages=(resize,)).passed
    unbound = replace(resize, name="network", bound=None)  # as in fewer bits
    assert compare(ours, ours, precision="int8", max_drop=1.0, stages=(unbound,)).passed and "(may" not in str(unbound)
    assert not compare(ours, ours, stages=(replace(unbound, bound=0.003),)).passed
    assert parity.drop_per_class == {"x": pytest.approx(0.25)} and "int8 accuracy 0.5000" in str(parity)
    low, high = parity.drop_interval
    assert (
        paired_difference_interval(ours.correct, ours.correct)[1] > 0
    )  # nothing differs, and four photographs prove little
    assert (low, high) == paired_difference_interval(ours.correct, theirs.correct)  # what is lost counts as positive
    assert low < 0.25 < high and parity.flip_interval[0] < 0.75 < parity.flip_interval[1]
    assert "flips" not in parity.summary() and len(parity.to_json()["flips"]) == 3


def candidate(precision: str, middle: float, told_apart: bool = True) -> PrecisionCandidate:
    return PrecisionCandidate(precision=precision, latency=(middle, middle * 0.9, middle * 1.1), told_apart=told_apart)


def test_the_fastest_precision_wins_if_significantly_faster() -> None:
    plain, half, eight = candidate("fp32", 10), candidate("fp16", 20), candidate("int8", 5, told_apart=False)
    assert fastest([plain, half, eight]) is eight
    assert fastest([candidate("fp32", 10, told_apart=False), half, eight]).precision == "fp32"
    assert fastest([half, eight]) is eight  # fp32 did not pass
    assert fastest([PrecisionCandidate(precision="fp32"), eight]).precision == "fp32"  # it could not be timed


def test_int8_of_a_run_is_written_and_verified_as_such(run: Run, data: Path, plugins: Plugins) -> None:
    done = export(run, precision="int8", max_drop=0.3, calibration=8, plugins=plugins)
    assert done.parity.precision == "int8" and done.parity.drop <= 0.3 and not done.candidates
    assert {stage.name: stage.bound for stage in done.parity.stages} == {"decode": 0, "resize": 2, "network": None}
    checks = verify(done.path, data=str(data), plugins=plugins)
    assert all(check.passed for check in checks) and "int8 accuracy" in checks[-1].detail


def test_auto_reports_every_precision(run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.exporting.precision_search, "TIMED", 0.05)
    done = export(run, precision="auto", max_drop=0.3, calibration=8, plugins=plugins)
    assert [one.precision for one in done.candidates] == ["fp32", "fp16", "int8"]
    assert all(one.failure or (one.latency and one.size and one.parity) for one in done.candidates)
    assert done.parity.precision == fastest([one for one in done.candidates if not one.failure]).precision
    assert not [name for name in files(run) if name.startswith(".")]


def test_unsupported_precisions_are_usage_errors(run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run)
    for settings, message in (
        ({"precision": "int4"}, "unknown precision `int4`"),
        ({"precision": "int8", "to": "pt2"}, "`pt2` has no int8"),
        ({"preprocessing": "graph", "to": "pt2"}, "`pt2` has no preprocessing `graph`"),
        ({"precision": "int8", "max_drop": 1.5}, "a drop of `1.5`"),
        ({"precision": "int8", "calibration": 1}, "1 photograph is too few"),
        ({"max_drop": 0.1}, "`--max-drop` is for fp16 and int8"),
        ({"precision": "fp16", "calibration": 9}, "`--calibration` is for int8"),
        ({"data": ""}, "`--data` is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            export(run, plugins=plugins, **settings)
    monkeypatch.setattr(Run, "fitted", lambda self: {"train/red/000.jpg"})
    with pytest.raises(ZooError, match=r"int8 needs 16 .*training photographs, and only 1"):
        export(run, precision="int8", plugins=plugins)
    assert files(run) == before
    monkeypatch.setattr(zoo.exporting.writing, "time_candidates", lambda candidates, *rest: list(candidates))
    done = export(run, precision="auto", max_drop=0.3, plugins=plugins)  # the others are written all the same
    assert [(one.precision, bool(one.failure)) for one in done.candidates][-1] == ("int8", True)


def test_photographs_prepared_outside(run: Run, plugins: Plugins) -> None:
    done = export(run, preprocessing="outside", plugins=plugins)
    assert done.parity.passed
    assert all(check.passed for check in verify(done.path, plugins=plugins))
    ours, theirs = (evaluate(model, split="test", plugins=plugins) for model in (run, done.path))
    assert ours.metrics["accuracy"] == theirs.metrics["accuracy"]


def test_calibration_photographs_are_spread_over_the_classes() -> None:
    samples = [Sample(id=f"{name}{number}", label=name, source=Path("x")) for name in "abcdefgh" for number in range(6)]
    chosen = balanced_order(samples, 0)
    assert len({sample.id for sample in chosen}) == len(samples)
    for count in (8, 12, 20):
        found = Counter(sample.label for sample in chosen[:count])
        assert max(found.values()) - min(found[name] for name in "abcdefgh") <= 1
    assert {sample.label for sample in chosen[:4]} != {sample.label for sample in balanced_order(samples, 1)[:4]}


def test_files_beside_the_target_need_force(run: Run, plugins: Plugins, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    out.mkdir()
    (out / "m.onnx.data").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"m\.onnx\.data` exists"):
        export(run, out=out / "m.onnx", plugins=plugins)
    assert (out / "m.onnx.data").read_bytes() == b"precious"
    export(run, out=out / "m.onnx", force=True, plugins=plugins)
    assert [file.name for file in out.iterdir()] == ["m.onnx"]  # weights of an older one would be of nobody


def test_openvino_of_a_run(run: Run, plugins: Plugins) -> None:
    done = export(run, to="openvino", plugins=plugins)
    assert done.parity.passed and {"model.xml", "model.bin"} <= files(run)
    assert all(check.passed for check in verify(done.path, plugins=plugins))
    with pytest.raises(UsageError, match="run on cpu, not on `cuda`"):
        zoo.exporting.writing._check_device(plugins.exporters.find("openvino").value, "cuda")


@pytest.mark.parametrize(
    ("to", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("pt2", "fp32"), ("openvino", "fp32")]
)
def test_exports_of_a_run_are_equal_byte_for_byte(
    run: Run, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, precision: Precision
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    suffix = plugins.exporters.find(to).value.suffix
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / f"model{suffix}"
        options: dict[str, Any] = {"max_drop": 0.3, "calibration": 8} if precision == "int8" else {}
        export(run, to=to, precision=precision, out=file, plugins=plugins, **options)
        found.append({one.name: one.read_bytes() for one in file.parent.iterdir()})
    assert found[0] == found[1]
    assert any(b"2023-11-14T22:13:20+00:00" in content for content in found[0].values())


def test_a_time_that_is_none_is_refused(run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with refused(UsageError, "SOURCE_DATE_EPOCH=yesterday", "seconds", "1970"):
        file_metadata(run)
