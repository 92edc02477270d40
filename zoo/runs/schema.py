"""Schema of a run's JSON files; finds the first violation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from zoo.preprocess import Fit, Interpolation, as_size
from zoo.system.processors import MOST_THREADS

STATUSES = ("running", "finished", "interrupted", "failed", "pruned")


# Keys of `run.json` and their types; a key with `?` may be missing or null
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
    "from?": dict,
    "forgetting?": dict,
    "teachers?": dict,
    "soup?": dict,
    "ensemble?": dict,
}
SOURCE = {"run": str, "id?": str, "weights_sha256?": str, "trained_on?": dict}
PARTS = (("soup", "ingredients"), ("ensemble", "members"))
PARENT = {"run": str, "id?": str, "weights_sha256": str, "classes?": dict, "trained_on?": dict}
FORGETTING = {
    "parent": str,
    "split": str,
    "images": int,
    "classes": list,
    "before": float,
    "after": float,
    "after_all_classes": float,
    "change": float,
    "interval_95": list,
    "dropped": int,
}
PREPROCESS = {"interpolation": str, "fit": str, "mean": list, "std": list}
TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def first_violation_of_record(record: Mapping[str, Any]) -> str | None:
    """The first violation of the schema in the content of `run.json`; None if there is none."""
    return next(_violations_of_record(record), None)


def first_violation_of_splits(splits: Any) -> str | None:
    """The first violation of the schema in the content of `splits.json`; None if there is none."""
    return next(_violations_of_splits(splits), None)


def _violations_of_record(record: Mapping[str, Any]) -> Iterator[str]:
    yield from _violations(record, RECORD, "")
    if record["status"] not in STATUSES:
        yield f"`status` is `{record['status']}`, not one of {' '.join(STATUSES)}"
    classes = record["classes"]
    if len(classes) < 2 or len(set(map(str, classes))) < len(classes) or not all(isinstance(c, str) for c in classes):
        yield "`classes` are not two or more different names"
    yield from _violations(record["preprocess"], PREPROCESS, "preprocess.")
    for key, known in (("interpolation", get_args(Interpolation)), ("fit", get_args(Fit))):
        if record["preprocess"][key] not in known:
            yield f"`preprocess.{key}` is not one of {' '.join(known)}"
    for key in ("mean", "std"):
        if len(record["preprocess"][key]) != 3 or not all(_is(value, float) for value in record["preprocess"][key]):
            yield f"`preprocess.{key}` is not three numbers"
    for key in ("resize", "crop"):
        if key not in record["preprocess"]:
            yield f"`preprocess.{key}` is missing"
            continue
        try:
            as_size(record["preprocess"][key])
        except ValueError as error:
            yield f"`preprocess.{key}`: {error}"
    yield from _violations(record["device"], {"name": str, "precision": str, "threads": int}, "device.")
    if not 1 <= record["device"]["threads"] <= MOST_THREADS:
        yield f"`device.threads` is not between 1 and {MOST_THREADS}"
    yield from _violations(record["versions"], dict.fromkeys(record["versions"], str), "versions.")
    if "fit" not in record["data"]:
        yield "`data.fit` is missing"
    yield from _violations(record["data"], dict.fromkeys(record["data"], dict), "data.")
    for name, part in record["data"].items():
        yield from _violations(part, {"images": int, "sha256": str}, f"data.{name}.")
    if not record["phases"]:
        yield "`phases` is empty"
    for number, phase in enumerate(record["phases"]):
        if not isinstance(phase, dict):
            yield f"`phases[{number}]` is not an object"
        yield from _violations(phase, {"trainable_parameters": int}, f"phases[{number}].")
    for key, schema in (("from", PARENT), ("forgetting", FORGETTING)):
        if record.get(key) is not None:
            yield from _violations(record[key], schema, f"{key}.")
    yield from _violations_of_sources(record)
    yield from _violations_of_results(record)


def _violations_of_sources(record: Mapping[str, Any]) -> Iterator[str]:
    """Violations of what is said of teachers, and of the runs that a run is made of."""
    named = [("teachers", name, one) for name, one in (record.get("teachers") or {}).items()]
    for key, parts in PARTS:
        if record.get(key) is not None:
            yield from _violations(record[key], {parts: list}, f"{key}.")
            named += [(f"{key}.{parts}", str(number), one) for number, one in enumerate(record[key][parts])]
    for key, name, one in named:
        if not isinstance(one, dict):
            yield f"`{key}[{name}]` is not an object"
        yield from _violations(one, SOURCE, f"{key}[{name}].")


def _violations_of_results(record: Mapping[str, Any]) -> Iterator[str]:
    required = {"metrics": dict, "accuracy_interval_95": list, "seconds": dict}
    if record["status"] == "finished":
        yield from _violations(record, required, "")
        yield from _violations(record["seconds"], {"total": float}, "seconds.")
    metrics = record.get("metrics") or {}
    yield from _violations(metrics, {f"{name}?": float for name in metrics}, "metrics.")
    interval = record.get("accuracy_interval_95")
    if interval is not None and (len(interval) != 2 or not all(_is(value, float) for value in interval)):
        yield "`accuracy_interval_95` is not two numbers"


def _violations_of_splits(splits: Any) -> Iterator[str]:
    if not isinstance(splits, dict):
        yield "it is not an object"
        return
    yield from _violations(splits, {"roles": dict, "sha256": dict}, "")
    if "fit" not in splits["roles"]:
        yield "`roles.fit` is missing"
    for key in ("roles", "sha256"):
        for name, values in splits[key].items():
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                yield f"`{key}.{name}` is not a list of texts"
    for name, names in splits["roles"].items():
        if len(splits["sha256"].get(name, ())) != len(names):
            yield f"`sha256.{name}` is not as long as `roles.{name}`"


def _violations(found: Mapping[str, Any], schema: Mapping[str, type], where: str) -> Iterator[str]:
    """Keys of `schema` that are missing from an object, or have another type; `where` is the path of the object."""
    for key, kind in schema.items():
        name = key.removesuffix("?")
        if found.get(name) is None:
            if name == key:
                yield f"`{where}{name}` is missing"
        elif not _is(found[name], kind):
            yield f"`{where}{name}` is not {TYPE_NAMES[kind]}"


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
