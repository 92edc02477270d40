"""A network that is split where its frozen part ends, into a prefix and the rest.

The prefix depends on nothing but the image, so it needs to be computed only once for each image. Both parts use the
network's own modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import fx, nn

from zoo.errors import type_and_first_line
from zoo.feature_cache.check_memory import CheckMemory
from zoo.networks.batchnorm_folding import fold
from zoo.networks.freezing import digest_of_state
from zoo.networks.tracing import LARGE_BATCH, SMALL_BATCH, find_prefix, prefix_graph, rest_graph
from zoo.storage.tensor_store import checksum

# Largest difference of a logit between the two parts and the whole network, as a share of the largest logit. They
# compute the same, but the memory layout of the tensors between them may change roundings
TOLERANCE = {None: 1e-3, torch.bfloat16: 5e-2}

# One tensor for each tensor that crosses the split, with one row per image
Rows = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class BoundaryTensor:
    """How a tensor that crosses the split is stored: as rows, one per image.

    Attributes:
        shape: Shape of one row.
        dtype: Its dtype.
        channels_last: Whether rows are `(H, W, C)` where the network's tensor is `(N, C, H, W)`.
        many: Whether an image has several entries in the first dimension of the network's tensor, as with windows of
            attention.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool
    many: bool

    @property
    def bytes(self) -> int:
        """Size of one row."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class SplitNetwork:
    """A network in two parts, for one phase.

    `prefix` maps inputs `(N, 3, H, W)` to rows, `rest` maps rows to logits `(N, classes)`. The rest computes in the
    modes that the network's modules are in. The prefix computes with its batch norms folded, where it has any.

    Attributes:
        boundary: The tensors that cross the split.
        autocast: The dtype of autocast. None: fp32, without autocast.
        input_shape: Shape of an input, `(3, H, W)`.
        seconds: Time of the prefix per image, measured on the three images that the split was checked with.
    """

    def __init__(
        self,
        model: nn.Module,
        trainable: Collection[str],
        images: torch.Tensor,
        autocast: torch.dtype | None,
        memory: CheckMemory | None = None,
    ) -> None:
        """Split before everything that depends on the parameters `trainable`, or on active randomness.

        `images` are `LARGE_BATCH` inputs to check the split with. A split that `memory` knows was checked before: only
        its digest is computed again, which depends on what the prefix computes for `images`.

        Raises:
            ValueError: the network cannot be split; the message says why.
        """
        self.autocast = autocast
        self.place = images.device
        self.seconds = 0.0
        self._memory = memory
        self.input_shape = tuple(images.shape[1:])
        self._buffers = tuple(model.buffers())
        self._computing: nn.Module  # the prefix, with folded batch norms if it can be folded
        try:
            self._split(model, trainable, images)
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
            # a library's network may fail in any way when it is split, and only speed depends on the split
            raise ValueError(type_and_first_line(error)) from error

    def _split(self, model: nn.Module, trainable: Collection[str], images: torch.Tensor) -> None:
        with self.precision(), torch.no_grad():
            found = find_prefix(model, trainable, images)
        first = next(iter(found.graph.nodes))
        if not found.boundary or first in found.boundary:
            raise ValueError("no layer is frozen before the first stage that trains")
        self._prefix = fx.GraphModule(model, prefix_graph(found), "Prefix")
        self._state = digest_of_state(self._prefix)
        self._rest = fx.GraphModule(model, rest_graph(found), "Rest")
        self.boundary = tuple(
            _boundary(one, other, str(node))
            for one, other, node in zip(found.small_values, found.large_values, found.boundary)
        )
        with self.precision():
            self._computing = fold(self._prefix, images[:SMALL_BATCH]) or self._prefix

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
        """Compute the rows of inputs `(N, 3, H, W)`."""
        with self.precision():
            values = self._computing(inputs)
        return self.rows_of(values, len(inputs))

    @property
    def computing(self) -> nn.Module:
        """The module that computes the prefix, from inputs `(N, 3, H, W)` to the tuple of tensors of `boundary`."""
        return self._computing

    def rows_of(self, values: Sequence[torch.Tensor], count: int) -> Rows:
        """The rows of `count` images, from what `computing` returned for them."""
        return tuple(_rows(value, tensor, count) for value, tensor in zip(values, self.boundary))

    def rest(self, *rows: torch.Tensor) -> torch.Tensor:
        """Compute logits `(N, classes)` from rows."""
        values = [_value(row, tensor) for row, tensor in zip(rows, self.boundary)]
        logits: torch.Tensor = self._rest(len(rows[0]), *values)
        return logits

    @torch.no_grad()
    def logits(self, *rows: torch.Tensor) -> torch.Tensor:
        """Logits `(N, classes)` in fp32 of rows, leaving running statistics and random numbers as they were."""
        return self._untouched(lambda: self.rest(*rows))

    def graph_digest(self) -> str:
        """SHA-256 over the prefix's graph, its weights and the size of its inputs, whatever its precision is."""
        return hashlib.sha256(f"{self._prefix.graph}{self._state}{self.input_shape}".encode()).hexdigest()

    def structure(self) -> str:
        """SHA-256 over the prefix's graph and the shapes of its tensors: what its time depends on."""
        shapes = [(name, list(value.shape)) for name, value in self._prefix.state_dict().items()]
        return hashlib.sha256(f"{self._prefix.graph}{shapes}{self.input_shape}{self.autocast}".encode()).hexdigest()

    def digest(self) -> str:
        """SHA-256 over the prefix's graph, its weights and its outputs on the images it was checked with.

        The outputs change with the code of its modules, even if the version of a library stays the same.
        """
        whole = hashlib.sha256(str(self._prefix.graph).encode())
        whole.update(self._state.encode())
        whole.update(self._checked.encode())
        return whole.hexdigest()

    def unchanged(self) -> bool:
        """Whether the weights of the prefix are those at the time of the split."""
        return digest_of_state(self._prefix) == self._state

    def precision(self) -> torch.autocast:
        """A context that computes in the precision of the split."""
        return torch.autocast(self.place.type, self.autocast, enabled=self.autocast is not None)

    def _untouched(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is computed, in fp32, leaving running statistics and random numbers as they were."""
        before = [(buffer, buffer.clone()) for buffer in self._buffers]
        rng_state = torch.get_rng_state()
        try:
            torch.manual_seed(0)
            with self.precision():
                return compute().float()
        finally:
            torch.set_rng_state(rng_state)
            _restore(before)

    @torch.no_grad()
    def _check(self, model: nn.Module, images: torch.Tensor) -> None:
        """Check that both parts together compute the network's logits, and that an image's rows depend on it alone.

        Raises:
            ValueError: they do not.
        """
        started = perf_counter()
        rows = self.prefix(images)
        self.seconds = (perf_counter() - started) / len(images)
        self._checked = checksum({str(number): row.cpu() for number, row in enumerate(rows)})
        modes = [module.training for module in model.modules()]
        parts = f"{self.digest()} {self._rest.graph} {self._computing is self._prefix} {modes}"
        name = hashlib.sha256(parts.encode()).hexdigest()
        known = self._memory.seconds(name) if self._memory is not None else None
        if known is not None:
            self.seconds = min(self.seconds, known)
            return
        if any(row.dtype != tensor.dtype for row, tensor in zip(rows, self.boundary)):
            raise ValueError("a tensor that crosses the split has another dtype in another call")
        logits = [self._untouched(lambda: model(images)), self._untouched(lambda: self.rest(*rows))]
        bound = TOLERANCE[self.autocast] * float(logits[0].abs().max())
        difference = float((logits[0] - logits[1]).abs().max())
        if not difference <= bound:
            raise ValueError(f"its two parts give other logits than the whole: they differ by {difference:.2g}")
        order = torch.tensor([2, 2, 1], device=images.device)  # other positions in the batch, with other images
        started = perf_counter()
        again = self.prefix(images[order])
        # the shorter of two times, since the machine may be busy
        self.seconds = min(self.seconds, (perf_counter() - started) / len(images))
        for one, other, tensor in zip(again, rows, self.boundary):
            change = (one.float() - other[order].float()).abs().max()
            largest = other.float().abs().max()
            if tensor.dtype.is_floating_point and not change <= TOLERANCE[self.autocast] * largest:
                raise ValueError("its frozen part mixes the images of a batch")
        if self._memory is not None:
            self._memory.passed(name, self.seconds)


def _restore(before: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Undo the changes of a forward pass to running statistics."""
    for buffer, value in before:
        buffer.copy_(value)


def _boundary(small: torch.Tensor, large: torch.Tensor, name: str) -> BoundaryTensor:
    """How a tensor is stored, found from its values for `SMALL_BATCH` and for `LARGE_BATCH` images.

    Raises:
        ValueError: it does not have the same number of rows for each image.
    """
    per = small.shape[0] // SMALL_BATCH if small.ndim else 0
    if per == 0 or small.shape[0] != SMALL_BATCH * per or large.shape != (LARGE_BATCH * per, *small.shape[1:]):
        raise ValueError(f"`{name}` of shape {list(small.shape)} does not have the same number of rows for each image")
    last = per == 1 and small.ndim == 4 and small.is_contiguous(memory_format=torch.channels_last)
    row = tuple(small.shape[1:])
    shape = (row[1], row[2], row[0]) if last else row if per == 1 else (per, *row)
    return BoundaryTensor(shape, small.dtype, last, per > 1)


def _rows(value: torch.Tensor, tensor: BoundaryTensor, count: int) -> torch.Tensor:
    if tensor.channels_last:
        value = value.permute(0, 2, 3, 1)
    return value.contiguous().reshape(count, *tensor.shape)


def _value(rows: torch.Tensor, tensor: BoundaryTensor) -> torch.Tensor:
    if tensor.channels_last:
        return rows.permute(0, 3, 1, 2)
    return rows.flatten(0, 1) if tensor.many else rows


def block_size(batch_size: int, most: int) -> int:
    """Number of images that the prefix computes at a time.

    It is the largest divisor of the batch size that is at most `most`, or `most` itself if that divisor is below half
    of it. Every block has this size and is padded if necessary, since the last bit of an image's output depends on the
    size.
    """
    if batch_size <= most:
        return batch_size
    divisor = max(size for size in range(1, most + 1) if batch_size % size == 0)
    return divisor if divisor >= most // 2 else most


def padded(inputs: torch.Tensor, block: int) -> torch.Tensor:
    """Up to `block` inputs, and the last one again until there are so many; channels last."""
    short = block - len(inputs)
    whole = torch.cat([inputs, inputs[-1:].expand(short, *inputs.shape[1:])]) if short else inputs
    return whole.contiguous(memory_format=torch.channels_last)


def prefix_in_blocks(
    split: SplitNetwork, inputs: torch.Tensor, block: int, compute: Callable[[torch.Tensor], Rows] | None = None
) -> Rows:
    """Compute the prefix for any number of inputs, in blocks of `block` images; the last one is padded.

    `compute` is an engine's function in place of `split.prefix`.
    """
    found: list[Rows] = []
    for part in torch.split(inputs, block):
        rows = (compute or split.prefix)(padded(part, block))
        found.append(tuple(row[: len(part)] for row in rows))
    return tuple(torch.cat(rows) for rows in zip(*found)) if len(found) > 1 else found[0]
