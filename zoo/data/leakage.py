"""Leakage: images whose content occurs in two roles, or under two labels. Contents are compared by SHA-256, not names.

Such images make reported figures too optimistic, or teach the network two answers to one question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.decoding import CHECKED, DecodedImages
from zoo.data.digest_column import SIZE, Digests, repeated
from zoo.data.image_content import content_digest
from zoo.data.near_duplicates import NearDuplicates
from zoo.data.sample_columns import columns_of
from zoo.dataset import Sample
from zoo.errors import counted

SHOWN = 10  # images in a message; the rest are in `run.json`

_NAMES = {"fit": "train", "choose": "validation"}  # what messages call the roles of a run; other roles are splits


@dataclass(frozen=True, kw_only=True)
class Leak:
    """One content that occurs in two roles, or under two labels.

    Attributes:
        sha256: Of the content; empty for near duplicates, whose contents differ.
        images: Role and sample of each occurrence.
        near: How near duplicates differ, such as `mirrored`; empty for one content.
    """

    sha256: str
    images: tuple[tuple[str, Sample], ...]
    near: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the content occurs in, in their order."""
        return tuple(dict.fromkeys(role for role, _ in self.images))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the content has."""
        return tuple(sorted({sample.label for _, sample in self.images}))

    def __str__(self) -> str:
        """One line: every occurrence with its role, and with its label where labels differ."""
        several = len(self.labels) > 1
        line = " = ".join(
            f"`{sample.id}` ({_NAMES.get(role, role)}{f', label `{sample.label}`' if several else ''})"
            for role, sample in self.images
        )
        return f"{line}, a near duplicate: {self.near}" if self.near else line

    def to_json(self) -> dict[str, Any]:
        images = [{"id": sample.id, "role": role, "label": sample.label} for role, sample in self.images]
        found = {"sha256": self.sha256, "images": images}
        return {**found, "near": self.near} if self.near else found


@dataclass(frozen=True)
class Digested:
    """Samples with the digests of their contents; iterating gives pairs."""

    samples: Sequence[Sample]
    contents: Sequence[str]

    def __iter__(self) -> Iterator[tuple[Sample, str]]:
        return zip(self.samples, self.contents)


def digests(samples: Iterable[Sample]) -> Digested:
    """Each sample with the SHA-256 of its content; unreadable ones are left out, since decoding reports them."""
    columns = columns_of(samples)
    array: npt.NDArray[np.uint8] = np.zeros((len(columns), SIZE), np.uint8)
    read = np.zeros(len(columns), bool)
    for index, sample in enumerate(columns):
        try:
            array[index] = np.frombuffer(content_digest(sample.source), np.uint8)
        except OSError:
            continue
        read[index] = True
    kept = np.flatnonzero(read)
    if len(kept) == len(columns):
        return Digested(columns, Digests(array))
    return Digested(columns.take(kept), Digests(array[kept]))


def find_leaks(parts: Mapping[str, Iterable[tuple[Sample, str]]]) -> list[Leak]:
    """Find contents that occur in two of the parts, or under two labels anywhere.

    Args:
        parts: By role, samples with the digests of their contents. A content twice in one part, under one label, is no
            leak.
    """
    roles, every = list(parts), [_digested(part) for part in parts.values()]
    leaks = (
        Leak(
            sha256=every[places[0][0]].contents[places[0][1]],
            images=tuple((roles[part], every[part].samples[index]) for part, index in places),
        )
        for places in (repeated([_as_digests(one.contents) for one in every]) if every else ())
    )
    return [leak for leak in leaks if len(leak.roles) > 1 or len(leak.labels) > 1]


def _digested(part: Iterable[tuple[Sample, str]]) -> Digested:
    if isinstance(part, Digested):
        return part
    pairs = list(part)
    return Digested([sample for sample, _ in pairs], [content for _, content in pairs])


def _as_digests(contents: Sequence[str]) -> Digests:
    if isinstance(contents, Digests):
        return contents
    return Digests.of((sha256(content.encode()).digest() for content in contents), len(contents))


def leaks_of(decoded: Mapping[str, DecodedImages], reported: str) -> list[Leak]:
    """The leaks among the images that a run decoded; the part that is reported is called by its split.

    Of a `test` split that the run does not use, nothing is told but the images that are elsewhere too.
    """
    return leaks_by_role({name: Digested(part.samples, part.contents) for name, part in decoded.items()}, reported)


def leaks_by_role(parts: Mapping[str, Iterable[tuple[Sample, str]]], reported: str) -> list[Leak]:
    """What `leaks_of` finds, among samples with the digests of their contents."""
    names = {"reported" if "reported" in parts else "choose": reported, CHECKED: "test"}
    found = find_leaks({names.get(name, name): part for name, part in parts.items()})
    return [leak for leak in found if leak.roles != ("test",)] if CHECKED in parts else found


def near_leaks(found: NearDuplicates, placed: Sequence[tuple[str, Sample]]) -> list[Leak]:
    """Each pair of near duplicates as a leak; `placed` are role and sample of the images that were compared."""
    return [
        Leak(sha256="", images=(placed[pair.first], placed[pair.second]), near=f"{pair.how}, {pair.agreement:.3f}")
        for pair in found.pairs
    ]


def told(leaks: Sequence[Leak]) -> str:
    """The leaks in words: what is wrong and how often, then a line for each of the first."""
    shared = sum(len(leak.roles) > 1 for leak in leaks)
    labelled = sum(len(leak.labels) > 1 for leak in leaks)
    words: list[str] = []
    if shared:
        twice = counted(shared, "image is", "images are")
        words.append(f"{twice} in two parts of the data, so figures are too optimistic")
    if labelled:
        words.append(f"{counted(labelled, 'image has', 'images have')} two labels")
    lines = "".join(f"\n  {leak}" for leak in leaks[:SHOWN])
    more = f"\n  and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
    return f"{'; '.join(words)}:{lines}{more}"
