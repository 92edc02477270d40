"""Extraction: features of any images by a frozen backbone, in chunks, so that memory does not grow with pixels.

A feature is the head's input: one vector an image. Features are kept in the store by the content of the images, so the
second time nothing is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.config.context import Context
from zoo.data.decoding import BadFile, DecodedImages, decode_all, default_workers
from zoo.data.image import BadImage, Pixels, UnreadImage, pixels
from zoo.data.image_content import DigestedSource, content_digest, digested
from zoo.dataset import Sample
from zoo.errors import UsageError, ZooError
from zoo.experiment import Cache, Engine, Experiment
from zoo.feature_cache.engine_choice import RunEngine, Work
from zoo.feature_cache.manager import FeatureCache
from zoo.feature_cache.split_network import SplitNetwork
from zoo.networks.freezing import digest_of_tensors
from zoo.networks.head import vector_width
from zoo.networks.inputs import inputs_of
from zoo.preprocess import ImageSize, Preprocess
from zoo.progress import Silent
from zoo.runs.run import WEIGHTS_FILE, Run
from zoo.storage.files import json_text
from zoo.system.accelerator import capabilities
from zoo.training.features import features
from zoo.training.setup import build, resolve

# Images of a chunk: of one entry in the store, and of one row group in a file
CHUNK = 1024

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What features come from; features of equal `digest` can be compared with one another.

    Attributes:
        backbone: Qualified name.
        weights: As `--weights` takes it: a tag, a file, or `none`.
        image_size: Size of the network's input in pixels: a number, or height and width.
        preprocess: How images are prepared, as JSON values.
        width: Numbers in a feature.
        digest: SHA-256 over backbone, weights and preprocessing; not over libraries and machines, which change the last
            bits.
        run: Folder of the run whose network it is; empty: a backbone's own.
    """

    backbone: str
    weights: str
    image_size: ImageSize
    preprocess: Mapping[str, Any]
    width: int
    digest: str
    run: str = ""


@dataclass(frozen=True)
class Chunk:
    """Features of some images, in order.

    Attributes:
        indices: `(N,)`, which of the samples they belong to.
        contents: SHA-256 of each image's content, in hexadecimal digits.
        features: `(N, width)` float32.
        bad: Images that cannot be decoded, and why; they have no features.
    """

    indices: npt.NDArray[np.int64]
    contents: tuple[str, ...]
    features: Features
    bad: tuple[BadFile, ...]


def run_of(
    run: Run | Path | str | None,
    *,
    backbone: str | None,
    weights: str | None,
    image_size: ImageSize | None,
    levels: tuple[float, float] | None = None,
) -> Run | None:
    """Open the run whose network computes features; None: the network is a backbone's.

    Raises:
        UsageError: neither a run nor a backbone is given, or a setting that the run has itself; or it is no run.
        ZooError: the run is not one network.
    """
    if run is None:
        if backbone is None:
            raise UsageError(
                "neither `--backbone` nor `--run` is given",
                hint="such as `--backbone efficientnet_lite0`, or `--run` with the folder of a run",
            )
        return None
    given = {"backbone": backbone, "weights": weights, "image-size": image_size, "levels": levels}
    fixed = [f"`--{name}`" for name, value in given.items() if value is not None]
    if fixed:
        raise UsageError(f"{', '.join(fixed)} cannot be given with `--run`, which has its own", hint="leave it out")
    opened = Run.open(run)
    opened.check_is_network()
    if opened.record.get("ensemble"):
        raise UsageError(
            f"run `{opened.path}` is {opened.in_words}, which have features of their own each",
            hint="pass one of its members, which `run.json` names under `ensemble`",
        )
    return opened


