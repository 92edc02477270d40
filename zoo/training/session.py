"""Training: from an experiment to a run's folder that holds its weights, its history and its figures."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as save_tensors

from zoo.backbone import Network
from zoo.data.decoding import Scanned
from zoo.data.opening import absolute
from zoo.data.prefetch import Ahead
from zoo.errors import UsageError, ZooError
from zoo.evaluation.scoring import Evaluation, compute_metrics
from zoo.experiment import Experiment
from zoo.feature_cache.manager import Cutter
from zoo.networks.predictor import TorchPredictor
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.progress import Progress, Silent
from zoo.runs.run import (
    HISTORY_FILE,
    RATES_FILE,
    SPLITS_FILE,
    WEIGHTS_FILE,
    Run,
    check_folder,
    clear_folder,
    default_folder,
    make_folder,
    now,
)
from zoo.storage.files import append_json, write_bytes, write_json
from zoo.storage.folder_lock import alone_in
from zoo.system.cpu_memory import tiny_is_zero
from zoo.training.checkpoint import Checkpoints
from zoo.training.lr_finder import find_rate
from zoo.training.manifest import record_of, splits_of
from zoo.training.optimizer import changed_by
from zoo.training.preparation import Clock, Job, prepare
from zoo.training.recipe import Recipe
from zoo.training.resume_checks import check_data, check_session, check_start, restore_splits
from zoo.training.sampler import own_generators
from zoo.training.setup import resolve
from zoo.training.temperature_scaling import FEWEST, fit_temperature, fold_temperature
from zoo.training.validation import Judge


@tiny_is_zero()
def train(
    experiment: Experiment,
    *,
    out: Path | str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    ahead: Ahead | None = None,
) -> Run:
    """Train as the experiment says, score the reported split, and leave a run's folder.

    `ahead` is decoding the photographs already; see `zoo.data.prefetch`.

    Raises:
        UsageError: a name, a strategy or a setting is wrong, or `out` exists without `force`.
        ZooError: data, weights or device are not as needed, or training diverged.
    """
    plugins, progress, clock = plugins or Plugins(), progress or Silent(), Clock()
    experiment = replace(experiment, data=absolute(experiment.data))
    if out == "":
        raise UsageError("`--out` is empty", hint="pass a folder, or leave it out for one below `runs/`")
    setup = resolve(experiment, plugins)
    folder = Path(out).expanduser() if out is not None else default_folder(setup.backbone.name, str(setup.plan))
    check_folder(folder, force)
    # before the folder is touched: with `--force`, the weights to start from may lie in the very run that is replaced
    job = prepare(experiment, setup, plugins, progress, clock, ahead)
    record = record_of(job)
    make_folder(folder)
    with _alone_in(folder):
        clear_folder(folder, force)
        run = Run(folder, {}).update(**record)
        write_json(folder / SPLITS_FILE, splits_of(job))
        return _carry_out(job, run, clock)


@tiny_is_zero()
def resume(
    run: Run | Path | str,
    *,
    device: str | None = None,
    force: bool = False,
    save_every: float | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Run:
    """Go on with a run that was killed, interrupted or failed, from its newest checkpoint; a finished one is returned.

    On the CPU in eager mode the weights come out as those of the undisturbed run, bit for bit. With `force`, other
    versions or another device are taken: the run goes on, and is no longer exactly that run.

    Raises:
        UsageError: it is no run.
        ZooError: the data, the starting weights, versions or the device are not those of the run.
    """
    plugins, progress, clock = plugins or Plugins(), progress or Silent(), Clock()
    run = run if isinstance(run, Run) else Run.open(run)
    if run.status == "finished":
        return _already(run, progress)
    with _alone_in(run.path):
        run = Run.open(run.path)  # another process may have gone on with it, and let go
        if run.status == "finished":
            return _already(run, progress)
        experiment = run.experiment
        if device is not None:
            experiment = replace(experiment, device=device)
        if save_every is not None:
            experiment = replace(experiment, save_every=save_every)
        setup = resolve(experiment, plugins)
        check_session(run, setup, force, progress)
        threads = torch.get_num_threads()
        torch.set_num_threads(int(run.record["device"]["threads"]))  # sums depend on how they are shared
        try:
            job = prepare(experiment, setup, plugins, progress, clock)
            check_data(run, job)
            check_start(run, job, force)
            restore_splits(run, job)
            return _carry_out(job, run.update(status="running", failure=None), clock, again=True)
        finally:
            torch.set_num_threads(threads)


def _already(run: Run, progress: Progress) -> Run:
    progress.note(f"run `{run.path}` is finished, there is nothing to resume")
    return run


def _alone_in(folder: Path) -> AbstractContextManager[None]:
    """Hold a run's folder, so that no second process trains into it."""
    return alone_in(folder, "training into", "wait for it, or pass another `--out`")


