"""The pool: every image gets its own answer, bounds hold, and nobody waits for ever."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from zoo.data.image import Pixels
from zoo.errors import ZooError
from zoo.preprocess import Preprocess
from zoo.serving.bounds import Bounds, Rejection
from zoo.serving.served_model import Batching, ServedModel
from zoo.serving.worker_pool import Answer, WorkerPool

SECONDS = 60.0  # more than any test takes


class Sums:
    """A predictor whose logits are the sum of an image's grey levels, and of twice as much."""

    classes = ("once", "twice")
    preprocess = Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    device = "none"

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.before: Callable[[], None] = lambda: None

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        assert self.go.wait(SECONDS)
        self.before()
        self.calls.append(len(photographs))
        sums = [float(one.astype(np.int64).sum()) for one in photographs]
        return np.array([[one, 2 * one] for one in sums], np.float32)


def served(predictor: Any, name: str = "sums", batch: int = 1) -> ServedModel:
    batching = Batching(size=batch, seconds={1: 1.0, batch: 1.0})
    return ServedModel(name=name, path=Path(), digest=name, predictor=predictor, record={}, batching=batching)


def image(level: int, width: int = 5, height: int = 4) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def encoded(pixels: Pixels) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def result(future: Future[Answer]) -> Answer:
    return future.result(SECONDS)


def rejection(future: Future[Answer]) -> Rejection:
    error = future.exception(SECONDS)
    assert isinstance(error, Rejection)
    return error


def submit(pool: WorkerPool, model: ServedModel, *images: Any) -> list[Future[Answer]]:
    return pool.submit(model, images, time.monotonic())


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize("batch", [1, 4])
def test_each_image_has_its_own_answer(batch: int) -> None:
    """Also where images of two models and of several sizes wait in one queue."""
    one, other = served(Sums(), "one", batch), served(Sums(), "other", batch)
    pool = WorkerPool(3, Bounds(queue=1000))
    asked = []
    for number in range(300):
        pixels = image(number % 251, 3 + number % 5)
        asked.append(
            (
                pixels,
                model := (one, other)[number % 2],
                submit(pool, model, [pixels, encoded(pixels)][number % 3 == 0])[0],
            )
        )
    for pixels, model, future in asked:
        answer = result(future)
        assert answer.model is model and answer.logits[0] == pixels.astype(np.int64).sum()
        assert (answer.width, answer.height) == (pixels.shape[1], pixels.shape[0]) and 1 <= answer.batch <= batch
    pool.close()
    sizes = [size for model in (one, other) for size in model.predictor.calls]  # type: ignore[attr-defined]
    assert sum(sizes) == 300 and max(sizes) <= batch


def test_a_free_worker_takes_what_waits() -> None:
    predictor = Sums()
    predictor.go.clear()
    pool, model = WorkerPool(1, Bounds()), served(predictor, batch=4)
    futures = submit(pool, model, image(1))
    wait_until(lambda: pool.busy == 1)
    futures += submit(pool, model, *(image(level) for level in range(2, 8)))
    predictor.go.set()
    assert [result(one).batch for one in futures] == [1, 4, 4, 4, 4, 2, 2]
    pool.close()


def test_the_worker_that_worked_last_takes_the_next_image() -> None:
    """Its caches and its memory are warm. The others take what it cannot."""
    threads: list[int] = []
    predictor = Sums()
    predictor.before = lambda: threads.append(threading.get_ident())
    pool, model = WorkerPool(4, Bounds()), served(predictor)
    for level in range(50):
        wait_until(lambda: len(pool._idle) == 4)
        result(submit(pool, model, image(level))[0])
    assert len(set(threads)) == 1
    predictor.go.clear()
    futures = submit(pool, model, *(image(level) for level in range(4)))
    wait_until(lambda: pool.busy == 4)
    predictor.go.set()
    assert {result(one).logits[0] for one in futures} == {60.0 * level for level in range(4)}
    assert len(set(threads)) == 4
    pool.close()


