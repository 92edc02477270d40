"""Entry: what `zoo.train`, `zoo.resume` and `zoo train --final` call. A run is one network, or one for each fold.

The folder of a run of folds has the form of any other run's, without weights: `folds/1` to `folds/K` are its runs, and
`predictions-folds.safetensors` has each image as the fold predicts it that has not seen it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.config.callbacks import choose_callbacks
from zoo.config.context import Context
from zoo.config.references import needs_validation
from zoo.data.class_names import keys
from zoo.data.folds import pool as pool_of
from zoo.data.groups import told_groups
from zoo.data.leakage import told
from zoo.data.opening import found_text, note_images
from zoo.data.prefetch import Prefetch
from zoo.dataset import FOLD, Sample
from zoo.errors import UsageError, ZooError, first_line
from zoo.evaluation.evaluation import compute_metrics
from zoo.evaluation.statistics import accuracy_interval
from zoo.experiment import Experiment
from zoo.feature_cache.row_pool import RowPool
from zoo.plugin import Plugins
from zoo.predictions import pooled
from zoo.progress import Once, Progress
from zoo.runs.kept_list import as_begun, keep_list
from zoo.runs.run import FOLDS, SPLITS_FILE, Run, now
from zoo.runs.run_folder import clear_folder, make_folder
from zoo.storage.files import SCHEMA, write_json
from zoo.storage.folder_lock import hold_folder
from zoo.storage.paths import output_path
from zoo.storage.tensor_store import digest_of_texts
from zoo.system.ranks import ALONE, Ranks
from zoo.training import session
from zoo.training.acceptance import FoldDivision, accept_folds, check_leaks, leaks_of_folds
from zoo.training.changes_since import tell_circumstances, tell_data
from zoo.training.final_run import final_experiment
from zoo.training.manifest import common_manifest
from zoo.training.observers import Observers, with_usable_callbacks
from zoo.training.seen_images import check_seen_folds
from zoo.training.setup import build, plan_phases
from zoo.training.start import Start, check_experiment, start_of


def train(
    experiment: Experiment,
    *,
    out: Path | str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    ahead: Prefetch | None = None,
    pool: RowPool | None = None,
    again: Run | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Train as the experiment says, score the reported split or the folds, and leave a run's folder.

    Args:
        experiment: all settings; one field per option of `zoo train`.
        out: the run's folder; None: a new one below `runs/`.
        force: replace the run in `out`.
        plugins: loaded plugins; None: load those installed.
        progress: receives notes, warnings and progress; None: they go to the logger `zoo`.
        ahead: a process that has begun to decode the images; see `zoo.data.prefetch`.
        pool: outputs of frozen layers that several runs of folds share.
        again: the run whose settings these are, perhaps with some changed: what has changed since it was made is told.
        ranks: the processes that train it together, of which this is rank 0, see `zoo.system.ranks`.

    Raises:
        UsageError: a name, a strategy or a setting is wrong, or `out` exists without `force`.
        ZooError: data, weights or device are not usable, training diverged, or the images cannot be divided into folds.
    """
    check_experiment(experiment)
    if experiment.folds is None:
        return session.train(
            experiment,
            out=out,
            force=force,
            plugins=plugins,
            progress=progress,
            ahead=ahead,
            again=again,
            ranks=ranks,
        )
    _check_alone(ranks)
    context = _telling_once(plugins, progress)
    start = start_of(experiment, out, force, context.plugins)
    division = accept_folds(start.experiment, context.plugins)
    note_images(division.images, context.progress)
    context.progress.note(_pool_note(division))
    leaks, shared = leaks_of_folds(division, start.experiment)
    check_leaks(division.images.name, leaks, shared, start.experiment)
    check_seen_folds(division, start.experiment)
    for text in (*([told(leaks)] if leaks else []), *([told_groups(shared)] if shared else [])):
        context.progress.warn(text)
    record = {
        **_manifest(start, division, needs_validation(start.experiment, context.plugins)),
        "leaks": [leak.to_json() for leak in leaks],
        "shared_groups": [group.to_json() for group in shared],
    }
    if again is not None:
        tell_circumstances(again, record, context.progress)
    make_folder(start.folder)
    with hold_folder(start.folder, "training into", "wait for it, or pass another `--out`"):
        clear_folder(start.folder, force)
        run = Run(start.folder, {}).update(**record)
        write_json(start.folder / SPLITS_FILE, _splits(division.folds, {}))
        keep_list(start.folder, division.listed)
        done = _carry_out(run, start.experiment, division.folds, context, pool)
        if again is not None:  # contents are known only once every fold is trained
            tell_data(again, start.experiment, done.record, done.contents()["reported"], context.progress)
        return done


