"""A network split where its frozen part ends: the prefix, a function of the image alone, and the rest.

The prefix need be computed only once for each image. Both parts use the network's own modules.
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
from zoo.networks.tracing import FEW, MORE, find_prefix, prefix_graph, rest_graph
from zoo.storage.tensor_store import checksum

# Largest difference of a logit between the two parts and the whole network, as a share of the largest logit. They
# compute the same; the memory layout of the tensors between them may change roundings
TOLERANCE = {None: 1e-3, torch.bfloat16: 5e-2}

# One tensor for each tensor that crosses the split, with one row per image
Rows = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class BoundaryTensor:
    """How a tensor that crosses the split is kept: as rows, one per image."""

    shape: tuple[int, ...]  # of one row
    dtype: torch.dtype
    channels_last: bool  # rows are (H, W, C), the network's tensor is (N, C, H, W)
    many: bool  # an image makes several entries of the network's first dimension: windows of attention

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class SplitNetwork:
    """A network in two parts, for one phase.

    `prefix` maps inputs `(N, 3, H, W)` to rows, `rest` maps rows to logits `(N, classes)`. The rest computes in the
    modes that the network's modules are in. The prefix computes with its batch norms folded, where it has any.

    Attributes:
        boundary: the tensors that cross the split.
        seconds: of the prefix per image, measured on the three images that the split was checked with.
    """

    def __init__(
        self, model: nn.Module, trainable: Collection[str], images: torch.Tensor, autocast: torch.dtype | None
    ) -> None:
        """Split before everything that depends on the parameters `trainable`, or on active randomness.

        `images` are `MORE` inputs to check the split with.

        Raises:
            ValueError: the network cannot be split; the message says why.
        """
        self.autocast = autocast
        self.place = images.device
        self.seconds = 0.0
        self._computing: nn.Module  # the prefix, with folded batch norms if it can be folded
        try:
            self._divide(model, trainable, images)
            try:
                self._check(model, images)
            except ValueError:
                if self._computing is self._prefix:
                    raise
                self._computing = self._prefix  # folding changes what it computes
                self._check(model, images)
        except ValueError:
            raise
        except Exception as error:
            # a library's network may fail in any way in two parts, and only speed depends on the split
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise ValueError(f"{type(error).__name__}: {reason}") from error

    def _divide(self, model: nn.Module, trainable: Collection[str], images: torch.Tensor) -> None:
        with self._autocast(), torch.no_grad():
            found = find_prefix(model, trainable, images)
        first = next(iter(found.graph.nodes))
        if not found.ends or first in found.ends:
            raise ValueError("nothing of it is frozen before the first stage that trains")
        self._prefix = fx.GraphModule(model, prefix_graph(found), "Prefix")
        self._state = digest_of_state(self._prefix)
        self._rest = fx.GraphModule(model, rest_graph(found), "Rest")
        self.boundary = tuple(
            _boundary(one, other, str(node)) for one, other, node in zip(found.few, found.more, found.ends)
        )
        with self._autocast():
            self._computing = fold(self._prefix, images[:FEW]) or self._prefix

    @property
    def bytes(self) -> int:
        """Bytes of the rows of one image."""
        return sum(tensor.bytes for tensor in self.boundary)

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that only the prefix reads."""
        return frozenset(name for name, _ in self._prefix.named_parameters())

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that the rest reads."""
        return frozenset(name for name, _ in self._rest.named_parameters())

    @torch.no_grad()
    def prefix(self, inputs: torch.Tensor) -> Rows:
        """Inputs `(N, 3, H, W)` to rows."""
        with self._autocast():
            values = self._computing(inputs)
        return tuple(_rows(value, tensor, len(inputs)) for value, tensor in zip(values, self.boundary))

    def rest(self, *rows: torch.Tensor) -> torch.Tensor:
        """Rows to logits `(N, classes)`."""
        values = [_value(row, tensor) for row, tensor in zip(rows, self.boundary)]
        logits: torch.Tensor = self._rest(len(rows[0]), *values)
        return logits

    def digest(self) -> str:
        """SHA-256 over the prefix's graph, its weights and its outputs on the checked images.

        The outputs tell changed code from unchanged code, whatever its version says.
        """
        whole = hashlib.sha256(str(self._prefix.graph).encode())
        whole.update(self._state.encode())
        whole.update(self._checked.encode())
        return whole.hexdigest()

    def unchanged(self) -> bool:
        """Whether the weights of the prefix are those at the time of the split."""
        return digest_of_state(self._prefix) == self._state

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.place.type, self.autocast, enabled=self.autocast is not None)

    @torch.no_grad()
    def _check(self, model: nn.Module, images: torch.Tensor) -> None:
        """Check that both parts together compute what the network does, and that an image's rows are its own.

        Raises:
            ValueError: they do not.
        """
        started = perf_counter()
        rows, answers = self.prefix(images), []
        self.seconds = (perf_counter() - started) / len(images)
        self._checked = checksum({str(number): row.cpu() for number, row in enumerate(rows)})
        if any(row.dtype != tensor.dtype for row, tensor in zip(rows, self.boundary)):
            raise ValueError("a tensor that crosses the split changes its type from call to call")
        before = [(buffer, buffer.clone()) for buffer in model.buffers()]
        states = torch.get_rng_state()
        try:
            for whole in (True, False):
                torch.manual_seed(0)
                with self._autocast():
                    answers.append((model(images) if whole else self.rest(*rows)).float())
                _restore(before)
        finally:
            torch.set_rng_state(states)
            _restore(before)
        bound = TOLERANCE[self.autocast] * float(answers[0].abs().max())
        difference = float((answers[0] - answers[1]).abs().max())
        if not difference <= bound:
            raise ValueError(f"its two parts compute something else: logits differ by {difference:.2g}")
        order = torch.tensor([2, 2, 1], device=images.device)  # other places in the batch, beside other images
        started = perf_counter()
        again = self.prefix(images[order])
        self.seconds = min(self.seconds, (perf_counter() - started) / len(images))  # the machine may be busy
        for one, other, tensor in zip(again, rows, self.boundary):
            moved = (one.float() - other[order].float()).abs().max()
            largest = other.float().abs().max()
            if tensor.dtype.is_floating_point and not moved <= TOLERANCE[self.autocast] * largest:
                raise ValueError("its frozen part mixes the images of a batch")


def _restore(before: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Undo what a trial pass did to running statistics."""
    for buffer, value in before:
        buffer.copy_(value)


