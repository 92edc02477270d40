"""The frozen prefix: what a phase freezes is a function of the image alone, so it is computed apart and once.

A network is cut in two where its frozen part ends. Both parts are the network's own modules, in other hands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import fx, nn

from zoo.networks.batchnorm_folding import fold
from zoo.networks.freezing import digest_of_state
from zoo.networks.tracing import FEW, MORE, early_graph, find_prefix, late_graph
from zoo.storage.tensor_store import checksum

# How far the two parts may differ from the whole, as a share of the largest logit: they compute the same, and differ
# where they do by the layout of what lies between them
TOLERANCE = {None: 1e-3, torch.bfloat16: 5e-2}

Rows = tuple[torch.Tensor, ...]  # one tensor per end of the prefix, each with one row per image


@dataclass(frozen=True)
class End:
    """A tensor that crosses the cut, as rows: one per image."""

    shape: tuple[int, ...]  # of one row
    dtype: torch.dtype
    channels_last: bool  # rows are (H, W, C), the network's tensor is (N, C, H, W)
    many: bool  # an image makes several entries of the network's first dimension: windows

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Cut:
    """A network in two, for one phase.

    `prefix` maps inputs `(N, 3, H, W)` to rows, `rest` maps rows to logits `(N, classes)`. The rest computes in the
    modes that the network's modules are in; the prefix with its batch norms folded, where it has any.
    """

    def __init__(
        self, model: nn.Module, late: Collection[str], images: torch.Tensor, autocast: torch.dtype | None
    ) -> None:
        """Cut before everything that depends on the parameters `late`, or on chance.

        `images` are `MORE` inputs to try it on.

        Raises:
            ValueError: it cannot be cut; the message says why.
        """
        self.autocast = autocast
        self.place = images.device
        self.seconds = 0.0  # of the prefix, per image, by the three that it was tried on
        self._computing: nn.Module  # the prefix, its batch norms folded where that can be
        try:
            self._divide(model, late, images)
            try:
                self._check(model, images)
            except ValueError:
                if self._computing is self._early:
                    raise
                self._computing = self._early  # nothing can be folded after all
                self._check(model, images)
        except ValueError:
            raise
        except Exception as error:
            # what a library's network does in two parts may fail in any way, and nothing depends on the cut but time
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise ValueError(f"{type(error).__name__}: {reason}") from error

    def _divide(self, model: nn.Module, late: Collection[str], images: torch.Tensor) -> None:
        with self._autocast(), torch.no_grad():
            found = find_prefix(model, late, images)
        first = next(iter(found.graph.nodes))
        if not found.ends or first in found.ends:
            raise ValueError("nothing of it is frozen before the first stage that trains")
        self._early = fx.GraphModule(model, early_graph(found), "Prefix")
        self._state = digest_of_state(self._early)
        self._late = fx.GraphModule(model, late_graph(found), "Rest")
        self.ends = tuple(_end(one, other, str(node)) for one, other, node in zip(found.few, found.more, found.ends))
        with self._autocast():
            self._computing = fold(self._early, images[:FEW]) or self._early

    @property
    def bytes(self) -> int:
        """Of one image."""
        return sum(end.bytes for end in self.ends)

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that only the prefix reads."""
        return frozenset(name for name, _ in self._early.named_parameters())

    @property
    def late(self) -> frozenset[str]:
        """Names of the parameters that the rest reads."""
        return frozenset(name for name, _ in self._late.named_parameters())

    @torch.no_grad()
    def prefix(self, inputs: torch.Tensor) -> Rows:
        """Inputs `(N, 3, H, W)` to rows."""
        with self._autocast():
            values = self._computing(inputs)
        return tuple(_rows(value, end, len(inputs)) for value, end in zip(values, self.ends))

    def rest(self, *rows: torch.Tensor) -> torch.Tensor:
        """Rows to logits `(N, classes)`."""
        values = [_value(row, end) for row, end in zip(rows, self.ends)]
        logits: torch.Tensor = self._late(len(rows[0]), *values)
        return logits

    def digest(self) -> str:
        """SHA-256 over what the prefix computes: its graph, its weights, and what it gave when tried.

        The last tells code that changed from code that did not, whatever its version says.
        """
        whole = hashlib.sha256(str(self._early.graph).encode())
        whole.update(self._state.encode())
        whole.update(self._tried.encode())
        return whole.hexdigest()

    def still_holds(self) -> bool:
        """Whether the weights of the network's frozen part are what they were when it was cut."""
        return digest_of_state(self._early) == self._state

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.place.type, self.autocast, enabled=self.autocast is not None)

    @torch.no_grad()
    def _check(self, model: nn.Module, images: torch.Tensor) -> None:
        """The two parts compute what the network computes, and an image's row is its own.

        Raises:
            ValueError: they do not.
        """
        started = perf_counter()
        rows, answers = self.prefix(images), []
        self.seconds = (perf_counter() - started) / len(images)
        self._tried = checksum({str(number): row.cpu() for number, row in enumerate(rows)})
        if any(row.dtype != end.dtype for row, end in zip(rows, self.ends)):
            raise ValueError("what crosses the cut is of another kind each time")
        before = [(buffer, buffer.clone()) for buffer in model.buffers()]
        states = torch.get_rng_state()
        try:
            for whole in (True, False):
                torch.manual_seed(0)
                with self._autocast():
                    answers.append((model(images) if whole else self.rest(*rows)).float())
                _put_back(before)
        finally:
            torch.set_rng_state(states)
            _put_back(before)
        bound = TOLERANCE[self.autocast] * float(answers[0].abs().max())
        away = float((answers[0] - answers[1]).abs().max())
        if not away <= bound:
            raise ValueError(f"in two parts it computes something else: logits differ by {away:.2g}")
        order = torch.tensor([2, 2, 1], device=images.device)  # other places, and other company
        started = perf_counter()
        again = self.prefix(images[order])
        self.seconds = min(self.seconds, (perf_counter() - started) / len(images))  # the machine may be busy
        for one, other, end in zip(again, rows, self.ends):
            moved = (one.float() - other[order].float()).abs().max()
            if end.dtype.is_floating_point and not moved <= TOLERANCE[self.autocast] * other.float().abs().max():
                raise ValueError("what is frozen looks at several images together")


