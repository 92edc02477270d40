"""Run: the folder of one training run, which describes itself from before the first step.

run.json                     settings, decisions and results; `status` says how the run ended
history.jsonl                one line per epoch
model.safetensors            the weights
predictions-SPLIT.safetensors
ledger.jsonl                 one line per evaluation
splits.json                  the role of each image, and the SHA-256 of its content
exclude.csv                  the list of `--exclude`, as it was read
rates.json                   the curve of `--lr find`
unknown.safetensors          with `--unknown-rate`: the score of how strange an image is
folds/N/                     the run of a fold, for a run of `--folds`, which has no weights of its own
callbacks/                   what callbacks have seen, and what they write
checkpoint*.safetensors      from which a killed run is resumed; deleted when the run is finished
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.class_names import keys
from zoo.errors import UsageError, ZooError
from zoo.experiment import Experiment
from zoo.predictions import Predictions
from zoo.preprocess import Preprocess
from zoo.runs.schema import first_violation_of_record, first_violation_of_splits
from zoo.storage.files import (
    SCHEMA,
    append_json,
    check_schema,
    json_text,
    read_json,
    read_lines,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    from zoo.backbone import Network
    from zoo.plugin import Plugins
    from zoo.predictor import Predictor
    from zoo.unknown import UnknownScore

RUN_FILE = "run.json"
WEIGHTS_FILE = "model.safetensors"
HISTORY_FILE = "history.jsonl"
LEDGER_FILE = "ledger.jsonl"
SPLITS_FILE = "splits.json"
RATES_FILE = "rates.json"
UNKNOWN_FILE = "unknown.safetensors"
EXCLUDE_FILE = "exclude.csv"
CALLBACKS = "callbacks"  # folder of what callbacks keep and write
FOLDS = "folds"  # folder of the runs of folds, which are called 1, 2 and so on; also the name of what they score


@dataclass(frozen=True)
class Run:
    """An opened run.

    Attributes:
        path: its folder.
        record: the content of `run.json`.
    """

    path: Path
    record: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        """One line: folder, backbone, strategy, status and accuracy."""
        what = f"{self.record.get('backbone', '?')} {self.record.get('strategy', '?')}"
        accuracy = (self.record.get("metrics") or {}).get("accuracy")
        result = "" if accuracy is None else f", accuracy {accuracy:.4f} on {self.record.get('reported_split')}"
        return f"<Run {self.path}: {what}, {self.record.get('status', 'not begun')}{result}>"

    @classmethod
    def open(cls, path: Run | Path | str) -> Run:
        """Open a run's folder; a run that is open already is returned.

        Raises:
            UsageError: it is not the folder of a run.
            ZooError: its record is damaged or has a newer schema.
        """
        if isinstance(path, Run):
            return path
        if path == "":
            raise UsageError("the name of the run is empty", hint="pass the folder that `zoo train` made")
        folder = Path(path)
        file = folder / RUN_FILE
        if not file.is_file():
            raise UsageError(
                f"`{folder}` is not a run: it has no `{RUN_FILE}`", hint="pass a folder that `zoo train` made"
            )
        record = read_json(file)
        if not isinstance(record, dict):
            raise ZooError(f"`{file}` is not the record of a run", hint="pass a folder that `zoo train` made")
        check_schema(record.get("schema"), file)
        run = cls(folder, record)
        try:
            violation = first_violation_of_record(record)
            if violation is None:
                _ = run.experiment, run.preprocess
        except (KeyError, TypeError, ValueError, OverflowError, AssertionError, UsageError) as error:
            violation = error.message if isinstance(error, UsageError) else f"{type(error).__name__} {error}".strip()
        if violation is not None:
            raise ZooError(
                f"`{file}` is damaged: {violation}", hint="restore it from a copy, or train again with `--force`"
            )
        return run

    @property
    def experiment(self) -> Experiment:
        """The settings that the run was trained with."""
        return Experiment.from_json(self.record["experiment"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return tuple(self.record["classes"])

    @property
    def preprocess(self) -> Preprocess:
        """How images are resized, cropped and normalised."""
        return Preprocess.from_json(self.record["preprocess"])

    @property
    def status(self) -> str:
        """`running` (or killed), `finished`, `interrupted` or `failed`."""
        return str(self.record["status"])

    @property
    def data_name(self) -> str:
        """The name of the data that the run was trained on."""
        return str(self.record.get("data_name"))

    @property
    def is_final(self) -> bool:
        """Whether it was trained on all images that are not in the test split; its figures are those of another run."""
        return isinstance(self.record.get("final"), dict)

    @property
    def combined(self) -> str | None:
        """How it was made of other runs: `soup of 3` or `ensemble of 3`; None: it was trained."""
        for kind, parts in (("soup", "ingredients"), ("ensemble", "members")):
            found = self.record.get(kind)
            if isinstance(found, dict):
                return f"{kind} of {sum(bool(one.get('taken', True)) for one in found[parts])}"
        return None

    def check_is_trained(self, doing: str) -> None:
        """Check that the run was trained, and not made of others; `doing` completes `it cannot be ...`.

        Raises:
            UsageError: it was made by `zoo soup` or `zoo ensemble`.
        """
        if self.combined is not None:
            kind = self.combined.split()[0]
            raise UsageError(
                f"run `{self.path}` cannot be {doing}: it was not trained, but is {self.in_words}",
                hint=f"`zoo {kind}` makes it again from the runs that `run.json` names under `{kind}`",
            )

    @property
    def in_words(self) -> str:
        """What a run that was made of others is: `a soup of 3 runs`."""
        made = str(self.combined)
        return f"{'an' if made.startswith('e') else 'a'} {made} run{'' if made.endswith(' 1') else 's'}"

    @property
    def folds(self) -> list[Run]:
        """The runs of its folds, in order; empty for a run that is one network.

        Raises:
            ZooError: one is missing or damaged.
        """
        found = self.record.get("folds")
        if not isinstance(found, dict):
            return []
        return [Run.open(self.path / FOLDS / str(number)) for number in range(1, int(found["count"]) + 1)]

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the reported split by name; empty for a run that is not finished."""
        return dict(self.record.get("metrics") or {})

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of `history.jsonl`: one record per epoch."""
        return read_lines(self.path / HISTORY_FILE)

    def predictions(self, split: str | None = None) -> Predictions:
        """The stored predictions of a split; None: of the reported split.

        Raises:
            ZooError: there are none.
        """
        name = split or str(self.record["reported_split"])
        file = self.path / f"predictions-{name}.safetensors"
        if not file.is_file() and not (self.path / WEIGHTS_FILE).is_file() and not self.record.get("folds"):
            raise self._no_weights()
        if not file.is_file():
            makes = f"`zoo evaluate {self.path} --split {name}` makes them"
            if name == FOLDS or self.record.get("folds"):  # which no evaluation makes
                makes = f"it has those of `{self.record['reported_split']}`: compare runs that were scored on the same"
            raise ZooError(f"run `{self.path}` has no predictions of `{name}`", hint=makes)
        return Predictions.load(file)

    def check_is_network(self) -> None:
        """Check that the run is one network.

        Raises:
            ZooError: it is several, one for each fold.
        """
        if self.record.get("folds"):
            raise self._no_weights()

    def load_network(self, plugins: Plugins | None = None) -> Network:
        """The trained network, on the CPU, in eval mode.

        Raises:
            UsageError: the plugin of its backbone or strategy is not installed.
            ZooError: the run has no weights, or they do not fit the network.
        """
        from zoo.networks.trained import load_trained
        from zoo.plugin import Plugins

        file = self.path / WEIGHTS_FILE
        if not file.is_file():
            raise self._no_weights()
        return load_trained(self.record, file, plugins or Plugins())

    def _no_weights(self) -> ZooError:
        """The error for a run without weights."""
        if self.record.get("folds"):
            return ZooError(
                f"run `{self.path}` is {self.record['folds']['count']} networks, one for each fold, and not one",
                hint=f"`zoo train --final {self.path}` trains one on all images; `{self.path / FOLDS / '1'}` is the "
                "first",
            )
        remedy = f"`zoo train --resume {self.path}` resumes it"
        if self.status == "running":
            return ZooError(
                f"run `{self.path}` has no weights: it is still running, or was killed",
                hint=f"wait until it is finished; if it was killed, {remedy}",
            )
        if self.status == "finished":
            remedy = f"restore `{WEIGHTS_FILE}` from a copy, or train again with `--force`"
        return ZooError(f"run `{self.path}` is {self.status} and has no weights", hint=remedy)

    def predictor(self, device: str = "auto", plugins: Plugins | None = None) -> Predictor:
        """The run as a predictor that computes with torch in fp32.

        Raises:
            UsageError: `device` is not a device, or the plugin of its backbone or strategy is not installed.
            ZooError: the run has no weights, or the device is not available.
        """
        from zoo.networks.predictor import TorchPredictor
        from zoo.system.device import choose_device

        chosen = choose_device(device, "fp32")
        model = self.load_network(plugins).model.to(chosen.place)
        return TorchPredictor(model, self.classes, self.preprocess, chosen.place, self.unknown_score())

    def unknown_score(self) -> UnknownScore | None:
        """The score of how strange an image is; None where the run was trained without `--unknown-rate`.

        Raises:
            ZooError: its file is missing or damaged, or of another run.
        """
        from zoo.unknown import UnknownScore

        said = self.record.get("unknown")
        if not said:
            return None
        score = UnknownScore.load(self.path / UNKNOWN_FILE)
        if any(said.get(key) != value for key, value in score.threshold.to_json().items() if key != "method"):
            raise ZooError(
                f"the threshold in `{self.path / UNKNOWN_FILE}` is not that of the run",
                hint="restore it from a copy, or train again with `--force`",
            )
        return score

    def update(self, **changes: Any) -> Run:
        """Write changed keys to `run.json`; returns the run with the new record."""
        record = {**self.record, **changes}
        write_json(self.path / RUN_FILE, record)
        return Run(self.path, record)

    def note_look(
        self,
        predictions: Predictions,
        *,
        model: str,
        data: str,
        split_seed: int,
        accuracy: float | None,
        changed: bool = False,
        unknown: Mapping[str, Any] | None = None,
        told_as: str | None = None,
    ) -> None:
        """Write an evaluation to the ledger; predictions of the run itself on its own data are stored, too.

        Not stored are those of a final run on the split of its figures, which are of the run that it is of.

        Args:
            predictions: of one split.
            model: what was evaluated: the run's folder or an exported file.
            data: name of the data.
            split_seed: with which the data were split.
            accuracy: of the predictions.
            changed: whether images are read or have contents other than when the run was trained; the predictions are
                not stored.
            unknown: figures of images of no class that were scored beside the split.
            told_as: the name of the model in the ledger, of a run that is not yet in its folder. None: `model`.

        Raises:
            ZooError: the folder cannot be written; the evaluation is valid nevertheless.
        """
        append_json(
            self.path / LEDGER_FILE,
            {
                "schema": SCHEMA,
                "time": now(),
                "split": predictions.split,
                "data": data,
                "split_seed": split_seed,
                "model": told_as or model,
                "images": len(predictions),
                "accuracy": accuracy,
                **({} if unknown is None else {"unknown": unknown}),
            },
        )
        own = data == self.record.get("data_name") and split_seed == self.experiment.split_seed
        if self.is_final and predictions.split == self.record["reported_split"]:
            own = False  # those of the run that its figures are of stay
        if own and not changed and Path(model) == self.path:
            predictions.save(self.path / f"predictions-{predictions.split}.safetensors")

    def looks(self, split: str) -> int:
        """The number of evaluations on a split in the ledger."""
        return sum(1 for line in read_lines(self.path / LEDGER_FILE) if line.get("split") == split)

    def looks_at_unknown(self) -> list[dict[str, Any]]:
        """The evaluations in the ledger that scored images of no class beside a split."""
        return [line for line in read_lines(self.path / LEDGER_FILE) if isinstance(line.get("unknown"), dict)]

    def fitted(self) -> set[str]:
        """Ids of the images that the run was fitted on; empty without `splits.json`.

        Raises:
            ZooError: `splits.json` is damaged.
        """
        file = self.path / SPLITS_FILE
        return set(self.splits()["roles"]["fit"]) if file.exists() else set()

    def contents(self) -> dict[str, dict[str, str]]:
        """SHA-256 of each image's content by role and id; empty without `splits.json`.

        Raises:
            ZooError: `splits.json` is damaged.
        """
        if not (self.path / SPLITS_FILE).exists():
            return {}
        found = self.splits()
        return {role: dict(zip(names, found["sha256"][role])) for role, names in found["roles"].items()}

    def same_images(self, other: Run, split: str) -> bool | None:
        """Whether both runs reported on images of the same names and contents; None: unknown, or not their split.

        Names are the same in any Unicode form. Whether the labels are the same is not looked at.
        """
        mine, theirs = self.digest_of(split), other.digest_of(split)
        if mine is None or theirs is None:
            return None
        if mine == theirs:
            return True
        try:
            one, two = self._reported_contents(), other._reported_contents()
        except ZooError:
            return False
        return bool(one) and one == two

    def _reported_contents(self) -> dict[str, str]:
        found = self.contents()
        part = found.get("reported") or found.get("choose") or {}
        return dict(zip(keys(list(part)), part.values()))

    def data_key(self) -> dict[str, Any]:
        """What the run was trained and reported on, by role: equal for equal images, in any Unicode form of names."""
        recorded = dict(self.record["data"])
        try:
            contents = self.contents()
        except ZooError:
            return recorded
        for role, part in contents.items():
            if role in recorded and not all(name.isascii() for name in part):
                recorded[role] = sorted(zip(keys(list(part)), part.values()))
        return recorded

    def digest_of(self, split: str) -> str | None:
        """SHA-256 over names, labels and contents of the reported split; None for another, for which there is none."""
        data = self.record.get("data") or {}
        found = data.get("reported") or data.get("choose") if split == self.record.get("reported_split") else None
        return str(found["sha256"]) if found else None

    def splits(self) -> dict[str, Any]:
        """The content of `splits.json`.

        Raises:
            ZooError: it is missing or damaged.
        """
        file = self.path / SPLITS_FILE
        hint = "restore it from a copy, or delete it: it is then unknown which images the run was fitted on"
        try:
            found: dict[str, Any] = read_json(file)
        except ZooError as error:
            raise ZooError(error.message, hint=hint) from error
        violation = first_violation_of_splits(found)
        if violation is not None:
            raise ZooError(f"`{file}` is damaged: {violation}", hint=hint)
        return found

    def cut_history(self, count: int) -> None:
        """Keep the intact ones of the first `count` lines of the history; a resumed run writes the others again."""
        lines = [json_text(line) for line in read_lines(self.path / HISTORY_FILE, count)]
        write_bytes(self.path / HISTORY_FILE, "".join(f"{line}\n" for line in lines).encode())

    def lost_history(self, count: int) -> int:
        """The number of lines, of the first `count` of the history, that are missing or damaged."""
        return count - len(read_lines(self.path / HISTORY_FILE, count))


def now() -> str:
    """The time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
