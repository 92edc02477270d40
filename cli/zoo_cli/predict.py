"""`zoo predict`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.errors import ZooError
from zoo_cli.options import console, device_option, json_option, print_json, workers_option


@click.command()
@click.argument("model", metavar="RUN|FILE")
@click.argument("photographs", nargs=-1, required=True, metavar="PHOTO...")
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
@json_option
@click.pass_context
def predict(
    ctx: click.Context,
    model: str,
    photographs: tuple[str, ...],
    top: int,
    preprocess: str | None,
    classes: Path | None,
    device: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Classify photographs with a run or an exported file.

    PHOTO is a file, a folder or a pattern such as 'holiday/*.jpg'. Prints a line for each photograph: path, label and
    probability, separated by tabs. The exit code is 1 if a photograph cannot be read.

    \b
    zoo predict runs/first holiday/
    zoo predict runs/first/model.onnx holiday/*.jpg --top 3
    """
    from zoo.data.decoding import BadFile, doubts_text
    from zoo.inference.prediction import find_photographs, read_classes, read_preprocess
    from zoo.inference.prediction import predict as classify
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    paths = find_photographs(photographs)
    doubtful: list[BadFile] = []
    found, bad = classify(
        model,
        paths,
        top=top,
        device=device,
        workers=workers,
        preprocess=read_preprocess(preprocess, plugins(ctx)) if preprocess is not None else None,
        classes=read_classes(classes) if classes is not None else None,
        plugins=plugins(ctx),
        remark=lambda path, text: doubtful.append(BadFile(path, text)),
    )
    if as_json:
        print_json([prediction.to_json() for prediction in found])
    else:
        for prediction in found:
            words = [word for label, share in prediction.top for word in (label, f"{share:.4f}")]
            click.echo("\t".join([prediction.path, *words]))
    if doubtful:
        ProgressBar(console()).warn(doubts_text(doubtful))
    for file in bad:
        ProgressBar(console()).warn(file.reason)
    if bad and not found:
        raise ZooError("none of the photographs could be decoded", hint="the reasons are printed above")
    if bad:
        ctx.exit(1)
