"""Search queue: the trials of a search in Optuna's storage, exactly as many as asked for, each with one outcome.

The session that makes the study in the storage puts all trials into it at once, as waiting ones. A worker claims one;
it never makes one, so that an emptied queue invents none. A claim holds two things:

- a lock on the trial in the study's folder, which the system gives up with a process that is killed: sessions that
  share the folder take its trial over at once, and continue its run;
- a token in the storage and a count that goes up (heartbeat), for sessions that share only the storage: one whose count
  has stood still for its grace period, by the clock of whoever looks, is taken over and begun anew. A worker that finds
  another token has lost its trial, and tells nothing.

Optuna's own heartbeat ends a stale trial as failed and makes another row of it; a journal file has none.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from zoo.errors import StorageLost, ZooError, counted
from zoo.studies.search_storage import GRACE, close_storage, masked, open_storage, storage_errors
from zoo.studies.search_trial import (
    BEAT,
    CLAIM,
    EPOCHS_SEEN,
    FAILURE,
    IDENTITY,
    INSTEAD,
    SearchTrial,
    finished_loss,
    outcomes,
    this_host,
)

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial as OptunaTrial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, TrialState

PATIENCE = 30.0  # seconds for which a storage that does not answer is asked again
FILL_SECONDS = 20.0  # that the session which makes the trials may take for one of them
SETTLE = 1.0  # seconds in which two that take over the same trial of another folder see each other
MOST_DEATHS = 2  # times that a trial may end its own process, as for lack of memory, before it counts as failed
Answer = TypeVar("Answer")


class ClaimLost(Exception):
    """Another session has taken the trial over, because this one gave no sign of life for too long."""


class SearchQueue:
    """The trials of one search, in a storage that is open."""

    def __init__(
        self,
        storage: str,
        name: str,
        *,
        folder: Path,
        identity: Mapping[str, Any],
        first: Sequence[Mapping[str, Any]],
        count: int,
        pruner: BasePruner,
        sampler: Callable[[int], BaseSampler],
        session: str = "",
        grace: float | None = None,
    ) -> None:
        """Open the search, or make it.

        Args:
            storage: The storage, see `zoo.studies.search_storage`.
            name: Name of the search there.
            folder: Folder of the runs of its trials.
            identity: What is searched, as JSON; of a search that is there it must be equal.
            first: Settings of the first trials; further ones are sampled.
            count: Number of trials in all.
            pruner: Optuna's pruner.
            sampler: Optuna's sampler for a trial, by its number.
            session: A text that only this session has, and all of its processes.
            grace: Grace period in seconds. None: nobody else uses the storage, and what runs there was killed.

        Raises:
            StorageLost: the storage cannot be used, or holds a search of the same name for something else.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.count, self.folder, self.session = count, folder, session
        self._text, self._name, self._sampler = storage, name, sampler
        self._alone, self._grace = grace is None, GRACE if grace is None else grace
        self._seen: dict[int, tuple[Any, float]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._where = self._folder_id()
        self._storage = open_storage(storage)
        with storage_errors(storage):
            try:
                self._study: OptunaStudy = optuna.create_study(storage=self._storage, study_name=name, pruner=pruner)
                made = True
            except optuna.exceptions.DuplicatedStudyError:
                self._study = optuna.load_study(storage=self._storage, study_name=name, pruner=pruner)
                made = False
            self._id = self._storage.get_study_id_from_name(name)
            if made:
                self._study.set_user_attr(IDENTITY, dict(identity))
        if not self._alone:
            self._check_identity(identity)
        self._fill(first, at_once=made or self._alone)
        self._correct()

    # the search as a whole

    def close(self) -> None:
        """Close the connections of the storage."""
        close_storage(self._storage)

    @property
    def poll(self) -> float:
        """Seconds between two looks at trials that others train."""
        return min(1.0, self._grace / 8)

    def table(self) -> tuple[SearchTrial, ...]:
        """The outcomes so far."""
        return outcomes(self._trials(), self.count)

    def running(self) -> int:
        """How many trials others train now."""
        return sum(trial.state.name == "RUNNING" for trial in self._trials()[: self.count])

    def _trials(self) -> list[FrozenTrial]:
        return self._patiently(lambda: self._study.get_trials(deepcopy=False))

    def _folder_id(self) -> str:
        """A name of the folder, by which sessions know that they share it."""
        file = self.folder / ".id"
        with FileLock(self.folder / ".id.lock"):
            if not file.is_file() or not file.read_text():
                file.write_text(secrets.token_hex(8))
            return file.read_text()

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        found: Mapping[str, Any] | None = None
        until = time.monotonic() + FILL_SECONDS
        while found is None and time.monotonic() < until:
            found = self._patiently(lambda: self._storage.get_study_user_attrs(self._id)).get(IDENTITY)
            if found is None:  # its session has only just begun, or was killed before it could say what it searches
                time.sleep(0.2)
        if found is None:
            self._patiently(lambda: self._study.set_user_attr(IDENTITY, dict(identity)))
            return
        names = sorted(name for name in {*found, *identity} if found.get(name) != identity.get(name))
        if names:
            raise StorageLost(
                f"`{masked(self._text)}` holds another search `{self._name}`, which differs in `{'`, `'.join(names)}`",
                hint="pass another `--study-name`, or search with the same settings, images and versions",
            )

    def _fill(self, first: Sequence[Mapping[str, Any]], at_once: bool) -> None:
        """Put trials into the storage until there are as many as asked for."""
        import optuna

        number, changed = len(self._trials()), time.monotonic()
        patience = FILL_SECONDS * (1 + secrets.randbelow(100) / 100)  # so that two rarely begin together
        while number < self.count:
            if not at_once and time.monotonic() - changed < patience:
                time.sleep(0.2)  # another session makes them, or was killed while it did
                if (now := len(self._trials())) > number:
                    number, changed = now, time.monotonic()
                continue
            fixed = {"fixed_params": dict(first[number])} if number < len(first) else {}
            one = optuna.create_trial(state=optuna.trial.TrialState.WAITING, system_attrs=fixed)
            self._patiently(lambda one=one: self._storage.create_new_trial(self._id, template_trial=one))  # type: ignore[misc]
            number = number + 1 if at_once else len(self._trials())
        for surplus in self._trials()[self.count :]:  # two sessions have made the last one after a third was killed
            if surplus.state.name == "WAITING" and not self._alone:
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._patiently(lambda one=surplus: self._end(one._trial_id, optuna.trial.TrialState.FAIL, None))  # type: ignore[misc]

    def _correct(self) -> None:
        """Tell trials that are finished in this folder although the storage has them as failed.

        Optuna changes no trial that has ended, so that each gets one that takes its place.
        """
        import optuna

        losses = {
            one.number: finished_loss(self.folder / str(one.number)) for one in self.table() if one.state == "failed"
        }
        failed = [one for one in self.table() if losses.get(one.number) is not None]
        if not failed:
            return
        with FileLock(self.folder / ".correct.lock"):
            trials = self._trials()
            replaced = {trial.user_attrs.get(INSTEAD) for trial in trials}
            for one in failed:
                before = trials[one.number]
                if one.number in replaced or (before.user_attrs.get(FAILURE) and before.state.name == "PRUNED"):
                    continue
                told = optuna.create_trial(
                    state=optuna.trial.TrialState.COMPLETE,
                    value=losses[one.number],
                    params=before.params,
                    distributions=before.distributions,
                    user_attrs={CLAIM: before.user_attrs.get(CLAIM), EPOCHS_SEEN: one.epochs, INSTEAD: one.number},
                )
                self._patiently(lambda told=told: self._study.add_trial(told))  # type: ignore[misc]

    # a trial

    def claim(self) -> Claim | None:
        """Claim a trial that waits, or whose worker is dead; None: there is none at the moment."""
        for trial in self._trials()[: self.count]:
            if not trial.state.is_finished():
                claimed = self._try(trial)
                if claimed is not None:
                    return claimed
        return None

    def _try(self, trial: FrozenTrial) -> Claim | None:
        import optuna

        lock = FileLock(self.folder / f"{trial.number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None  # a session that shares the folder trains it
        except (OSError, NotImplementedError) as error:
            raise ZooError(
                f"cannot lock files in `{self.folder}`: {error}", hint="use a folder with locks, such as NFS 4"
            ) from error
        mine = None
        try:
            mine = self._owned(trial, lock)
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # another session has told its outcome meanwhile
        finally:
            if mine is None:
                lock.release()
        return mine

    def _owned(self, trial: FrozenTrial, lock: FileLock) -> Claim | None:
        """Claim a trial whose lock in the folder is held."""
        import optuna

        number, key = trial.number, trial._trial_id
        running = optuna.trial.TrialState.RUNNING
        token = {
            "token": secrets.token_hex(8),
            "where": self._where,
            "session": self.session,
            "host": this_host(),
            "grace": self._grace,
            "deaths": 0,
        }
        if trial.state is optuna.trial.TrialState.WAITING:
            if not self._patiently(lambda: self._storage.set_trial_state_values(key, state=running)):
                return None
        else:
            now = self._patiently(lambda: self._storage.get_trial(key))
            before = now.user_attrs.get(CLAIM) or {}
            here = self._alone or before.get("where") == self._where
            if now.state.is_finished() or not (here or self._is_stale(now)):
                return None
            own = bool(self.session) and before.get("session") == self.session  # its process died in it, not a session
            token["deaths"] = int(before.get("deaths", 0)) + own
            if not here:
                self._set(key, CLAIM, token)
                time.sleep(SETTLE)
                found = self._patiently(lambda: self._storage.get_trial(key)).user_attrs.get(CLAIM) or {}
                if found.get("token") != token["token"]:
                    return None
        self._set(key, CLAIM, token)
        self._study.sampler = self._sampler(number)
        made = self._patiently(lambda: optuna.Trial(self._study, key))
        return Claim(self, number, made, token, lock)

    def _is_stale(self, trial: FrozenTrial) -> bool:
        """Whether its sign of life has not changed for the grace period of its worker, by the clock of this machine."""
        claim = trial.user_attrs.get(CLAIM) or {}
        sign, now = (claim.get("token"), trial.user_attrs.get(BEAT)), time.monotonic()
        before, since = self._seen.get(trial.number, (None, now))
        if before != sign:
            self._seen[trial.number] = (sign, now)
            return False
        return now - since > float(claim.get("grace", self._grace))

    def _set(self, key: int, name: str, value: Any) -> None:
        self._patiently(lambda: self._storage.set_trial_user_attr(key, name, value))

    def _end(self, key: int, state: TrialState, value: float | None) -> bool:
        return self._storage.set_trial_state_values(key, state=state, values=None if value is None else [value])

    def _patiently(self, do: Callable[[], Answer]) -> Answer:
        """Call a function of the storage, again where it does not answer.

        Raises:
            StorageLost: it still does not after `PATIENCE` seconds.
        """
        until, pause = time.monotonic() + PATIENCE, 0.25
        while True:
            try:
                with storage_errors(self._text):
                    return do()
            except StorageLost:
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 5.0)


class Claim:
    """A trial that this process trains. Leaving the `with` block gives its lock up."""

    def __init__(
        self, queue: SearchQueue, number: int, trial: OptunaTrial, token: Mapping[str, Any], lock: FileLock
    ) -> None:
        self.queue, self.number, self.trial = queue, number, trial
        self.deaths = int(token["deaths"])
        self._token, self._lock = token, lock
        self._waiting: list[tuple[int, float]] = []  # reports that the storage has not taken yet
        self._reported = set(trial.storage.get_trial(trial._trial_id).intermediate_values)
        self._lost = False
        self._ended = threading.Event()
        self._thread = None if queue._alone else threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claim:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._lock.release()

    @property
    def last_step(self) -> int:
        """The last epoch that was reported; 0: none was."""
        return max(self._reported, default=0)

    def sample(self, draw: Callable[[OptunaTrial], Answer]) -> Answer:
        """What a function of Optuna's trial draws; a trial that is taken over has the settings that it had."""
        return self.queue._patiently(lambda: draw(self.trial))

    def should_prune(self, step: int, loss: float) -> bool:
        """Report the loss after an epoch; returns whether others are so far ahead that the trial should end.

        A storage that does not answer is told later: training goes on meanwhile.

        Raises:
            ClaimLost: another session has taken the trial over.
        """
        if self._lost:
            raise ClaimLost
        if step not in self._reported:
            self._waiting.append((step, loss))
            self._reported.add(step)
        try:
            with storage_errors(self.queue._text):
                while self._waiting:
                    self.trial.report(self._waiting[0][1], self._waiting[0][0])
                    self._waiting.pop(0)
                return self.trial.should_prune()
        except StorageLost:
            return False
        except RuntimeError as error:  # its outcome has been told by another session
            raise ClaimLost from error

    def tell(self, state: TrialState, loss: float | None = None, attrs: Mapping[str, Any] | None = None) -> bool:
        """Tell the outcome; False: another session has taken the trial over, and tells it.

        Raises:
            StorageLost: the storage cannot be used; the run's folder still has the outcome.
        """
        import optuna

        key = self.trial._trial_id
        try:
            found = self.queue._patiently(lambda: self.trial.storage.get_trial(key))
            if found.state.is_finished() or (found.user_attrs.get(CLAIM) or {}).get("token") != self._token["token"]:
                return False
            for name, value in (attrs or {}).items():
                self.queue._set(key, name, value)
            self.queue._patiently(lambda: self.queue._end(key, state, loss))
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _beat(self) -> None:
        """Give signs of life, until the trial has ended or another session has it."""
        key, number = self.trial._trial_id, 0
        storage = self.trial.storage
        while not self._ended.wait(self.queue._grace / 4 if number else 0):
            number += 1
            try:
                with storage_errors(self.queue._text):
                    found = storage.get_trial(key)
                    if (found.user_attrs.get(CLAIM) or {}).get("token") != self._token["token"]:
                        self._lost = True
                        return
                    storage.set_trial_user_attr(key, BEAT, number)
            except StorageLost:
                continue  # whoever tells the outcome says so
            except RuntimeError:  # the trial has ended
                return


def dead_words(deaths: int) -> str:
    return f"its process died {counted(deaths, 'time')} in it, perhaps for lack of memory"
