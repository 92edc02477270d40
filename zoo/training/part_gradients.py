"""Part gradients: the gradients of a batch's parts, of one process or of several ranks, added up in the parts' order.

Rank r of W computes the parts r, r + W, r + 2 W and so on. After each round the ranks exchange gradients, and every
rank adds them up as one process does that computes one part after the other. So the sums have the same bits, whatever
W is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from zoo.errors import ZooError
from zoo.system.ranks import BUCKET, Ranks
from zoo.training.running_statistics import RunningStatistics

# Computes a part, by its number, and its gradients; returns its loss and the number of images that are right
PartStep = Callable[[int], tuple[float, int]]


def gradients_of_ranks(
    ranks: Ranks,
    parts: int,
    compute: PartStep,
    parameters: Sequence[nn.Parameter],
    statistics: RunningStatistics,
    is_out_of_memory: Callable[[BaseException], bool],
) -> tuple[float, int]:
    """Set the gradients of `parameters`, on every rank, to those of all parts.

    Args:
        ranks: Two or more.
        parts: Number of parts of the batch.
        compute: Called for the parts of this rank; no parameter has a gradient then.
        parameters: That are trained.
        statistics: Of batch norms that train; they are updated part by part.
        is_out_of_memory: Whether an error is one that smaller parts may avoid.

    Returns:
        The loss and the number of images that are right, both of the whole batch.

    Raises:
        OutOfMemoryError: memory ran out on any of the ranks; raised by all.
        ZooError: a rank has ended.
    """
    totals: list[torch.Tensor | None] = [None] * len(parameters)
    value, right = 0.0, 0
    for first in range(0, parts, ranks.size):
        part, failed, loss, correct = first + ranks.rank, 0.0, 0.0, 0
        statistics.begin()
        if part < parts:
            try:
                loss, correct = compute(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = 1.0
        has = [float(parameter.grad is not None) for parameter in parameters]
        table = ranks.tables([failed, loss, float(correct), *has])
        if any(row[0] for row in table):
            statistics.end()
            raise torch.OutOfMemoryError("a rank has no memory left")
        active = min(ranks.size, parts - first)
        for row in table[:active]:
            value += row[1]
            right += int(row[2])
        masks = [[bool(one) for one in row[3:]] for row in table[:active]]
        mine = [parameter.grad for parameter in parameters]
        if ranks.exact:
            _add_in_order(ranks, parameters, mine, masks, totals)
        else:
            _add_locally(mine, totals)
        for parameter in parameters:
            parameter.grad = None
        statistics.exchange(ranks, active)
    if not ranks.exact:
        _add_by_library(ranks, parameters, totals)
    for parameter, total in zip(parameters, totals):
        parameter.grad = total
    return value, right


def _add_in_order(
    ranks: Ranks,
    parameters: Sequence[nn.Parameter],
    mine: Sequence[torch.Tensor | None],
    masks: Sequence[Sequence[bool]],
    totals: list[torch.Tensor | None],
) -> None:
    """Add the gradients of each rank to the totals, in the order of ranks; `masks` says which ranks have which."""
    used = [number for number in range(len(parameters)) if any(mask[number] for mask in masks)]
    for bucket in _buckets(parameters, used):
        gathered = ranks.gather(_flat(parameters, mine, bucket))
        place = 0
        for number in bucket:
            parameter = parameters[number]
            for mask, flat in zip(masks, gathered):
                if not mask[number]:
                    continue
                gradient = flat[place : place + parameter.numel()].view(parameter.shape)
                total = totals[number]
                if total is None:
                    # in the layout of the parameter, as autograd has it: norms of gradients are sums in that order
                    totals[number] = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
                else:
                    total.add_(gradient)
            place += parameter.numel()


def _add_locally(mine: Sequence[torch.Tensor | None], totals: list[torch.Tensor | None]) -> None:
    for number, gradient in enumerate(mine):
        total = totals[number]
        if gradient is not None:
            totals[number] = gradient if total is None else total.add_(gradient)


def _add_by_library(ranks: Ranks, parameters: Sequence[nn.Parameter], totals: list[torch.Tensor | None]) -> None:
    """Add up what the ranks have, as DDP does: the library chooses the order."""
    table = ranks.tables([float(total is not None) for total in totals])
    used = [number for number in range(len(parameters)) if any(row[number] for row in table)]
    for bucket in _buckets(parameters, used):
        flat = _flat(parameters, totals, bucket)
        ranks.add_up(flat)
        place = 0
        for number in bucket:
            parameter = parameters[number]
            gradient = flat[place : place + parameter.numel()].view(parameter.shape)
            totals[number] = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
            place += parameter.numel()


def _buckets(parameters: Sequence[nn.Parameter], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of parameters of one dtype, of at most `BUCKET` bytes together or of one parameter."""
    bucket: list[int] = []
    size = 0
    for number in numbers:
        parameter = parameters[number]
        more = parameter.numel() * parameter.element_size()
        if bucket and (size + more > BUCKET or parameters[bucket[0]].dtype is not parameter.dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(number)
        size += more
    if bucket:
        yield bucket


def _flat(
    parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor | None], bucket: Sequence[int]
) -> torch.Tensor:
    """The values of a bucket one after another, zeros where there is none."""
    pieces = []
    for number in bucket:
        value = values[number]
        if value is not None and value.is_sparse:
            raise ZooError("a sparse gradient cannot be exchanged between ranks", hint="train in one process")
        parameter = parameters[number]
        pieces.append((torch.zeros_like(parameter, requires_grad=False) if value is None else value).reshape(-1))
    return torch.cat(pieces)
