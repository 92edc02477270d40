"""Kills sessions that search together: exactly as many trials as asked for, each with exactly one outcome.

    ZOO_STORAGE=postgresql://zoo:PASSWORD@127.0.0.1/searches python benchmarks/search_kills.py --trials 40 --kills 20
    python benchmarks/search_kills.py --storage search.journal --trials 12 --kills 6 --own-folders

Three `zoo study --search N --storage URL` search together. One of them after the other is killed by SIGKILL while a
trial runs, every fourth time only its worker process, and begun again. At the end the storage, the folders of the
trials and `tuned.json` must agree. Writes `benchmarks/results/search_kills.json`, an entry for each kind of storage and
folders.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from zoo.runs.run import Run
from zoo.storage.files import json_text
from zoo.studies.search_storage import close_storage, is_url, open_storage
from zoo.studies.search_trial import CLAIM, outcomes
from zoo.system.environment import machine, versions

OUT = Path(__file__).parent / "results" / "search_kills.json"
SETTINGS = [
    *("--data", "digits", "--backbone", "timm/test_resnet", "--strategy", "full", "--weights", "none"),
    *("--image-size", "32", "--epochs", "1", "--seed", "0", "--device", "cpu", "--precision", "fp32"),
    *("--threads", "1", "--no-test"),
]
WAIT = 1200.0


class Sessions:
    """The sessions, each of which is begun again after it was killed."""

    def __init__(self, words: list[list[str]], logs: Path, environment: dict[str, str]) -> None:
        self.words, self.logs, self.environment = words, logs, environment
        self.processes = [self._begin(number) for number in range(len(words))]
        self.arguments: set[str] = set()  # of processes below the sessions, as `ps` shows them

    def _begin(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "zoo_cli.main", "study", *self.words[number]]
        with (self.logs / f"{number}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def children(self, number: int) -> list[psutil.Process]:
        try:
            found = psutil.Process(self.processes[number].pid).children(recursive=True)
            self.arguments |= {" ".join(one.cmdline()) for one in found}
        except psutil.NoSuchProcess:
            return []
        return found

    def kill(self, number: int, worker: bool) -> bool:
        """Kill a session, or its worker process; False: it has ended by itself, or has no worker."""
        children = self.children(number)
        if self.processes[number].poll() is not None or not children:
            return False
        if worker:
            children[0].send_signal(signal.SIGKILL)
            return True
        self.processes[number].kill()
        self.processes[number].wait()
        self.processes[number] = self._begin(number)
        return True


def trials_of(storage: str, name: str) -> list[Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened = open_storage(storage)
    names = [one for one in optuna.get_all_study_names(opened) if one.startswith(f"{name}: ")]
    found: list[Any] = list(optuna.load_study(study_name=names[0], storage=opened).trials) if names else []
    close_storage(opened)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default=os.environ.get("ZOO_STORAGE"), help="default: ZOO_STORAGE")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--grace", type=float, default=8.0, help="seconds")
    parser.add_argument("--own-folders", action="store_true", help="a study's folder for each session")
    options = parser.parse_args()
    draw, name = random.Random(0), f"kills-{secrets.token_hex(4)}"
    environment = {**os.environ, "ZOO_STORAGE": options.storage}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folders = [root / (f"study-{number}" if options.own_folders else "study") for number in range(options.sessions)]
        searching = [*SETTINGS, "--search", str(options.trials), "--pruner", "none", "--study-name", name]
        searching += ["--grace-period", f"{options.grace:g}s"]
        sessions = Sessions([[*searching, "--out", str(folder)] for folder in folders], root, environment)
        kills: Counter[str] = Counter()
        ages = []
        claims: dict[int, set[str]] = {}  # tokens of the trials that ran when something was killed
        while kills.total() < options.kills:
            trials = trials_of(options.storage, name)
            ended = sum(trial.state.is_finished() for trial in trials)
            if trials and ended == options.trials:
                break
            # spread over the search, so that the last kill comes before the last trial
            if not trials or ended < kills.total() * options.trials / (options.kills + 1):
                time.sleep(0.5)
                assert time.monotonic() - began < 3 * WAIT, "the search does not go on"
                continue
            age = draw.uniform(0.0, 3.0)
            time.sleep(age)
            worker = kills.total() % 4 == 3
            for trial in trials_of(options.storage, name):
                if trial.state.name == "RUNNING" and CLAIM in trial.user_attrs:
                    claims.setdefault(trial.number, set()).add(trial.user_attrs[CLAIM]["token"])
            order = draw.sample(range(options.sessions), options.sessions)
            if any(sessions.kill(number, worker) for number in order):
                kills["worker" if worker else "session"] += 1
                ages.append(round(age, 2))
                print(f"{time.monotonic() - began:.0f} s: {kills.total()} kills, {ended} outcomes", flush=True)
            else:
                time.sleep(0.5)
        while any(process.poll() is None for process in sessions.processes):
            for number in range(options.sessions):
                sessions.children(number)
            time.sleep(0.5)
            assert time.monotonic() - began < 3 * WAIT, "the sessions do not end"
        trials = trials_of(options.storage, name)
        table = outcomes(trials, options.trials)
        on_disk: dict[int, list[float]] = {}
        for folder in dict.fromkeys(folders):
            for file in folder.glob("search/*/*/run.json"):
                run = Run.open(file.parent)
                if run.status == "finished":
                    on_disk.setdefault(int(file.parent.name), []).append(run.metrics["loss"])
        finished = {one.number: one.loss for one in table if one.state == "finished"}
        tuned = [
            next(iter(json.loads((folder / "tuned.json").read_text()).values())) for folder in dict.fromkeys(folders)
        ]
        secrets_of: set[str] = set()
        if is_url(options.storage):
            from sqlalchemy import make_url

            password = str(make_url(options.storage).password or "")
            secrets_of = {password, quote(password, safe="")} - {""}
        texts = [file.read_text(errors="replace") for file in root.rglob("*") if file.is_file()]
        found = {
            "trials_asked_for": options.trials,
            "sessions": options.sessions,
            "kills": dict(kills),
            "seconds_from_outcome_to_kill": ages,
            "trials_that_were_taken_over": sum(
                bool(claims.get(trial.number, set()) - {trial.user_attrs.get(CLAIM, {}).get("token")})
                for trial in trials
            ),
            "trials_in_the_storage": len(trials),
            "states_in_the_storage": dict(Counter(trial.state.name for trial in trials)),
            "outcomes": dict(Counter(str(one.state) for one in table)),
            "trials_with_one_outcome": len({one.number for one in table}),
            "failures": sorted({one.failure for one in table if one.state == "failed"}),
            "finished_in_a_folder_and_in_the_storage_with_the_same_loss": sum(
                loss in on_disk.get(number, []) for number, loss in finished.items()
            ),
            "finished_in_a_folder_only": sorted(set(on_disk) - set(finished)),
            "finished_in_two_folders": sum(len(losses) > 1 for losses in on_disk.values()),
            "same_winner_in_every_folder": len({json_text(one["settings"]) for one in tuned}) == 1,
            "exit_codes": [process.returncode for process in sessions.processes],
            "password_in_a_file_a_log_or_arguments": any(
                secret in text for secret in secrets_of for text in [*texts, *sessions.arguments]
            )
            if secrets_of
            else "there is none",
            "grace_period_s": options.grace,
            "seconds": round(time.monotonic() - began, 1),
        }
        for number in range(options.sessions):
            print((root / f"{number}.log").read_text(errors="replace")[-1500:], flush=True)
    print(json_text(found, indent=2), flush=True)
    kind = options.storage.partition(":")[0] if is_url(options.storage) else "journal"
    key = f"{kind}, {'own folders' if options.own_folders else 'one folder'}"
    whole = json.loads(OUT.read_text()) if OUT.is_file() else {}
    OUT.write_text(json_text({**whole, key: found, "machine": machine(), "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
