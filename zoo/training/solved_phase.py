"""Solved phase: the head is computed from features of the training images, without optimiser steps."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.data.groups import group_numbers
from zoo.errors import Diverged, ZooError
from zoo.networks.freezing import FrozenProof, apply_phase, recalibrate
from zoo.networks.head import find_head
from zoo.solver import Task
from zoo.storage.files import SCHEMA
from zoo.strategy import Phase
from zoo.target import load_target
from zoo.training.features import cached_features, features
from zoo.training.kept_solution import solve_or_find
from zoo.training.optimizer import changed_by
from zoo.training.workspace import Workspace

SCORED = 65_536  # training images whose logits are computed at a time


def solve_phase(workspace: Workspace, phase: Phase, epoch: int) -> dict[str, Any]:
    """Run the phase's solver on a workspace's network, in place; returns a history record like that of an epoch.

    `epoch` is the number of epochs trained before.

    Raises:
        Diverged: features are not finite after epochs of training.
        ZooError: they are not, with no training before; or something other than the head changed.
    """
    assert phase.solver is not None
    model, labels = workspace.model, workspace.labels
    started = perf_counter()
    apply_phase(model, (), "frozen")
    if phase.norm == "recalibrate":
        recalibrate(model, workspace.plain_batches())
    model.eval()
    title, began = f"features for {phase.name}", perf_counter()
    cached = cached_features(
        workspace.network, changed_by(workspace.network, phase), workspace.views, workspace.cache, title
    )
    if cached is not None:
        found, spent = cached
    else:
        workspace.job.context.progress.start(title, len(labels))
        found = features(workspace.network, workspace.plain_batches())
        spent = {"prefix": round(perf_counter() - began, 3)}
    if not np.isfinite([found.min(), found.max()]).all():
        raise _not_finite(workspace, found, epoch)
    head = find_head(workspace.network)
    in_head = {id(parameter) for parameter in head.parameters()}
    frozen = FrozenProof(model, "frozen", excluded=in_head | {id(buffer) for buffer in head.buffers()})
    computed = perf_counter()
    workspace.job.context.progress.start(f"solve {phase.name}", 0)
    solve: Callable[[Task], dict[str, Any]] = load_target(phase.solver)
    task = Task(
        head=head,
        features=found,
        labels=workspace.train.labels,
        classes=workspace.classes,
        seed=workspace.experiment.seed,
        groups=group_numbers(workspace.train.samples),
    )
    store = workspace.cache.store if phase.keep_solution and workspace.cache.asked != "off" else None
    answer = solve_or_find(phase.solver, solve, task, store)
    if not isinstance(answer, dict):
        raise ZooError(f"solver `{phase.solver}` returns {answer!r}, not a dict")
    frozen.check(f"while `{phase.name}` was solved")
    loss, right = _scored(head, found, labels, workspace.device.place)
    return {
        "schema": SCHEMA,
        "phase": phase.name,
        "epoch": epoch,
        "solved": answer,
        "train_loss": loss,
        "train_accuracy": right,
        "images_per_second": round(len(found) / (computed - started), 1),
        "seconds": {**spent, "solve": round(perf_counter() - computed, 3)},
    }


@torch.no_grad()
def _scored(
    head: nn.Module, features: npt.NDArray[np.float32], labels: torch.Tensor, place: torch.device
) -> tuple[float, float]:
    """Mean log-loss and accuracy of a head on features `(N, D)`, in blocks of `SCORED` images."""
    losses, rights, counts = [], [], []
    for start in range(0, len(features), SCORED):
        part, wanted = features[start : start + SCORED], labels[start : start + SCORED]
        logits = head(torch.from_numpy(np.ascontiguousarray(part)).to(place)).float().cpu()
        losses.append(float(nn.functional.cross_entropy(logits, wanted)))
        rights.append(float((logits.argmax(1) == wanted).float().mean()))
        counts.append(len(part))
    if len(counts) == 1:
        return losses[0], rights[0]
    return float(np.average(losses, weights=counts)), float(np.average(rights, weights=counts))


def _not_finite(workspace: Workspace, found: npt.NDArray[np.float32], epoch: int) -> ZooError:
    broken = np.flatnonzero(~np.isfinite(found).all(1))
    first = f"of {len(broken)} of {len(found)} training images, such as `{workspace.train.samples[int(broken[0])].id}`,"
    if epoch:
        return Diverged(
            f"features {first} are not finite: training diverged",
            hint=f"pass a lower `--lr` than {workspace.experiment.lr:g}, or clip with `--clip 1.0`",
        )
    return ZooError(
        f"`{workspace.network.anatomy.backbone}` gives features {first} that are not finite",
        hint="its weights are damaged, or overflow",
    )