def _carry_out(job: Job, run: Run, clock: Clock, *, again: bool = False) -> Run:
    """Train, save, score; the run's record tells how it ended."""
    progress, folder = job.progress, run.path
    try:
        checkpoints = Checkpoints(folder, job.experiment.save_every, run.record.get("id"))
        run, job = _with_rate(job, run)
        recipe = _recipe(job, progress, checkpoints, clock)
        keep: int | None = None  # lines of the history
        if again:
            run = _go_on(run, recipe, checkpoints, clock, progress)
            keep = recipe.place.records
        seconds: dict[str, float] = {}
        with own_generators():
            for line in recipe.fit():
                if keep is not None:  # not before: a run that does not go on loses nothing
                    run.cut_history(keep)
                    keep = None
                append_json(folder / HISTORY_FILE, line)
                if "note" in line.get("solved", {}):
                    progress.note(line["solved"]["note"])
                for name, value in line["seconds"].items():
                    seconds[name] = round(seconds.get(name, 0.0) + value, 3)
        clock.lap("train")
        network = job.setup.plan.merge(job.network)
        _check_finite(network, job.experiment)
        run = run.update(temperature=_temper(network, job, recipe, run))
        digest = _save_weights(network, folder)
        clock.lap("save")
        predictions = _predict(network, job, recipe)
        if not np.isfinite(predictions.logits).all():
            raise _diverged("a logit", job.experiment)
        clock.lap("report")
        evaluation = Evaluation(
            model=str(folder),
            data=job.images.name,
            device=str(job.setup.device.place),
            predictions=predictions,
            metrics=compute_metrics(predictions, job.plugins),
            split_seed=job.experiment.split_seed,
        )
        run.note_look(
            evaluation.predictions,
            model=evaluation.model,
            data=evaluation.data,
            split_seed=evaluation.split_seed,
            accuracy=evaluation.metrics.get("accuracy"),
        )
        run = run.update(
            status="finished",
            finished=now(),
            ended_by=recipe.ended_by,
            batch_parts=recipe.stepper.parts,
            steps=recipe.place.step,
            metrics=evaluation.metrics,
            accuracy_interval_95=list(evaluation.interval()),
            weights_sha256=digest,
            checkpoints={"written": checkpoints.written, "seconds": round(checkpoints.spent, 3)},
            seconds={**clock.laps, "total": clock.total(), "of_train": seconds},
        )
        checkpoints.clear()
    except KeyboardInterrupt:
        run.update(status="interrupted", finished=now())
        raise
    except BaseException as error:
        run.update(status="failed", finished=now(), failure=str(error).splitlines()[0] if str(error) else repr(error))
        raise
    finally:
        progress.stop()
    return run


def _recipe(job: Job, progress: Progress, checkpoints: Checkpoints | None, clock: Clock) -> Recipe:
    return Recipe(
        job.network,
        job.course.phases,
        job.course.epochs,
        experiment=job.experiment,
        preprocess=job.setup.preprocess,
        device=job.setup.device,
        train=job.scanned["fit"],
        choose=job.scanned.get("choose"),
        progress=progress,
        checkpoints=checkpoints,
        clock=clock.total,
        cutter=_cutter(job, progress),
    )


def _cutter(job: Job, progress: Progress) -> Cutter:
    return Cutter(
        job.experiment,
        job.setup.preprocess,
        job.setup.device,
        progress,
        backbone=job.setup.backbone.qualified,
        store=job.store,
    )


