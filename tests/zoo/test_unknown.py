"""Unknown images: the score, its threshold, and both from a run through an exported file to the answers of a server."""

from __future__ import annotations

import base64
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_support import Client, served
from tests_support import TINY, make_photos

from zoo import (
    Experiment,
    Plugins,
    Predictions,
    Run,
    UsageError,
    ZooError,
    evaluate,
    export,
    inspect,
    plan,
    predict,
    resume,
    train,
    train_final,
    verify,
)
from zoo.evaluation.unknown_images import area, compare_unknown, passing
from zoo.exporting.parity import compare
from zoo.exporting.unknown_parity import UNKNOWN_TOLERANCE
from zoo.predictor import ask, threshold_of
from zoo.reports.html import report
from zoo.runs.run import UNKNOWN_FILE
from zoo.serving import open_inference
from zoo.serving.bounds import Rejection
from zoo.serving.served_model import open_served
from zoo.studies.study import Study
from zoo.training import session
from zoo.unknown import Space, UnknownScore, _limits, exceeds, fewest_images, fit_unknown
from zoo_cli.main import run as run_zoo
from zoo_onnx.serve import open_to_serve

RATE = 0.16  # 12 images are just enough for both parts of the score


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("known"), {"train": 12, "val": 6, "test": 3})


