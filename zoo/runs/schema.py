"""Shape: what the JSON files of a run must hold for those who read them, and the first thing that they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from zoo.preprocess import Fit, Interpolation

STATUSES = ("running", "finished", "interrupted", "failed")

# A machine has fewer; torch would try to start as many threads as the record says
MOST_THREADS = 4096

# Of `run.json`. What has a `?` may be missing or null
RECORD = {
    "status": str,
    "experiment": dict,
    "backbone": str,
    "strategy": str,
    "classes": list,
    "preprocess": dict,
    "phases": list,
    "data_name": str,
    "data": dict,
    "reported_split": str,
    "device": dict,
    "versions": dict,
    "id?": str,
    "start_sha256?": str,
    "lr?": float,
    "weights?": dict,
    "chosen_on?": str,
    "resumed?": list,
    "metrics?": dict,
    "accuracy_interval_95?": list,
    "seconds?": dict,
}
PREPROCESS = {"resize": int, "crop": int, "interpolation": str, "fit": str, "mean": list, "std": list}
WORDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def flaw_of_record(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a run's record, in a few words; None: nothing."""
    return next(_flaws_of_record(record), None)


def flaw_of_splits(splits: Any) -> str | None:
    """What is wrong with the content of `splits.json`; None: nothing."""
    return next(_flaws_of_splits(splits), None)


def _flaws_of_record(record: Mapping[str, Any]) -> Iterator[str]:
    yield from _flaws(record, RECORD, "")
    if record["status"] not in STATUSES:
        yield f"`status` is `{record['status']}`, none of {' '.join(STATUSES)}"
    classes = record["classes"]
    if len(classes) < 2 or len(set(map(str, classes))) < len(classes) or not all(isinstance(c, str) for c in classes):
        yield "`classes` are not two or more different names"
    yield from _flaws(record["preprocess"], PREPROCESS, "preprocess.")
    for key, known in (("interpolation", get_args(Interpolation)), ("fit", get_args(Fit))):
        if record["preprocess"][key] not in known:
            yield f"`preprocess.{key}` is none of {' '.join(known)}"
    for key in ("mean", "std"):
        if len(record["preprocess"][key]) != 3 or not all(_is(value, float) for value in record["preprocess"][key]):
            yield f"`preprocess.{key}` is not three numbers"
    for key in ("resize", "crop"):
        if record["preprocess"][key] < 1:
            yield f"`preprocess.{key}` is not above 0"
    yield from _flaws(record["device"], {"name": str, "precision": str, "threads": int}, "device.")
    if not 1 <= record["device"]["threads"] <= MOST_THREADS:
        yield f"`device.threads` is not between 1 and {MOST_THREADS}"
    yield from _flaws(record["versions"], dict.fromkeys(record["versions"], str), "versions.")
    if "fit" not in record["data"]:
        yield "`data.fit` is missing"
    yield from _flaws(record["data"], dict.fromkeys(record["data"], dict), "data.")
    for name, part in record["data"].items():
        yield from _flaws(part, {"images": int, "sha256": str}, f"data.{name}.")
    if not record["phases"]:
        yield "`phases` is empty"
    for number, phase in enumerate(record["phases"]):
        if not isinstance(phase, dict):
            yield f"`phases[{number}]` is not an object"
        yield from _flaws(phase, {"trainable_parameters": int}, f"phases[{number}].")
    yield from _flaws_of_figures(record)


def _flaws_of_figures(record: Mapping[str, Any]) -> Iterator[str]:
    ended = {"metrics": dict, "accuracy_interval_95": list, "seconds": dict}
    if record["status"] == "finished":
        yield from _flaws(record, ended, "")
        yield from _flaws(record["seconds"], {"total": float}, "seconds.")
    metrics = record.get("metrics") or {}
    yield from _flaws(metrics, {f"{name}?": float for name in metrics}, "metrics.")
    interval = record.get("accuracy_interval_95")
    if interval is not None and (len(interval) != 2 or not all(_is(value, float) for value in interval)):
        yield "`accuracy_interval_95` is not two numbers"


def _flaws_of_splits(splits: Any) -> Iterator[str]:
    if not isinstance(splits, dict):
        yield "it is not an object"
        return
    yield from _flaws(splits, {"roles": dict, "sha256": dict}, "")
    if "fit" not in splits["roles"]:
        yield "`roles.fit` is missing"
    for key in ("roles", "sha256"):
        for name, values in splits[key].items():
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                yield f"`{key}.{name}` is not a list of texts"
    for name, names in splits["roles"].items():
        if len(splits["sha256"].get(name, ())) != len(names):
            yield f"`sha256.{name}` is not as long as `roles.{name}`"


def _flaws(found: Mapping[str, Any], shape: Mapping[str, type], where: str) -> Iterator[str]:
    for key, kind in shape.items():
        name = key.removesuffix("?")
        if found.get(name) is None:
            if name == key:
                yield f"`{where}{name}` is missing"
        elif not _is(found[name], kind):
            yield f"`{where}{name}` is not {WORDS[kind]}"


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
