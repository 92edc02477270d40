"""Ranks: the processes that `torchrun` starts to train one network together, and what they tell one another.

Rank 0 leads: it decides, writes and prints; the others compute the same steps. torch is imported where it is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import UsageError, ZooError
from zoo.system.processors import THREADS, usable_cpus, use_threads

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by torchrun

# A rank that answers nothing for so long during training is taken for dead. One that has ended is noticed at once
TIMEOUT = timedelta(minutes=10)
# Where the others wait for what rank 0 does alone, such as decoding, it may take as long as it does
PATIENCE = timedelta(days=365)
# Bytes of gradients that are exchanged at once: every rank holds so many of each rank
BUCKET = 32 * 2**20


def launched() -> bool:
    """Whether torchrun has started this process."""
    return LAUNCHED in os.environ


def leads() -> bool:
    """Whether this process decides, writes and prints: rank 0, and every process that torchrun has not started."""
    return not launched() or os.environ.get("RANK", "0") == "0"


def share_processors() -> None:
    """Compute with an equal share of the processors where torchrun has set one thread a process, its default."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if launched() and local > 1 and os.environ.get(THREADS) == "1":
        use_threads(max(usable_cpus() // local, 1))


class Ranks:
    """One process alone, which is its own rank 0.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
        exact: Whether gradients are added up in the order of ranks, which gives the bits of one process.
    """

    rank = 0
    size = 1
    exact = True

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    def first(self, compute: Callable[[], T]) -> T:
        """What rank 0 computes, on every rank; the others wait, however long that takes."""
        return compute()

    def meet(self) -> None:
        """Wait until all ranks have come here."""

    def check_same(self, facts: Mapping[str, str]) -> None:
        """Check that the facts, values by name, are those of rank 0 on every rank.

        Raises:
            ZooError: they are not; the message names the rank and what differs.
        """

    def tables(self, row: Sequence[float]) -> list[list[float]]:
        """The rows of all ranks, in their order."""
        return [list(row)]

    def take_over(self, tensors: Iterable[torch.Tensor], source: int = 0) -> None:
        """Replace the values of tensors by those of the rank `source`, in place."""

    def gather(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The tensors `(N,)` of all ranks, in their order."""
        return [flat]

    def add_up(self, flat: torch.Tensor) -> None:
        """Replace a tensor `(N,)` by the sum over all ranks, in an order that the library chooses."""

    def leave(self) -> None:
        """End the connection, once all ranks have come here."""


ALONE = Ranks()


class TorchRanks(Ranks):
    """The ranks of a torchrun, connected by `torch.distributed`: gloo for the CPU, nccl for CUDA."""

    def __init__(self, backend: str, exact: bool = True) -> None:
        """Connect.

        Args:
            backend: As `torch.distributed.init_process_group` takes it.
            exact: See `Ranks`.

        Raises:
            ZooError: the other ranks cannot be reached.
        """
        import torch.distributed as dist

        self._dist = dist
        self.exact = exact
        with _told():
            dist.init_process_group(backend, timeout=TIMEOUT)
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            self._patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def first(self, compute: Callable[[], T]) -> T:
        import pickle

        import torch

        # a tensor of bytes and not `broadcast_object_list`, whose wait no signal interrupts
        data = pickle.dumps(compute()) if self.leads else b""
        length = torch.tensor([len(data)])
        self._wait_for(length)
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.leads else torch.empty(0)
        if not self.leads:
            values = torch.empty(int(length), dtype=torch.uint8)
        self._wait_for(values)
        # from rank 0 of the same torchrun
        return pickle.loads(values.numpy().tobytes())  # type: ignore[no-any-return]  # noqa: S301

    def _wait_for(self, tensor: torch.Tensor) -> None:
        with _told():
            _finish(self._dist.broadcast(tensor, 0, group=self._patient, async_op=True))

    def meet(self) -> None:
        import torch

        with _told():
            _finish(self._dist.all_reduce(torch.zeros(1), group=self._patient, async_op=True))

    def check_same(self, facts: Mapping[str, str]) -> None:
        found: list[Any] = [None] * self.size
        with _told():
            self._dist.all_gather_object(found, dict(facts), group=self._patient)
        for rank, theirs in enumerate(found):
            differ = [
                f"{name} is {theirs.get(name, 'missing')}, on rank 0 {found[0].get(name, 'missing')}"
                for name in dict.fromkeys([*found[0], *theirs])
                if theirs.get(name) != found[0].get(name)
            ]
            if differ:
                raise ZooError(
                    f"rank {rank} does not have what rank 0 has: {'; '.join(differ)}",
                    hint="every rank needs the same photographs, weights and versions",
                )

    def tables(self, row: Sequence[float]) -> list[list[float]]:
        import torch

        return [one.tolist() for one in self.gather(torch.tensor(row, dtype=torch.float64))]

    def take_over(self, tensors: Iterable[torch.Tensor], source: int = 0) -> None:
        for tensor in tensors:
            value = tensor.detach().contiguous()
            with _told():
                self._dist.broadcast(value, source)
            if self.rank != source:
                tensor.data.copy_(value)

    def gather(self, flat: torch.Tensor) -> list[torch.Tensor]:
        import torch

        found = [torch.empty_like(flat) for _ in range(self.size)]
        with _told():
            self._dist.all_gather(found, flat)
        return found

    def add_up(self, flat: torch.Tensor) -> None:
        with _told():
            self._dist.all_reduce(flat)

    def leave(self) -> None:
        self.meet()
        self._dist.destroy_process_group()


def _finish(work: Any) -> None:
    """Wait for an exchange, in short sleeps: a signal would not be seen inside of `wait`."""
    pause = 1e-4
    while not work.is_completed():
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)
    work.wait()


@contextmanager
def _told() -> Iterator[None]:
    """What `torch.distributed` raises, as an error of one line."""
    try:
        yield
    except RuntimeError as error:
        raise ZooError(
            "another rank has ended, or does not answer",
            hint="torchrun's report names it; `zoo train --resume RUN`, started by torchrun as before, continues the "
            "run, and without torchrun in one process",
        ) from error


def join(device: str, *, exact: bool = True) -> Ranks:
    """Join the ranks that torchrun has started, or none where it has not started this process.

    Where CUDA is used, rank after rank gets a device of its own.

    Args:
        device: The setting `--device`.
        exact: See `Ranks`.

    Raises:
        UsageError: `device` is one CUDA device of several.
        ZooError: there are more ranks on this machine than CUDA devices, or the other ranks cannot be reached.
    """
    if not launched():
        return ALONE
    import torch

    from zoo.runtime import DeviceName  # not at the top: `zoo --help` needs no runtime

    name = DeviceName.parse(device)
    if name.ordinal is not None:
        raise UsageError(
            f"`--device {device}` is one device, and every rank needs one of its own",
            hint=f"pass `--device {name.kind}`",
        )
    if name.kind in ("xpu", "mps"):
        raise UsageError(
            f"`--device {device}`: ranks compute on CUDA, ROCm or the CPU",
            hint="train without torchrun, in one process",
        )
    local, here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device == "cpu" or not torch.cuda.is_available():
        return TorchRanks("gloo", exact)
    if local > here:
        raise ZooError(
            f"torchrun has started {local} ranks on this machine, which has {here} CUDA "
            f"device{'' if here == 1 else 's'}",
            hint=f"pass `--nproc-per-node {here}` to torchrun, or `--device cpu` to zoo",
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return TorchRanks("cpu:gloo,cuda:nccl", exact)
