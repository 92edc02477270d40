"""Thousands of images at once: each request gets its own answer, in batches and beside cancelled ones too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numbered_images import Numbers, encoded, numbered, numbers_model

from zoo import Plugins
from zoo.serving.bounds import Bounds
from zoo.serving.served_model import open_served
from zoo.serving.service import Service

COUNT = 2500
MANY = Bounds(queue=100_000, deadline=280.0, images=8)


@pytest.mark.parametrize("count", [COUNT, pytest.param(10_000, marks=pytest.mark.slow)])
def test_different_models_batches_and_cancelled_requests(count: int) -> None:
    """Requests of one to three images, half of them encoded, by turns for two models; every seventh is cancelled."""
    models = [numbers_model("twice", 2, batch=4), numbers_model("thrice", 3, batch=8)]
    service = Service(models, workers=4, bounds=MANY)

    async def request(first: int) -> tuple[int, list[tuple[float, ...]]]:
        images = [numbered(first + step) for step in range(1 + first % 3)]
        sent = [encoded(one) if first % 2 else one for one in images]
        answers = await service.ask(models[first // 4 % 2], sent)
        assert all(answer.model is models[first // 4 % 2] for answer in answers)
        return first, [tuple(map(float, answer.logits)) for answer in answers]

    async def all_at_once() -> list[object]:
        asked = [asyncio.ensure_future(request(4 * number)) for number in range(count)]
        asked += [asyncio.ensure_future(request(4 * number + 1)) for number in range(count)]
        await asyncio.sleep(0)  # they are in the queue now
        for one in asked[::7]:
            one.cancel()
        return list(await asyncio.gather(*asked, return_exceptions=True))

    found = asyncio.run(all_at_once())
    service.close()
    answered = [one for one in found if isinstance(one, tuple)]
    assert all(isinstance(one, tuple | asyncio.CancelledError) for one in found)
    assert len(answered) >= len(found) - len(found[::7]) == len({first for first, _ in answered})
    for first, logits in answered:
        factor = 2 + first // 4 % 2
        assert logits == [(first + step, factor * (first + step)) for step in range(1 + first % 3)]
    for model in models:
        assert isinstance(model.predictor, Numbers)
        assert max(model.predictor.batches) == model.batching.size  # images did share calls


@pytest.mark.parametrize("count", [COUNT, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_real_network_answers_each_as_if_it_were_alone(exported_run: Path, plugins: Plugins, count: int) -> None:
    model = open_served(exported_run / "model.onnx", name="model", device="cpu", threads=1, plugins=plugins)
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (8 + index % 5, 8 + index % 7, 3), np.uint8) for index in range(count)]
    alone = np.concatenate([model.predictor.logits([one]) for one in images])
    assert len(np.unique(alone, axis=0)) > 0.99 * count  # so that a wrong answer would show
    service = Service([model], workers=4, bounds=MANY)

    async def all_at_once() -> list[np.ndarray]:
        asked = [service.ask(model, [one if index % 2 else encoded(one)]) for index, one in enumerate(images)]
        return [answers[0].logits for answers in await asyncio.gather(*asked)]

    found = np.stack(asyncio.run(all_at_once()))
    service.close()
    if model.batching.size == 1:
        assert np.array_equal(found, alone)
    else:  # sums of a batch may be added in another order
        np.testing.assert_allclose(found, alone, atol=1e-4)
