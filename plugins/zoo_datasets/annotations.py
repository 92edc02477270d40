"""`coco:labels.json,root=images`: exports of annotation tools, with one class an image.

Read are COCO's JSON (images, annotations, categories), Label Studio's JSON and JSON-MIN, and the XML of
`CVAT for images` with a tag an image. Boxes are not looked at, only their classes: two of them are an error.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from zoo import ZooError
from zoo.data.data_argument import Argument, Kind, is_url
from zoo.data.labelled_rows import ONE_LABEL, LabelledRows
from zoo.data.table import cell_text, decoded_text
from zoo.errors import quoted
from zoo_datasets.image_files import image_files
from zoo_datasets.reading import BY_SPLIT, files_by_split
from zoo_datasets.remote import read_file

OPTIONS: dict[str, Kind] = {**BY_SPLIT, "root": "path"}
EXAMPLE = "such as `coco:labels.json,root=images`"

Pairs = Iterator[tuple[str, set[str]]]  # path of an image, and its classes


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the images of every export.

    Raises:
        UsageError: an export does not exist.
        ZooError: it is in no known format, or an image has several classes.
    """
    rows.needs = "one class for each image"
    for file, role in files_by_split(argument, "export", rows):
        data = read_file(file)
        rows.files[file] = hashlib.sha256(data).hexdigest()
        try:
            pairs = list(_pairs(data, file, rows))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ZooError(
                f"`{file}` is no export that is read: {type(error).__name__}: {quoted(error)}",
                hint="COCO JSON, Label Studio JSON or JSON-MIN, and CVAT for images (XML) are",
            ) from error
        images = image_files(file, [path for path, _ in pairs[:50]], argument.get("root"), "", rows)
        for path, labels in pairs:
            if len(labels) > 1 and rows.labelled:
                some = ", ".join(f"`{label}`" for label in sorted(labels))
                raise ZooError(f"`{path}` of `{file}` has several classes: {some}", hint=ONE_LABEL)
            image = images.find(path, rows, file, 0)
            if image is not None:
                rows.add(image[0], next(iter(labels), ""), image[1], split=role, table=file)
        images.check_some(file)


def _pairs(data: bytes, file: str, rows: LabelledRows) -> Pairs:
    text = decoded_text(data, file, None, rows.notes)
    if not text.strip():
        raise ZooError(f"`{file}` is empty")
    if text.lstrip().startswith("<"):
        return _cvat(text, file)
    found = json.loads(text)
    if isinstance(found, list):
        return _label_studio(found)
    if "images" in found and "annotations" in found and "categories" in found:
        return _coco(found)
    keys = " ".join(f"`{key}`" for key in list(found)[:5])
    raise ZooError(f"`{file}` is no COCO export: it has {keys}", hint="it needs `images`, `annotations`, `categories`")


def _coco(found: dict[str, Any]) -> Pairs:
    names = {one["id"]: str(one["name"]).strip() for one in found["categories"]}
    labels: dict[Any, set[str]] = {one["id"]: set() for one in found["images"]}
    for one in found["annotations"]:
        if one["image_id"] not in labels or one["category_id"] not in names:
            raise ValueError(f"annotation {one.get('id')} names an image or category that is not there")
        labels[one["image_id"]].add(names[one["category_id"]])
    return ((one["file_name"], labels[one["id"]]) for one in found["images"])


def _label_studio(found: list[dict[str, Any]]) -> Pairs:
    for task in found:
        data = task.get("data", task)
        path = _local(next(value for key, value in data.items() if key in ("image", "img", "url", "image_url")))
        if "data" not in task:  # JSON-MIN: names of controls, and what was chosen
            chosen = task.get("choice", task.get("label", task.get("class")))
            many = chosen.get("choices", []) if isinstance(chosen, dict) else chosen
            yield path, {cell_text(each) for each in (many if isinstance(many, list) else [many])} - {""}
            continue
        results = [
            one for each in task.get("annotations", ()) if not each.get("was_cancelled") for one in each["result"]
        ]
        yield path, {word.strip() for one in results for word in one.get("value", {}).get("choices", ())}


def _local(text: str) -> str:
    """The path of an image of Label Studio, which puts its own address before it."""
    if is_url(text):
        return text
    address = urllib.parse.urlsplit(text)
    if address.path.startswith("/data/local-files"):
        return urllib.parse.parse_qs(address.query)["d"][0]
    return PurePosixPath(text).name if text.startswith("/data/upload") else text


def _cvat(text: str, file: str) -> Pairs:
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except (xml.etree.ElementTree.ParseError, ValueError) as error:
        raise ZooError(f"`{file}` is not valid XML: {quoted(error)}") from error
    if root.tag != "annotations":
        raise ZooError(f"`{file}` is no export of CVAT: its root is `{root.tag}`", hint="export `CVAT for images 1.1`")
    return ((one.attrib["name"], {tag.attrib["label"].strip() for tag in one}) for one in root.iter("image"))
