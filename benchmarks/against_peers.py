"""Compares zoo's training with other libraries (peers) on the same task: time of whole processes, and accuracy.

    python benchmarks/against_peers.py --data hymenoptera --survey
    python benchmarks/against_peers.py --data hymenoptera --repeats 3

    python benchmarks/middle_set.py HYMENOPTERA SIGN_DIGITS middle
    python benchmarks/against_peers.py --data middle --rows linear partial --survey --survey-epochs 1 --out middle.json
    python benchmarks/against_peers.py --data middle --rows linear partial --repeats 3 --out middle.json

The survey runs every peer once at every setting; on a large folder one epoch is enough to order the settings. Without
`--survey`, zoo runs at its defaults and each peer at its fastest setting, interleaved, with one seed for each round.
Every measurement is saved at once and not repeated (unless `--again` is given), so that both commands can be stopped
and started. Each process may use all cores, with torch's default number of threads, and no GPU. Peers have an
environment of their own, `.venv-peers`, created on the first call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers.report import SECOND, ZOO, Record, fastest, write

from zoo.system.environment import machine, versions

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
VENV = ROOT / ".venv-peers"
PYTHON = VENV / "bin" / "python"
BACKBONE = "efficientnet_lite0"

# A variant of the plain loop whose process keeps freed memory, by environment variables for glibc's malloc. zoo sets
# the same for itself (`zoo/system/cpu_memory.py`). Users who follow PyTorch's tuning guide, which advises another
# allocator, get a similar effect.
KEPT = ", memory kept"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1), "MALLOC_ARENA_MAX": "1"}
SCRIPTS = {
    "fastai": PEERS / "fastai_trainer.py",
    "plain loop": PEERS / "plain_loop.py",
    f"plain loop{KEPT}": PEERS / "plain_loop.py",
}

HEAD = 1281  # parameters of the head for each class
# Largest number of parameters that each mode may change besides the head, as in `zoo plan`: none; the last two stages;
# all
MOST_MOVED = {"frozen": 0, "partial": 2_670_240, "fine_tune": 3_371_008}


@dataclass(frozen=True, kw_only=True)
class PeerComparison:
    """A comparison: a strategy of zoo with a mode of the peers."""

    strategy: str
    settings: tuple[str, ...] = ()
    again: bool = False  # whether to run zoo a second time, with the feature cache of the first run
    mode: str
    epochs: int  # for `fine_tune`, without its first epoch, which is frozen


ROWS = {
    "linear": PeerComparison(strategy="linear", again=True, mode="frozen", epochs=5),
    "partial": PeerComparison(strategy="partial:2", settings=("--epochs", "5"), mode="partial", epochs=5),
    "fine_tune": PeerComparison(strategy="linear,epochs=1+full,epochs=4", mode="fine_tune", epochs=4),
}


def install() -> None:
    """Create the peers' environment, unless it exists with the same requirements."""
    wanted = (PEERS / "requirements.txt").read_text()
    installed = VENV / ".installed"
    if installed.is_file() and installed.read_text() == wanted:
        return
    print(f"installing into {VENV.name}, once; torch is large, so this takes some minutes", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", PEERS / "requirements.txt"], check=True)
    installed.write_text(wanted)


def settings_of(peer: str) -> Iterator[list[str]]:
    """Yield every setting that the survey tries."""
    for workers, precision, last in itertools.product((0, 1, 2), ("fp32", "bf16"), (False, True)):
        yield ["--workers", str(workers), "--precision", precision, *(["--channels-last"] if last else [])]
    if peer == "fastai":  # its defaults: a worker per core, and batch norms of frozen layers train
        yield ["--workers", str(machine()["cores"]), "--precision", "fp32", "--train-bn"]


def run(command: list[Any], cache: Path, allocator: dict[str, str] | None = None) -> tuple[float, float, str]:
    """Run a process; its wall time in seconds, the machine's load before it, and its stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "ZOO_CACHE": str(cache)} | (allocator or {})
    load = os.getloadavg()[0]
    began = time.perf_counter()
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(str(part) for part in command)}\n{done.stderr[-2000:]}")
    return seconds, load, done.stdout


def run_peer(peer: str, row: PeerComparison, setting: list[str], seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """One run of a peer, with a check that precision, memory format and changed parameters are as requested."""
    command = [PYTHON, "-W", "ignore", SCRIPTS[peer], "--data", data, "--mode", row.mode, "--epochs", row.epochs]
    allocator = ALLOCATOR if peer.endswith(KEPT) else None
    seconds, load, output = run([*command, "--seed", seed, *setting], folder, allocator)
    record = json.loads(output.splitlines()[-1])
    asked, observed = record["settings"], record["observed"]
    assert observed["precision"] == asked["precision"], record
    assert observed["channels_last"] or not asked["channels_last"], record
    if "--train-bn" not in setting:
        assert observed["parameters_moved"] <= MOST_MOVED[row.mode] + HEAD * classes_of(data), record
        assert row.mode != "frozen" or observed["statistics_moved"] == 0, record
    return {
        "wall": round(seconds, 3),
        "load": load,
        "accuracy": record["accuracy"],
        "parts": record["seconds"],
        "precision": asked["precision"],
        "recipe": record["recipe"],
        "observed": observed,
        "versions": record["versions"],
    }


def zoo_command(row: PeerComparison, seed: int, data: Path, out: Path) -> list[Any]:
    """The command line of `zoo train`, with this interpreter."""
    command = [sys.executable, "-m", "zoo_cli.main", "train", "--data", data, "--backbone", BACKBONE]
    return [*command, "--strategy", row.strategy, *row.settings, "--seed", seed, "--out", out]


def run_zoo(row: PeerComparison, seed: int, data: Path, out: Path, cache: Path) -> dict[str, Any]:
    """One run of zoo at its defaults."""
    seconds, load, _ = run(zoo_command(row, seed, data, out), cache)
    record = json.loads((out / "run.json").read_text())
    experiment, phases, preprocess = record["experiment"], record["phases"], record["preprocess"]
    solved = [phase for phase in phases if phase.get("solver")]
    head, steps = "one linear layer", f"{experiment['optimizer']}, {experiment['schedule']} up to {record['lr']:g}"
    if len(solved) == len(phases):
        head, steps = "one linear layer, logistic regression", "L-BFGS on features, strength by cross-validation"
    recipe = {
        "augmentation": "none" if len(solved) == len(phases) else f"`{experiment['augment']}`",
        "head": head,
        "optimizer": steps,
        "batch norm": ", ".join(f"`{phase['norm']}`" for phase in phases),
        "evaluation": f"shorter side to {preprocess['resize']}, centre crop of {preprocess['crop']}",
        "loader": "decodes every image once",
    }
    return {
        "wall": round(seconds, 3),
        "load": load,
        "accuracy": record["metrics"]["accuracy"],
        "parts": record["seconds"],
        "precision": record["device"]["precision"],
        "recipe": recipe,
        "versions": record["versions"],
        "commit": commit(),
    }


def classes_of(data: Path) -> int:
    """The number of classes."""
    return sum(1 for folder in (data / "train").iterdir() if folder.is_dir())


def images_of(data: Path) -> dict[str, int]:
    """The number of photographs in each split; the GIF in hymenoptera is left out, as in every contender."""
    files = {split: (file for file in (data / split).glob("*/*")) for split in ("train", "val")}
    return {split: sum(file.suffix.lower() != ".gif" for file in found) for split, found in files.items()}


def commit() -> str:
    """The commit of zoo that is measured."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def warm_up(peers: list[str], data: Path) -> None:
    """Read libraries and photographs once, so that the file cache of the system is warm for all."""
    for file in data.rglob("*.*"):
        file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        run(
            [sys.executable, "-m", "zoo_cli.main", "plan", "--backbone", BACKBONE, "--strategy", "linear"], Path(folder)
        )
        for peer in peers:
            run([PYTHON, "-W", "ignore", SCRIPTS[peer], "--help"], Path(folder))


def survey(
    record: Record, rows: list[str], peers: list[str], words: list[str], data: Path, again: bool, epochs: int | None
) -> None:
    """Run every peer once, with seed 0, at every setting that contains all `words`; for `epochs`, where given."""
    for name in rows:
        row = ROWS[name] if epochs is None else replace(ROWS[name], epochs=epochs)
        for peer in peers:
            for setting in (one for one in settings_of(peer) if all(word in " ".join(one) for word in words)):
                key = {"phase": "survey", "row": name, "contender": peer, "setting": " ".join(setting), "seed": 0}
                if again or not record.has(key):
                    with tempfile.TemporaryDirectory() as folder:
                        record.add(key, stamp(run_peer(peer, row, setting, 0, data, Path(folder))))


def turns(record: Record, rows: list[str], peers: list[str], repeats: int, data: Path, again: bool) -> None:
    """Run zoo and each peer at its fastest setting with one seed, then all of them with the next seed."""
    for seed in range(repeats):
        for name in rows:
            row = ROWS[name]
            key = {"phase": "turns", "row": name, "seed": seed, "setting": "defaults"}
            cold, warm = {**key, "contender": ZOO}, {**key, "contender": SECOND}
            if again or not record.has(cold) or (row.again and not record.has(warm)):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder)
                    record.add(cold, stamp(run_zoo(row, seed, data, path / "first", path / "cache")))
                    if row.again:
                        record.add(warm, stamp(run_zoo(row, seed, data, path / "second", path / "cache")))
            for peer in peers:
                best = fastest(record, name, peer)
                if best is None:
                    raise SystemExit(
                        f"no setting of {peer} has been measured for `{name}`\n\nhint: run `--survey` first"
                    )
                key = {**key, "contender": peer, "setting": best}
                if again or not record.has(key):
                    with tempfile.TemporaryDirectory() as folder:
                        record.add(key, stamp(run_peer(peer, row, best.split(), seed, data, Path(folder))))


