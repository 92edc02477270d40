"""The built-in sources of labelled images."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from zoo.hookspecs import Register, hookimpl
from zoo.target import load_target

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.dataset import Dataset

# Datasets whose rows one of the readers of `zoo_datasets.reading` finds
ROWS = {
    "csv": "csv:FILE,path=COLUMN,label=COLUMN: a table of paths and labels, as CSV, TSV or JSON Lines",
    "wds": "wds:shard-{000..009}.tar: WebDataset shards, a class word in .txt, .cls or .json beside each image",
    "parquet": "parquet:part-*.parquet,image=COLUMN,label=COLUMN: tables that hold images (extra parquet)",
    "list": "list:train.txt,val.txt: lists of paths, with a class after each path or by its folder",
    "coco": "coco:labels.json,root=images: exports of COCO, Label Studio or CVAT with one class an image",
    "hf": "hf:NAME@REVISION or hf:FOLDER: a dataset of the Hugging Face hub, or in its layout (extra hf)",
    "torchvision": "torchvision:CIFAR10,root=FOLDER: a dataset of torchvision; download=yes fetches it",
}


def _rows(function: str, name: str, *arguments: Any) -> Any:
    """Call a function of `zoo_datasets.reading`, which is imported only then, so that start-up stays quick."""
    return load_target(f"zoo_datasets.reading:{function}")(name, *arguments)


def _absolute(name: str, argument: str, base: Path) -> str:
    found: str = _rows("absolute_rows", name, argument, base)
    return found


@hookimpl
def register_datasets(register: Register[Dataset]) -> None:
    from zoo.dataset import Dataset  # not at the top: most commands need no data

    register(
        Dataset(
            name="folder",
            summary="folder:PATH or PATH: class folders, or train/, val/ and test/ with class folders in each",
            open="zoo_datasets.folder:open_folder",
            absolute="zoo_datasets.folder:absolute",
            open_to_score="zoo_datasets.folder:open_to_score",
            open_unlabelled="zoo_datasets.folder:open_unlabelled",
        )
    )
    register(
        Dataset(
            name="folder-leaf",
            summary="folder-leaf:PATH: as folder, but the lowest folder of an image is its class (--classes-from leaf)",
            open="zoo_datasets.folder:open_leaf",
            absolute="zoo_datasets.folder:absolute",
            open_to_score="zoo_datasets.folder:score_leaf",
            open_unlabelled="zoo_datasets.folder:open_unlabelled",
        )
    )
    register(
        Dataset(
            name="folder-top",
            summary="folder-top:PATH: as folder, but train, val and test are classes as well (--classes-from top)",
            open="zoo_datasets.folder:open_top",
            absolute="zoo_datasets.folder:absolute",
            open_to_score="zoo_datasets.folder:score_top",
            open_unlabelled="zoo_datasets.folder:open_unlabelled",
        )
    )
    register(
        Dataset(
            name="digits",
            summary="1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn, so nothing is downloaded",
            open="zoo_datasets.digits:open_digits",
        )
    )
    register(
        Dataset(
            name="zip",
            summary="zip:FILE: class folders in a zip archive, with the layouts of folder; it is read in place",
            open="zoo_datasets.archive:open_zip",
            absolute_from="zoo_datasets.archive:absolute_zip",
            open_to_score="zoo_datasets.archive:score_zip",
            open_unlabelled="zoo_datasets.archive:unlabelled_zip",
        )
    )
    for name, summary in ROWS.items():
        register(
            Dataset(
                name=name,
                summary=summary,
                open=partial(_rows, "open_rows", name),
                with_group=partial(_rows, "grouped_rows", name),
                absolute_from=partial(_absolute, name),
                open_to_score=partial(_rows, "score_rows", name),
                open_unlabelled=partial(_rows, "unlabelled_rows", name),
            )
        )
