"""Metrics of a server, as `/metrics` shows them to Prometheus: seconds, and names with `zoo_`."""

from __future__ import annotations

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from zoo.data.image import Pixels
from zoo.predictions import softmax
from zoo.serving.bounds import Rejection
from zoo.serving.served_model import ServedModel
from zoo.serving.worker_pool import Answer, WorkerPool

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CLASSES = 1000  # of a model that are counted by name; others count as `other`
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one server, and the observer of its worker pool."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("zoo_requests", "Answered requests", ("route", "code"), registry=registry)
        self.request_seconds = Histogram(
            "zoo_request_seconds",
            "From a request's headers to its answer",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.parts = {
            name: Histogram(f"zoo_{name}_seconds", text, buckets=SECONDS, registry=registry)
            for name, text in (
                ("queue", "An image's wait for a worker"),
                ("decode", "From an image's bytes to its pixels"),
                ("network", "Preprocessing and network, of all images in a call"),
            )
        }
        self.batch_size = Histogram(
            "zoo_batch_size", "Images in a call of the network", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.rejected = Counter("zoo_rejected", "Requests without a prediction", ("reason",), registry=registry)
        self.predictions = Counter(
            "zoo_predictions", "Images by predicted class", ("model", "class"), registry=registry
        )
        self.confidence = Histogram(
            "zoo_confidence",
            "Probability of the predicted class",
            ("model",),
            buckets=[tenth / 20 for tenth in range(1, 21)],
            registry=registry,
        )
        self.swaps = Counter("zoo_swaps", "New versions of a file", ("model", "outcome"), registry=registry)
        self.model_info = Gauge(
            "zoo_model_info",
            "The files that are served",
            ("model", "digest", "precision", "provider"),
            registry=registry,
        )
        self.ready = Gauge("zoo_ready", "1 if the server takes requests", registry=registry)

    def watch(self, pool: WorkerPool) -> None:
        """Show the state of a pool from now on."""
        for name, text, read in (
            ("zoo_pixels_in_flight", "Pixels that are decoded and not answered", lambda: pool.pixels_in_flight),
            ("zoo_queued_images", "Images that wait for a worker", lambda: pool.queued),
            ("zoo_workers", "Threads that decode and classify", lambda: pool.workers),
            ("zoo_busy_workers", "Workers that compute", lambda: pool.busy),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def serves(self, model: ServedModel) -> None:
        """Note that a file is served."""
        self.model_info.labels(model.name, model.digest, model.precision, model.provider).set(1)

    def no_longer_serves(self, model: ServedModel) -> None:
        """Note that a file was replaced."""
        self.model_info.remove(model.name, model.digest, model.precision, model.provider)

    def answered(self, answer: Answer, pixels: Pixels) -> None:
        """Count an answer; see `zoo.serving.worker_pool.Observer`."""
        for name, histogram in self.parts.items():
            histogram.observe(answer.seconds[name])
        self.batch_size.observe(answer.batch)
        best = int(answer.logits.argmax())
        label = answer.model.classes[best] if best < CLASSES else "other"
        self.predictions.labels(answer.model.name, label).inc()
        self.confidence.labels(answer.model.name).observe(float(np.max(softmax(answer.logits[None]))))

    def failed(self, model: ServedModel, rejection: Rejection) -> None:
        """A rejection is counted where its request is answered."""

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
