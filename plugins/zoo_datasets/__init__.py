"""The built-in sources of labelled images."""

from __future__ import annotations

from zoo import Dataset, hookimpl
from zoo.hookspecs import Register


@hookimpl
def register_datasets(register: Register[Dataset]) -> None:
    register(
        Dataset(
            name="folder",
            summary="folder:PATH or PATH: class folders, or train/, val/ and test/ with class folders in each",
            open="zoo_datasets.folder:open_folder",
            absolute="zoo_datasets.folder:absolute",
            open_to_score="zoo_datasets.folder:open_to_score",
        )
    )
    register(
        Dataset(
            name="folder-leaf",
            summary="folder-leaf:PATH: as folder, but the lowest folder of an image is its class (--classes-from leaf)",
            open="zoo_datasets.folder:open_leaf",
            absolute="zoo_datasets.folder:absolute",
            open_to_score="zoo_datasets.folder:score_leaf",
        )
    )
    register(
        Dataset(
            name="folder-top",
            summary="folder-top:PATH: as folder, but train, val and test are classes as well (--classes-from top)",
            open="zoo_datasets.folder:open_top",
            absolute="zoo_datasets.folder:absolute",
            open_to_score="zoo_datasets.folder:score_top",
        )
    )
    register(
        Dataset(
            name="digits",
            summary="1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn, so nothing is downloaded",
            open="zoo_datasets.digits:open_digits",
        )
    )
