"""Ultralytics' classification trainer, used as in its documentation.

    python benchmarks/peers/ultralytics_trainer.py --data hymenoptera --mode frozen --workers 2

It trains YOLO11n-cls, its smallest network, since it cannot load the weights that the others share and its own have to
be downloaded: the weights are random here, so that only seconds can be compared, and no accuracy is reported. At 224
pixels the network takes some 0.5 thousand million operations for an image, fewer than EfficientNet-Lite0 (0.8). The
mode `frozen` passes `freeze=10`, all layers but the last, and `fine_tune` trains everything, one epoch more than asked.
"""

import time

STARTED = time.perf_counter()  # before the imports, whose time counts

import os  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

FOLDER = tempfile.TemporaryDirectory()  # for its settings, its runs, and the lists that it writes beside the data
os.environ |= {
    "YOLO_CONFIG_DIR": FOLDER.name,
    "YOLO_OFFLINE": "true",
}  # it asks and tells nothing

import torch  # noqa: E402
from settings import parse, report  # noqa: E402
from ultralytics import YOLO  # noqa: E402

LAYERS = 10  # before the head
RECIPE = {
    "augmentation": "its own: RandomResizedCrop(224), flip, RandAugment, erasing",
    "head": "its own: one convolution, pooling, one linear layer; random weights throughout",
    "optimizer": "its own choice (`optimizer=auto`)",
    "batch norm": "those of frozen layers follow the batches",
    "evaluation": "shorter side to 224, centre crop of 224",
    "loader": "every image in every epoch",
}


def main():
    options = parse(__doc__).parse_args()
    if options.mode == "partial" or options.precision != "fp32" or options.channels_last:
        raise SystemExit("ultralytics is run in fp32, frozen or whole, in its own memory format")
    imported = time.perf_counter()
    model = YOLO("yolo11n-cls.yaml", verbose=False)
    built = time.perf_counter()
    whole = options.mode == "fine_tune"
    data = Path(FOLDER.name) / "data"
    data.mkdir()
    for split in ("train", "val"):
        (data / split).symlink_to((options.data / split).resolve())
    model.train(
        data=str(data),
        epochs=options.epochs + whole,
        imgsz=224,
        batch=options.batch_size,
        workers=options.workers,
        device="cpu",
        freeze=None if whole else LAYERS,
        seed=options.seed,
        pretrained=False,
        val=False,  # the last epoch is scored nevertheless
        plots=False,
        project=FOLDER.name,
        verbose=False,
    )
    parts = {"imports": imported - STARTED, "model": built - imported, "train": time.perf_counter() - built}
    moved = sum(value.numel() for value in model.model.parameters() if value.requires_grad)
    observed = {"precision": "fp32", "channels_last": False, "parameters_moved": moved, "statistics_moved": 0}
    observed["threads"] = torch.get_num_threads()
    report(options, seconds=parts, accuracy=None, observed=observed, recipe=RECIPE)


if __name__ == "__main__":
    main()
