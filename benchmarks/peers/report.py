"""The record of `against_peers.py`: measurements as JSON, and their tables as Markdown."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

KEY = ("phase", "row", "contender", "setting", "seed")  # identifies a measurement
ZOO, SECOND = "zoo", "zoo, second run"
ORDER = (ZOO, SECOND, "fastai", "plain loop", "plain loop, memory kept")


@dataclass
class Record:
    """All measurements, in a file that is written again after each."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    measurements: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> Record:
        return cls(path, **json.loads(path.read_text())) if path.is_file() else cls(path)

    def has(self, key: dict[str, Any]) -> bool:
        return any(_key(one) == _key(key) for one in self.measurements)

    def add(self, key: dict[str, Any], measured: dict[str, Any]) -> None:
        """Add a measurement; it replaces one with the same key."""
        self.measurements = [one for one in self.measurements if _key(one) != _key(key)] + [{**key, **measured}]
        text = json.dumps({"about": self.about, "measurements": self.measurements}, indent=2, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(text)
        beside.replace(self.path)

    def of(self, phase: str, row: str, contender: str | None = None) -> list[dict[str, Any]]:
        """Measurements of one phase and row, of all contenders or of one."""
        found = [one for one in self.measurements if (one["phase"], one["row"]) == (phase, row)]
        return [one for one in found if contender in (None, one["contender"])]


def _key(measurement: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(measurement[name] for name in KEY)


def fastest(record: Record, row: str, peer: str) -> str | None:
    """The fastest setting of a peer in the survey; None if the survey has not been run."""
    found = record.of("survey", row, peer)
    return min(found, key=lambda one: one["wall"])["setting"] if found else None


def turns_of(record: Record, row: str) -> dict[str, list[dict[str, Any]]]:
    """Measurements by contender, in order of seed; for peers, only those at their fastest setting."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(record.of("turns", row), key=lambda one: (ORDER.index(one["contender"]), one["seed"])):
        if one["contender"] in (ZOO, SECOND) or one["setting"] == fastest(record, row, one["contender"]):
            found.setdefault(one["contender"], []).append(one)
    return found


def seconds(measurements: list[dict[str, Any]]) -> float:
    """The median time of whole processes."""
    return median(one["wall"] for one in measurements)


def write(record: Record, rows: dict[str, dict[str, str]], path: Path) -> None:
    """Write the Markdown; `rows` has the names of what each row compares."""
    lines = ["# Training against peers", "", _about(record)]
    for row, words in rows.items():
        measured = turns_of(record, row)
        if measured:
            lines += ["", f"## `{words['zoo']}` against {words['peers']}", "", *_compared(record, row, measured)]
    if any(one["phase"] == "survey" for one in record.measurements):
        lines += [
            "",
            "## Every setting of the peers",
            "",
            "One run each, with seed 0. The fastest setting of each peer is in bold; it is the one compared above.",
        ]
    for row, words in rows.items():
        if record.of("survey", row):
            lines += ["", f"### {words['peers']}", "", *_surveyed(record, row)]
    path.write_text("\n".join(lines) + "\n")


def _about(record: Record) -> str:
    """Commands, machine, versions, and what all runs have in common."""
    first = {"zoo" if one["contender"] in (ZOO, SECOND) else "peers": one for one in record.measurements}
    wanted = ("backbone-zoo", "fastai", "torch", "torchvision", "timm", "numpy", "pillow")
    environments = [
        f"{name} with "
        + ", ".join(f"{package} {one['versions'][package]}" for package in wanted if package in one["versions"])
        for name, one in first.items()
    ]
    commits = " ".join(sorted({one["commit"] for one in record.measurements if "commit" in one}))
    machine, python = record.about["machine"], record.about["versions"]["python"]
    data, epochs = record.about["data"], record.about.get("survey_epochs")
    name, count, classes = data["name"], data["val"], data["classes"]
    survey = "--survey" + (f" --survey-epochs {epochs}" if epochs else "")
    found = [one["accuracy"] for one in record.measurements if one["phase"] == "turns"]
    right = mean(found) if found else 0.5
    error = 100 * (right * (1 - right) / count) ** 0.5
    return (
        f"Made by `python benchmarks/against_peers.py --data {name} {survey}` and the same with `--repeats 3`; "
        f"{machine['processor']}, {machine['cores']} cores, no GPU, torch's own number of threads, Python {python}; "
        f"{'; '.join(environments)}; zoo at {commits or '-'}.\n\n"
        f"EfficientNet-Lite0 with the same ImageNet weights, 224 pixels, batches of 32, {name}: {data['train']:,} "
        f"photographs of {classes} classes to train on, and {count:,} that are scored once, at the end. One photograph "
        f"is {100 / count:.2f} points, one standard error {error:.1f}.\n\n"
        "Seconds are those of whole processes, including imports: the median over seeds, the minimum and the maximum. "
        "zoo starts with an empty `ZOO_CACHE`; its second run uses the features that the first has cached there. "
        "`load` is the average number of processes that wanted a core in the minute before a run. Batch norms of "
        "frozen layers keep their parameters and statistics, except in fastai with `--train-bn`, its default. "
        "`memory kept`: the plain loop, with environment variables that make glibc keep freed memory, as zoo does."
    )


def _compared(record: Record, row: str, measured: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The tables of one row: the results, and the training recipe of each contender."""
    lines = [
        "| library | setting | seconds | range | accuracy | by seed | seconds / zoo's | load |",
        "| --- " * 8 + "|",
    ]
    ours = seconds(measured[ZOO]) if ZOO in measured else None
    for name, runs in measured.items():
        walls, right = [one["wall"] for one in runs], [one["accuracy"] for one in runs]
        lines.append(
            f"| {name} | {_setting(runs[0])} | {seconds(runs):.1f} | {min(walls):.1f} to {max(walls):.1f} | "
            f"{mean(right):.3f} | {', '.join(f'{value:.3f}' for value in right)} | "
            f"{f'{seconds(runs) / ours:.2f}' if ours else '-'} | {mean(one['load'] for one in runs):.1f} |"
        )
    peers = {name: runs for name, runs in measured.items() if name not in (ZOO, SECOND)}
    if ours and peers:
        best = min(peers, key=lambda name: seconds(peers[name]))
        against = [
            f"{seconds(peers[best]) / seconds(measured[name]):.2f} ({name})"
            for name in (ZOO, SECOND)
            if name in measured
        ]
        lines += ["", f"Fastest peer: {best}. Its median time relative to zoo's: {', '.join(against)}."]
    words = list(dict.fromkeys(name for runs in measured.values() for name in runs[0]["recipe"]))
    lines += ["", f"| | {' | '.join(measured)} |", "| --- " * (len(measured) + 1) + "|"]
    lines.append(f"| precision | {' | '.join(runs[0]['precision'] for runs in measured.values())} |")
    for word in words:
        lines.append(f"| {word} | {' | '.join(runs[0]['recipe'].get(word, '-') for runs in measured.values())} |")
    return lines


def _surveyed(record: Record, row: str) -> list[str]:
    lines = ["| peer | setting | seconds | seconds of training | accuracy | load |", "| --- " * 6 + "|"]
    for one in record.of("survey", row):
        bold = "**" if one["setting"] == fastest(record, row, one["contender"]) else ""
        lines.append(
            f"| {one['contender']} | {bold}{_setting(one)}{bold} | {one['wall']:.1f} | {one['parts']['train']:.1f} | "
            f"{one['accuracy']:.3f} | {one['load']:.1f} |"
        )
    return lines


def _setting(one: dict[str, Any]) -> str:
    return one["setting"].replace("--", "")
