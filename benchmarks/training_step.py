"""Where the time of a training step goes on a CPU, by operator, beside the least that its arithmetic takes.

    python benchmarks/training_step.py

EfficientNet-Lite0 at 224 pixels, batches of 32: `partial:2` from cached outputs of the frozen prefix, and `full`, in
fp32 and bf16, with torch's own gradients and with zoo's (`zoo/system/fast_gradients.py`), in turns. Seconds are
processor seconds of one thread, so that a machine that is busy finds about the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from zoo import Network, Plugins
from zoo.feature_cache.split_network import SplitNetwork
from zoo.networks.batchnorm_folding import FoldedSteps
from zoo.networks.building import build_network
from zoo.networks.freezing import apply_phase
from zoo.networks.tracing import SMALL_BATCH, noise
from zoo.system.cpu_memory import keep_freed_memory
from zoo.system.denormals import flush_denormals
from zoo.system.environment import machine, versions
from zoo.system.fast_gradients import FastGradients

ROOT = Path(__file__).resolve().parents[1]
BACKBONE, PIXELS, BATCH, TURNS = "efficientnet_lite0", 224, 32, 5
STAGES = {"partial:2": 2, "full": None}  # the number of stages that train, besides the head; None: all
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
# What operators are counted as; all others are `the rest`
KINDS = {
    "aten::mkldnn_convolution": "convolutions, forward",
    "aten::convolution_backward": "convolutions, backward",
    "aten::hardtanh_backward": "ReLU6, backward",
    "aten::clamp": "ReLU6, forward",
    "aten::clamp_": "ReLU6, forward",
    "aten::copy_": "copies and casts",
    "aten::_fused_adamw_": "optimiser",
    "Optimizer.step#AdamW.step": "optimiser",
}
COLUMNS = [*dict.fromkeys(KINDS.values()), "the rest"]


def make_step(network: Network, stages: int | None, kind: torch.dtype | None) -> tuple[Callable[[bool], None], float]:
    """A training step on fixed inputs, whose argument says whether gradients are zoo's, and its 1e9 multiply-adds.

    Those are three times the forward pass's: each gradient takes as many.
    """
    names = [stage.parameters for stage in network.anatomy.stages]
    trained = {name for some in (names if stages is None else names[-stages:]) for name in some} | set(
        network.anatomy.head.parameters
    )
    apply_phase(network.model, trained, "frozen")
    images = noise(BATCH, PIXELS, torch.device("cpu"))
    forward: Callable[..., torch.Tensor] = network.model
    inputs: tuple[torch.Tensor, ...] = (images,)
    if stages is not None:
        split = SplitNetwork(network.model, trained, noise(3, PIXELS, torch.device("cpu")), kind)
        forward, inputs = split.rest, split.prefix(images)
    folded = FoldedSteps(network.model, noise(SMALL_BATCH, PIXELS, torch.device("cpu")))
    optimizer = torch.optim.AdamW([one for one in network.model.parameters() if one.requires_grad], 1e-5, fused=True)
    labels = torch.arange(BATCH) % 2

    def step(fast: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        mode = FastGradients() if fast else nullcontext()
        with folded.step(), torch.autocast("cpu", kind, enabled=kind is not None), mode:
            logits = forward(*inputs).float()
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(*(one.float() for one in inputs))
    adds = 3 * counter.get_total_flops() / 2e9

    return step, adds


def peak(kind: torch.dtype | None) -> float:
    """Multiply-adds in 1e9 a second of a large matrix product on one thread."""
    one = torch.full((2048, 2048), 0.5, dtype=kind or torch.float32)
    best = float("inf")
    for _ in range(4):
        began = time.process_time()
        one @ one
        best = min(best, time.process_time() - began)
    return 2048**3 / best / 1e9


def shares(step: Callable[[bool], None], fast: bool) -> dict[str, float]:
    """Share of each kind of operator in the processor time of a step."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(fast)
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        spent[KINDS.get(event.key, "the rest")] += event.self_cpu_time_total
    return {name: spent[name] / spent.total() for name in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "training_step.md")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone = Plugins().backbones.find(BACKBONE).value
    rows = []
    with flush_denormals():
        for strategy, stages in STAGES.items():
            for precision, kind in PRECISIONS.items():
                network = build_network(backbone, classes=2)
                network.model.to(memory_format=torch.channels_last)
                step, adds = make_step(network, stages, kind)
                floor, best = adds / peak(kind), {False: float("inf"), True: float("inf")}
                for _ in range(TURNS):
                    for fast in best:
                        began = time.process_time()
                        step(fast)
                        best[fast] = min(best[fast], time.process_time() - began)
                for fast, name in ((False, "torch"), (True, "zoo")):
                    parts = [f"{best[fast] * share:.3f}" for share in shares(step, fast).values()]
                    cells = [f"`{strategy}`", precision, name, f"{best[fast]:.3f}", f"{floor:.3f}", *parts]
                    rows.append(f"| {' | '.join(cells)} |")
                    print(rows[-1], file=sys.stderr, flush=True)
    about, used = machine(), versions()
    head = ["strategy", "precision", "gradients", "a step", "the least", *COLUMNS]
    out.write_text(
        "# A training step, by operator\n\n"
        f"Made by `python benchmarks/training_step.py`; {about['processor']}, one thread, torch {used['torch']}. "
        f"{BACKBONE} at {PIXELS} pixels, batches of {BATCH}, in processor seconds. `the least` is the time of the "
        "step's multiply-adds (three times those of the forward pass) at the speed of a large matrix product. "
        "Columns after it divide a step by its operators, as torch's profiler does.\n\n"
        f"| {' | '.join(head)} |\n|{' --- |' * len(head)}\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
