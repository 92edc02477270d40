"""Divides timm's networks into stages, by their own `group_matcher(coarse=True)`."""

from __future__ import annotations

from typing import Any

from timm.models._manipulate import flatten_modules, group_with_matcher
from torch import nn

from zoo.networks.building import norm_parameters
from zoo.stage import Anatomy, cut

# A name added to those to be grouped: its group is that of names unknown to the matcher
_UNKNOWN = "zoo unknown"


def cut_network(backbone: str, model: nn.Module) -> Anatomy:
    """The stages and the head of a timm network."""
    names = [name for name, _ in model.named_parameters()]
    head = head_parameters(model)
    groups = matched_groups(model, names)
    if groups is None:
        groups = children_in_order(model, names, head)
    return cut(backbone, names, groups=groups, head=head, norms=norm_parameters(model))


def head_parameters(model: nn.Module) -> set[str]:
    """Parameter names of the classifier; of both classifiers in a distilled network."""
    known: Any = model
    configured = known.pretrained_cfg.get("classifier") or ()
    paths = (configured,) if isinstance(configured, str) else tuple(configured)
    modules = dict(model.named_modules())
    found = {f"{path}.{name}" for path in paths if path in modules for name, _ in modules[path].named_parameters()}
    classifier = known.get_classifier()
    own = {id(p) for part in _parts(classifier) for p in part.parameters()}
    named = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    # The configuration names the layer itself, `get_classifier` sometimes the whole block around it. If they do not
    # overlap, `get_classifier` is right
    return found & named or named


def _parts(classifier: Any) -> list[nn.Module]:
    return [classifier] if isinstance(classifier, nn.Module) else [part for part in classifier if part is not None]


def matched_groups(model: nn.Module, names: list[str]) -> list[list[str]] | None:
    """timm's coarse groups from input to output, without names unknown to the matcher; None if there is no matcher."""
    known: Any = model
    try:
        matcher = known.group_matcher(coarse=True)
    except (AttributeError, AssertionError, NotImplementedError):
        return None  # MetaFormer, PiT and CSATv2 have no matcher, RDNet has no coarse one
    grouped = group_with_matcher(iter([(name, None) for name in [*names, _UNKNOWN]]), matcher)
    return [group for group in grouped.values() if _UNKNOWN not in group]


def children_in_order(model: nn.Module, names: list[str], head: set[str]) -> list[list[str]]:
    """Groups by child module, with the children of containers as groups of their own.

    Parameters of the network itself, such as position embeddings, join the first group. Other parameters in the block
    of the classifier are left out; they join the last stage.
    """
    paths = [".".join(path) for path, _ in flatten_modules(model.named_children(), prefix=(), module_types="container")]
    groups = [[name for name in names if name.startswith(f"{path}.")] for path in paths]
    groups = [group for group in groups if group and head.isdisjoint(group)]
    loose = [name for name in names if "." not in name]
    if groups:
        groups[0] = loose + groups[0]
    return groups
