"""The hooks: all that a plugin can do. A hook exists only because something real uses it.

A plugin is a module behind an entry point of the group `zoo.plugins`. It implements any of these with
`@zoo.hookimpl`; each receives a `register` that already knows which plugin is calling. The module itself must not
import torch (nor timm, torchvision, onnxruntime): rows name their builders as `"module:function"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from zoo.backbone import Backbone
    from zoo.command import Command
    from zoo.dataset import Dataset
    from zoo.exporter import Exporter
    from zoo.metric import Metric
    from zoo.runtime import Runtime
    from zoo.strategy import Strategy

T = TypeVar("T", contravariant=True)

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")


class Register(Protocol[T]):
    """Adds one entry to the catalogue under the calling plugin's name; raises `ZooError` on a name given twice."""

    def __call__(self, entry: T, /) -> None: ...


@hookspec
def register_backbones(register: Register[Backbone]) -> None:
    """Networks: one `zoo.Backbone` row each."""


@hookspec
def register_strategies(register: Register[type[Strategy]]) -> None:
    """Ways to fine-tune: one `zoo.Strategy` class each."""


@hookspec
def register_datasets(register: Register[Dataset]) -> None:
    """Sources of labelled images: one `zoo.Dataset` row each."""


@hookspec
def register_metrics(register: Register[Metric]) -> None:
    """Figures computed from a table of predictions: one `zoo.Metric` row each."""


@hookspec
def register_exporters(register: Register[Exporter]) -> None:
    """File formats a run can be exported to and predicted from: one `zoo.Exporter` row each."""


@hookspec
def register_runtimes(register: Register[Runtime]) -> None:
    """What executes a run or a file when latency is measured: one `zoo.Runtime` row each."""


@hookspec
def register_commands(register: Register[Command]) -> None:
    """Subcommands of `zoo`: one `zoo.Command` row each."""
