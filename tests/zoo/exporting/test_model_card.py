"""Model cards: metadata that a hub reads, figures with intervals, and nothing that Markdown trips over."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from zoo import Run, UsageError, ZooError, card, inspect
from zoo.exporting.model_card import LICENSES, write_card
from zoo_cli.main import run as run_zoo


def test_a_card_has_what_a_hub_reads_and_the_figures_of_the_run(
    exported_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(exported_run)
    text = card(run)
    found: Any = ModelCard(text)
    assert found.data.pipeline_tag == "image-classification" and found.data.library_name == "backbone-zoo"
    (accuracy,) = [one for one in found.data.eval_results or () if one.metric_type == "accuracy"]
    assert accuracy.metric_value == pytest.approx(run.metrics["accuracy"]) and accuracy.dataset_split == "val"
    low, high = run.record["accuracy_interval_95"]
    assert f"({low:.3f} to {high:.3f})" in text
    for part in ("## Use", "## Data", "## Figures", "## Settings", "## Limits", "## Licence"):
        assert part in text
    assert all(f"| {name} |" in text for name in run.classes) and "| `strategy` | `full` |" in text
    assert str(exported_run.parent) not in text and str(run.experiment.data) not in text  # no folder of this machine
    # the exported file holds it, and the command prints and writes it
    assert inspect(exported_run / "model.onnx")["metadata"]["zoo.card"] == text
    assert run_zoo(["card", str(exported_run)]) == 0
    assert capsys.readouterr().out == text
    target = tmp_path / "README.md"
    assert run_zoo(["card", str(exported_run), "--out", str(target)]) == 0 and target.read_text() == text
    assert run_zoo(["card", str(exported_run), "--out", str(target)]) == 2
    assert run_zoo(["card", str(exported_run), "--out", str(target), "--force"]) == 0
    assert run_zoo(["card", str(exported_run), "--out", str(tmp_path)]) == 2


def changed(run: Path, folder: Path, **changes: Any) -> Run:
    """A copy of a run with another record."""
    copied = shutil.copytree(run, folder)
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**record, **changes}))
    return Run.open(copied)


@pytest.mark.parametrize(
    ("license", "identifier", "name"),
    [("Apache-2.0", "apache-2.0", None), ("CC-BY-NC-4.0", "cc-by-nc-4.0", None), ("Own: v1", "other", "Own: v1")],
)
def test_the_licence_is_one_that_a_hub_knows_or_is_named(
    license: str, identifier: str, name: str | None, exported_run: Path, tmp_path: Path
) -> None:
    weights = {"tag": "default", "source": "timm/some_net.in1k", "sha256": None, "license": license}
    text = card(changed(exported_run, tmp_path / "run", weights=weights))
    found: Any = ModelCard(text).data
    assert (found.license, found.get("license_name"), found.base_model) == (identifier, name, "timm/some_net.in1k")
    assert "binds this model" in text and all(one == one.lower() for one in LICENSES)


def test_names_and_null_figures_do_not_break_it(exported_run: Path, tmp_path: Path) -> None:
    nasty = ["a|b`<script>*_", "red: # no"]
    metrics: dict[str, Any] = {"accuracy": None, "kappa": None, "loss": 0.5}
    run = changed(
        exported_run,
        tmp_path / "run",
        classes=nasty,
        metrics=metrics,
        undefined={"kappa": "all images are of one class"},
        data_name="folder:/secret/place/my: data|`x`",
    )
    table = run.predictions()
    replace(table, classes=tuple(nasty)).save(run.path / f"predictions-{table.split}.safetensors")
    text = card(run)
    assert "undefined: all images are of one class" in text and "NaN" not in text and "nan" not in text
    found: Any = ModelCard(text)
    assert found.data.eval_results is None  # without an accuracy, there is nothing to tell a hub
    assert "<script>" not in text.replace("\\<script\\>", "") and "/secret" not in text
    row = next(line for line in text.splitlines() if line.startswith("| a\\|b"))
    assert row.replace("\\|", "").count("|") == 6
    (run.path / f"predictions-{table.split}.safetensors").unlink()
    assert "Classes: a\\|b" in card(run)  # classes without figures


def test_a_run_that_is_not_finished_or_none_has_no_card(exported_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="is interrupted, not finished"):
        card(changed(exported_run, tmp_path / "run", status="interrupted"))
    with pytest.raises(UsageError, match="not a run"):
        card(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        write_card(exported_run, tmp_path / "none" / "README.md")


def test_a_card_replaces_no_file_of_a_run(exported_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(exported_run, tmp_path / "run")
    before = (run / "run.json").read_bytes()
    for name in ("run.json", "model.safetensors", "model.onnx", "splits.json", "predictions-val.safetensors"):
        with pytest.raises(UsageError, match="belongs to the run"):
            write_card(run, run / name, force=True)
    assert (run / "run.json").read_bytes() == before
    assert write_card(run, run / "README.md").is_file()


def test_a_soup_of_one_run_is_said_so(exported_run: Path, tmp_path: Path) -> None:
    part = {"run": "r", "id": "1", "weights_sha256": "0"}
    found = changed(
        exported_run, tmp_path / "run", soup={"ingredients": [part | {"taken": True}, part | {"taken": False}]}
    )
    text = card(found)
    assert "It is a soup of 1 run." in text and "Those of one of the runs that it was made of" in text
    assert "decided which runs" not in text
    text = card(
        changed(
            exported_run, tmp_path / "other", soup={**found.record["soup"], "chosen_on": found.record["reported_split"]}
        )
    )
    assert "- The reported images decided which runs were taken, too, so the figures are optimistic." in text


def test_a_card_says_whether_probabilities_are_calibrated(exported_run: Path, tmp_path: Path) -> None:
    for on, said in ((None, "Probabilities are not calibrated."), ("choose", "held-out images, temperature 1.5.")):
        temperature = {"value": 1.0 if on is None else 1.5, "fitted_on": on}
        assert said in card(changed(exported_run, tmp_path / str(on), temperature=temperature))
