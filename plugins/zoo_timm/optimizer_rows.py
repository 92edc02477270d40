"""The rows of timm's optimizers. Imports no torch: timm makes them when they are used.

Left out are those of torch, of which some are built in; those that need a second gradient, CUDA or another library, as
`kron` needs opt_einsum; and those that scale weight decay by the square of the rate, since timm takes the highest rate
from one number for all groups.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from zoo.optimizer import Optimizer
from zoo.option import Option

_MOST = 0.99999


def _betas(*defaults: float) -> tuple[Option, ...]:
    """The shares of its moving averages that a step keeps."""
    return tuple(
        Option(name=f"beta{place}", default=default, summary=f"share kept of moving average {place}", low=0, high=_MOST)
        for place, default in enumerate(defaults, start=1)
    )


def _eps(default: float) -> Option:
    return Option(name="eps", default=default, summary="least divisor of a step", low=0, high=1)


_MOMENTUM = Option(name="momentum", default=0.9, summary="share of a step that the next one keeps", low=0, high=_MOST)
_SOME = replace(_MOMENTUM, low=0.01)  # Nesterov's needs one
_CAUTION = Option(name="caution", default=False, summary="leave out what the gradient contradicts (Liang et al. 2024)")

# Name of timm, summary, options with timm's defaults, and settings of timm's class. `lamb` would clip gradients by
# itself, which `--clip` does
_ROWS: tuple[tuple[str, str, tuple[Option, ...], dict[str, Any]], ...] = (
    ("adabelief", "AdaBelief (Zhuang et al. 2020)", (*_betas(0.9, 0.999), _eps(1e-16)), {}),
    ("adafactorbv", "Adafactor of Big Vision (Zhai et al. 2022): a factored second moment", (_CAUTION,), {}),
    ("adamp", "AdamP: Adam, projected for weights before a norm (Heo et al. 2021)",
     (*_betas(0.9, 0.999), _eps(1e-8), _CAUTION), {}),
    ("adan", "Adan: Nesterov momentum and the gradient's changes (Xie et al. 2022)",
     (*_betas(0.98, 0.92, 0.99), _eps(1e-8), _CAUTION), {}),
    ("adopt", "ADOPT: Adam that converges with any beta2 (Taniguchi et al. 2024)",
     (*_betas(0.9, 0.9999), _eps(1e-6), _CAUTION), {"decoupled": True}),
    ("lamb", "LAMB: Adam with a trust ratio of each tensor (You et al. 2020)",
     (*_betas(0.9, 0.999), _eps(1e-6), _CAUTION), {"max_grad_norm": None}),
    ("laprop", "LaProp: momentum after adaptivity (Ziyin et al. 2020)",
     (*_betas(0.9, 0.999), _eps(1e-15), _CAUTION), {}),
    ("lars", "LARS: momentum with a trust ratio of each tensor (You et al. 2017)", (_MOMENTUM,), {}),
    ("lion", "Lion: the sign of a momentum (Chen et al. 2023); about a tenth of the rate of `adamw`",
     (*_betas(0.9, 0.99), _CAUTION), {}),
    ("madgrad", "MADGRAD: dual averaging (Defazio and Jelassi 2021)",
     (_MOMENTUM, _eps(1e-6)), {"decoupled_decay": True}),
    ("mars", "MARS: Adam with reduced variance (Yuan et al. 2024)", (*_betas(0.9, 0.99), _eps(1e-8), _CAUTION), {}),
    ("muon", "Muon: orthogonalised momentum for matrices and kernels (Jordan et al. 2024), else AdamW",
     (replace(_MOMENTUM, default=0.95),), {}),
    ("nadamw", "AdamW with Nesterov momentum", (*_betas(0.9, 0.999), _eps(1e-8), _CAUTION), {}),
    ("novograd", "NovoGrad: one second moment for each tensor (Ginsburg et al. 2019)",
     (*_betas(0.95, 0.98), _eps(1e-8)), {"decoupled_decay": True}),
    ("rmsproptf", "RMSprop as TensorFlow has it, with which EfficientNets were trained",
     (_MOMENTUM, Option(name="alpha", default=0.9, summary="share kept of the squared gradient", low=0, high=_MOST)),
     {"decoupled_decay": True}),
    ("sgdp", "SGDP: momentum, projected for weights before a norm (Heo et al. 2021)", (_SOME, _CAUTION), {}),
    ("sgdw", "Nesterov momentum with decoupled weight decay (Loshchilov and Hutter 2019)", (_SOME, _CAUTION), {}),
)  # fmt: skip


def make(name: str, settings: dict[str, Any], groups: list[dict[str, Any]], **options: Any) -> Any:
    """An optimizer of timm's registry over parameter groups."""
    from timm.optim import get_optimizer_class

    betas = tuple(value for option, value in options.items() if option.startswith("beta"))
    rest = {option: value for option, value in options.items() if not option.startswith("beta")}
    return get_optimizer_class(name)(groups, **settings, **rest, **({"betas": betas} if betas else {}))


OPTIMIZERS = tuple(
    Optimizer(name=name, summary=summary, target=partial(make, name, settings), options=options)
    for name, summary, options, settings in _ROWS
)