@pytest.fixture(scope="module")
def green(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of no class."""
    return make_photos(tmp_path_factory.mktemp("strange"), {"": 6}, ("green",))


@pytest.fixture(scope="module")
def experiment(photos: Path) -> Experiment:
    return replace(TINY, data=str(photos), backbone="small/plain", strategy="linear", unknown_rate=RATE)


@pytest.fixture(scope="module")
def run(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory, small_plugins: Plugins) -> Run:
    """A finished run with a threshold, and its `model.onnx`."""
    found = train(experiment, out=tmp_path_factory.mktemp("runs") / "run", plugins=small_plugins)
    export(found, plugins=small_plugins)
    return found


def _fit(features: np.ndarray, labels: np.ndarray, held: np.ndarray, rate: float = RATE) -> UnknownScore:
    logits = np.random.default_rng(9).normal(size=(len(held), 3)).astype(np.float32)
    return fit_unknown(
        rate=rate, split="val", head="head", features=features, labels=labels, held_logits=logits, held_features=held
    )


# the score


@given(st.integers(0, 10_000), st.integers(9, 200), st.sampled_from([0.01, 0.05, 0.1, 0.2]))
@settings(max_examples=60, deadline=None)
def test_as_many_held_out_images_are_above_the_threshold_as_the_rate_allows(seed: int, count: int, rate: float) -> None:
    count = max(count, fewest_images(rate))
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(30, 4)).astype(np.float32)
    held = generator.normal(size=(count, 4)).astype(np.float32)
    score = _fit(features, np.arange(30) % 3, held, rate)
    logits = np.random.default_rng(9).normal(size=(count, 3)).astype(np.float32)
    values = score.scores(logits, held)
    # of n + 1 exchangeable images at most rate x (n + 1) may rank above the threshold; with two parts it steps by two
    allowed = math.floor(round(rate * (count + 1), 6)) - 1
    both = count >= fewest_images(rate, 2)
    assert score.threshold.parts == (("confidence", "distance") if both else ("distance",))
    assert exceeds(values).sum() <= allowed
    assert exceeds(values).sum() >= allowed - 3 * both
    assert np.median(values) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("rate", "count"), [(0.2, 4), (0.2, 9), (0.1, 9), (0.1, 19), (0.05, 39)])
@pytest.mark.parametrize("kind", ["apart", "discrete", "heavy"])
def test_false_alarms_of_new_images_have_the_rate(rate: float, count: int, kind: str) -> None:
    """Also with as few images as may be, where two parts in the unit of their quantiles had twice the rate."""
    generator = np.random.default_rng(1)
    means = 3 * np.eye(3, 4)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        noise = generator.standard_t(1.5, (number, 4)) if kind == "heavy" else generator.normal(size=(number, 4))
        features = means[generator.integers(0, 3, number)] + noise
        features = np.round(features) if kind == "discrete" else features
        return generator.normal(size=(number, 3)) if kind == "apart" else 0.3 * features @ means.T, features

    shares = []
    for _ in range(150):
        fitted, labels = draw(60)[1], np.arange(60) % 3
        logits, held = draw(count)
        score = fit_unknown(
            rate=rate, split="val", head="", features=fitted, labels=labels, held_logits=logits, held_features=held
        )
        shares.append(exceeds(score.scores(*draw(200))).mean())
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert 0.25 * rate < np.mean(shares) <= rate + 2 * error


@pytest.mark.parametrize("seed", range(12))
def test_limits_have_the_lowest_rank_for_which_the_rate_is_proven(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count, rate, most = 29, 0.2, 6  # most: of 30 exchangeable images
    one, other = (1 + generator.permutation(count) for _ in range(2))

    def proven(rank: int) -> bool:
        """Whether, besides an image that exceeds `rank - 1` of a part, few enough images may be as strange."""
        pairs = ((one, other), (other, one))
        return all(1 + int(((own >= rank) | (rest >= rank - 1)).sum()) <= most for own, rest in pairs)

    rank = next(rank for rank in range(2, count + 2) if proven(rank)) - 1
    limits = _limits([one.astype(float), other.astype(float)], rate)
    assert [math.floor(limit) for limit in limits] == [rank, rank]


def test_a_score_of_both_parts_needs_twice_as_many_images() -> None:
    generator = np.random.default_rng(6)
    features, held = generator.normal(size=(30, 4)), generator.normal(size=(199, 4))
    assert fewest_images(0.01, 2) == 199 and fewest_images(0.2, 2) == 9
    assert _fit(features, np.arange(30) % 3, held, 0.01).threshold.parts == ("confidence", "distance")
    assert _fit(features, np.arange(30) % 3, held[:198], 0.01).threshold.parts == ("distance",)


def test_a_confidence_that_float32_cannot_tell_is_left_out() -> None:
    """Its scores in a file would be steps of 6e-8 in a unit that is no larger."""
    generator = np.random.default_rng(7)
    features, held = generator.normal(size=(30, 4)), generator.normal(size=(99, 4))
    for spread, parts in ((8, ("confidence", "distance")), (18, ("distance",))):
        logits = np.c_[spread + generator.uniform(0, 1, 99), np.zeros(99)]
        found = fit_unknown(
            rate=0.05, split="val", head="", features=features, labels=np.arange(30) % 2, held_logits=logits,
            held_features=held,
        )  # fmt: skip
        assert found.threshold.parts == parts


@pytest.mark.parametrize(("count", "width"), [(40, 6), (12, 30)])
def test_the_distance_is_that_of_mahalanobis(count: int, width: int) -> None:
    generator = np.random.default_rng(2)
    labels = np.arange(count) % 2
    features = (generator.normal(size=(count, width)) * np.linspace(3, 0.5, width) + 5 * labels[:, None]).astype("f4")
    space = Space.fit(features, labels)
    assert space is not None
    # the covariance of probabilistic principal components, written out
    means = np.stack([features[labels == each].mean(0, dtype=np.float64) for each in (0, 1)])
    inner = features - means[labels]
    values, vectors = np.linalg.eigh(inner.T @ inner / (count - 2))
    kept = space.directions.shape[1]
    order = np.argsort(-values)
    spread = np.r_[values[order[:kept]], np.full(width - kept, values[order[kept:]].mean())]
    covariance = (vectors[:, order] * spread) @ vectors[:, order].T
    fresh = generator.normal(size=(20, width)) * 4
    apart = fresh[:, None] - means
    wanted = np.einsum("ncd,de,nce->nc", apart, np.linalg.inv(covariance), apart).min(1)
    np.testing.assert_allclose(space.distances(fresh), wanted, rtol=1e-4)


def test_a_score_is_stored_and_read_without_a_change(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    features, held = generator.normal(size=(30, 5)).astype("f4"), generator.normal(size=(20, 5)).astype("f4")
    score = _fit(features, np.arange(30) % 3, held)
    score.save(tmp_path / "score")
    again = UnknownScore.load(tmp_path / "score")
    logits = generator.normal(size=(20, 3)).astype("f4")
    assert again.threshold == score.threshold and again.head == score.head
    np.testing.assert_array_equal(again.scores(logits, held), score.scores(logits, held))
    (tmp_path / "score").write_bytes((tmp_path / "score").read_bytes()[:-9])
    with pytest.raises(ZooError, match="cannot be read"):
        UnknownScore.load(tmp_path / "score")


def test_a_part_that_is_the_same_for_all_images_is_left_out() -> None:
    generator = np.random.default_rng(4)
    features, held = generator.normal(size=(30, 5)).astype("f4"), generator.normal(size=(20, 5)).astype("f4")
    sure = np.tile(np.array([9, 0, 0], np.float32), (20, 1))
    asked: dict[str, Any] = {"rate": RATE, "split": "val", "head": "", "labels": np.arange(30) % 3, "held_logits": sure}
    assert fit_unknown(**asked, features=features, held_features=held).threshold.parts == ("distance",)
    with pytest.raises(ZooError, match="equally strange"):
        fit_unknown(**asked, features=None, held_features=None)
    copies = np.ones((30, 5), np.float32)
    assert Space.fit(copies, np.arange(30) % 3) is None  # no variance within the classes


# figures


def test_figures_are_those_of_sklearn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(5)
    known, strange = generator.integers(0, 9, 40) / 4, generator.integers(2, 12, 30) / 4
    truth = np.r_[np.zeros(40), np.ones(30)]
    assert area(known, strange) == pytest.approx(roc_auc_score(truth, np.r_[known, strange]))
    limit = min(value for value in known if (known <= value).mean() >= 0.95)
    assert passing(known, strange) == (strange <= limit).sum()


def _table(scores: list[float], groups: tuple[str, ...] | None = None) -> Predictions:
    count = len(scores)
    return Predictions(
        split="val", classes=("a", "b"), ids=tuple(map(str, range(count))), labels=np.zeros(count, np.int64),
        logits=np.zeros((count, 2), np.float32), unknown=np.array(scores, np.float32), groups=groups,
    )  # fmt: skip


def test_groups_widen_the_interval_of_false_alarms() -> None:
    scores = [2.0] * 5 + [0.0] * 45
    alone = compare_unknown(_table(scores), np.ones(3) * 2, data="", rate=0.1)
    grouped = compare_unknown(
        _table(scores, tuple(str(index // 5) for index in range(50))), np.ones(3) * 2, data="", rate=0.1
    )
    assert alone.false_alarms == grouped.false_alarms == 5
    assert grouped.false_alarms_interval[1] > alone.false_alarms_interval[1]


# parity


@pytest.mark.parametrize(
    ("file", "passes"),
    [
        ([0.0, 0.5, 1.3, 0.0], True),
        ([0.0, 0.5 + 0.9 * UNKNOWN_TOLERANCE, 1.3, 0.0], True),
        ([0.0, 0.5 + 1.1 * UNKNOWN_TOLERANCE, 1.3, 0.0], False),  # too far
        ([0.0, 0.5, 1.3, math.nan], False),
    ],
)
def test_a_file_in_fp32_is_kept_only_if_its_scores_are_near_the_runs(file: list[float], passes: bool) -> None:
    found = compare(_table([0.0, 0.5, 1.3, 0.0]), _table(file))
    assert found.labels_passed and found.passed is passes


def test_a_decision_may_change_only_at_the_threshold() -> None:
    near = compare(_table([0.0, 1.01]), _table([0.0, 0.99])).unknown
    assert near is not None and len(near.changed) == 1 and near.passed
    far = compare(_table([0.0, 1.05]), _table([0.0, 0.98])).unknown
    assert far is not None and far.largest_difference < UNKNOWN_TOLERANCE and not far.passed
    more = compare(_table([0.0] * 99), _table([1.2] * 99), precision="int8", max_drop=0.01).unknown
    assert more is not None and not more.passed  # all of them became false alarms
    with pytest.raises(ZooError, match="the run scores how strange images are, and the file does not"):
        compare(_table([0.0]), replace(_table([0.0]), unknown=None))


# from the run to the file


def test_run_and_file_give_the_same_scores_and_decisions(
    run: Run, photos: Path, green: Path, small_plugins: Plugins
) -> None:
    file = run.path / "model.onnx"
    images = [str(photos / "val"), str(green)]
    ours, theirs = (predict(model, images, plugins=small_plugins)[0] for model in (run, file))
    assert len(ours) == 18 and {one.unknown for one in ours[12:]} == {True}
    assert [one.unknown for one in ours] == [one.unknown for one in theirs]
    for one, other in zip(ours, theirs):
        assert one.unknown_score is not None and other.unknown_score is not None
        assert abs(one.unknown_score - other.unknown_score) <= UNKNOWN_TOLERANCE * max(1, abs(one.unknown_score))
    stored = run.predictions().unknown
    assert stored is not None and stored.tolist() == pytest.approx([one.unknown_score for one in ours[:12]], abs=1e-3)
    assert run.record["unknown"]["images"] == 12 and run.record["unknown"]["rate"] == RATE


def test_the_file_has_a_third_output_and_says_how_its_threshold_was_set(run: Run, small_plugins: Plugins) -> None:
    file = run.path / "model.onnx"
    told = inspect(file, plugins=small_plugins)
    assert told["outputs"] == ["probabilities float (N, 2)", "logits float (N, 2)", "unknown float (N)"]
    assert told["metadata"]["zoo.unknown"] == run.record["unknown"]
    assert told["parity"]["unknown"]["agreeing"] == 12
    assert set(told["metadata"]["zoo.golden"]["unknown"]) == set(told["metadata"]["zoo.golden"]["logits"])
    assert all(check.passed for check in verify(file, data=run.experiment.data, plugins=small_plugins))


@pytest.mark.parametrize("constant", ["unknown_origin", "unknown_distance_offset", "unknown_normals"])
def test_verify_finds_a_changed_score_though_all_digests_were_renewed(
    run: Run, constant: str, tmp_path: Path, small_plugins: Plugins
) -> None:
    from onnx import numpy_helper

    from zoo_onnx import metadata as meta

    model = onnx.load(str(run.path / "model.onnx"))
    tensor = next(one for one in model.graph.initializer if one.name == constant)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value * 0 - 300, np.float32), constant))
    kept = [entry for entry in model.metadata_props if entry.key != meta.KEY_DIGESTS]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    digests = meta.encode(meta.digest_parts(model, meta.read(model)))
    entry = model.metadata_props.add()
    entry.key, entry.value = meta.KEY_DIGESTS, digests
    file = tmp_path / "changed.onnx"
    file.write_bytes(meta.seal(model))
    failed = [check for check in verify(file, plugins=small_plugins) if not check.passed]
    assert [check.name for check in failed] == ["golden inputs"] and "score of unknown images" in failed[0].detail


def test_the_script_without_zoo_checks_the_score(run: Run) -> None:
    from zoo_onnx.deployed import checks

    found = checks(run.path / "model.onnx", "CPUExecutionProvider")
    assert all(passed for passed, _ in found) and sum("`unknown` differs" in text for _, text in found) == 4


def test_a_served_file_scores_images_alone_and_across_sizes(run: Run, green: Path) -> None:
    file = run.path / "model.onnx"
    images = [np.asarray(Image.open(path)) for path in sorted(green.rglob("*.jpg"))]
    whole, cut = (open_to_serve(file, "cpu", 1, across) for across in (False, True))
    assert type(whole) is not type(cut) and threshold_of(cut) == threshold_of(whole) is not None
    one, other = ask(whole, images).unknown, ask(cut, images).unknown
    assert one is not None and other is not None
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_a_server_answers_unknown_in_every_protocol(run: Run, green: Path, small_plugins: Plugins) -> None:
    file = run.path / "model.onnx"
    model = open_served(file, name="model", device="cpu", threads=1, plugins=small_plugins)
    path = min(green.rglob("*.jpg"))
    (wanted,) = predict(file, path, plugins=small_plugins)[0]
    with served(model) as service:
        client = Client(service)
        answer = client("POST", "/predict", content=path.read_bytes()).json()
        assert answer["unknown"] is True and answer["unknown_score"] == pytest.approx(wanted.unknown_score, rel=1e-3)
        assert client("GET", "/models").json()["models"][0]["unknown"] == run.record["unknown"]
        assert client("GET", "/v2/models/model").json()["outputs"][-1] == {
            "name": "unknown", "datatype": "FP32", "shape": [-1],
        }  # fmt: skip
        tensor = {
            "name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(path.read_bytes()).decode()],
        }  # fmt: skip
        asked = {"inputs": [tensor], "outputs": [{"name": "unknown"}]}
        (output,) = client("POST", "/v2/models/model/infer", json=asked).json()["outputs"]
        assert output["shape"] == [1] and output["data"] == pytest.approx([wanted.unknown_score], rel=1e-3)
        every = client("POST", "/v2/models/model/infer", json={"inputs": [tensor]}).json()["outputs"]
        assert [one["name"] for one in every] == ["logits", "probabilities", "label", "unknown"]
    with pytest.raises(Rejection, match="there is `logits`, `probabilities` and `label`"):
        open_inference.wanted_outputs([{"name": "unknown"}], {}, 2)


def test_without_a_rate_nothing_changes(
    experiment: Experiment, tmp_path: Path, small_plugins: Plugins, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    plain = train(replace(experiment, unknown_rate=None), out=tmp_path / "plain", plugins=small_plugins)
    assert "unknown" not in plain.record and not (plain.path / UNKNOWN_FILE).exists()
    assert plain.record["weights_sha256"] == run.record["weights_sha256"]
    file = export(plain, plugins=small_plugins)
    told = inspect(file.path, plugins=small_plugins)
    assert "zoo.unknown" not in told["metadata"] and len(told["outputs"]) == 2
    assert "unknown" not in told["metadata"]["zoo.golden"] and "unknown" not in told["parity"]
    row = predict(file.path, experiment.data, plugins=small_plugins)[0][0]
    assert row.unknown is None and set(row.to_json()) == {"path", "label", "probability", "top"}
    assert "Unknown images" not in report(plain, plugins=small_plugins).html.read_text()
    with pytest.raises(UsageError, match="has no threshold for unknown images") as caught:
        evaluate(file.path, unknown=experiment.data, plugins=small_plugins)
    assert "--unknown-rate" in str(caught.value.hint)


# evaluation


def test_evaluate_compares_unknown_images_with_the_split(
    run: Run, photos: Path, green: Path, tmp_path: Path, small_plugins: Plugins
) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    found = evaluate(copy, split="test", unknown=green, plugins=small_plugins).to_json()["unknown"]
    assert (found["images"], found["known_images"], found["auroc"], found["flagged"]) == (6, 6, 1.0, 1.0)
    assert found["threshold_images"] == 0 and found["trained_on"] == 0 and found["fpr_at_95"] == 0
    own = evaluate(copy, unknown=photos / "train", plugins=small_plugins).unknown
    assert own is not None and own.trained_on == own.images == 24 and own.threshold_images == 12
    same = evaluate(copy, unknown=photos / "val", plugins=small_plugins).unknown
    assert same is not None and same.in_split == same.images == 12 and own.in_split == 0
    text = report(copy, photographs=False, plugins=small_plugins).html.read_text()
    assert "Unknown images" in text and f"folder:{green}" in text
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ZooError):
        evaluate(copy, unknown=tmp_path / "nothing", plugins=small_plugins)


def test_the_command_line_prints_scores_and_figures(run: Run, green: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.path / "model.onnx"
    assert run_zoo(["predict", str(file), str(green), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["unknown"] is True and row["unknown_score"] > 1 for row in rows)
    assert run_zoo(["predict", str(file), str(green)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split("\t")[3] == "unknown"
    assert run_zoo(["evaluate", str(file), "--unknown", str(green), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"]["auroc"] == 1


# what cannot be


@pytest.mark.parametrize("rate", [0.0, 1.0, math.nan, -0.1, 0.5])
def test_a_rate_is_a_share_above_0_and_up_to_a_fifth(rate: float) -> None:
    with pytest.raises(UsageError, match="--unknown-rate"):
        replace(TINY, unknown_rate=rate)


def test_too_few_images_are_told_before_training(
    experiment: Experiment, tmp_path: Path, small_plugins: Plugins, photos: Path
) -> None:
    with pytest.raises(ZooError, match=r"`--unknown-rate 0.01` needs 99 images in `val`.*there are 12") as caught:
        train(replace(experiment, unknown_rate=0.01), out=tmp_path / "run", plugins=small_plugins)
    assert "`--unknown-rate 0.077` is the lowest" in str(caught.value.hint) and not (tmp_path / "run").exists()
    with pytest.raises(ZooError, match=str(caught.value).partition(" needs")[0]):
        plan(replace(experiment, unknown_rate=0.01), plugins=small_plugins)
    data = tmp_path / "data"
    shutil.copytree(photos, data, ignore=shutil.ignore_patterns("val"))
    with pytest.raises(ZooError, match="has none"):
        train(replace(experiment, data=str(data)), out=tmp_path / "run", plugins=small_plugins)
    with pytest.raises(ZooError, match="has none"):
        plan(replace(experiment, data=str(data)), plugins=small_plugins)


def test_images_that_cannot_be_decoded_do_not_count(
    experiment: Experiment, tmp_path: Path, small_plugins: Plugins, photos: Path
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    for path in sorted((data / "val").rglob("*.jpg"))[::3] + sorted((data / "val").rglob("*.jpg"))[1::3]:
        path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(ZooError, match=r"needs 6 images in `val`.*there are 4"):
        train(replace(experiment, data=str(data), on_bad_image="skip"), out=tmp_path / "run", plugins=small_plugins)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("count", "rate"), [(12, 0.077), (99, 0.01), (19, 0.05), (9, 0.1), (4, 0.2), (999, 0.001)])
def test_the_lowest_rate_that_is_told_is_one_that_can_be_had(count: int, rate: float) -> None:
    assert fewest_images(rate) <= count < fewest_images(rate * 0.98)


def test_folds_final_runs_studies_and_other_formats_are_refused(
    experiment: Experiment, run: Run, tmp_path: Path, small_plugins: Plugins
) -> None:
    with pytest.raises(UsageError, match="`--folds` has none"):
        replace(experiment, folds=3)
    with pytest.raises(UsageError, match="a final run is trained on these"):
        train_final(run, out=tmp_path / "final", plugins=small_plugins)
    with pytest.raises(UsageError, match="`unknown_rate` is for one run"):
        Study(data="photos", backbones=("a",), strategies=("b",), settings={"unknown_rate": 0.1})
    with pytest.raises(UsageError, match="`pt2` files cannot have the score") as caught:
        export(run, to="pt2", out=tmp_path / "model.pt2", plugins=small_plugins)
    assert "--to onnx" in str(caught.value.hint)


# other heads, and a stopped run


@pytest.mark.parametrize("strategy", ["knn:3", "full"])
def test_any_head_has_a_score(
    strategy: str, experiment: Experiment, green: Path, tmp_path: Path, small_plugins: Plugins
) -> None:
    found = train(replace(experiment, strategy=strategy, epochs=None if "knn" in strategy else 1),
                  out=tmp_path / "run", plugins=small_plugins)  # fmt: skip
    file = export(found, plugins=small_plugins)
    assert file.parity.unknown is not None and file.parity.unknown.passed
    assert all(one.unknown for one in predict(file.path, green, plugins=small_plugins)[0])


def test_a_head_without_features_is_scored_by_its_confidence(
    experiment: Experiment, tmp_path: Path, small_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.training import unknown_fit

    monkeypatch.setattr(unknown_fit, "takes_vectors", lambda network, size: False)
    found = train(experiment, out=tmp_path / "run", plugins=small_plugins)
    assert found.record["unknown"]["parts"] == ["confidence"]
    file = export(found, plugins=small_plugins)
    assert file.parity.unknown is not None and file.parity.unknown.images == 12
    score = found.unknown_score()
    assert score is not None and score.space is None


def test_a_run_that_was_stopped_before_its_threshold_gets_the_same(
    experiment: Experiment, run: Run, tmp_path: Path, small_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "fit_score", stop)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, out=tmp_path / "run", plugins=small_plugins)
    again = resume(tmp_path / "run", plugins=small_plugins)
    assert again.record["unknown"] == run.record["unknown"]
    assert (again.path / UNKNOWN_FILE).read_bytes() == (run.path / UNKNOWN_FILE).read_bytes()


def test_a_damaged_score_is_told(run: Run, tmp_path: Path, green: Path, small_plugins: Plugins) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    (copy / UNKNOWN_FILE).unlink()
    with pytest.raises(ZooError, match="scores of unknown images"):
        predict(copy, green, plugins=small_plugins)


def test_the_score_of_another_run_is_told(run: Run, tmp_path: Path, green: Path, small_plugins: Plugins) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    score = UnknownScore.load(copy / UNKNOWN_FILE)
    replace(score, threshold=replace(score.threshold, images=99)).save(copy / UNKNOWN_FILE)
    with pytest.raises(ZooError, match="is not that of the run"):
        predict(copy, green, plugins=small_plugins)