def stamp(measured: dict[str, Any]) -> dict[str, Any]:
    """Add the time to a measurement, and print it on stderr."""
    print(f"{measured['wall']:8.1f} s  {measured['accuracy']:.3f}", file=sys.stderr, flush=True)
    return {"measured": datetime.now(UTC).isoformat(timespec="seconds"), **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument(
        "--survey", action="store_true", help="measure the peers at every setting, instead of the comparison"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of rounds of the comparison, with seeds 0, 1, ..."
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="comparisons to make")
    parser.add_argument("--peers", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="libraries to compare")
    parser.add_argument("--matching", nargs="+", default=[], help="survey only settings that contain these words")
    parser.add_argument(
        "--survey-epochs", type=int, metavar="N", help="epochs of the survey; default: those of the comparison"
    )
    parser.add_argument("--again", action="store_true", help="repeat measurements that exist")
    parser.add_argument("--report", action="store_true", help="only write the table again, without measuring")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "against_peers.json",
        help="file of measurements; the table is written beside it",
    )
    options = parser.parse_args()
    record = Record.open(options.out)
    if not options.report:
        install()
        warm_up(options.peers, options.data)
        record.about = {
            "machine": machine(),
            "versions": versions(),
            "data": {
                "name": options.data.resolve().name,
                "classes": classes_of(options.data),
                **images_of(options.data),
            },
            "survey_epochs": options.survey_epochs if options.survey else record.about.get("survey_epochs"),
        }
        if options.survey:
            survey(
                record,
                options.rows,
                options.peers,
                options.matching,
                options.data,
                options.again,
                options.survey_epochs,
            )
        else:
            turns(record, options.rows, options.peers, options.repeats, options.data, options.again)
    if not record.measurements:
        raise SystemExit(f"`{options.out}` has no measurements\n\nhint: run `--survey` first")
    words = {
        name: {"zoo": " ".join((row.strategy, *row.settings)), "peers": f"{row.mode}, {row.epochs} epochs"}
        for name, row in ROWS.items()
    }
    write(record, words, options.out.with_suffix(".md"))


if __name__ == "__main__":
    main()
