"""The recipe: train a network phase by phase. The training loop from top to bottom.

For every phase: freeze, take a digest of what is frozen, build the optimiser, step through the epochs, compare the
digest. A phase with a solver computes the head instead. After any step the training state can be saved and restored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import ZooError
from zoo.networks.freezing import FrozenProof, apply_phase, recalibrate, set_modes
from zoo.storage.files import SCHEMA
from zoo.strategy import Phase
from zoo.training.checkpoint import Checkpoints
from zoo.training.optimizer import trained_by
from zoo.training.optimizer_state import pack, unpack
from zoo.training.preparation import Job
from zoo.training.rank_checks import check_weights, in_turn
from zoo.training.sampler import batches, epoch_order, times_shown
from zoo.training.solved_phase import solve_phase
from zoo.training.state import BestEpoch, RunningTotals, TrainingState
from zoo.training.state_dict import load_tensors, tensors_of
from zoo.training.workspace import PhaseSteps, Workspace

# Steps of a phase whose rates are checked before the first; the others are checked as they are taken
CHECKED_STEPS = 10_000


class Recipe:
    """One training run in memory. `fit` yields a history record per epoch; the job's network is trained in place."""

    def __init__(self, job: Job, checkpoints: Checkpoints | None = None) -> None:
        """Prepare to train; with `checkpoints`, the training state is saved whenever one is due."""
        self.job = job
        self.experiment = job.experiment
        self.checkpoints = checkpoints
        self.ranks = job.context.ranks
        self.workspace = workspace = Workspace(job, self.ranks)
        self.network, self.model = workspace.network, workspace.model
        self.phases, self.epochs = workspace.phases, workspace.epochs
        self.state = TrainingState()
        self.steps: PhaseSteps | None = None  # of the current phase, unless it is solved
        self.average: AveragedModel | None = None  # of the trainable weights, where the phase asks for one
        self.proof: FrozenProof | None = None
        self.ended_by: str | None = None  # why the run ended before its last epoch
        self.seconds: dict[str, float] = {}  # of all records so far, by what they were spent on
        self._restored: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None
        self.restored: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None  # also once its phase began

    def fit(self) -> Iterator[dict[str, Any]]:
        """Carry out every phase that is left; yields one record per epoch.

        Raises:
            Diverged: the loss is no longer finite.
            ZooError: a frozen tensor changed, or a checkpoint cannot be written.
        """
        state = self.state
        self._check_schedule()
        while state.position.phase < len(self.phases) and self.ended_by is None:
            number = state.position.phase
            phase = self.phases[number]
            if phase.solver is not None:
                yield self._solve(phase)
            else:
                yield from self._fit_phase(phase)
            self.steps = self.average = self.proof = None
            state.best_of_phase, state.losses = BestEpoch(), []
            state.position.phase, state.position.epoch = number + 1, sum(self.epochs[: number + 1])
            state.position.lowered = 1.0
        if self.experiment.keep == "best" and state.best_of_run.state is not None:
            self.model.load_state_dict(state.best_of_run.state)

    def _fit_phase(self, phase: Phase) -> Iterator[dict[str, Any]]:
        state, position = self.state, self.state.position
        first, epochs = sum(self.epochs[: position.phase]), self.epochs[position.phase]
        self._enter(phase)
        assert self.proof is not None
        while position.epoch < first + epochs and self.ended_by is None:
            epoch = position.epoch
            set_modes(self.model, phase.norm)
            record = self._train_epoch(phase, first, epochs)
            started = perf_counter()
            self.proof.check(f"in epoch {epoch + 1}")
            record = {"schema": SCHEMA, "phase": phase.name, "epoch": epoch + 1, **record}
            if self.workspace.choose is not None:
                record |= self._validate()
            record["seconds"]["evaluate"] = round(perf_counter() - started, 3)
            if "choice_loss" in record:
                self._note_validation(record["choice_loss"], epoch)
            self._count(record)
            position.epoch, position.batch, state.totals = epoch + 1, 0, RunningTotals()
            position.records += 1
            yield record
            # No checkpoint is written between the validation and this decision, so a resumed run decides the same
            patience, waited = self.experiment.early_stopping, state.best_of_phase.waited(epoch, first)
            if patience is not None and waited >= patience and epoch + 1 < first + epochs:
                best = state.best_of_phase.epoch + 1
                self.job.context.progress.note(
                    f"stopped early: epoch {best} is the best of `{phase.name}`, and its weights are kept"
                    if best
                    else f"stopped early: no epoch of `{phase.name}` had a finite validation loss"
                )
                break
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        if state.best_of_phase.state is not None:
            self.model.load_state_dict(state.best_of_phase.state)
        check_weights(self.job, self.model)

    def _enter(self, phase: Phase) -> None:
        """Prepare a phase: freeze, recalibrate and build the optimiser, or restore them from a checkpoint."""
        workspace, number = self.workspace, self.state.position.phase
        apply_phase(self.model, trained_by(self.network, phase), phase.norm)
        restored, self._restored = self._restored, None
        if phase.norm == "recalibrate" and restored is None:
            recalibrate(self.model, workspace.plain_batches())
            set_modes(self.model, phase.norm)
            self.ranks.take_over(self.model.buffers())
        self.proof = FrozenProof(self.model, phase.norm)
        optimizer = workspace.make_optimizer(number)
        if phase.ema is not None:
            steps, over = self.epochs[number] * workspace.steps_per_epoch, 1 / (1 - phase.ema)
            if over > steps:
                self.job.context.progress.warn(
                    f"`ema={phase.ema:g}` averages over about {over:,.0f} steps and `{phase.name}` has {steps}: its "
                    "result will be close to its initial weights"
                )
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(phase.ema))  # type: ignore[no-untyped-call]
        if restored is not None:
            tensors, state = restored
            load_tensors(tensors, self.model, self.average)
            unpack(optimizer, tensors, state["optimizer"], self.experiment.optimizer)
            self.proof.expect(state["proof"])
        tensors_kept = None if restored is None else restored[0]
        self.steps = in_turn(self.job, lambda: workspace.open_phase(number, optimizer, restored=tensors_kept))

    def _solve(self, phase: Phase) -> dict[str, Any]:
        """Solve a phase; returns its history record."""
        self._restored = None  # a solved phase needs nothing but the network, which `restore` has loaded
        position = self.state.position
        record = self.ranks.first(lambda: solve_phase(self.workspace, phase, position.epoch))
        self.ranks.take_over([*self.model.parameters(), *self.model.buffers()])
        if self.workspace.choose is not None:
            started = perf_counter()
            record |= self._validate(phase)
            record["seconds"]["evaluate"] = round(perf_counter() - started, 3)
            keep = self.model if self.experiment.keep == "best" else None
            self.state.best_of_run.note(record["choice_loss"], position.epoch - 1, keep)
        self._count(record)
        position.records += 1
        return record

    def _count(self, record: dict[str, Any]) -> None:
        """Report a record, and add up its seconds."""
        self.job.context.progress.epoch(record)
        for name, value in record["seconds"].items():
            self.seconds[name] = round(self.seconds.get(name, 0.0) + value, 3)

    def _train_epoch(self, phase: Phase, first: int, epochs: int) -> dict[str, Any]:
        """Train from the current batch to the end of the epoch; returns its part of the history record.

        `first` is the phase's first epoch, `epochs` is its number of epochs.
        """
        phase_steps, totals, position = self.steps, self.state.totals, self.state.position
        assert phase_steps is not None
        progress, labels = self.job.context.progress, self.workspace.labels
        optimizer, steps = phase_steps.optimizer, self.workspace.steps_per_epoch
        order = epoch_order(self.workspace.train.labels, self.experiment, position.epoch)
        shown = times_shown(order)  # a balanced epoch shows images of rare classes several times, in different views
        cuts = batches(np.arange(len(order)), self.experiment.batch_size)
        before, since, started = dataclasses.replace(totals), phase_steps.spent(), perf_counter()
        for times in range(int(shown.max()) + 1):
            phase_steps.prepare(phase_steps.view(position.epoch, times))
        self.ranks.meet()  # here one may wait long for another, and in a step it may not
        title, after = (
            f"epoch {position.epoch + 1}/{sum(self.epochs)} {phase.name}",
            sum(self.epochs) - position.epoch - 1,
        )
        progress.start(title, len(labels), later=after * len(labels))
        progress.advance(totals.seen)
        for batch, positions in enumerate(cuts[position.batch :], start=position.batch):
            rate = self._rate((position.epoch - first) * steps + batch, epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * position.lowered * rate
            indices = order[positions]
            views = [phase_steps.view(position.epoch, int(times)) for times in shown[positions]]
            loss, right = phase_steps.step(indices, views, epoch=position.epoch, batch=batch)
            if self.checkpoints is not None and batch == position.batch == 0 and position.epoch == first:
                pack(optimizer, self.experiment.optimizer)  # what cannot be saved is told before much is lost
            if self.average is not None:
                self.average.update_parameters(self.model)
            totals.loss += loss * len(indices)
            totals.right += right
            totals.seen += len(indices)
            data, prefix, store = (now - then for now, then in zip(phase_steps.spent(), since))
            totals.data, totals.prefix, totals.store = before.data + data, before.prefix + prefix, before.store + store
            totals.total = before.total + perf_counter() - started
            position.batch, position.step = batch + 1, position.step + 1
            progress.advance(len(indices))
            if self.checkpoints is not None and self.checkpoints.due():
                self.checkpoints.write(*self.snapshot())
            if self._out_of_time(batch + 1, steps):
                break
        # the rate of the last step, which may have been taken before the run was resumed
        rate = self._rate((position.epoch - first) * steps + position.batch - 1, epochs * steps)
        return {
            "lr": max(group["peak"] * position.lowered * rate for group in optimizer.param_groups),
            "train_loss": totals.loss / totals.seen,
            "train_accuracy": totals.right / totals.seen,
            "images_per_second": round(totals.seen / totals.total, 1),
            "parts": self.workspace.stepper.parts_of(phase, self.experiment.batch_size),
            "seconds": {
                "data": round(totals.data, 3),
                "prefix": round(totals.prefix, 3),
                "store": round(totals.store, 3),
                "rest": round(totals.total - totals.data - totals.prefix - totals.store, 3),
            },
        }

    def _rate(self, step: int, steps: int) -> float:
        """The learning rate at a step of a phase, as a share of the highest."""
        return self.workspace.schedule.factor(step, steps)

    def _check_schedule(self) -> None:
        """Check the rates of every phase with steps, or of `CHECKED_STEPS` of them, before the first is taken.

        Raises:
            ZooError: the schedule gives something other than a rate.
        """
        for phase, epochs in zip(self.phases, self.epochs):
            steps = 0 if phase.solver is not None else epochs * self.workspace.steps_per_epoch
            for step in range(0, steps, max(steps // CHECKED_STEPS, 1)):
                self._rate(step, steps)

    def _out_of_time(self, batch: int, batches: int) -> bool:
        """Whether the time budget is spent after `batch` of an epoch's `batches`."""
        budget, position = self.experiment.time_budget, self.state.position
        if budget is None or not self.ranks.first(lambda: self.job.context.clock.total() >= budget):
            return False
        if batch < batches or position.epoch + 1 < sum(self.epochs):
            done = f"epoch {position.epoch + 1}, batch {batch} of {batches}"
            self.ended_by = f"the time budget of {budget:g} s in {done}"
            self.job.context.progress.note(f"ended by {self.ended_by}")
        return True

    def _validate(self, solved: Phase | None = None) -> dict[str, Any]:
        """Loss and accuracy on the validation images, in a phase with steps or in the `solved` phase.

        Rank 0 scores each image once, and tells the others.
        """
        return self.ranks.first(lambda: self._validate_here(solved))

    def _validate_here(self, solved: Phase | None) -> dict[str, Any]:
        choose = self.workspace.choose
        assert choose is not None
        if solved is not None:
            outputs = self.workspace.validation_outputs(solved)
        else:
            outputs = self.steps.validation_outputs if self.steps is not None else None
        logits = torch.from_numpy(self.workspace.validate(outputs, self.average))
        labels = torch.from_numpy(choose.labels)
        loss = float(nn.functional.cross_entropy(logits, labels))
        return {"choice_loss": loss, "choice_accuracy": float((logits.argmax(1) == labels).float().mean())}

    def _note_validation(self, loss: float, epoch: int) -> None:
        state = self.state
        model: nn.Module = self.model if self.average is None else self.average.module
        state.best_of_phase.note(loss, epoch, model if self.experiment.early_stopping is not None else None)
        state.best_of_run.note(loss, epoch, model if self.experiment.keep == "best" else None)
        state.losses.append(loss)
        state.position.lowered = self.workspace.schedule.lowered(state.losses)

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that a checkpoint needs: tensors by name, and JSON values."""
        phases = self.phases[: self.state.position.phase + 1]
        trained = {name for phase in phases for name in trained_by(self.network, phase)}
        if any(phase.solver for phase in phases):
            trained |= set(self.network.anatomy.head.parameters)
        tensors = tensors_of(self.model, trained, self.average) | self.state.tensors()
        optimizer = None
        if self.steps is not None:
            more, optimizer = pack(self.steps.optimizer, self.experiment.optimizer)
            tensors |= more
            tensors |= self.steps.tensors()
        state = {
            **self.state.to_json(),
            "parts": self.workspace.stepper.parts,
            "seconds": self.job.context.clock.total(),
            "laps": self.job.context.clock.laps_with("train"),
            "of_train": self.seconds,
            "proof": self.proof.digest if self.proof is not None else None,
            "optimizer": optimizer,
        }
        return tensors, state

    def restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `snapshot` returned; the optimizer is restored when its phase begins.

        Raises:
            ZooError: an earlier version of zoo, which kept less of an optimizer, wrote it.
        """
        if "losses" not in state:
            raise ZooError(
                "the checkpoint is of an earlier version of zoo, which kept less of an optimizer",
                hint="resume the run with that version, or start it again",
            )
        self.state = TrainingState.from_json(state, tensors)
        self.workspace.stepper.parts = state["parts"]
        self.seconds = dict(state.get("of_train", {}))
        load_tensors(tensors, self.model, None)
        self._restored = self.restored = (tensors, state)
