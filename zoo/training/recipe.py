"""The recipe: carry out a plan of phases on a network. The whole of training, top to bottom.

For every phase: freeze, take the proof's baseline, build the optimiser, step through the epochs, check the proof; or,
where the phase is solved, compute the head from features. At any step the run can be saved, and go on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.backbone import Network
from zoo.data.decoding import Scanned
from zoo.experiment import Experiment
from zoo.feature_cache.loader import PrefixRows, Spent, Views, default_views
from zoo.feature_cache.manager import Cutter
from zoo.networks.batchnorm_folding import FoldedSteps
from zoo.networks.freezing import FrozenProof, apply_phase, recalibrate, set_modes
from zoo.networks.head import find_head
from zoo.networks.predictor import TorchPredictor
from zoo.networks.tracing import FEW, noise
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.solver import Task
from zoo.storage.files import SCHEMA
from zoo.strategy import Phase
from zoo.system.device import Device
from zoo.target import load_target
from zoo.training.best_epoch import Best
from zoo.training.checkpoint import Checkpoints
from zoo.training.features import features, kept_features
from zoo.training.lr_schedule import factor
from zoo.training.optimizer import changed_by, make_optimizer, plan_groups, pulled_by, trained_by
from zoo.training.sampler import REPEAT, batches, class_weights, epoch_order, showings
from zoo.training.state import Place, Sums
from zoo.training.state_dict import load_tensors, tensors_of
from zoo.training.step import Stepper
from zoo.training.validation import Judge

# `plateau` divides the rate by ten after two epochs without a better choice loss
PLATEAU_PATIENCE = 2
PLATEAU_FACTOR = 0.1


class Recipe:
    """One training run in memory. `fit` yields a history record per epoch; the network is trained in place.

    `clock` tells the seconds that the run has taken, over all its sessions.
    """

    def __init__(
        self,
        network: Network,
        phases: Sequence[Phase],
        epochs: Sequence[int],
        *,
        experiment: Experiment,
        preprocess: Preprocess,
        device: Device,
        train: Scanned,
        choose: Scanned | None,
        progress: Progress,
        checkpoints: Checkpoints | None = None,
        clock: Callable[[], float] = perf_counter,
        cutter: Cutter | None = None,
    ) -> None:
        assert experiment.lr != "find", "the rate is found before"
        self.network = network
        self.phases = tuple(phases)
        self.epochs = tuple(epochs)
        self.experiment = experiment
        self.device = device
        self.train = train
        self.choose = choose
        self.progress = progress
        self.checkpoints = checkpoints
        self.clock = clock
        self.groups = tuple(plan_groups(network, phase, experiment, experiment.lr) for phase in phases)
        self.model = network.model.to(device.place).to(memory_format=torch.channels_last)
        self.start = self._start()
        self.forward: Callable[..., torch.Tensor] = torch.compile(self.model) if experiment.compile else self.model
        self.classes = int(train.labels.max()) + 1
        self.stepper = Stepper(
            self.model,
            self.forward,
            experiment=experiment,
            device=device,
            classes=self.classes,
            class_weights=class_weights(train.labels, experiment),
            progress=progress,
        )
        self.predictor = TorchPredictor(self.model, (), preprocess, device.place)
        self.views = Views(train, experiment.augment, experiment.seed, preprocess, device.place)
        self.labels = torch.from_numpy(train.labels)
        self.cutter = cutter or Cutter(experiment, preprocess, device, progress)
        self.rows: PrefixRows | None = None  # of the training images, where the phase's network is cut
        self.judge = Judge(self.predictor, experiment.batch_size)

        self.place = Place()
        self.sums = Sums()
        self.best_of_run = Best()
        self.best_of_phase = Best()  # what early stopping and `plateau` look at
        self.optimizer: torch.optim.Optimizer | None = None
        self.average: AveragedModel | None = None  # of what trains, where the phase asks for one
        self.proof: FrozenProof | None = None
        self.ended_by: str | None = None  # why the run ended before its last epoch
        self._restored: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(batches(np.arange(len(self.labels)), self.experiment.batch_size))

    def fit(self) -> Iterator[dict[str, Any]]:
        """Carry out every phase; one record per epoch.

        Raises:
            ZooError: the loss is no longer finite, or something frozen moved.
        """
        while self.place.phase < len(self.phases) and self.ended_by is None:
            number = self.place.phase
            phase = self.phases[number]
            if phase.solver is not None:
                yield self.solve(phase)
            else:
                yield from self._fit_phase(phase)
            self.optimizer = self.average = self.proof = self.rows = None
            self.best_of_phase = Best()
            self.place.phase, self.place.epoch = number + 1, sum(self.epochs[: number + 1])
            self.place.lowered = 1.0
        if self.experiment.keep == "best" and self.best_of_run.state is not None:
            self.model.load_state_dict(self.best_of_run.state)

    def _fit_phase(self, phase: Phase) -> Iterator[dict[str, Any]]:
        first, epochs = sum(self.epochs[: self.place.phase]), self.epochs[self.place.phase]
        self._enter(phase)
        assert self.proof is not None
        while self.place.epoch < first + epochs and self.ended_by is None:
            epoch = self.place.epoch
            set_modes(self.model, phase.norm)
            record = self._train_epoch(phase, first, epochs)
            started = perf_counter()
            self.proof.check(f"in epoch {epoch + 1}")
            record = {"schema": SCHEMA, "phase": phase.name, "epoch": epoch + 1, **record}
            if self.choose is not None:
                record |= self._evaluate(self.choose)
            record["seconds"]["evaluate"] = round(perf_counter() - started, 3)
            if "choice_loss" in record:
                self._note_choice(record["choice_loss"], epoch)
            self.progress.epoch(record)
            self.place.epoch, self.place.batch, self.sums = epoch + 1, 0, Sums()
            self.place.records += 1
            yield record
            patience = self.experiment.early_stopping
            waited = epoch - max(self.best_of_phase.epoch, first)
            if patience is not None and waited >= patience and epoch + 1 < first + epochs:
                best = self.best_of_phase.epoch + 1
                self.progress.note(f"stopped early: epoch {best} stays the best of `{phase.name}`")
                break
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        if self.best_of_phase.state is not None:
            self.model.load_state_dict(self.best_of_phase.state)

    def _enter(self, phase: Phase) -> None:
        """Freeze, recalibrate, build the optimiser; or take all that up where a checkpoint left it."""
        apply_phase(self.model, trained_by(self.network, phase), phase.norm)
        restored, self._restored = self._restored, None
        if phase.norm == "recalibrate" and restored is None:
            recalibrate(self.model, self._plain_batches())
            set_modes(self.model, phase.norm)
        self.proof = FrozenProof(self.model, phase.norm)
        self.optimizer = make_optimizer(self.model, self.groups[self.place.phase], self.experiment)
        if phase.ema is not None:
            steps, over = self.epochs[self.place.phase] * self.steps_per_epoch, 1 / (1 - phase.ema)
            if over > steps:
                self.progress.warn(
                    f"`ema={phase.ema:g}` averages over some {over:,.0f} steps and `{phase.name}` has {steps}: its "
                    "result will be close to its start"
                )
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(phase.ema))  # type: ignore[no-untyped-call]
        if restored is not None:
            tensors, state = restored
            load_tensors(tensors, self.model, self.optimizer, self.average)
            self.proof.expect(state["proof"])
        self.open_feed(phase, self.epochs[self.place.phase])
        self._fold(phase)

    def _fold(self, phase: Phase) -> None:
        """Let steps fold the batch norms whose statistics stay, where that was measured to pay."""
        self.stepper.folded = nullcontext
        if phase.norm != "train" and self.device.place.type == "cpu" and not self.experiment.compile:
            images = noise(FEW, self.predictor.preprocess.crop, self.device.place)
            self.stepper.folded = FoldedSteps(self.model, images).step

    def open_feed(self, phase: Phase, epochs: int) -> None:
        """Cut the network where the phase's frozen part ends, so that steps start there; or not at all."""
        late = changed_by(self.network, phase)
        self.rows, self.judge.rows, self.shown, self.stepper.forward = None, None, self.experiment.views, self.forward
        mixed = phase.mixup is not None or phase.cutmix is not None  # every image is then another one each time
        cut = None if mixed else self.cutter.cut(self.network, late)
        if cut is None:
            return
        self.shown = self.shown or default_views(epochs)
        self.rows = self.cutter.rows(
            cut, self.views, epochs=epochs, views=min(self.shown, epochs), title=f"frozen prefix of {phase.name}"
        )
        self.stepper.forward = torch.compile(cut.rest) if self.experiment.compile else cut.rest
        if self.choose is not None:
            self.judge.rows = self.cutter.judged(self.network, late, self.choose)

    def _spent(self) -> tuple[float, float, float]:
        """Seconds so far: views drawn, prefix computed, store read and written."""
        spent = self.rows.spent if self.rows is not None else Spent()
        return self.views.drawing, spent.prefix, spent.store

    def view(self, epoch: int, times: int) -> int:
        """Which view is shown, the n-th time that an image comes in an epoch."""
        return epoch + REPEAT * times if self.shown is None else (epoch + times) % self.shown

    def solve(self, phase: Phase) -> dict[str, Any]:
        """Compute the head from the features of the training images; a record, as of an epoch."""
        assert phase.solver is not None
        self._restored = None  # a checkpoint between phases holds nothing more
        started = perf_counter()
        apply_phase(self.model, (), "frozen")
        if phase.norm == "recalibrate":
            recalibrate(self.model, self._plain_batches())
        self.model.eval()
        title, began = f"features for {phase.name}", perf_counter()
        kept = kept_features(self.network, changed_by(self.network, phase), self.views, self.cutter, title)
        if kept is not None:
            found, spent = kept
        else:
            self.progress.start(title, len(self.labels))
            found = features(self.network, self._plain_batches())
            spent = {"prefix": round(perf_counter() - began, 3)}
        head = find_head(self.network)
        rest = {id(parameter) for parameter in head.parameters()}
        frozen = FrozenProof(self.model, "frozen", besides=rest | {id(buffer) for buffer in head.buffers()})
        drawn = perf_counter()
        solve: Callable[[Task], dict[str, Any]] = load_target(phase.solver)
        task = Task(
            head=head, features=found, labels=self.train.labels, classes=self.classes, seed=self.experiment.seed
        )
        answer = solve(task)
        frozen.check(f"while `{phase.name}` was solved")
        with torch.no_grad():
            logits = head(torch.from_numpy(found).to(self.device.place)).float().cpu()
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "phase": phase.name,
            "epoch": self.place.epoch,
            "solved": answer,
            "train_loss": float(nn.functional.cross_entropy(logits, self.labels)),
            "train_accuracy": float((logits.argmax(1) == self.labels).float().mean()),
            "images_per_second": round(len(found) / (drawn - started), 1),
            "seconds": {**spent, "solve": round(perf_counter() - drawn, 3)},
        }
        if self.choose is not None:
            evaluated = perf_counter()
            self.judge.rows = self.cutter.judged(self.network, changed_by(self.network, phase), self.choose)
            record |= self._evaluate(self.choose)
            record["seconds"]["evaluate"] = round(perf_counter() - evaluated, 3)
            keep = self.model if self.experiment.keep == "best" else None
            self.best_of_run.note(record["choice_loss"], self.place.epoch - 1, keep)
        self.progress.epoch(record)
        self.place.records += 1
        return record

    def _train_epoch(self, phase: Phase, first: int, epochs: int) -> dict[str, Any]:
        optimizer, sums, place = self.optimizer, self.sums, self.place
        assert optimizer is not None
        steps = self.steps_per_epoch
        order = epoch_order(self.train.labels, self.experiment, place.epoch)
        shown = showings(order)  # a balanced epoch shows rare images several times, each time another view
        cuts = batches(np.arange(len(order)), self.experiment.batch_size)
        before, since, started = dataclasses.replace(sums), self._spent(), perf_counter()
        if self.rows is not None:
            for times in range(int(shown.max()) + 1):
                self.rows.prepare(self.view(place.epoch, times))
        self.progress.start(f"epoch {place.epoch + 1}/{sum(self.epochs)} {phase.name}", len(self.labels))
        self.progress.advance(sums.seen)
        pulled = {name: self.start[name] for name in pulled_by(self.network, phase)}
        for batch, positions in enumerate(cuts[place.batch :], start=place.batch):
            step = (place.epoch - first) * steps + batch
            rate = factor(self.experiment.schedule, step, epochs * steps, self.experiment.warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * place.lowered * rate
            indices = order[positions]
            views = [self.view(place.epoch, int(times)) for times in shown[positions]]
            loss, right = self.step_on(indices, views, optimizer, phase, place.epoch, batch, pulled)
            if self.average is not None:
                self.average.update_parameters(self.model)
            sums.loss += loss * len(indices)
            sums.right += right
            sums.seen += len(indices)
            data, prefix, store = (now - then for now, then in zip(self._spent(), since))
            sums.data, sums.prefix, sums.store = before.data + data, before.prefix + prefix, before.store + store
            sums.total = before.total + perf_counter() - started
            place.batch, place.step = batch + 1, place.step + 1
            self.progress.advance(len(indices))
            if self.checkpoints is not None and self.checkpoints.due():
                self.checkpoints.write(*self.snapshot())
            budget = self.experiment.time_budget
            if budget is not None and self.clock() >= budget:
                done = f"epoch {place.epoch + 1}, batch {batch + 1} of {steps}"
                if batch + 1 < steps or place.epoch + 1 < sum(self.epochs):
                    self.ended_by = f"the time budget of {budget:g} s in {done}"
                    self.progress.note(f"ended by {self.ended_by}")
                break
        # of the last step, which a checkpoint may have seen
        rate = factor(
            self.experiment.schedule,
            (place.epoch - first) * steps + place.batch - 1,
            epochs * steps,
            self.experiment.warmup,
        )
        return {
            "lr": max(group["peak"] * place.lowered * rate for group in optimizer.param_groups),
            "train_loss": sums.loss / sums.seen,
            "train_accuracy": sums.right / sums.seen,
            "images_per_second": round(sums.seen / sums.total, 1),
            "parts": self.stepper.parts,
            "seconds": {
                "data": round(sums.data, 3),
                "prefix": round(sums.prefix, 3),
                "store": round(sums.store, 3),
                "rest": round(sums.total - sums.data - sums.prefix - sums.store, 3),
            },
        }

    def step_on(
        self,
        indices: npt.NDArray[np.int64],
        views: Sequence[int],
        optimizer: torch.optim.Optimizer,
        phase: Phase,
        epoch: int,
        batch: int,
        pulled: Mapping[str, torch.Tensor],
    ) -> tuple[float, int]:
        """Draw views of the images at `indices` and step on them; the mean loss, and how many images were right."""
        if self.rows is not None:
            inputs = self.rows.take(indices, views)
        else:
            inputs = (self.views.inputs(indices, views),)
        labels = self.labels[indices].to(self.device.place)
        return self.stepper.step(inputs, labels, optimizer, phase, epoch=epoch, batch=batch, start=pulled)

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that the run needs to go on from here: tensors by name, and JSON values."""
        trained = {name for phase in self.phases[: self.place.phase + 1] for name in trained_by(self.network, phase)}
        if any(phase.solver for phase in self.phases[: self.place.phase + 1]):
            trained |= set(self.network.anatomy.head.parameters)
        tensors = tensors_of(self.model, trained, self.optimizer, self.average)
        for name, best in (("phase", self.best_of_phase), ("run", self.best_of_run)):
            tensors |= {f"best-of-{name}/{key}": value for key, value in (best.state or {}).items()}
        state = {
            "place": dataclasses.asdict(self.place),
            "sums": dataclasses.asdict(self.sums),
            "best_of_phase": self.best_of_phase.figures(),
            "best_of_run": self.best_of_run.figures(),
            "parts": self.stepper.parts,
            "seconds": self.clock(),
            "proof": self.proof.digest if self.proof is not None else None,
        }
        return tensors, state

    def restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Stand where `snapshot` stood. The optimiser follows when its phase is entered."""
        self.place, self.sums = Place(**state["place"]), Sums(**state["sums"])
        self.best_of_phase = Best.of(state["best_of_phase"], tensors, "best-of-phase/")
        self.best_of_run = Best.of(state["best_of_run"], tensors, "best-of-run/")
        self.stepper.parts = state["parts"]
        load_tensors(tensors, self.model, None, None)
        self._restored = (tensors, state)

    def _start(self) -> dict[str, torch.Tensor]:
        """Values at the start of the run of all that any phase pulls towards them."""
        names = {name for phase in self.phases for name in pulled_by(self.network, phase)}
        return {name: value.detach().clone() for name, value in self.model.named_parameters() if name in names}

    def _plain_batches(self) -> Iterator[torch.Tensor]:
        plain = self.views.plain()
        for indices in batches(np.arange(len(self.labels)), self.experiment.batch_size):
            yield plain.inputs(indices, [0] * len(indices))
            self.progress.advance(len(indices))

    def _evaluate(self, split: Scanned) -> dict[str, Any]:
        average = self.average.module if self.average is not None else None
        logits = torch.from_numpy(self.judge.logits(split, average))
        labels = torch.from_numpy(split.labels)
        loss = float(nn.functional.cross_entropy(logits, labels))
        return {"choice_loss": loss, "choice_accuracy": float((logits.argmax(1) == labels).float().mean())}

    def _note_choice(self, loss: float, epoch: int) -> None:
        model: nn.Module = self.model if self.average is None else self.average.module
        self.best_of_phase.note(loss, epoch, model if self.experiment.early_stopping is not None else None)
        self.best_of_run.note(loss, epoch, model if self.experiment.keep == "best" else None)
        if self.experiment.schedule == "plateau" and self.best_of_phase.waited(epoch) >= PLATEAU_PATIENCE:
            self.place.lowered *= PLATEAU_FACTOR
            self.best_of_phase.since = epoch
