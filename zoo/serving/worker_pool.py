"""Worker pool: threads that decode and classify images of all requests.

A worker that is free takes what is queued and never waits for more. It takes one image, or, where that was measured to
pay, several for the same model. Images wait in one queue, and nobody but the workers computes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.data.image import BadImage, Pixels, TooLarge, decode
from zoo.data.pixel_budget import give_back_memory, trim_memory
from zoo.dataset import ArraySource, BytesSource
from zoo.errors import ZooError
from zoo.predictions import not_finite
from zoo.predictor import ask
from zoo.serving.bounds import Bounds, Rejection
from zoo.serving.costly_images import frames, refuse_costly, refuse_metadata, too_many_pixels
from zoo.serving.fault import where
from zoo.serving.served_model import ServedModel
from zoo.serving.sniffing import hint

LOGGER = logging.getLogger("zoo.serve")
TRIM_AFTER = 200_000_000  # pixels, about 1,000 photographs: images of all sizes leave freed memory in pieces
SMOOTHING = 0.1  # share of the newest image in the mean time of an image


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The logits of one image, and how they came about.

    Attributes:
        logits: `(classes,)`.
        model: The model that computed them.
        width: Of the decoded image, in pixels.
        height: Of the decoded image, in pixels.
        frames: Frames or pages of the file, of which the first was classified; those of a TIFF are counted up to 100.
        remarks: What is wrong with an image that was classified nevertheless.
        seconds: Spent in the `queue`, in `decode`, and in the `network` with all images of its call.
        batch: Images in the call.
        unknown: How strange the image is; above 1 it is of no class. None: the model has no such score.
    """

    logits: npt.NDArray[np.float32]
    model: ServedModel
    width: int
    height: int
    frames: int
    remarks: tuple[str, ...]
    seconds: dict[str, float]
    batch: int
    unknown: float | None = None


class Observer(Protocol):
    """Receives what happens in a pool. Called by the workers, so it returns at once and never raises."""

    def answered(self, answer: Answer, pixels: Pixels) -> None: ...
    def failed(self, model: ServedModel, rejection: Rejection) -> None: ...


class Unobserved:
    """Receives and drops."""

    def answered(self, answer: Answer, pixels: Pixels) -> None: ...
    def failed(self, model: ServedModel, rejection: Rejection) -> None: ...


@dataclass(eq=False)
class _Job:
    """An image that waits for its answer."""

    model: ServedModel
    image: bytes | Pixels
    future: Future[Answer]
    arrived: float
    until: float
    frames: int = 1
    remarks: list[str] = field(default_factory=list)
    held: int = 0  # of the pixels in flight
    began: float = 0.0
    decoded: float = 0.0
    pixels: Pixels | None = None