def _put_back(before: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Statistics that followed a trial, as they were."""
    for buffer, value in before:
        buffer.copy_(value)


def _end(few: torch.Tensor, more: torch.Tensor, name: str) -> End:
    """How a tensor is kept, from what it is for `FEW` and for `MORE` images.

    Raises:
        ValueError: it has no rows of images.
    """
    per = few.shape[0] // FEW if few.ndim else 0
    if per == 0 or few.shape[0] != FEW * per or more.shape != (MORE * per, *few.shape[1:]):
        raise ValueError(f"`{name}`, of {list(few.shape)}, has no row for each image")
    last = per == 1 and few.ndim == 4 and few.is_contiguous(memory_format=torch.channels_last)
    row = tuple(few.shape[1:])
    shape = (row[1], row[2], row[0]) if last else row if per == 1 else (per, *row)
    return End(shape, few.dtype, last, per > 1)


def _rows(value: torch.Tensor, end: End, count: int) -> torch.Tensor:
    if end.channels_last:
        value = value.permute(0, 2, 3, 1)
    return value.contiguous().reshape(count, *end.shape)


def _value(rows: torch.Tensor, end: End) -> torch.Tensor:
    if end.channels_last:
        return rows.permute(0, 3, 1, 2)
    return rows.flatten(0, 1) if end.many else rows


# Images that the prefix takes at a time, at most. Of EfficientNet-Lite0, ResNet-50 and ConvNeXt-Tiny, a CPU computes
# 154, 33 and 30 a second 16 at a time, 133, 30 and 27 by fours, and no more 32 at a time
BLOCKS = {"cpu": 16, "cuda": 64}


def block_size(batch_size: int, most: int) -> int:
    """Images that the prefix takes at a time: the largest divisor of the batch up to `most`, unless that is small.

    Always so many, padded: what a layer gives for an image depends, in the last bit, on how many stand beside it.
    """
    if batch_size <= most:
        return batch_size
    divisor = max(size for size in range(1, most + 1) if batch_size % size == 0)
    return divisor if divisor >= most // 2 else most


def in_blocks(cut: Cut, inputs: torch.Tensor, block: int) -> Rows:
    """`cut.prefix` of any number of inputs, `block` at a time, the last ones padded."""
    found: list[Rows] = []
    for part in torch.split(inputs, block):
        short = block - len(part)
        padded = torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short else part
        rows = cut.prefix(padded.contiguous(memory_format=torch.channels_last))
        found.append(tuple(row[: len(part)] for row in rows))
    return tuple(torch.cat(rows) for rows in zip(*found)) if len(found) > 1 else found[0]
