"""`zoo predict`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UsageError, ZooError
from zoo_cli.options import (
    console,
    data_stream,
    device_option,
    echo,
    json_option,
    json_rows,
    levels_option,
    threads_option,
    workers_option,
)

if TYPE_CHECKING:
    from zoo.data.decoding import BadFile
    from zoo.dataset import Sample


@click.command()
@click.argument("model", metavar="RUN|FILE")
@click.argument("photographs", nargs=-1, metavar="PHOTO...")
@click.option(
    "--data",
    metavar="DATA",
    help="Images to classify, in place of PHOTO: whatever --data of zoo train reads, such as csv:new.csv. No labels "
    "are needed.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of most probable classes to print for each photograph.",
)
@click.option(
    "--preprocess",
    metavar="BACKBONE|JSON",
    help="Preprocessing for a file that zoo did not write: the name of a backbone with the same preprocessing, or JSON "
    "with resize, crop, mean and std.",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Class names for a file that zoo did not write: a text file with one name a line.  [default: numbers]",
)
@device_option
@workers_option
@threads_option
@levels_option
@json_option
@click.pass_context
def predict(
    ctx: click.Context,
    model: str,
    photographs: tuple[str, ...],
    data: str | None,
    top: int,
    preprocess: str | None,
    classes: Path | None,
    device: str,
    workers: int | None,
    levels: tuple[float, float] | None,
    as_json: bool,
) -> None:
    """Classify photographs with a run or an exported file.

    PHOTO is a file, a folder or a pattern such as 'holiday/*.jpg'. Prints a line for each photograph, as soon as it is
    classified: path, label and probability, separated by tabs; of a model that was trained with --unknown-rate also
    `known` or `unknown`, and the score that decides it. The exit code is 1 if a photograph cannot be read. With
    --json such a photograph has a row too, with an `error` in place of a label, so that the rows are those of the
    photographs that were named.

    \b
    zoo predict runs/first holiday/
    zoo predict runs/first/model.onnx holiday/*.jpg --top 3
    zoo predict runs/first --data csv:new.csv,path=file
    """
    from zoo.data.decoding import BadFile, doubts_text
    from zoo.data.opening import open_unlabelled
    from zoo.inference.prediction import Prediction, find_photographs, predict_each, read_classes, read_preprocess
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    if bool(photographs) == (data is not None):
        raise UsageError(
            "photographs and `--data` are both given" if photographs else "neither photographs nor `--data` are given",
            hint="pass the paths of photographs, or `--data DATA`",
        )
    doubtful: list[BadFile] = []
    display = ProgressBar(console())
    images: Sequence[Path | Sample]
    if data is None:
        images, left_out = find_photographs(photographs), []
    else:
        opened = open_unlabelled(data, plugins(ctx))
        images, left_out = opened.samples, [BadFile(name, f"`{name}` {reason}") for name, reason in opened.rejected]
        for text in opened.notes:
            display.note(text)
    results = predict_each(
        model,
        images,
        top=top,
        device=device,
        workers=workers,
        levels=levels,
        preprocess=read_preprocess(preprocess, plugins(ctx)) if preprocess is not None else None,
        classes=read_classes(classes) if classes is not None else None,
        plugins=plugins(ctx),
        remark=lambda path, text: doubtful.append(BadFile(path, text)),
        note=display.note,
    )
    if not data_stream().isatty():  # on a terminal the results themselves show the progress
        display.start("predict", len(images) + len(left_out))
    good, reasons = 0, []
    try:
        with json_rows() if as_json else nullcontext(_print_line) as write:
            for result in chain(results, left_out):
                if isinstance(result, Prediction):
                    good += 1
                    write(result.to_json())
                else:
                    write(_failed(result))
                    reasons.append(result.reason)
                    if not as_json:  # which holds the reason at its place
                        display.warn(reasons.pop())
                display.advance(1)
    finally:
        display.stop()
        for reason in reasons:
            display.warn(reason)
        if doubtful:
            display.warn(doubts_text(doubtful))
    if not good:
        raise ZooError("none of the photographs could be decoded", hint="the reasons are printed above")
    if good < len(images) + len(left_out):
        ctx.exit(1)


def _print_line(row: dict[str, Any]) -> None:
    """Print a row of `--json` as a line; nothing for a file that could not be decoded."""
    words = [word for one in row["top"] for word in (one["label"], f"{one['probability']:.4f}")]
    if words and "unknown" in row:
        words += ["unknown" if row["unknown"] else "known", f"{row['unknown_score']:.4f}"]
    if words:
        echo("\t".join(without_controls(word) for word in (row["path"], *words)))


def without_controls(text: str) -> str:
    """The text without what would end a line or a column: a tab becomes the two characters `\\t`."""
    return "".join(repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" else letter for letter in text)


def _failed(file: BadFile) -> dict[str, Any]:
    """The row of a file that could not be decoded, with the keys of the others."""
    return {"path": file.id, "label": None, "probability": None, "top": [], "error": file.reason}
