"""Service: the models that are served, one worker pool for all of them, and the answers to requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

from zoo.data.image import Pixels
from zoo.predictions import softmax
from zoo.serving.bounds import Bounds, Rejection
from zoo.serving.drift import Drift
from zoo.serving.metrics import Metrics
from zoo.serving.served_model import ServedModel
from zoo.serving.shadow import Shadow
from zoo.serving.worker_pool import Answer, WorkerPool
from zoo.unknown import exceeds

BROKEN_AFTER = 3  # images in a row with logits that are not finite


class Service:
    """What a server answers with, whatever protocol a request comes by.

    Attributes:
        models: Served models by name, the default first.
        bounds: What is accepted.
        metrics: What happened.
        pool: The workers.
        drift: Whether the images are like those that the files were scored on.
        shadow: Another file that classifies a share of the images, too. None: none does.
        draining: Whether the server is about to stop: it answers, but is not ready.
    """

    def __init__(self, models: Sequence[ServedModel], *, workers: int, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.metrics = Metrics()
        self.drift = Drift()
        self.shadow: Shadow | None = None
        self.metrics.registry.register(self.drift)
        self.models: dict[str, ServedModel] = {}
        self.draining = False
        self._held = 0  # bytes of requests' bodies
        self._counting = threading.Lock()
        self._not_finite: dict[str, int] = {}  # images in a row, by the model's digest
        self.pool = WorkerPool(workers, self.bounds, self)
        self.metrics.watch(self.pool)
        self.metrics.ready.set_function(lambda: float(self.is_ready()))
        for model in models:
            self.put(model)

    def put(self, model: ServedModel) -> None:
        """Serve a model from now on, in the place of the one with its name."""
        before = self.models.get(model.name)
        self.models[model.name] = model
        self.drift.serves(model)
        if before is not None:
            self._not_finite.pop(before.digest, None)
            self.metrics.no_longer_serves(before)
        self.metrics.serves(model)

    def hold(self, count: int) -> None:
        """Note that so many more bytes of a request's body are in memory; `let_go` gives them back. In one thread.

        Raises:
            Rejection: all bodies together, whatever protocol they came by, would be over their bound.
        """
        if self._held + count > self.bounds.bodies:
            raise self.pool.later("bodies", "too many requests are being received")
        self._held += count

    def let_go(self, count: int) -> None:
        """Give back what `hold` noted."""
        self._held -= count

    def compare_with(self, other: ServedModel, share: float) -> None:
        """Let another file classify a share of the images that the first model answers.

        Raises:
            ZooError: it takes another input, or has other classes.
        """
        self.shadow = Shadow(self.model(), other, self.pool, share=share)
        self.metrics.registry.register(self.shadow)

    def model(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The served model of a name; the first one without a name. Every model has the version `1` alone.

        Raises:
            Rejection: there is none.
        """
        found = next(iter(self.models.values())) if name is None else self.models.get(name)
        if found is None:
            raise Rejection(
                404,
                "unknown model",
                f"there is no model `{name[:40] if name else name}`",
                f"there is {', '.join(self.models)}",
            )
        if version is not None and version != "1":
            raise Rejection(404, "unknown model", f"model `{name}` has no version `{version[:40]}`", "its version is 1")
        return found

    def is_ready(self, name: str | None = None) -> bool:
        """Whether requests are wanted, for one model or for all: verified, warm, not broken and not stopping."""
        models = self.models.values() if name is None else [self.model(name)]
        return not self.draining and all(self._not_finite.get(one.digest, 0) < BROKEN_AFTER for one in models)

    async def ask(
        self, model: ServedModel, images: Sequence[bytes | Pixels], arrived: float | None = None
    ) -> list[Answer]:
        """Classify the images of a request; if it is cancelled, they leave the queue.

        Args:
            model: Answers them.
            images: Encoded images, or decoded ones `(H, W, 3)` uint8 RGB.
            arrived: When the request began, on the monotonic clock. None: now.

        Raises:
            Rejection: an image is not answered.
        """
        if len(images) > self.bounds.images:
            message = f"{len(images)} images are more than the {self.bounds.images} that a request may have"
            raise Rejection(400, "images", message, "send several requests")
        arrived = time.monotonic() if arrived is None else arrived
        futures = self.pool.submit(model, images, arrived)
        waiting = [asyncio.wrap_future(future) for future in futures]
        try:
            async with asyncio.timeout(arrived + self.bounds.deadline - time.monotonic()):
                return list(await asyncio.gather(*waiting))
        except TimeoutError:
            raise self.pool.too_late() from None
        finally:
            for one in waiting:
                if not one.done():
                    one.cancel()
                elif not one.cancelled():
                    one.exception()  # one rejection is told, and the others were looked at

    # as the observer of the pool, in its threads

    def answered(self, answer: Answer, pixels: Pixels) -> None:
        self._not_finite[answer.model.digest] = 0
        self.metrics.answered(answer, pixels)
        self.drift.answered(answer, pixels)
        if self.shadow is not None:
            self.shadow.answered(answer, pixels)

    def failed(self, model: ServedModel, rejection: Rejection) -> None:
        if rejection.reason == "not finite":
            with self._counting:
                self._not_finite[model.digest] = self._not_finite.get(model.digest, 0) + 1

    def close(self) -> None:
        """Answer what is queued, and end the workers."""
        self.pool.close()
        if self.shadow is not None:
            self.shadow.close()


def prediction(answer: Answer, top: int, arrived: float) -> dict[str, Any]:
    """The JSON answer of `POST /predict`: labels and probabilities are those of `zoo predict`.

    Args:
        answer: Of the image.
        top: Number of classes to name.
        arrived: When the request began, on the monotonic clock.
    """
    shares = softmax(answer.logits[None])[0]
    order = (-shares).argsort(kind="stable")[:top]
    classes = answer.model.classes
    named = [{"label": classes[index], "probability": float(shares[index])} for index in order]
    milliseconds = {name: round(seconds * 1e3, 3) for name, seconds in answer.seconds.items()}
    milliseconds["total"] = round((time.monotonic() - arrived) * 1e3, 3)
    found: dict[str, Any] = {
        **named[0],
        "top": named,
        **(
            {}
            if answer.unknown is None
            else {"unknown": exceeds(answer.unknown), "unknown_score": round(answer.unknown, 6)}
        ),
        "model": answer.model.name,
        "digest": answer.model.digest,
        "milliseconds": milliseconds,
        "size": [answer.width, answer.height],
    }
    if answer.frames > 1:
        found["frames"] = answer.frames  # the first was classified
    if answer.remarks:
        found["remarks"] = list(answer.remarks)
    return found
