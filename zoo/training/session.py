"""Training sessions: from an experiment, or a stopped run, to a run's folder with weights, history and figures."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from zoo.backbone import Network
from zoo.config.context import Context
from zoo.data.prefetch import Prefetch
from zoo.errors import Pruned, first_line
from zoo.experiment import Experiment
from zoo.feature_cache.engine_choice import EngineChoice
from zoo.feature_cache.row_pool import RowPool
from zoo.plugin import Plugins
from zoo.predictor import Answers
from zoo.progress import Progress
from zoo.runs.kept_list import as_begun, keep_list
from zoo.runs.parent import check_unchanged
from zoo.runs.run import (
    HISTORY_FILE,
    RATES_FILE,
    SPLITS_FILE,
    UNKNOWN_FILE,
    WEIGHTS_FILE,
    Run,
    now,
)
from zoo.runs.run_folder import clear_folder, make_folder
from zoo.storage.files import append_json, write_bytes, write_json
from zoo.storage.folder_lock import hold_folder
from zoo.system.denormals import flush_denormals
from zoo.system.garbage import collect_as_usual
from zoo.system.process_memory import peak_memory
from zoo.system.ranks import ALONE, Ranks
from zoo.training.changes_since import tell_circumstances, tell_data
from zoo.training.checkpoint import FILES, Checkpoints
from zoo.training.cooperation import (
    lead,
    lead_nothing,
    ranks_text,
    share_rate,
    share_run,
    share_state,
    tell_ranks,
    times_of_parts,
)
from zoo.training.distillation import check_teachers
from zoo.training.figures import calibrate, check_finite, check_learnt, figures_of, report
from zoo.training.final_run import Earlier, changed_images
from zoo.training.load_watch import LoadWatch
from zoo.training.lr_finder import find_rate
from zoo.training.manifest import initial_manifest, splits_manifest
from zoo.training.observers import Observers, with_usable_callbacks
from zoo.training.preparation import Job, prepare
from zoo.training.rank_checks import check_settings_of_ranks
from zoo.training.recipe import Recipe
from zoo.training.resume_checks import check_data, check_session, check_start, restore_splits, with_recorded_precision
from zoo.training.sampler import preserved_generators
from zoo.training.setup import Setup, resolve
from zoo.training.start import start_of
from zoo.training.unknown_fit import check_decoded, fit_score


@flush_denormals()
def train(
    experiment: Experiment,
    *,
    out: Path | str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    ahead: Prefetch | None = None,
    pool: RowPool | None = None,
    earlier: Earlier | None = None,
    of_folds: bool = False,
    again: Run | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Train as the experiment says, score the reported split, and leave a run's folder.

    Args:
        experiment: all settings; one field per option of `zoo train`.
        out: the run's folder; None: a new one below `runs/`.
        force: replace the run in `out`.
        plugins: loaded plugins; None: load those installed.
        progress: receives notes, warnings and progress; None: they go to the logger `zoo`.
        ahead: a process that has begun to decode the images; see `zoo.data.prefetch`.
        pool: outputs of frozen layers that the folds of a run share.
        earlier: what a final run takes from the run that chose its configuration.
        of_folds: whether it is the run of a fold, see `zoo.training.preparation.prepare`.
        again: the run whose settings these are: what has changed since it was made is told.
        ranks: the processes that train it together; this one is rank 0, the others `follow`.

    Raises:
        UsageError: a name, a strategy or a setting is wrong, or `out` exists without `force`.
        ZooError: data, weights or device are not usable, or training diverged.
    """
    context = replace(Context.of(plugins, progress), ranks=ranks)
    start = start_of(experiment, out, force, context.plugins)
    check_settings_of_ranks(start.experiment, ranks)
    assert start.experiment.folds is None, "`zoo.training.entry` trains folds"
    folder = start.folder
    context, watch = _watched(context, start.setup)
    # before the folder changes: with `--force`, the starting weights may be a file of the run that is replaced
    job = prepare(
        start.experiment,
        start.setup,
        context,
        ahead,
        pool=pool,
        earlier=earlier,
        of_folds=of_folds,
        times=times_of_parts(start.experiment, ranks, earlier),
    )
    check_decoded(job)
    record = initial_manifest(job)
    if ranks.size > 1:
        record["ranks"] = {"count": ranks.size, "exact": ranks.exact}
        context.progress.note(ranks_text(job))
    lead(job)
    if again is not None:
        tell_circumstances(again, record, context.progress)
        contents = {
            sample.id: sha256 for part in job.decoded.values() for sample, sha256 in zip(part.samples, part.contents)
        }
        tell_data(again, start.experiment, record, contents, context.progress)
    known = None
    if earlier is not None:
        before, fit = Run.open(earlier.run), job.decoded["fit"]
        known = before.predictions()
        if (text := changed_images(before, fit.samples, fit.contents, job.selection.dropped)) is not None:
            context.progress.warn(text)
        tables = before.record.get("data_files", {})
        for file, sha256 in job.images.files.items():
            if tables.get(file, sha256) != sha256:
                text = f"`{file}` has changed since run `{before.path}` was trained"
                context.progress.warn(f"{text}, so labels and splits may be others than those of its figures")
    make_folder(folder)
    with _hold(folder):
        clear_folder(folder, force)
        run = Run(folder, {}).update(**record)
        write_json(folder / SPLITS_FILE, splits_manifest(job))
        keep_list(folder, job.selection.listed)
        if known is not None:
            known.save(folder / f"predictions-{known.split}.safetensors")
        return _carry_out(job, run, watch)


