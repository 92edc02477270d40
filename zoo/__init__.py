"""zoo: fine-tune any backbone with any strategy, compare honestly, ship one verified ONNX file.

Importing `zoo` imports neither torch nor any plugin; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoo.backbone import Backbone, BuildSpec, Network, Weights
from zoo.command import Command
from zoo.dataset import Dataset, Images, Sample
from zoo.errors import UsageError, ZooError
from zoo.exporter import Check, Exporter, ExportSpec
from zoo.hookspecs import hookimpl
from zoo.metric import Metric
from zoo.preprocess import Preprocess
from zoo.runtime import Runtime, Session
from zoo.stage import Anatomy, Stage
from zoo.strategy import Group, Phase, Strategy
