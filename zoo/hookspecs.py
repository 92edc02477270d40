"""Hooks: functions with which a plugin registers objects. A hook exists only if a real plugin uses it.

A plugin is a module that an entry point of the group `zoo.plugins` names. It implements any of these hooks with
`@zoo.hookimpl`. Each hook receives a function `register`, which knows the plugin that calls it. The module must not
import torch, timm, torchvision or onnxruntime: what it registers names its functions as `"module:function"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from zoo.augmentation import Augmentation
    from zoo.backbone import Backbone
    from zoo.callback import Callback
    from zoo.command import Command
    from zoo.dataset import Dataset
    from zoo.exporter import Exporter
    from zoo.loss import Loss
    from zoo.metric import Metric
    from zoo.optimizer import Optimizer
    from zoo.runtime import Runtime
    from zoo.schedule import Schedule
    from zoo.strategy import Strategy

T = TypeVar("T", contravariant=True)

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")


class Register(Protocol[T]):
    """Registers one object under the name of the calling plugin."""

    def __call__(self, entry: T, /) -> None:
        """Register one object.

        Raises:
            ZooError: it is of the wrong type, its name or summary is not usable, or its name is registered already.
        """
        ...


@hookspec
def register_backbones(register: Register[Backbone]) -> None:
    """Register networks, one `zoo.Backbone` each."""


@hookspec
def register_strategies(register: Register[type[Strategy]]) -> None:
    """Register fine-tuning strategies, one subclass of `zoo.Strategy` each."""


@hookspec
def register_datasets(register: Register[Dataset]) -> None:
    """Register kinds of labelled images, one `zoo.Dataset` each."""


@hookspec
def register_augmentations(register: Register[Augmentation]) -> None:
    """Register random views of training images, one `zoo.Augmentation` each."""


@hookspec
def register_losses(register: Register[Loss]) -> None:
    """Register losses of optimiser steps, one `zoo.Loss` each."""


@hookspec
def register_optimizers(register: Register[Optimizer]) -> None:
    """Register optimizers, one `zoo.Optimizer` each."""


@hookspec
def register_schedules(register: Register[Schedule]) -> None:
    """Register learning-rate schedules, one `zoo.Schedule` each."""


@hookspec
def register_callbacks(register: Register[Callback]) -> None:
    """Register observers of a run while it trains, such as trackers, one `zoo.Callback` each."""


@hookspec
def register_metrics(register: Register[Metric]) -> None:
    """Register metrics of a table of predictions, one `zoo.Metric` each."""


@hookspec
def register_exporters(register: Register[Exporter]) -> None:
    """Register file formats that a run can be exported to and opened from, one `zoo.Exporter` each."""


@hookspec
def register_runtimes(register: Register[Runtime]) -> None:
    """Register engines that execute a run or a file in latency measurements, one `zoo.Runtime` each."""


@hookspec
def register_commands(register: Register[Command]) -> None:
    """Register subcommands of `zoo`, one `zoo.Command` each."""
