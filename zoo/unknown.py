"""Unknown images: a score of how strange an image is to a model, and the threshold from which on it is of no class.

The score is the larger of two parts. The first is one minus the largest probability (Hendrycks and Gimpel 2017, "A
baseline for detecting misclassified and out-of-distribution examples"): it finds images that lie between the classes.
The second is the Mahalanobis distance of the head's input from the nearest class mean (Lee et al. 2018, "A simple
unified framework for detecting out-of-distribution samples"), with the covariance of probabilistic principal components
(Tipping and Bishop 1999): it finds images that are like nothing among the training images, of which a network is often
sure. `benchmarks/results/unknown.md` compares them with others.

Scores are calibrated on held-out images of the known classes: 0 is their median, 1 the threshold. An image is unknown
if its score is above 1. The threshold is conformal (Vovk et al. 2005, "Algorithmic learning in a random world"): a
further image of the known classes is above it with at most the stated probability, as long as it is drawn like those
that the threshold was set on. Both parts have their limit at the same rank among these; `_limits` says why the
probability holds for the larger of the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zoo.errors import ZooError, counted
from zoo.experiment import UNKNOWN_RATES
from zoo.predictions import softmax
from zoo.storage.files import SCHEMA, check_schema, json_text, write_bytes

Floats = npt.NDArray[np.floating[Any]]

COMPONENTS = 128  # principal components of the distance, at most
# Smallest spread of one minus the largest probability: files compute it in float32, whose steps are 6e-8 there
RESOLVED = 1e-5

CONFIDENCE, DISTANCE = "confidence", "distance"
METHODS = {
    (CONFIDENCE, DISTANCE): "the larger of one minus the largest probability, and the Mahalanobis distance of features",
    (CONFIDENCE,): "one minus the largest probability",
    (DISTANCE,): "the Mahalanobis distance of features",
}


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """How a score was set.

    Attributes:
        rate: Share of images of the known classes that may be called unknown.
        images: Number of held-out images that it was set on.
        split: The split that they are.
        parts: Parts of the score, `confidence` and `distance`, of which the larger counts.
    """

    rate: float
    images: int
    split: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"at most {self.rate:.6g} of images of its classes are called unknown, by {self.images:,} of {self.split}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "images": self.images,
            "split": self.split,
            "parts": list(self.parts),
            "method": METHODS[self.parts],
            "threshold": 1.0,
        }

    @classmethod
    def from_json(cls, value: Any) -> Threshold:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        found = cls(
            rate=float(value["rate"]),
            images=int(value["images"]),
            split=str(value["split"]),
            parts=tuple(map(str, value["parts"])),
        )
        if found.parts not in METHODS or not 0 < found.rate < 1 or found.images < 1:
            raise ValueError("the threshold for unknown images does not fit together")
        return found


@overload
def exceeds(scores: float) -> bool: ...
@overload
def exceeds(scores: Floats) -> npt.NDArray[np.bool_]: ...
def exceeds(scores: Any) -> Any:
    """Whether images with these scores are called unknown: those above 1."""
    return scores > 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The squared distance of features from the nearest class mean, as constants.

    With z = features - `origin` it is |z|^2 `density` - |z `directions`|^2 + min over classes of (`constants` - 2 z
    `normals`). So neither a file nor a call needs more than D x (K + C) numbers.

    Attributes:
        origin: `(D,)`, the mean of the training features.
        density: One over the variance outside of the principal components.
        directions: `(D, K)`, principal components, scaled.
        normals: `(D, C)`.
        constants: `(C,)`.
    """

    origin: npt.NDArray[np.float32]
    density: float
    directions: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    constants: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: Floats, labels: npt.NDArray[np.int64]) -> Space | None:
        """Fit training features `(M, D)` with class indices `(M,)`; None if there is no variance within the classes."""
        values = features.astype(np.float64)
        origin = values.mean(0)
        known, places = np.unique(labels, return_inverse=True)
        means = np.stack([values[places == each].mean(0) for each in range(len(known))])
        inner = values - means[places]
        freedom, width = len(values) - len(known), values.shape[1]
        kept = min(COMPONENTS, freedom // 2, width - 1)
        if kept < 1:
            return None
        # the smaller of both products has the same eigenvalues as the covariance
        if len(inner) < width:
            eigenvalues, left = np.linalg.eigh(inner @ inner.T / freedom)
            vectors = inner.T @ left[:, ::-1][:, :kept]
            vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-300)
        else:
            eigenvalues, right = np.linalg.eigh(inner.T @ inner / freedom)
            vectors = right[:, ::-1][:, :kept]
        largest = eigenvalues[::-1][:kept]
        noise = (float((inner**2).sum()) / freedom - float(largest.sum())) / (width - kept)
        noise = max(noise, 1e-6 * float(largest[0]))  # copies of few images leave nothing outside of the components
        if not noise > 0:
            return None
        density = 1 / noise
        directions = vectors * np.sqrt(np.maximum(density - 1 / np.maximum(largest, noise), 0))
        apart = means - origin
        normals = apart * density - apart @ directions @ directions.T
        return cls(
            origin=origin.astype(np.float32),
            density=float(np.float32(density)),
            directions=directions.astype(np.float32),
            normals=np.ascontiguousarray(normals.T, np.float32),
            constants=(apart * normals).sum(1).astype(np.float32),
        )

    def distances(self, features: Floats) -> npt.NDArray[np.float64]:
        """Squared distances `(N,)` of features `(N, D)`."""
        moved = features.astype(np.float64) - self.origin
        along = moved @ self.directions.astype(np.float64)
        nearest = (self.constants - 2 * moved @ self.normals.astype(np.float64)).min(1)
        found: npt.NDArray[np.float64] = self.density * (moved**2).sum(1) - (along**2).sum(1) + nearest
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class UnknownScore:
    """A fitted score of strangeness.

    Attributes:
        threshold: How it was set.
        head: Path of the head in the network, whose input the features are.
        scales: Of each part, slope and offset that bring it to the unit of the score.
        space: The distance. None: it is no part.
    """

    threshold: Threshold
    head: str
    scales: Mapping[str, tuple[float, float]]
    space: Space | None

    def scores(self, logits: Floats, features: Floats | None) -> npt.NDArray[np.float32]:
        """Scores `(N,)` from logits `(N, classes)` and features `(N, D)`, which may be None without a distance."""
        parts = zip(self._parts(logits, features), self.scales.values())
        found: npt.NDArray[np.float32] = np.max([slope * part + offset for part, (slope, offset) in parts], axis=0)
        return found.astype(np.float32)

    def _parts(self, logits: Floats, features: Floats | None) -> list[npt.NDArray[np.float64]]:
        return [_part(name, self.space, logits, features) for name in self.scales]

    def save(self, file: Path) -> None:
        """Write a safetensors file.

        Raises:
            ZooError: it cannot be written.
        """
        # in one value: safetensors writes several in an order that differs from call to call
        header = {"schema": SCHEMA, "threshold": self.threshold.to_json(), "head": self.head}
        tensors = {f"scale.{name}": np.array(pair, np.float64) for name, pair in self.scales.items()}
        if self.space is not None:
            tensors |= {f"space.{name}": np.asarray(value) for name, value in vars(self.space).items()}
        write_bytes(file, save(tensors, metadata={"zoo": json_text(header, ascii_only=True)}))

    @classmethod
    def load(cls, file: Path) -> UnknownScore:
        """Read what `save` wrote.

        Raises:
            ZooError: the file is missing or damaged, or has a newer schema.
        """
        try:
            with safe_open(file, framework="numpy") as opened:
                header = json.loads((opened.metadata() or {})["zoo"])
                check_schema(header["schema"], file)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            threshold = Threshold.from_json(header["threshold"])
            scales = {name: tensors[f"scale.{name}"].tolist() for name in threshold.parts}
            space = {name.removeprefix("space."): value for name, value in tensors.items() if "space." in name}
            if any(len(pair) != 2 for pair in scales.values()) or not _finite(tensors.values()):
                raise ValueError("a number is missing, or is not finite")
            return cls(
                threshold=threshold,
                head=str(header["head"]),
                scales={name: (float(slope), float(offset)) for name, (slope, offset) in scales.items()},
                space=Space(**{**space, "density": float(space["density"])}) if DISTANCE in scales else None,
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ZooError(
                f"scores of unknown images `{file}` cannot be read: {error}",
                hint="restore it from a copy, or train again with `--force`",
            ) from error


def _finite(arrays: Any) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _part(name: str, space: Space | None, logits: Floats, features: Floats | None) -> npt.NDArray[np.float64]:
    """One part of the score, in its own unit."""
    if name == CONFIDENCE:
        doubt: npt.NDArray[np.float64] = 1 - softmax(logits).max(axis=1)
        return doubt
    assert space is not None and features is not None
    return space.distances(features)


def fewest_images(rate: float, parts: int = 1) -> int:
    """Number of held-out images that a threshold with this rate of false alarms needs, for a score of so many parts."""
    return math.ceil(round(parts / rate, 6)) - 1


def check_images(count: int, rate: float, split: str = "val") -> None:
    """Check that a threshold can be set on so many images.

    Raises:
        ZooError: there are too few.
    """
    needed = fewest_images(rate)
    if count >= needed:
        return
    lowest = math.ceil(1e4 / (count + 1)) / 1e4
    can = (
        f"`--unknown-rate {lowest:g}` is the lowest with these"
        if lowest <= UNKNOWN_RATES[1]
        else "there are too few for any"
    )
    raise ZooError(
        f"`--unknown-rate {rate:g}` needs {counted(needed, 'image')} in `{split}` to set its threshold on, and there "
        f"{'is' if count == 1 else 'are'} {count}",
        hint=f"{can}; or move more images to `{split}`",
    )


def fit_unknown(
    *,
    rate: float,
    split: str,
    head: str,
    features: Floats | None,
    labels: npt.NDArray[np.int64],
    held_logits: Floats,
    held_features: Floats | None,
) -> UnknownScore:
    """Fit the score: the distance on training images, units and threshold on held-out ones.

    Args:
        rate: Share of images of the known classes that may be called unknown.
        split: The split that the held-out images are.
        head: Path of the head in the network.
        features: The head's input `(M, D)` for the training images. None: the head takes no vector, so that there is
            no distance.
        labels: Class indices `(M,)` of the training images.
        held_logits: Logits `(N, classes)` of the held-out images.
        held_features: The head's input `(N, D)` for them.

    Raises:
        ZooError: there are too few held-out images, or all have the same score.
    """
    count = len(held_logits)
    check_images(count, rate, split)
    space = None if features is None else Space.fit(features, labels)
    names = [CONFIDENCE, *(() if space is None else (DISTANCE,))]
    if count < fewest_images(rate, len(names)):
        names = names[-1:]  # the distance, where there are both: it finds foreign images, of which a network is sure
    found = {name: _part(name, space, held_logits, held_features) for name in names}
    middles = {name: float(np.median(part)) for name, part in found.items()}
    found = {
        name: part
        for name, part in found.items()
        # such as the confidence of a head that is always as sure
        if float(part.max()) - middles[name] > max(1e-6 * abs(float(part.max())), RESOLVED * (name == CONFIDENCE))
    }
    if not found:
        raise _all_alike(count, split)
    scales: dict[str, tuple[float, float]] = {}
    for name, limit in zip(found, _limits(list(found.values()), rate)):
        unit = limit - middles[name]
        if unit > max(1e-6 * abs(limit), RESOLVED * (name == CONFIDENCE)):
            scales[name] = 1 / unit, -middles[name] / unit
    if not scales:
        raise _all_alike(count, split)
    low = float(np.median(np.max([slope * found[name] + offset for name, (slope, offset) in scales.items()], axis=0)))
    if not 1 - low > 1e-6:
        raise _all_alike(count, split)
    return UnknownScore(
        threshold=Threshold(rate=rate, images=count, split=split, parts=tuple(scales)),
        head=head,
        scales={name: (slope / (1 - low), (offset - low) / (1 - low)) for name, (slope, offset) in scales.items()},
        space=space if DISTANCE in scales else None,
    )


def _all_alike(count: int, split: str) -> ZooError:
    return ZooError(
        f"no threshold for unknown images can be set: most of the {counted(count, 'image')} of `{split}` are equally "
        "strange to the model",
        hint="leave `--unknown-rate` out, or train another head, such as `linear`",
    )


def _limits(parts: Sequence[npt.NDArray[np.float64]], rate: float) -> list[float]:
    """The limit of each part `(N,)`: an image that exceeds any of them is unknown.

    All limits have the same rank K - 1 among the N images, the lowest one for which the probability holds. A further
    image and these N are exchangeable, so with s the largest rank of an image among all N + 1, over the parts, at most
    `rate` (N + 1) of them can have an s that as few others reach. If the further image exceeds the limit of a part, in
    which its rank is s >= K, then it is reached by those images alone whose rank among the N is K or more in this part,
    or K - 1 or more in another: the further image adds one to ranks above its own. K is such that there are fewer than
    `rate` (N + 1) of these, whichever part it is. With one part this is split conformal prediction. Equal values are
    ranked in an order that is random, but always the same.

    A limit is moved halfway to the next value, so that a rounding error decides about none of these images: by at most
    a twentieth of its distance from the median, and by as much where no value is larger.
    """
    count = len(parts[0])
    allowed = math.floor(round((count + 1) * rate, 6))
    assert count >= fewest_images(rate, len(parts)), "`check_images` was called"
    shuffled = np.random.default_rng(0).permutation(count)
    ranks = np.empty((len(parts), count), np.int64)
    for row, part in zip(ranks, parts):
        row[shuffled[np.argsort(part[shuffled], kind="stable")]] = np.arange(1, count + 1)
    # by the part that the further image exceeds: the ranks from which on an image counts
    reached = [(ranks + (np.arange(len(parts)) != own)[:, None]).max(0) for own in range(len(parts))]
    rank = max(int(np.sort(one)[count - allowed]) for one in reached)
    limits = []
    for part in parts:
        value = float(np.sort(part)[rank - 1])
        above = part[part > value]
        most = 0.05 * (value - float(np.median(part)))
        limits.append(value + (min((float(above.min()) - value) / 2, most) if len(above) else most))
    return limits