def _boundary(few: torch.Tensor, more: torch.Tensor, name: str) -> BoundaryTensor:
    """How a tensor is kept, from its values for `FEW` and for `MORE` images.

    Raises:
        ValueError: it does not have the same number of rows for each image.
    """
    per = few.shape[0] // FEW if few.ndim else 0
    if per == 0 or few.shape[0] != FEW * per or more.shape != (MORE * per, *few.shape[1:]):
        raise ValueError(f"`{name}`, of {list(few.shape)}, has no row for each image")
    last = per == 1 and few.ndim == 4 and few.is_contiguous(memory_format=torch.channels_last)
    row = tuple(few.shape[1:])
    shape = (row[1], row[2], row[0]) if last else row if per == 1 else (per, *row)
    return BoundaryTensor(shape, few.dtype, last, per > 1)


def _rows(value: torch.Tensor, tensor: BoundaryTensor, count: int) -> torch.Tensor:
    if tensor.channels_last:
        value = value.permute(0, 2, 3, 1)
    return value.contiguous().reshape(count, *tensor.shape)


def _value(rows: torch.Tensor, tensor: BoundaryTensor) -> torch.Tensor:
    if tensor.channels_last:
        return rows.permute(0, 3, 1, 2)
    return rows.flatten(0, 1) if tensor.many else rows


# Most images that the prefix takes at a time. Of EfficientNet-Lite0, ResNet-50 and ConvNeXt-Tiny, a CPU computes 154,
# 33 and 30 images a second in blocks of 16; 133, 30 and 27 in blocks of 4; and no more in blocks of 32
BLOCKS = {"cpu": 16, "cuda": 64}


def block_size(batch_size: int, most: int) -> int:
    """Images that the prefix takes at a time: the largest divisor of the batch up to `most`, unless that is small.

    Blocks always have this size, padded if need be: the last bit of an image's output depends on the block's size.
    """
    if batch_size <= most:
        return batch_size
    divisor = max(size for size in range(1, most + 1) if batch_size % size == 0)
    return divisor if divisor >= most // 2 else most


def prefix_in_blocks(split: SplitNetwork, inputs: torch.Tensor, block: int) -> Rows:
    """`split.prefix` of any number of inputs, `block` at a time, the last block padded."""
    found: list[Rows] = []
    for part in torch.split(inputs, block):
        short = block - len(part)
        padded = torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short else part
        rows = split.prefix(padded.contiguous(memory_format=torch.channels_last))
        found.append(tuple(row[: len(part)] for row in rows))
    return tuple(torch.cat(rows) for rows in zip(*found)) if len(found) > 1 else found[0]
