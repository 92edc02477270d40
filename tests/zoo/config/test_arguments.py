"""Arguments: one path counts as a list of one, and an object of the wrong kind is a usage error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.config.arguments import as_list


def test_one_value_is_a_list_of_one() -> None:
    assert as_list("photo.jpg") == ["photo.jpg"] and as_list(Path("a")) == [Path("a")]
    assert as_list(("a", "b")) == ["a", "b"] and as_list(3, int) == [3] and as_list([]) == []


@pytest.mark.parametrize("call", [zoo.train, zoo.plan])
@pytest.mark.parametrize("value", ["photos", None, {"data": "photos"}])
def test_an_experiment_is_asked_for_by_name(call: Any, value: object) -> None:
    with pytest.raises(zoo.UsageError, match=r"`zoo\.Experiment`"):
        call(value)


def test_one_run_is_compared_with_nothing_and_one_target_is_measured(exported_run: Path) -> None:
    run = zoo.Run.open(exported_run)
    assert zoo.Run.open(run) is run
    assert zoo.compare(run) is None and zoo.compare(str(exported_run)) is None
    report = zoo.bench(
        str(exported_run / "model.onnx"), runtimes="onnxruntime-cpu", batch_sizes=1, seconds=0.05, noise_floor=False
    )
    assert [outcome.runtime for outcome in report.outcomes] == ["runtimes/onnxruntime-cpu"]
