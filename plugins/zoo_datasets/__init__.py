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
            name="digits",
            summary="1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn, so nothing is downloaded",
            open="zoo_datasets.digits:open_digits",
        )
    )