def test_a_full_queue_rejects_all_images_of_a_request() -> None:
    predictor = Sums()
    predictor.go.clear()
    pool, model = WorkerPool(1, Bounds(queue=2)), served(predictor)
    futures = submit(pool, model, image(1))
    wait_until(lambda: pool.busy == 1)
    futures += submit(pool, model, image(2))
    with pytest.raises(Rejection) as raised:
        submit(pool, model, image(3), image(4))
    assert raised.value.status == 503 and raised.value.reason == "queue" and pool.queued == 1
    assert int(raised.value.headers["Retry-After"]) >= 1
    futures += submit(pool, model, image(5))
    with pytest.raises(Rejection):
        pool.check_room()
    predictor.go.set()
    assert [result(one).logits[0] for one in futures] == [60, 120, 300]
    pool.close()
    with pytest.raises(Rejection, match="stopping"):
        submit(pool, model, image(1))


def test_a_cancelled_image_leaves_the_queue() -> None:
    predictor = Sums()
    predictor.go.clear()
    pool, model = WorkerPool(1, Bounds()), served(predictor, batch=8)
    first = submit(pool, model, image(1))[0]
    wait_until(lambda: pool.busy == 1)
    futures = submit(pool, model, image(2), image(3), image(4))
    assert futures[0].cancel() and futures[2].cancel()
    predictor.go.set()
    assert result(first).batch == 1 and result(futures[1]).logits[0] == 180 and result(futures[1]).batch == 1
    pool.close()
    assert predictor.calls == [1, 1]


def test_an_image_that_waited_too_long_is_not_computed() -> None:
    predictor = Sums()
    predictor.go.clear()
    pool, model = WorkerPool(1, Bounds(deadline=0.05)), served(predictor)
    first = submit(pool, model, image(1))[0]
    wait_until(lambda: pool.busy == 1)
    late = submit(pool, model, image(2))[0]
    time.sleep(0.06)
    predictor.go.set()
    assert result(first).logits[0] == 60 and rejection(late).status == 504
    pool.close()
    assert predictor.calls == [1]


def test_images_over_the_bound_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, model = WorkerPool(1, Bounds(pixels=100)), served(Sums())
    both = (encoded(image(1, 11, 10)), image(1, 11, 10))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    for one in both:
        refused = rejection(submit(pool, model, one)[0])
        assert refused.status == 413 and "110 pixels, over 100" in refused.message
    pool.close()
    assert pool.pixels_in_flight == 0


def test_pixels_in_flight_are_bounded() -> None:
    """A second large image waits until the first is answered; one that is larger than the whole room is alone."""
    predictor, seen = Sums(), []
    pool = WorkerPool(3, Bounds(pixels_in_flight=150))
    predictor.before = lambda: seen.append(pool.pixels_in_flight)
    futures = submit(pool, served(predictor), *(image(1, 10, 10) for _ in range(6)), image(1, 20, 10))
    assert all(result(one) for one in futures)
    pool.close()
    assert sorted(set(seen)) == [100, 200] and pool.pixels_in_flight == 0


def test_faults_end_one_request_alone() -> None:
    predictor = Sums()
    pool, model = WorkerPool(1, Bounds()), served(predictor)
    assert rejection(submit(pool, model, b"no image")[0]).status == 422
    for error, status in (
        (MemoryError(), 503),
        (ZooError("the file does not run: std::bad_alloc"), 503),
        (ZooError("the file does not run on it"), 500),
        (RuntimeError("anything"), 500),
    ):

        def raising(error: Exception = error) -> None:
            raise error

        predictor.before = raising
        refused = rejection(submit(pool, model, image(1))[0])
        assert refused.status == status and "anything" not in refused.message
    predictor.before = lambda: None
    assert result(submit(pool, model, image(1))[0]).logits[0] == 60
    pool.close()


def test_logits_that_are_not_finite_are_no_label() -> None:
    predictor = Sums()
    right = predictor.logits
    predictor.logits = lambda photographs: right(photographs) * np.float32("inf")  # type: ignore[method-assign]
    pool = WorkerPool(1, Bounds())
    refused = rejection(submit(pool, served(predictor), image(1))[0])
    assert refused.status == 500 and refused.reason == "not finite" and "class `once` is inf" in refused.message
    pool.close()