class Extractor:
    """A frozen backbone, or the network of a run, without its head.

    Attributes:
        origin: What its features come from.
        network: The network, with its head.
    """

    def __init__(
        self,
        backbone: str | None = None,
        *,
        run: Run | None = None,
        weights: str | None = None,
        image_size: ImageSize | None = None,
        levels: tuple[float, float] | None = None,
        device: str = "auto",
        workers: int | None = None,
        cache: Cache = "auto",
        engine: Engine = "auto",
        context: Context,
    ) -> None:
        """Build the network; no image is read.

        With `run`, the network, its weights and its preprocessing are those of the run.

        Raises:
            UsageError: a name is unknown, or the network has no one vector an image before its head.
            ZooError: the weights or the device are not available.
        """
        assert (backbone is None) != (run is None)
        experiment = Experiment(
            data="none",
            backbone=backbone or str(run.record["backbone"] if run is not None else ""),
            strategy="linear",
            weights="none" if run is not None else weights or "default",
            image_size=image_size,
            levels=levels,
            device=device,
            workers=workers,
            cache=cache,
            engine=engine,
        )
        setup = resolve(experiment, context.plugins)
        self.context = context
        self.workers = workers or default_workers()
        self.preprocess = setup.preprocess if run is None else run.preprocess
        self.place = setup.device.place
        torch.manual_seed(0)  # of `--weights none`, which are then the same every time
        self.network = build(setup, experiment, 2) if run is None else run.load_network(context.plugins)
        width = vector_width(self.network, self.preprocess.crop)
        if width is None:
            raise UsageError(
                f"`{setup.backbone.qualified}` has no one vector an image before its head", hint="take another backbone"
            )
        if run is None and setup.weights is None and setup.weights_file is None:
            context.progress.warn(f"`{setup.backbone.qualified}` has random weights, so its features were not learnt")
        head = set(self.network.anatomy.head.parameters)
        state = {name: value for name, value in self.network.model.state_dict().items() if name not in head}
        file = setup.weights_file if run is None else run.path / WEIGHTS_FILE
        self.origin = _origin(
            backbone=setup.backbone.qualified,
            weights=str(file.resolve()) if file else getattr(setup.weights, "tag", "none"),
            image_size=self.preprocess.crop,
            preprocess=self.preprocess.to_json(),
            width=width,
            run=str(run.path.resolve()) if run is not None else "",
            state=digest_of_tensors(state),
        )
        self.network.model.to(self.place).to(memory_format=torch.channels_last).eval()
        self._engine = engine
        self._cache = FeatureCache(
            asked=cache,
            batch_size=experiment.batch_size,
            preprocess=self.preprocess,
            device=setup.device,
            progress=Silent(),
            backbone=setup.backbone.qualified,
            store=context.store,
        )
        self._split = self._split_before(head)

    def chunks(self, samples: Sequence[Sample], title: str) -> Iterator[Chunk]:
        """Yield the features of samples, chunk by chunk, in order; `title` names the task to the user.

        Raises:
            ZooError: a feature is not finite.
        """
        progress = self.context.progress
        if self._cache.engine is None:  # of the first images, for all that follow
            self._cache.engine = RunEngine(
                self._engine,
                plugins=self.context.plugins,
                progress=progress,
                store=self.context.store,
                work=Work(images=len(samples)),
            )
        progress.start(title, len(samples))
        try:
            for start in range(0, len(samples), CHUNK):
                part = samples[start : start + CHUNK]
                found = self._chunk(part)
                progress.advance(len(part))
                yield replace(found, indices=found.indices + start)
        finally:
            progress.stop()
        store = self.context.store
        if store is not None and store.failure is not None:
            progress.warn(f"{store.failure}: features are not kept; the result is the same")

    def all(self, samples: Sequence[Sample], title: str) -> Chunk:
        """The features of all samples together."""
        found = list(self.chunks(samples, title))
        return Chunk(
            np.concatenate([np.zeros(0, np.int64), *(one.indices for one in found)]),
            tuple(content for one in found for content in one.contents),
            np.concatenate([np.zeros((0, self.origin.width), np.float32), *(one.features for one in found)]),
            tuple(file for one in found for file in one.bad),
        )

    def _split_before(self, head: Collection[str]) -> SplitNetwork | None:
        """The network, split before its head, if that can be done and what cannot be decoded comes out as NaN."""
        split = self._cache.split(self.network, head, evaluate=True)
        if split is None or [len(tensor.shape) for tensor in split.boundary] != [1]:
            return None
        rows = split.prefix(torch.full((1, 3, *self.preprocess.input_size), torch.nan, device=self.place))[0]
        return None if bool(torch.isfinite(rows).any()) else split

    def _chunk(self, samples: Sequence[Sample]) -> Chunk:
        with ThreadPoolExecutor(self.workers) as pool:
            digests = list(pool.map(_digest, samples))
        bad: dict[int, str] = {index: text for index, text in enumerate(digests) if not isinstance(text, bytes)}
        readable = np.array([index for index in range(len(samples)) if index not in bad], np.int64)
        contents = tuple(one.hex() for one in digests if isinstance(one, bytes))
        crops = StreamedCrops(
            [samples[index] for index in readable], contents, self.preprocess, self.place, self.workers
        )
        rows = self._rows(crops) if len(readable) else np.zeros((0, self.origin.width), np.float32)
        for index in crops.bad:
            rows[index] = np.nan
        finite = np.isfinite(rows).all(1)
        for index in np.flatnonzero(~finite).tolist():
            reason = crops.bad.get(index) or _why(samples[readable[index]], self.preprocess)
            if reason is None:
                raise ZooError(
                    f"`{self.origin.backbone}` gives features of `{samples[readable[index]].id}` that are not finite",
                    hint="its weights are damaged, or overflow",
                )
            bad[int(readable[index])] = reason
        kept = np.flatnonzero(finite)
        return Chunk(
            readable[kept],
            tuple(contents[index] for index in kept),
            rows[kept],
            tuple(BadFile(samples[index].id, text) for index, text in sorted(bad.items())),
        )

    def _rows(self, crops: StreamedCrops) -> Features:
        """The features `(N, width)` of all images of a source."""
        count = len(crops.part.samples)
        every = np.arange(count)
        if self._split is None:
            block = capabilities(self.place).block
            return features(
                self.network,
                (crops.inputs(every[start : start + block], ()) for start in range(0, count, block)),
            )
        outputs = self._cache.stored_outputs(self._split, crops, "features")
        outputs.prepare(0)
        return outputs.take(every, [0] * count)[0].float().cpu().numpy().copy()


