"""A plain PyTorch loop like that of PyTorch's transfer-learning tutorial, with the usual options for speed.

    python benchmarks/peers/plain_loop.py --data hymenoptera --mode frozen --workers 1 --precision bf16 --channels-last

There are three differences from the tutorial. Frozen layers stay in eval mode, so that their running statistics are
frozen too. The learning rate follows a one-cycle schedule, because the tutorial's steps of seven epochs have no effect
in five epochs. The validation split is scored once, at the end.
"""

import time

STARTED = time.perf_counter()  # before the imports, whose time counts

import torch  # noqa: E402
from lite0 import FEATURES, HALVES, NAME, PIXELS, RESIZE, Observer, load_weights, top_stages  # noqa: E402
from settings import parse, report  # noqa: E402
from timm import create_model  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.lr_scheduler import OneCycleLR  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

# Peak learning rate of the head. Accuracy in five-fold cross-validation on features of the training images: 0.959 with
# 0.01, 0.963 with 0.03, 0.966 with 0.1 but at twice the loss of the others
RATE = 0.03
BODY = 0.1  # learning rate of the body, as a fraction of the head's
RECIPE = {
    "augmentation": "RandomResizedCrop(224), flip",
    "head": "one linear layer, torch's start",
    "optimizer": f"SGD, momentum 0.9, one cycle up to {RATE:g} for the head, {RATE * BODY:g} below it",
    "batch norm": "frozen layers keep statistics and parameters; trained layers' statistics follow the batches",
    "evaluation": "shorter side to 256, centre crop of 224",
    "loader": "every image in every epoch",
}


def loaders(options):
    """Loaders of augmented training images, in random order, and of validation images as the weights expect them."""
    normalize = [transforms.ToTensor(), transforms.Normalize(HALVES, HALVES)]
    views = transforms.Compose([transforms.RandomResizedCrop(PIXELS), transforms.RandomHorizontalFlip(), *normalize])
    bicubic = transforms.InterpolationMode.BICUBIC
    plain = transforms.Compose([transforms.Resize(RESIZE, bicubic), transforms.CenterCrop(PIXELS), *normalize])
    keep = options.workers > 0
    batch, workers = options.batch_size, options.workers
    train = ImageFolder(options.data / "train", views)
    val = ImageFolder(options.data / "val", plain)
    return (
        DataLoader(train, batch, shuffle=True, num_workers=workers, persistent_workers=keep),
        DataLoader(val, batch, num_workers=workers),
    )


def fit(model, modules, epochs, images, options):
    """Train the head and `modules` for `epochs` epochs; everything else is frozen."""
    model.requires_grad_(False)
    model.eval()
    for module in [*modules, model.classifier]:
        module.requires_grad_(True)
        module.train()
    body = [parameter for module in modules for parameter in module.parameters()]
    groups = [{"params": list(model.classifier.parameters())}] + ([{"params": body}] if body else [])
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
    schedule = OneCycleLR(optimizer, [RATE, RATE * BODY][: len(groups)], total_steps=epochs * len(images))
    for _ in range(epochs):
        for batch, labels in images:
            loss = nn.functional.cross_entropy(predict(model, batch, options), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def predict(model, batch, options):
    """Logits `(N, classes)` in the requested memory format and precision."""
    if options.channels_last:
        batch = batch.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
        return model(batch).float()


@torch.inference_mode()
def score(model, images, options):
    """Accuracy on all `images`."""
    model.eval()
    right = [(predict(model, batch, options).argmax(1) == labels).float() for batch, labels in images]
    return torch.cat(right).mean().item()


def main():
    options = parse(__doc__).parse_args()
    imported = time.perf_counter()
    torch.manual_seed(options.seed)
    train, val = loaders(options)
    loaded = time.perf_counter()
    model = create_model(NAME)
    load_weights(model)
    model.classifier = nn.Linear(FEATURES, len(train.dataset.classes))
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    observer = Observer(model, model)
    built = time.perf_counter()
    if options.mode == "fine_tune":
        fit(model, [], 1, train, options)
        fit(model, [m for m in model.children() if m is not model.classifier], options.epochs, train, options)
    else:
        fit(model, top_stages(model) if options.mode == "partial" else [], options.epochs, train, options)
    trained = time.perf_counter()
    accuracy = score(model, val, options)
    seconds = {
        "imports": imported - STARTED,
        "data": loaded - imported,
        "model": built - loaded,
        "train": trained - built,
        "evaluate": time.perf_counter() - trained,
    }
    report(options, seconds=seconds, accuracy=accuracy, observed=observer.result(), recipe=RECIPE)


if __name__ == "__main__":
    main()
