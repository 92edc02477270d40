"""A dataset: a folder of image files whose names begin with the class."""

import random

from zoo import Images, Sample, UsageError
from zoo.dataset import is_photograph, user_path


def open_named(argument, split_seed):
    """A quarter of each class is `val`. Nothing is decoded here."""
    folder = user_path(argument)
    if not argument or not folder.is_dir():
        raise UsageError(f"there is no folder `{argument}`", hint="pass `--data named:FOLDER`")
    files = sorted(file for file in folder.iterdir() if is_photograph(file) and "_" in file.name)
    classes = sorted({file.name.partition("_")[0] for file in files})
    splits = {"train": [], "val": []}
    for label in classes:
        mine = [file for file in files if file.name.partition("_")[0] == label]
        random.Random(split_seed).shuffle(mine)
        for place, file in enumerate(mine):
            splits["val" if place % 4 == 1 else "train"].append(Sample(id=file.name, label=label, source=file))
    return Images(
        name=f"named:{folder.name}",
        classes=tuple(classes),
        splits={split: tuple(samples) for split, samples in splits.items()},
        notes=(f"a quarter of each class is val, by split seed {split_seed}",),
        drawn=True,
    )


def absolute(argument):
    """The argument as a run keeps it, so that it finds its data from any folder."""
    return str(user_path(argument).resolve()) if argument else argument
