"""fastai, used as in its documentation, with its usual options for speed.

    python benchmarks/peers/fastai_trainer.py --data hymenoptera --mode frozen --workers 1 --precision bf16

The modes `frozen` and `partial` call `fit_one_cycle` with frozen layers; `fine_tune` is fastai's method of that name.
By fastai's default, `--train-bn`, batch norms of frozen layers train too, which needs gradients through the whole
network. Without it they keep their parameters and statistics, as in zoo, and such epochs are cheaper. The validation
split is scored once, at the end.
"""

import time

STARTED = time.perf_counter()  # before the imports, whose time counts

import torch  # noqa: E402
from fastai.callback.channelslast import ChannelsLast  # noqa: E402
from fastai.callback.schedule import Learner  # noqa: E402  # adds `fit_one_cycle` and `fine_tune` to `Learner`
from fastai.callback.training import BnFreeze  # noqa: E402
from fastai.data.block import CategoryBlock, DataBlock  # noqa: E402
from fastai.data.transforms import GrandparentSplitter, Normalize, get_image_files, parent_label  # noqa: E402
from fastai.learner import Callback, CancelValidException  # noqa: E402
from fastai.metrics import accuracy  # noqa: E402
from fastai.torch_core import params, set_seed, to_float  # noqa: E402
from fastai.vision.augment import RandomResizedCrop, aug_transforms  # noqa: E402
from fastai.vision.data import ImageBlock  # noqa: E402
from fastai.vision.learner import default_split, vision_learner  # noqa: E402
from lite0 import FEATURES, HALVES, NAME, PIXELS, Observer, load_weights, top_stages  # noqa: E402
from settings import parse, report  # noqa: E402
from torch import nn  # noqa: E402

# Peak learning rate of the head. Accuracy in five-fold cross-validation on features of the training images: 0.959 with
# 0.002, 0.965 with 0.005, 0.966 with 0.01
RATE = 5e-3
RECIPE = {
    "augmentation": "RandomResizedCrop(224, min_scale=0.35), aug_transforms()",
    "head": "one linear layer, fastai's start",
    "optimizer": f"Adam, one cycle up to {RATE:g} for the head, {RATE / 10:g} below it; `fine_tune` has its own rates",
    "batch norm": "frozen layers keep statistics and parameters; trained layers' statistics follow the batches",
    "evaluation": "squeezed to 256 x 256, centre crop of 224",
    "loader": "leaves out the last, incomplete batch of an epoch",
}


class Autocast(Callback):
    """bf16 on the CPU; fastai's `to_bf16` supports CUDA only."""

    order = 10  # as fastai's MixedPrecision

    def before_batch(self):
        self.context = torch.autocast("cpu", dtype=torch.bfloat16)
        self.context.__enter__()

    def after_pred(self):
        self.learn.pred = to_float(self.pred)

    def after_loss(self):
        self.context.__exit__(None, None, None)


class NoValidation(Callback):
    """Skips validation after each epoch, as all others in the comparison do."""

    def before_validate(self):
        raise CancelValidException


def photographs(folder):
    """All image files but one GIF, an error message, on which fastai would train and which the others leave out."""
    return sorted(file for file in get_image_files(folder) if file.suffix != ".gif")


def load_data(options):
    """Both splits, as fastai's `DataLoaders`."""
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=photographs,
        splitter=GrandparentSplitter(valid_name="val"),
        get_y=parent_label,
        item_tfms=RandomResizedCrop(PIXELS, min_scale=0.35),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(HALVES, HALVES)],
    )
    return block.dataloaders(options.data, bs=options.batch_size, num_workers=options.workers)


def split_at_top(model):
    """Three groups of parameters for `partial`: the frozen stages, the trainable stages and the head."""
    top = [parameter for module in top_stages(model[0].model) for parameter in module.parameters()]
    names = {id(parameter) for parameter in top}
    return [[parameter for parameter in params(model[0]) if id(parameter) not in names], top, params(model[1])]


def build(dls, options) -> Learner:
    """The learner, with the packaged weights."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(FEATURES, dls.c))
    callbacks = [] if options.train_bn else [BnFreeze()]
    if options.precision == "bf16":
        callbacks.append(Autocast())
    if options.channels_last:
        callbacks.append(ChannelsLast())
    learn = vision_learner(
        dls,
        NAME,
        pretrained=False,  # the weights come from the package
        custom_head=head,
        splitter=split_at_top if options.mode == "partial" else default_split,
        train_bn=options.train_bn,
        metrics=accuracy,
        cbs=callbacks,
    )
    load_weights(learn.model[0].model)
    return learn


def main():
    parser = parse(__doc__)
    parser.add_argument(
        "--train-bn", action="store_true", help="train batch norms of frozen layers, which is fastai's default"
    )
    options = parser.parse_args()
    imported = time.perf_counter()
    set_seed(options.seed)
    dls = load_data(options)
    loaded = time.perf_counter()
    learn = build(dls, options)
    observer = Observer(learn.model, learn.model[0].model)
    built = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if options.mode == "fine_tune":
            learn.fine_tune(options.epochs, base_lr=RATE, cbs=NoValidation())
        else:
            learn.freeze_to(-2 if options.mode == "partial" else -1)
            learn.fit_one_cycle(options.epochs, slice(RATE), cbs=NoValidation())
        trained = time.perf_counter()
        _, right = learn.validate()
    seconds = {
        "imports": imported - STARTED,
        "data": loaded - imported,
        "model": built - loaded,
        "train": trained - built,
        "evaluate": time.perf_counter() - trained,
    }
    recipe = RECIPE | ({"batch norm": "every one trains, in frozen layers too"} if options.train_bn else {})
    report(options, seconds=seconds, accuracy=right, observed=observer.result(), recipe=recipe)


if __name__ == "__main__":
    main()