def _with_rate(job: Job, run: Run) -> tuple[Run, Job]:
    """The job at the rate that `--lr find` finds, or that it found before the run was killed."""
    if job.experiment.lr != "find":
        return run, job
    rate = run.record.get("lr")
    if rate is None:
        trial = replace(job, experiment=replace(job.experiment, lr=1.0, compile=False))
        found = find_rate(_recipe(trial, Silent(), None, Clock()), job.progress)
        rate = found.lr
        write_json(run.path / RATES_FILE, {"schema": 1, "lr": rate, "rates": found.rates, "losses": found.losses})
        run = run.update(lr=rate)
        job.progress.note(f"`--lr find`: {rate:g}, a tenth of the rate with the lowest loss; see {RATES_FILE}")
    return run, replace(job, experiment=replace(job.experiment, lr=float(rate)))


def _go_on(run: Run, recipe: Recipe, checkpoints: Checkpoints, clock: Clock, progress: Progress) -> Run:
    """Stand where the newest whole checkpoint stood."""
    checkpoints.sweep()
    found = checkpoints.read()
    if found is not None:
        tensors, state, problems = found
        for problem in problems:
            progress.warn(f"{problem}; going on from the one before")
        recipe.restore(tensors, state)
        clock.before = float(state["seconds"])
    elif run.history:
        progress.warn(
            f"no checkpoint is in `{run.path}`, deleted or not written yet, so that what `{HISTORY_FILE}` shows is "
            "trained again"
        )
    place = recipe.place
    lost = run.lost_history(place.records)
    if lost:
        progress.warn(f"`{HISTORY_FILE}` has lost {lost} of its lines; the weights have not")
    where = f"phase {place.phase + 1}, epoch {place.epoch + 1}, batch {place.batch + 1}"
    progress.note(f"resumed at step {place.step} ({where})" if found else "resumed at step 0")
    sessions = [*(run.record.get("resumed") or []), {"time": now(), "step": place.step}]
    return run.update(resumed=sessions)


def _check_finite(network: Network, experiment: Experiment) -> None:
    """The last step may diverge after its loss was seen to be finite."""
    for name, value in network.model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise _diverged(f"`{name}`", experiment)


def _diverged(what: str, experiment: Experiment) -> ZooError:
    return ZooError(
        f"{what} is not finite after the last step: training diverged",
        hint=f"pass a lower `--lr` than {experiment.lr:g}, or clip with `--clip 1.0`",
    )


def _save_weights(network: Network, folder: Path) -> str:
    state = {name: value.detach().cpu().contiguous() for name, value in network.model.state_dict().items()}
    data = save_tensors(state)
    write_bytes(folder / WEIGHTS_FILE, data)
    return hashlib.sha256(data).hexdigest()


def _temper(network: Network, job: Job, recipe: Recipe, run: Run) -> dict[str, Any]:
    """Fit a temperature on images that the weights were not fitted on, if there are any, and fold it in; a record."""
    lines, choose = run.history, job.scanned.get("choose")
    if choose is not None and len(choose.samples) >= FEWEST:
        value, on = fit_temperature(_logits(network, job, recipe, choose, "calibrate"), choose.labels), "choose"
    elif (
        # folds were held out of the head alone: what came before must not have seen them either
        lines  # somebody may have deleted them in between
        and all(phase.solver for phase in recipe.phases)
        and "temperature" in lines[-1].get("solved", {})
        and len(job.scanned["fit"].samples) >= FEWEST
    ):
        value, on = float(lines[-1]["solved"]["temperature"]), "folds of train"
    else:
        return {"value": 1.0, "fitted_on": None}
    return {"value": value, "fitted_on": on} if fold_temperature(network, value) else {"value": 1.0, "fitted_on": None}


def _predict(network: Network, job: Job, recipe: Recipe) -> Predictions:
    part = job.scanned.get("reported") or job.scanned["choose"]
    return Predictions(
        split=job.roles.reported,
        classes=job.images.classes,
        ids=tuple(sample.id for sample in part.samples),
        labels=part.labels,
        logits=_logits(network, job, recipe, part, f"score {job.roles.reported}"),
    )


def _logits(network: Network, job: Job, recipe: Recipe, part: Scanned, title: str) -> npt.NDArray[np.float32]:
    """Logits of a part's images by the finished network."""
    predictor = TorchPredictor(network.model.eval(), (), job.setup.preprocess, job.setup.device.place)
    last = recipe.phases[-1]
    rows = None if job.network.anatomy.added else recipe.cutter.judged(network, changed_by(network, last), part)
    job.progress.start(title, len(part.samples))
    logits = Judge(predictor, job.experiment.batch_size, rows).logits(part, advance=job.progress.advance)
    job.progress.stop()
    return logits
