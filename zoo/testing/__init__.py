"""Contract tests for plugin authors: checks of what plugins register, to be called in a test.

    from zoo.testing import check_backbone, check_strategy

    def test_mine():
        check_backbone("acmenet", image_size=32)
        check_strategy("edges:2", "acmenet", image_size=32)

There is a check for each kind of thing that a plugin registers, and `zoo plugins check` runs those of a whole plugin.
Networks start from random weights and images are noise, so a check takes about a second. The built-in plugins pass the
same checks in the project's own tests. A check is imported when it is first used, and torch with those that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    from zoo.testing.augmentation import check_augmentation
    from zoo.testing.backbone import check_backbone
    from zoo.testing.callback import check_callback
    from zoo.testing.command import check_command
    from zoo.testing.dataset import check_dataset
    from zoo.testing.exporter import check_export, check_exporter
    from zoo.testing.law import NotChecked, Violation
    from zoo.testing.loss import check_loss
    from zoo.testing.metric import check_metric
    from zoo.testing.optimizer import check_optimizer
    from zoo.testing.plugin import RowCheck, check_plugin
    from zoo.testing.runtime import check_runtime
    from zoo.testing.schedule import check_schedule
    from zoo.testing.strategy import check_strategy

__all__ = [
    "NotChecked",
    "RowCheck",
    "Violation",
    "check_augmentation",
    "check_backbone",
    "check_callback",
    "check_command",
    "check_dataset",
    "check_export",
    "check_exporter",
    "check_loss",
    "check_metric",
    "check_optimizer",
    "check_plugin",
    "check_runtime",
    "check_schedule",
    "check_strategy",
]

_ROOMS = (
    "augmentation",
    "backbone",
    "callback",
    "command",
    "dataset",
    "exporter",
    "loss",
    "metric",
    "optimizer",
    "plugin",
    "runtime",
    "schedule",
    "strategy",
)

__getattr__ = lazy_attributes(
    __name__,
    {
        **{f"check_{room}": f"{__name__}.{room}:check_{room}" for room in _ROOMS},
        "check_export": f"{__name__}.exporter:check_export",
        "RowCheck": f"{__name__}.plugin:RowCheck",
        **{name: f"{__name__}.law:{name}" for name in ("NotChecked", "Violation")},
    },
)