@flush_denormals()
def resume(
    run: Run | Path | str,
    *,
    device: str | None = None,
    force: bool = False,
    save_every: float | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    pool: RowPool | None = None,
    of_folds: bool = False,
    ranks: Ranks = ALONE,
) -> Run:
    """Continue a run that was killed, interrupted or failed, from its newest checkpoint; a finished one is returned.

    On the CPU in eager mode, the weights are those of the uninterrupted run, bit for bit.

    Args:
        run: the run or its folder.
        device: another device than the run's; needs `force`.
        force: accept other versions or another device; the weights then differ a little.
        save_every: seconds between checkpoints; None: the run's own setting.
        plugins: loaded plugins; None: load those installed.
        progress: receives notes, warnings and progress; None: they go to the logger `zoo`.
        pool: outputs of frozen layers that the folds of a run share.
        of_folds: whether it is the run of a fold, see `zoo.training.preparation.prepare`.
        ranks: the processes that continue it together; this one is rank 0, the others `follow`.

    Raises:
        UsageError: it is not a run.
        ZooError: the data, the starting weights, versions or the device are not those of the run.
    """
    context = replace(Context.of(plugins, progress), ranks=ranks)
    run = Run.open(run)
    if run.status == "finished":
        return lead_nothing(ranks, _finished(run, context.progress))
    run.check_is_trained("resumed")
    with _hold(run.path):
        run = Run.open(run.path)  # another process may have continued it in the meantime
        if run.status == "finished":
            return lead_nothing(ranks, _finished(run, context.progress))
        experiment = as_begun(run)
        if device is not None:
            experiment = replace(experiment, device=device)
        if save_every is not None:
            experiment = replace(experiment, save_every=save_every)
        check_unchanged(run)
        check_settings_of_ranks(experiment, ranks)
        experiment = with_usable_callbacks(experiment, context)
        setup = resolve(experiment, context.plugins)
        setup = with_recorded_precision(run, setup, device)
        check_session(run, setup, force, context.progress)
        threads = torch.get_num_threads()
        torch.set_num_threads(int(run.record["device"]["threads"]))  # sums round differently with other threads
        try:
            context, watch = _watched(context, setup)
            earlier = Earlier.from_json(run.record["final"]) if run.is_final else None
            begun = run.record.get("engine")
            if begun is None and "engine" not in run.record["experiment"]:  # of versions that had no other engine
                begun = {"name": "torch"}
            engine = EngineChoice.from_json(begun) if begun and begun.get("name") else None
            job = prepare(experiment, setup, context, pool=pool, earlier=earlier, of_folds=of_folds, engine=engine)
            check_data(run, job)
            check_start(run, job, force)
            check_teachers(run, job.teachers)
            restore_splits(run, job)
            tell_ranks(run, ranks, context.progress)
            lead(job)
            return _carry_out(job, run.update(status="running", failure=None), watch, resumed=True)
        finally:
            torch.set_num_threads(threads)


def _watched(context: Context, setup: Setup) -> tuple[Context, LoadWatch]:
    """The context with a progress object that watches how busy other programs keep the machine."""
    watch = LoadWatch(context.progress, torch.get_num_threads(), elsewhere=setup.device.place.type != "cpu")
    return replace(context, progress=watch), watch


def _finished(run: Run, progress: Progress) -> Run:
    progress.note(f"run `{run.path}` is finished, there is nothing to resume")
    return run


def _hold(folder: Path) -> AbstractContextManager[None]:
    """Lock a run's folder, so that no second process trains into it."""
    return hold_folder(folder, "training into", "wait for it, or pass another `--out`")