class StreamedCrops:
    """Images as they are evaluated, decoded when they are asked for. One that cannot be decoded becomes NaN.

    Attributes:
        part: The images, without pixels.
        bad: Why images could not be decoded, by their index.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        contents: tuple[str, ...],
        preprocess: Preprocess,
        place: torch.device,
        workers: int,
    ) -> None:
        self.part = DecodedImages(
            tuple(samples), np.zeros(len(samples), np.int64), np.zeros((0, 1, 1, 3), np.uint8), "", contents
        )
        self.preprocess = preprocess
        self.place = place
        self.workers = workers
        self.bad: dict[int, str] = {}
        self._next = 0  # the image that `_decoding` yields next
        self._decoding: Iterator[tuple[Sample, Pixels | BadImage]] = iter(())

    def inputs(self, indices: npt.NDArray[np.int64], views: Sequence[int]) -> torch.Tensor:
        canvases = np.zeros((len(indices), *self.preprocess.input_size, 3), np.uint8)
        broken = []
        for row, index in enumerate(indices.tolist()):
            if index != self._next or index == 0:  # in order, images are decoded ahead
                self._decoding = decode_all(
                    map(digested, self.part.samples[index:]),
                    self.workers,
                    lambda image: pixels(image, self.preprocess),
                    levels=self.preprocess.levels,
                )
            sample, result = next(self._decoding)
            self._next = index + 1
            self._check_unchanged(index, sample, result)
            if isinstance(result, BadImage):
                self.bad[index] = result.message
                broken.append(row)
            else:
                canvases[row] = result
        ready = inputs_of(canvases, self.preprocess, self.place)
        ready[broken] = torch.nan
        return ready

    def _check_unchanged(self, index: int, sample: Sample, result: Pixels | BadImage) -> None:
        """Check that an image is what it was when it was hashed: features are kept by the content.

        Raises:
            ZooError: it is another one by now, or could be read then alone.
        """
        assert isinstance(sample.source, DigestedSource)
        if isinstance(result, UnreadImage):
            raise ZooError(
                f"{result.message}, and could be read a moment before",
                hint="run the same command again; features that were computed are kept",
            )
        if sample.source.digest and sample.source.digest.hex() != self.part.contents[index]:
            raise ZooError(
                f"`{sample.id}` has changed while it was read",
                hint="do not change the photographs while they are in use",
            )

    @property
    def by_name(self) -> bool:
        return False

    def key(self, indices: npt.NDArray[np.int64], view: int) -> dict[str, Any]:
        return self.key_of((), view)

    def key_of(self, names: Sequence[str], view: int) -> dict[str, Any]:
        return {"preprocess": self.preprocess.to_json(), "augment": "evaluation"}


def _digest(sample: Sample) -> bytes | str:
    """The digest of an image's content; the reason where it cannot be read."""
    try:
        return content_digest(sample.source)
    except OSError as error:
        return f"`{sample.source}` cannot be read: {(error.strerror or str(error)).lower()}"


def _why(sample: Sample, preprocess: Preprocess) -> str | None:
    """Why an image cannot be decoded; None: it can be."""
    _, result = next(decode_all([sample], 1, levels=preprocess.levels))
    return result.message if isinstance(result, BadImage) else None


def _origin(*, state: str, **known: Any) -> Origin:
    parts = {"backbone": known["backbone"], "preprocess": known["preprocess"], "state": state}
    return Origin(**known, digest=hashlib.sha256(json_text(parts, sort_keys=True).encode()).hexdigest())
