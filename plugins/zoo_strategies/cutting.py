"""Truncating a network: its early stages as a graph of their own, with a new head."""

from __future__ import annotations

import torch
from torch import fx, nn
from torchvision.ops import Permute

from zoo.backbone import BuildSpec, Network
from zoo.errors import UsageError, counted
from zoo.networks.head import start_layer
from zoo.networks.tracing import LARGE_BATCH, eval_mode, find_prefix, prefix_graph
from zoo.preprocess import height_width
from zoo.stage import HEAD, Anatomy, Stage

NEW_HEAD = "new_head"


class TokenMean(nn.Module):
    """Mean of tokens, `(N, L, D)` to `(N, D)`; each is normalised first, as by the last norm of a transformer."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(tokens, tokens.shape[-1:]).mean(1)


def truncate(network: Network, spec: BuildSpec, stages: int) -> Network:
    """Replace the last `stages` stages and the head by a new head: pooling, dropout and one linear layer.

    Raises:
        UsageError: no stage would be left, or the network cannot be truncated there.
    """
    anatomy = network.anatomy
    names = anatomy.names
    if stages >= len(names):
        raise UsageError(
            f"strategy `truncate:{stages}` drops {counted(stages, 'stage')} but `{anatomy.backbone}` has {len(names)}: "
            f"{' '.join(names)}",
            hint=f"`truncate:{len(names) - 1}` keeps only the first stage",
        )
    assert spec.image_size is not None
    kept, dropped = anatomy.stages[:-stages], anatomy.stages[-stages:]
    late = {name for stage in (*dropped, anatomy.head) for name in stage.parameters}
    images = torch.zeros(LARGE_BATCH, 3, *height_width(spec.image_size))
    where = f"`{anatomy.backbone}` cannot be truncated after `{kept[-1].name}`"
    hint = f"try another number of stages; `partial:{stages}` trains the last ones instead of dropping them"
    try:
        with eval_mode(network.model):
            prefix = find_prefix(network.model, late, images)
    except ValueError as error:
        raise UsageError(f"{where}: {error}", hint=hint) from error
    if len(prefix.boundary) != 1:
        crossing = f"{len(prefix.boundary)} tensors leave" if prefix.boundary else "no single tensor leaves"
        raise UsageError(f"{where}: {crossing} that stage", hint=hint)
    head, layer = _new_head(prefix.small_values[0], spec, where)
    network.model.add_module(NEW_HEAD, head)
    model = fx.GraphModule(network.model, _with_head(prefix_graph(prefix)))
    model.train(network.model.training)
    left = {name for name, _ in model.named_parameters()}
    cut = (Stage(name=stage.name, parameters=tuple(n for n in stage.parameters if n in left)) for stage in kept)
    return Network(
        model,
        Anatomy(
            backbone=anatomy.backbone,
            stages=tuple(stage for stage in cut if stage.parameters),
            head=Stage(name=HEAD, parameters=tuple(f"{NEW_HEAD}.{layer}.{name}" for name in ("weight", "bias"))),
        ),
    )


def _with_head(graph: fx.Graph) -> fx.Graph:
    """Append the new head to the only output of the graph of early stages."""
    output = next(iter(reversed(graph.nodes)))
    (end,) = output.args[0]
    graph.erase_node(output)
    graph.output(graph.call_module(NEW_HEAD, (end,)))
    return graph


def _new_head(value: torch.Tensor, spec: BuildSpec, where: str) -> tuple[nn.Sequential, int]:
    """A head for features shaped like `value`, and the index of its linear layer."""
    pool: list[nn.Module]
    match value.ndim:
        case 2:
            pool, width = [], value.shape[1]
        case 3:
            pool, width = [TokenMean()], value.shape[2]
        case 4 if value.shape[1] == value.shape[2] != value.shape[3]:  # N x H x W x C, as in Swin
            pool, width = [Permute([0, 3, 1, 2]), nn.AdaptiveAvgPool2d(1), nn.Flatten()], value.shape[3]
        case 4:
            pool, width = [nn.AdaptiveAvgPool2d(1), nn.Flatten()], value.shape[1]
        case _:
            raise UsageError(f"{where}: its features have {value.ndim} dimensions", hint="use another backbone")
    layer = nn.Linear(int(width), spec.classes)
    start_layer(layer)
    return nn.Sequential(*pool, nn.Dropout(spec.dropout or 0.0), layer), len(pool) + 1