def resume(
    run: Run | Path | str,
    *,
    device: str | None = None,
    force: bool = False,
    save_every: float | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    pool: RowPool | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Continue a run that was killed, interrupted or failed, from its newest checkpoint; a finished one is returned.

    On the CPU in eager mode, the weights are those of the uninterrupted run, bit for bit. Of a run of folds, finished
    folds are kept.

    Args:
        run: the run or its folder.
        device: another device than the run's; needs `force`.
        force: accept other versions or another device; the weights then differ a little.
        save_every: seconds between checkpoints; None: the run's own setting.
        plugins: loaded plugins; None: load those installed.
        progress: receives notes, warnings and progress; None: they go to the logger `zoo`.
        pool: outputs of frozen layers that several runs of folds share.
        ranks: the processes that continue it together, of which this is rank 0, see `zoo.system.ranks`.

    Raises:
        UsageError: it is not a run.
        ZooError: the data, the starting weights, versions or the device are not those of the run.
    """
    run = Run.open(run)
    if not run.record.get("folds"):
        return session.resume(
            run,
            device=device,
            force=force,
            save_every=save_every,
            plugins=plugins,
            progress=progress,
            ranks=ranks,
        )
    _check_alone(ranks)
    context = _telling_once(plugins, progress)
    if run.status == "finished":
        context.progress.note(f"run `{run.path}` is finished, there is nothing to resume")
        return run
    with hold_folder(run.path, "training into", "wait for it, or pass another `--out`"):
        run = Run.open(run.path)
        experiment = with_usable_callbacks(as_begun(run), context)
        folds = accept_folds(experiment, context.plugins).folds
        begun = run.splits()["roles"]
        if any(begun.get(f"fold {one}") != [sample.id for sample in fold] for one, fold in enumerate(folds, start=1)):
            raise ZooError(
                f"the images are not those that run `{run.path}` was begun with, so its folds differ",
                hint="restore the original photographs, or start a new run on these with `zoo train`",
            )
        run = run.update(status="running", failure=None)
        return _carry_out(run, experiment, folds, context, pool, device=device, force=force, save_every=save_every)


def train_final(
    of: Run | Path | str,
    *,
    out: Path | str | None = None,
    force: bool = False,
    device: str | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Train the configuration of a finished run on all images that are not in the test split.

    Nothing is chosen on held-out images: epochs, learning rate and temperature are those of the run, or the middle of
    its folds', and its figures are recorded as those of the final run.

    Args:
        of: the run or its folder. `zoo.Results.chosen` is that of a study.
        out: the final run's folder; None: a new one below `runs/`.
        force: replace the run in `out`.
        device: another device than the run's.
        plugins: loaded plugins; None: load those installed.
        progress: receives notes, warnings and progress; None: they go to the logger `zoo`.
        ranks: the processes that train it together, of which this is rank 0, see `zoo.system.ranks`.

    Raises:
        UsageError: it is not a run, or one without a final run; or `out` exists without `force`.
        ZooError: the run is not finished, or cannot be trained.
    """
    run = Run.open(of)
    experiment, earlier = final_experiment(run)
    if device is not None:
        experiment = replace(experiment, device=device)
    experiment = with_usable_callbacks(experiment, Context.of(plugins, progress))
    if out is not None and run.path.resolve().is_relative_to(output_path(out).resolve()):
        raise UsageError(f"`{out}` holds the run that the final run is of", hint="pass another `--out`")
    earlier = replace(earlier, run=str(run.path.resolve()))
    return session.train(
        experiment, out=out, force=force, plugins=plugins, progress=progress, earlier=earlier, ranks=ranks
    )


def _check_alone(ranks: Ranks) -> None:
    """Check that one process trains the folds.

    Raises:
        UsageError: torchrun has started several.
    """
    if ranks.size > 1:
        raise UsageError(
            "`--folds` trains one network after another, which torchrun's ranks cannot share",
            hint="leave torchrun out; `zoo train --final RUN` can be started by it",
        )


def _telling_once(plugins: Plugins | None, progress: Progress | None) -> Context:
    """A context whose progress object is told once what each of the folds would say."""
    context = Context.of(plugins, progress)
    return replace(context, progress=Once(context.progress))


def _pool_note(division: FoldDivision) -> str:
    """What the folds are made of."""
    splits = division.images.splits
    parts = "`train` and `val` are taken together and have" if "val" in splits else "`train` has"
    left = "; `test` is left out" if "test" in splits else ""
    count = len(pool_of(division.images))
    return f"{len(division.folds)} folds: {parts} {count} images, each of which is scored once{left}"


def _manifest(start: Start, division: FoldDivision, chooses: bool) -> dict[str, Any]:
    """The content of `run.json` before the first fold, without its leaks."""
    images, folds, experiment = division.images, division.folds, start.experiment
    network = build(start.setup, experiment, len(images.classes), pretrained=False)
    planned = plan_phases(start.setup, network, experiment)
    whole = sum(len(fold) for fold in folds)
    return {
        **common_manifest(experiment, start.setup, network, planned, images),
        "data": {
            "fit": {"images": whole - len(folds[0]), "sha256": digest_of_texts(_names(folds))},
            "reported": {"images": whole, "sha256": digest_of_texts(_names(folds))},
        },
        "reported_split": FOLDS,
        "chosen_on": "carved from train" if chooses else None,
        "folds": {"count": len(folds), "accuracies": []},
        "notes": [found_text(images), *images.notes, _pool_note(division), *planned.notes],
        "exclude": division.exclusion,
    }


def _names(folds: Sequence[Sequence[Sample]]) -> list[str]:
    return [f"{keys([sample.id])[0]} {keys([sample.label])[0]}" for fold in folds for sample in fold]


def _splits(folds: Sequence[Sequence[Sample]], contents: dict[str, str]) -> dict[str, Any]:
    """The content of `splits.json`: all images are reported, and no network of this folder was fitted on any."""
    roles = {f"fold {number}": [sample.id for sample in fold] for number, fold in enumerate(folds, start=1)}
    together = sorted(contents)
    return {
        "schema": SCHEMA,
        "roles": {"fit": [], "reported": together, **roles},
        "sha256": {
            "fit": [],
            "reported": [contents[name] for name in together],
            **{role: [contents.get(name, "") for name in names] for role, names in roles.items()},
        },
    }


def _carry_out(
    run: Run,
    experiment: Experiment,
    folds: Sequence[Sequence[Sample]],
    context: Context,
    pool: RowPool | None,
    **resuming: Any,
) -> Run:
    """Train every fold that is not finished, and pool their predictions; the run's record says how it ended."""
    rows = pool if pool is not None else RowPool()
    done: list[Run] = []
    observers = Observers(choose_callbacks(experiment.callback, context.plugins)[0], run, context.progress)
    try:
        observers.begin(run, (), resumed=bool(resuming))
        for number in range(1, len(folds) + 1):
            held = len(folds[number - 1])
            fitted = sum(map(len, folds)) - held
            context.progress.note(f"fold {number} of {len(folds)}: {fitted} images to train on, {held} held out")
            asked = replace(experiment, folds=None, data=f"{FOLD}:{number}/{len(folds)}:{experiment.data}")
            done.append(_train_fold(asked, run.path / FOLDS / str(number), context, rows, resuming))
        run = _pool(run, experiment, folds, done, context)
        observers.evaluated(run, run.record)
    except KeyboardInterrupt as stop:
        run = run.update(status="interrupted", finished=now())
        stop.__notes__ = [f"`zoo train --resume {run.path}` continues the run; finished folds are kept"]
        raise
    except BaseException as error:
        run = run.update(status="failed", finished=now(), failure=first_line(error))
        raise
    finally:
        context.progress.stop()
        run = observers.end(run)
    return run


def _train_fold(experiment: Experiment, folder: Path, context: Context, rows: RowPool, resuming: dict[str, Any]) -> Run:
    """The finished run of a fold: the one in its folder, finished or continued where it can be, or a new one."""
    try:
        found = Run.open(folder)
        if found.status == "finished":
            found.predictions()
            return found
        begun = found.path if _same_but_list(found.experiment, experiment) else None
    except ZooError:
        begun = None
    if begun is not None:
        return session.resume(
            begun, plugins=context.plugins, progress=context.progress, pool=rows, of_folds=True, **resuming
        )
    shutil.rmtree(folder, ignore_errors=True)
    changed = {name: resuming[name] for name in ("device", "save_every") if resuming.get(name) is not None}
    return session.train(
        replace(experiment, **changed),
        out=folder,
        plugins=context.plugins,
        progress=context.progress,
        pool=rows,
        of_folds=True,
    )


def _same_but_list(one: Experiment, other: Experiment) -> bool:
    """Whether two are equal, whatever observes them, wherever their lists of `--exclude` lie: runs keep their own."""
    return replace(one, exclude=None, callback=()) == replace(other, exclude=None, callback=())


def _pool(
    run: Run, experiment: Experiment, folds: Sequence[Sequence[Sample]], done: Sequence[Run], context: Context
) -> Run:
    """Metrics over all images, each scored by the fold's network that has not seen it."""
    tables = [fold.predictions() for fold in done]
    table = pooled(tables, FOLDS)
    contents: dict[str, str] = {}
    for fold in done:
        contents |= fold.contents()["reported"]
    write_json(run.path / SPLITS_FILE, _splits(folds, contents))
    metrics = compute_metrics(table, context.plugins)
    labels = {name: table.classes[label] for name, label in zip(table.ids, table.labels)}
    exact = [f"{keys([name])[0]} {keys([labels[name]])[0]} {contents[name]}" for name in sorted(contents)]
    data = {
        "fit": {
            "images": round(float(np.mean([fold.record["data"]["fit"]["images"] for fold in done]))),
            "sha256": digest_of_texts(sorted(exact)),
        },
        "reported": {"images": len(table), "sha256": digest_of_texts(sorted(exact))},
    }
    run.note_look(
        table,
        model=str(run.path),
        data=run.data_name,
        split_seed=experiment.split_seed,
        accuracy=metrics.get("accuracy"),
    )
    seconds: dict[str, Any] = {"total": 0.0}
    for fold in done:
        for name, value in fold.record["seconds"].items():
            if isinstance(value, (int, float)):
                seconds[name] = round(seconds.get(name, 0.0) + value, 3)
    return run.update(
        status="finished",
        finished=now(),
        data=data,
        metrics=metrics,
        accuracy_interval_95=list(accuracy_interval(table)),
        peak_memory=max(fold.record.get("peak_memory", 0) for fold in done),
        folds={"count": len(done), "accuracies": [fold.metrics.get("accuracy") for fold in done]},
        bad_images=[bad for fold in done[:1] for bad in fold.record.get("bad_images", [])],
        steps=sum(int(fold.record.get("steps") or 0) for fold in done),
        others=max(float(fold.record.get("others") or 0.0) for fold in done),
        seconds=seconds,
    )