class WorkerPool:
    """Threads that classify images, and the queue in front of them."""

    def __init__(self, workers: int, bounds: Bounds, observer: Observer | None = None) -> None:
        self.workers = workers
        self.bounds = bounds
        self._observer = observer or Unobserved()
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()  # guards everything below, and the queue; tells of room for pixels
        self._idle: list[threading.Lock] = []  # of the workers that wait for an image, the last one at the end
        self._closed = False
        self._busy = 0
        self._in_flight = 0  # pixels
        self._since_trim = 0  # pixels that were decoded since freed memory was given back
        self._mean = 0.05  # seconds of a worker for an image; a guess before the first
        self._threads = [
            threading.Thread(target=self._work, name=f"zoo-serve-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Images that wait for a worker."""
        return len(self._queue)

    @property
    def pixels_in_flight(self) -> int:
        """Pixels of all images that are decoded and not answered yet."""
        return self._in_flight

    @property
    def busy(self) -> int:
        """Workers that compute."""
        return self._busy

    @property
    def images_per_second(self) -> float:
        """How many images all workers together can answer, by the time that the last ones took."""
        return self.workers / self._mean

    def submit(self, model: ServedModel, images: Sequence[bytes | Pixels], arrived: float) -> list[Future[Answer]]:
        """Queue the images of one request, all or none.

        Args:
            model: The model that answers.
            images: Encoded images, or decoded ones `(H, W, 3)` uint8 RGB.
            arrived: When the request began, on the monotonic clock.

        Returns:
            A future for each image. Its exception, if any, is a `Rejection`. Cancelling it takes the image out of the
            queue.

        Raises:
            Rejection: there is no room in the queue.
        """
        jobs = [_Job(model, image, Future(), arrived, arrived + self.bounds.deadline) for image in images]
        with self._changed:
            if len(jobs) > self.bounds.queue + self.workers:
                message = f"{len(jobs)} images are more than the {self.bounds.queue + self.workers} that may wait"
                raise Rejection(400, "images", message, "send several requests")
            self.check_room(len(images))  # another request may have taken it
            self._queue.extend(jobs)
            self._wake(len(jobs))
        for job in jobs:
            job.future.add_done_callback(lambda future, job=job: self._forget(job))  # type: ignore[misc]
        return [job.future for job in jobs]

    def _wake(self, count: int) -> None:
        """Wake so many workers, under the lock: first the one that worked last, whose caches and memory are warm."""
        for _ in range(min(count, len(self._idle))):
            self._idle.pop().release()

    def _forget(self, job: _Job) -> None:
        """Make room in the queue for others when a job was cancelled."""
        if job.future.cancelled():
            with self._changed, contextlib.suppress(ValueError):
                self._queue.remove(job)

    def hold(self, pixels: int) -> bool:
        """Whether there is room for the pixels of an image beside those in flight; if so, `release` must follow."""
        with self._changed:
            if self._in_flight + pixels > self.bounds.pixels_in_flight:
                return False
            self._in_flight += pixels
            return True

    def release(self, pixels: int) -> None:
        """Give back the room that `hold` took."""
        with self._changed:
            self._in_flight -= pixels
            self._changed.notify_all()

    def later(self, reason: str, message: str) -> Rejection:
        """A rejection that says when there will probably be room."""
        seconds = max(1, round(len(self._queue) / self.images_per_second))
        return Rejection(503, reason, message, "try again later", {"Retry-After": str(seconds)})

    def check_room(self, images: int = 1) -> None:
        """Check that so many images find room in the queue now; a request is rejected before its body is read.

        Raises:
            Rejection: there is no room, or the pool is closed.
        """
        if self._closed:
            raise Rejection(503, "stopping", "the server is stopping")
        waiting = len(self._queue)
        if waiting + images > self.bounds.queue + max(self.workers - self._busy, 0):
            raise self.later("queue", f"{waiting} image{'s are' if waiting != 1 else ' is'} waiting already")

    def close(self) -> None:
        """Answer what is queued, and end the threads."""
        with self._changed:
            self._closed = True
            self._wake(self.workers)
        for thread in self._threads:
            thread.join()

    # in the threads

    def _work(self) -> None:
        wake = threading.Lock()  # held; who releases it wakes this worker
        wake.acquire()
        while jobs := self._take(wake):
            began, count = time.monotonic(), len(jobs)
            while jobs:
                jobs = self._answer_some(jobs)
            with self._changed:
                self._busy -= 1
                self._mean += SMOOTHING * ((time.monotonic() - began) / count - self._mean)

    def _answer_some(self, jobs: list[_Job]) -> list[_Job]:
        """Answer images in one call; returns those for whose pixels there was no room beside the others."""
        rest: list[_Job] = []
        try:
            rest = self._answer(jobs)
        except BaseException as error:  # a worker must live on, and nobody may wait for ever
            rejection = Rejection(500, "internal", f"{type(error).__name__} in the server")
            if isinstance(error, MemoryError):
                rejection = self._why_it_does_not_run(error)
            else:
                LOGGER.error("a fault in the server: %s", where(error))
            for job in jobs:
                self._fail(job, rejection)
        finally:
            for job in jobs:
                self._release(job)
        return rest

    def _take(self, wake: threading.Lock) -> list[_Job]:
        """The oldest images of one model, as many as share a call; none when the pool is closed."""
        while True:
            with self._changed:
                if jobs := self._taken():
                    return jobs
                if self._closed:
                    return []
                self._idle.append(wake)
            wake.acquire()

    def _taken(self) -> list[_Job]:
        """Take the oldest images of one model out of the queue, under the lock; none where it is empty."""
        while self._queue:
            first = self._queue.popleft()
            if not first.future.set_running_or_notify_cancel():
                continue
            jobs = [first]
            for job in [one for one in self._queue if one.model is first.model][: first.model.batching.size - 1]:
                self._queue.remove(job)
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
            self._busy += 1
            for job in jobs:
                job.began = time.monotonic()
            return jobs
        return []

    def _answer(self, jobs: list[_Job]) -> list[_Job]:
        """Answer images in one call, or those among them that fit into memory together; returns the others."""
        ready: list[tuple[_Job, Pixels]] = []
        rest: list[_Job] = []
        for job in jobs:
            try:
                ready.append((job, self._decode(job, wait=not ready)))
            except _NoRoom:
                rest.append(job)
            except Rejection as rejection:
                self._fail(job, rejection)
                self._release(job)
        now = time.monotonic()
        for job, _ in ready:
            if now > job.until:
                self._fail(job, self.too_late())
        ready = [one for one in ready if not one[0].future.done()]
        if not ready:
            return rest
        model, begun = ready[0][0].model, time.monotonic()
        try:
            logits, scores = ask(model.predictor, [pixels for _, pixels in ready])
        except (ZooError, MemoryError) as error:
            for job, _ in ready:
                self._fail(job, self._why_it_does_not_run(error))
            return rest
        spent = time.monotonic() - begun
        strange = [None] * len(ready) if scores is None else scores.tolist()
        for (job, pixels), row, score in zip(ready, logits, strange):
            broken = not_finite(row[None], ("the image",), model.classes)
            if broken is None and score is not None and not math.isfinite(score):
                broken = f"the score of unknown images is {score}"
            if broken is not None:
                self._fail(
                    job, Rejection(500, "not finite", f"the model is damaged, or its numbers overflow: {broken}")
                )
                continue
            answer = Answer(
                logits=row,
                model=model,
                width=pixels.shape[1],
                height=pixels.shape[0],
                frames=job.frames,
                remarks=tuple(job.remarks),
                seconds={"queue": job.began - job.arrived, "decode": job.decoded, "network": spent},
                batch=len(ready),
                unknown=score,
            )
            job.future.set_result(answer)
            self._observer.answered(answer, pixels)
        return rest

    def _release(self, job: _Job) -> None:
        with self._changed:
            self._in_flight -= job.held
            self._since_trim += job.held
            is_time = self._since_trim >= TRIM_AFTER
            if is_time:
                self._since_trim = 0
            job.held = 0
            self._changed.notify_all()
        if is_time:
            give_back_memory()

    def _fail(self, job: _Job, rejection: Rejection) -> None:
        if not job.future.done():
            with contextlib.suppress(Exception):  # before the answer, so that whoever reads it finds it counted
                self._observer.failed(job.model, rejection)
            job.future.set_exception(rejection)

    def too_late(self) -> Rejection:
        """The rejection of an image whose time is over."""
        return Rejection(504, "deadline", f"there was no answer within {self.bounds.deadline:g} s", "try again later")

    def _why_it_does_not_run(self, error: BaseException) -> Rejection:
        text = str(error)
        signs = ("bad_alloc", "Failed to allocate", "out of mem")
        if isinstance(error, MemoryError) or any(sign in text for sign in signs):
            return self.later("memory", "there is not enough memory to classify the image")
        return Rejection(500, "network", text.split("\n")[0])

    def _decode(self, job: _Job, wait: bool) -> Pixels:
        """The pixels of an image.

        Raises:
            Rejection: it cannot be decoded, is too large, or its time is over.
            _NoRoom: there is no room for its pixels now, and it is not to wait.
        """
        begun = time.monotonic()
        if begun > job.until:
            raise self.too_late()
        if isinstance(job.image, np.ndarray):
            source: ArraySource | BytesSource = ArraySource(job.image)
            try:
                self._admit(job, job.image.shape[0] * job.image.shape[1], wait)
            except _NotAdmitted as error:
                raise error.rejection from None
        else:
            encoded = job.image
            refuse_costly(encoded, self.bounds)
            source = BytesSource("the image", lambda: encoded)

        def opened(image: Image.Image) -> None:
            try:
                refuse_metadata(image)
            except Rejection as rejection:
                raise _NotAdmitted(rejection) from None
            job.frames = frames(image, encoded)

        def admit(count: int) -> None:
            nonlocal begun
            waited = time.monotonic()
            self._admit(job, count, wait)
            begun += time.monotonic() - waited  # it counts as time in the queue
            job.began += time.monotonic() - waited

        try:
            pixels = decode(
                source,
                levels=job.model.predictor.preprocess.levels,
                remark=job.remarks.append,
                admit=admit,
                opened=opened,
                foreign=lambda stream: None,  # it would try formats that nobody serves
                accept=self.bounds.accept,
            )
        except _NotAdmitted as error:
            raise error.rejection from None
        except _NoRoom:
            raise
        except TooLarge as error:
            raise too_many_pixels(error.pixels, self.bounds) from None
        except BadImage as error:
            if isinstance(error.__cause__, MemoryError):
                raise self.later("memory", "the image does not fit into memory") from None
            message = error.message.replace("`the image`", "the image")
            raise Rejection(422, "image", message, hint(self.bounds.accept)) from None
        trim_memory(pixels.size // 3)
        job.decoded = time.monotonic() - begun
        return pixels

    def _admit(self, job: _Job, pixels: int, wait: bool) -> None:
        """Wait for room for an image's pixels.

        Raises:
            _NotAdmitted: it has too many, or there is no room in time.
            _NoRoom: there is none now, and it is not to wait: the worker holds other images' pixels.
        """
        bounds = self.bounds
        if pixels > bounds.pixels:
            raise _NotAdmitted(too_many_pixels(pixels, bounds))
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: self._in_flight == 0 or self._in_flight + pixels <= bounds.pixels_in_flight,
                max(job.until - time.monotonic(), 0.0) if wait else 0.0,
            )
            if not in_time and not wait:
                raise _NoRoom("no room")
            if not in_time:
                raise _NotAdmitted(self.later("pixels in flight", "too many large images are decoded"))
            job.held = pixels
            self._in_flight += pixels


class _NotAdmitted(BadImage):
    """An image that is not decoded, since a bound forbids it."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


class _NoRoom(BadImage):
    """An image that is decoded after those that the worker holds."""
