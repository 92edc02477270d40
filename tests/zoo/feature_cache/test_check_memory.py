"""Splits that have passed their checks: they are not checked again unless something has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.feature_cache.check_memory import CheckMemory
from zoo.feature_cache.split_network import SplitNetwork
from zoo.storage.tensor_store import Store

HEAD = {"2.weight", "2.bias"}
IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Flatten):
    by = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.by


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each time that the rest of a network was computed, as only a whole check does."""
    done: list[int] = []
    rest = SplitNetwork.rest

    def counted(self: SplitNetwork, *rows: torch.Tensor) -> torch.Tensor:
        done.append(1)
        return rest(self, *rows)

    monkeypatch.setattr(SplitNetwork, "rest", counted)
    return done


def split(model: nn.Module, store: Store, versions: str = "1") -> SplitNetwork:
    return SplitNetwork(model, HEAD, IMAGES, None, CheckMemory(store, {"versions": versions}))


def test_what_has_passed_is_not_checked_again(tmp_path: Path, checks: list[int]) -> None:
    torch.manual_seed(0)
    first_layer, scaled = nn.Conv2d(3, 2, 3), Scaled()
    model = nn.Sequential(first_layer, scaled, nn.Linear(72, 2)).eval()
    first = split(model, Store(tmp_path))
    assert len(checks) == 1
    again = split(model, Store(tmp_path))
    assert len(checks) == 1 and again.digest() == first.digest() and 0 < again.seconds <= first.seconds
    scaled.by = 2.0  # the code of a layer
    split(model, Store(tmp_path))
    assert len(checks) == 2
    first_layer.weight.data.add_(1)
    split(model, Store(tmp_path))
    assert len(checks) == 3
    split(model.train(), Store(tmp_path))
    assert len(checks) == 4
    split(model, Store(tmp_path), versions="2")
    assert len(checks) == 5


def test_a_small_store_is_left_to_features(tmp_path: Path, checks: list[int]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)).eval()
    store = Store(tmp_path, budget=1000)
    for number in (1, 2):
        split(model, store)
        assert len(checks) == number and store.failure is None
    assert store.usage().entries == 0


def test_an_entry_of_another_form_is_not_used(tmp_path: Path) -> None:
    memory = CheckMemory(Store(tmp_path), {"versions": "1"})
    memory.store.write(memory._key("a"), {"seconds": torch.ones(2)})
    memory.store.write(memory._key("b"), {"other": torch.ones(1)})
    memory.passed("c", 0.5)
    assert [memory.seconds(digest) for digest in "abc"] == [None, None, 0.5]
