"""Folds: every image that is not in the test split is held out once; and all of them to train on, for a final run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zoo.data.groups import divide, group_numbers
from zoo.data.sample_columns import ids_of, joined
from zoo.data.splitting import in_order
from zoo.dataset import Images, Role, Sample
from zoo.errors import ZooError, counted

POOLED: tuple[Role, ...] = ("train", "val")


def pool(images: Images) -> Sequence[Sample]:
    """The images that folds are made of, in order: those of `train` and, where there is one, `val`."""
    return in_order(joined(images.splits.get(role, ()) for role in POOLED))


def make_folds(samples: Sequence[Sample], count: int, seed: int) -> list[Sequence[Sample]]:
    """Divide samples into folds, every class in each fold, no group in two.

    Args:
        samples: in any order.
        count: number of folds.
        seed: of the division.

    Raises:
        ZooError: a class has fewer images, or groups, than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    ordered = in_order(samples)
    of_class = ordered.label_counts()
    rarest = min(sorted(of_class), key=of_class.__getitem__)
    if of_class[rarest] < count:
        fewer = f"pass `--folds {of_class[rarest]}`, or add images" if of_class[rarest] > 1 else "add images"
        raise ZooError(
            f"class `{rarest}` has {counted(of_class[rarest], 'image')}, and `--folds {count}` needs {count} of every "
            "class",
            hint=fewer,
        )
    if group_numbers(ordered) is not None:
        return divide(ordered, [1 / count] * count, seed, f"{count} folds")
    labels = ordered.label_indices(list(of_class))
    folds = StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels)
    return [ordered.take(held) for _, held in folds]


def held_out_fold(images: Images, number: int, count: int, seed: int) -> Images:
    """The images of one fold's run: `val` is the fold, `train` are the others. The test split is left out.

    Without a `test`, nothing is chosen on `val`: where training needs validation, a part of `train` is held out for it.

    Raises:
        ZooError: the images cannot be divided.
    """
    return with_held_out(images, make_folds(pool(images), count, seed), number)


def with_held_out(images: Images, folds: Sequence[Sequence[Sample]], number: int) -> Images:
    """The images of the run of fold `number`, counted from 1, of folds that were made before; see `held_out_fold`."""
    rest = in_order(joined(fold for index, fold in enumerate(folds, start=1) if index != number))
    return replace(
        images,
        name=f"fold {number} of {len(folds)} of {images.name}",
        splits={"train": rest, "val": folds[number - 1]},
        drawn=False,
        elsewhere=images.elsewhere | set(ids_of(images.splits.get("test", ()))),
        notes=(*images.notes, f"fold {number} of {len(folds)} is held out as `val`"),
    )


def all_to_train(images: Images) -> Images:
    """The images of a final run: all that are not in the test split are trained on, and none is held out."""
    splits: dict[Role, Sequence[Sample]] = {"train": pool(images)}
    if "test" in images.splits:
        splits["test"] = images.splits["test"]
    return replace(images, name=f"all of {images.name}", splits=splits, drawn=False, whole=True)