def _carry_out(job: Job, run: Run, watch: LoadWatch, *, resumed: bool = False) -> Run:
    """Train, save and score; the run's record says how it ended."""
    progress, clock, folder = job.context.progress, job.context.clock, run.path
    collect_as_usual()

    def note_engine(choice: EngineChoice) -> None:
        nonlocal run
        run = run.update(engine=choice.to_json())

    if job.engine is not None:
        job.engine.told = note_engine
    observers = Observers(job.setup.callbacks, run, progress)
    try:
        checkpoints = Checkpoints(folder, job.experiment.save_every, run.record.get("id"))
        run, job = _with_rate(job, run)
        share_rate(job)
        if job.engine is not None and job.engine.choice is not None:  # to find the rate, the first prefix was computed
            note_engine(job.engine.choice)
        recipe = Recipe(job, checkpoints)
        keep: int | None = None  # lines of the history that stay
        if resumed:
            run = _restore(run, recipe, checkpoints)
            share_state(job, recipe.restored)
            keep = recipe.state.position.records
        else:
            share_state(job, None)
        observers.begin(run, run.history[: keep or 0], resumed=resumed)
        with preserved_generators():
            for line in recipe.fit():
                if keep is not None:  # not earlier, so that a run that cannot be resumed loses nothing
                    run.cut_history(keep)
                    keep = None
                append_json(folder / HISTORY_FILE, line)
                observers.epoch(recipe.state.position.records, line)
                if "note" in line.get("solved", {}):
                    progress.note(line["solved"]["note"])
        clock.lap("train")
        network = job.setup.plan.merge(job.network)
        check_finite(network, job.experiment)
        temperature = calibrate(network, job, recipe, run)
        run = run.update(temperature=temperature)
        fitted = check_learnt(network, job, recipe, run)
        run = run.update(fitted=fitted)
        answers: Answers | None = None
        if job.experiment.unknown_rate is not None:
            score, answers = fit_score(network, recipe.workspace)
            score.save(folder / UNKNOWN_FILE)
            observers.written(UNKNOWN_FILE, "unknown")
            run = run.update(unknown=score.threshold.to_json())
            clock.lap("unknown")
        digest = _save_weights(network, folder)
        clock.lap("save")
        figures = report(network, job, recipe, run, answers) if job.earlier is None else figures_of(job.earlier)
        clock.lap("report")
        observers.written(WEIGHTS_FILE, "weights")
        observers.evaluated(run, figures)
        run = run.update(
            status="finished",
            finished=now(),
            ended_by=recipe.ended_by,
            batch_parts=recipe.workspace.stepper.parts,
            steps=recipe.state.position.step,
            engine=run.record.get("engine"),  # also where a part that was resumed has no frozen layers
            **figures,
            weights_sha256=digest,
            checkpoints={"written": checkpoints.written, "seconds": round(checkpoints.spent, 3)},
            others=watch.finish(),
            peak_memory=peak_memory(),
            seconds={**clock.laps, "total": clock.total(), "of_train": recipe.seconds},
        )
        checkpoints.clear()
        share_run(job, run)
    except KeyboardInterrupt as stop:
        run = run.update(status="interrupted", finished=now())
        saved = any((folder / name).is_file() for name in FILES)
        stop.add_note(
            f"`zoo train --resume {folder}` continues the run from its "
            + ("last checkpoint" if saved else "beginning, since no checkpoint was written yet")
        )
        raise
    except BaseException as error:
        status = "pruned" if isinstance(error, Pruned) else "failed"
        run = run.update(status=status, finished=now(), failure=first_line(error))
        raise
    finally:
        progress.stop()
        run = observers.end(run)
    return run


def _with_rate(job: Job, run: Run) -> tuple[Run, Job]:
    """The job with the learning rate that `--lr find` finds now, or found before the run was stopped."""
    if job.experiment.lr != "find":
        return run, job
    rate = run.record.get("lr")
    if rate is None:
        found = find_rate(job, job.context.progress)
        rate = found.lr
        write_json(run.path / RATES_FILE, {"schema": 1, "lr": rate, "rates": found.rates, "losses": found.losses})
        run = run.update(lr=rate)
        job.context.progress.note(f"`--lr find`: {rate:g}, a tenth of the rate with the lowest loss; see {RATES_FILE}")
    return run, replace(job, experiment=replace(job.experiment, lr=float(rate)))


def _restore(run: Run, recipe: Recipe, checkpoints: Checkpoints) -> Run:
    """Restore the training state from the newest intact checkpoint."""
    progress = recipe.job.context.progress
    checkpoints.sweep()
    found = checkpoints.read()
    if found is not None:
        tensors, state, problems = found
        for problem in problems:
            progress.warn(f"{problem}; resuming from the one before")
        recipe.restore(tensors, state)
        recipe.job.context.clock.continue_from(state.get("laps", {}), float(state["seconds"]))
        checkpoints.written, checkpoints.spent = state.get("checkpoints", (0, 0.0))
    elif run.history:
        progress.warn(
            f"there is no checkpoint in `{run.path}` (deleted, or not written yet), so the epochs in `{HISTORY_FILE}` "
            "are trained again"
        )
    position = recipe.state.position
    lost = run.lost_history(position.records)
    if lost:
        progress.warn(f"`{HISTORY_FILE}` has lost {lost} of its lines; the weights are complete")
    where = f"phase {position.phase + 1}, epoch {position.epoch + 1}, batch {position.batch + 1}"
    progress.note(f"resumed at step {position.step} ({where})" if found else "resumed at step 0")
    sessions = [*(run.record.get("resumed") or []), {"time": now(), "step": position.step}]
    return run.update(resumed=sessions)


def _save_weights(network: Network, folder: Path) -> str:
    """Write the weights; returns their SHA-256."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.model.state_dict().items()}
    data = save_tensors(state)
    write_bytes(folder / WEIGHTS_FILE, data)
    return hashlib.sha256(data).hexdigest()
