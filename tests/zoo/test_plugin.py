"""The loader: a broken plugin is named with its reason, and everything else works."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from messages import refused
from PIL import Image
from tests_support import TINY

from zoo import Anatomy, Backbone, Group, Phase, Strategy, UsageError, ZooError, hookimpl, inspect, predict, verify
from zoo.augmentation import Augmentation
from zoo.backbone import Weights
from zoo.callback import Callback
from zoo.command import Command
from zoo.data.opening import open_images
from zoo.data.roles import assign_roles
from zoo.dataset import Dataset, Images, Sample
from zoo.errors import PluginWarning
from zoo.exporter import Exporter
from zoo.loss import Loss
from zoo.metric import Metric
from zoo.optimizer import Optimizer
from zoo.plugin import KINDS, PluginCandidate, Plugins, installed_candidates
from zoo.preprocess import Preprocess
from zoo.row import check_row
from zoo.runtime import Runtime
from zoo.schedule import Schedule


@dataclass(frozen=True)
class Nothing(Strategy):
    name: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "train the head"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="nothing", groups=(Group(stages=("head",)),)),)


def row(name: str) -> Backbone:
    return Backbone(name=name, summary="a test network", build="nowhere:build")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PluginCandidate]]:
    """Make a candidate out of functions, as an installed package would bring it."""

    def make(name: str, distribution: str = "", **functions: Any) -> PluginCandidate:
        module = types.ModuleType(f"zoo_test_{name}")
        for attribute, value in functions.items():
            setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        point = importlib.metadata.EntryPoint(name, module.__name__, "zoo.plugins")
        return PluginCandidate(name, distribution or f"backbone-zoo-{name}", "0.3", point)

    yield make


def registering(*entries: Any) -> Callable[..., None]:
    @hookimpl
    def register_backbones(register: Callable[[Any], None]) -> None:
        for entry in entries:
            register(entry)

    return register_backbones


def load(*candidates: PluginCandidate, **environ: str) -> Plugins:
    plugins = Plugins([*installed_candidates(), *candidates], environ=environ)
    plugins.load_everything()
    return plugins


def only(plugins: Plugins, name: str) -> Any:
    (plugin,) = [plugin for plugin in plugins.plugins if plugin.name == name]
    return plugin


def test_built_ins_load_without_a_failure() -> None:
    plugins = load()
    mine = [one for one in plugins.plugins if one.distribution in ("backbone-zoo", "backbone-zoo-serve")]
    assert {"torchvision", "timm", "lite", "strategies", "datasets", "metrics", "onnx", "cli"} <= {p.name for p in mine}
    assert [(plugin.name, plugin.failures) for plugin in mine if plugin.status != "ok"] == []


def test_a_third_party_adds_what_it_registers(make: Callable[..., PluginCandidate]) -> None:
    plugins = load(make("acme", register_backbones=registering(row("acmenet"))))
    assert plugins.backbones.find("acmenet").qualified == "acme/acmenet"
    assert only(plugins, "acme").provides["backbones"] == ["acmenet"]


def test_a_missing_module_is_named(make: Callable[..., PluginCandidate]) -> None:
    point = importlib.metadata.EntryPoint("foo", "zoo_no_such_module", "zoo.plugins")
    with pytest.warns(
        PluginWarning, match=r"plugin `foo` \(backbone-zoo-foo 0.3\) could not be loaded: No module named"
    ):
        plugins = load(PluginCandidate("foo", "backbone-zoo-foo", "0.3", point))
    assert only(plugins, "foo").status == "failed"
    assert "resnet18" in plugins.backbones


def test_a_wrong_signature_is_named(make: Callable[..., PluginCandidate]) -> None:
    @hookimpl
    def register_backbones(wrong: Any) -> None:
        raise AssertionError("never called")

    with pytest.warns(PluginWarning, match="wrong"):
        plugins = load(make("foo", register_backbones=register_backbones))
    assert only(plugins, "foo").status == "failed"
    assert "resnet18" in plugins.backbones


def test_a_misspelt_hook_is_named_with_the_right_one(make: Callable[..., PluginCandidate]) -> None:
    @hookimpl
    def register_backbone(register: Any) -> None:
        raise AssertionError("never called")

    with pytest.warns(PluginWarning, match="no hook `register_backbone`; did you mean `register_backbones`"):
        plugins = load(make("foo", register_backbone=register_backbone))
    assert only(plugins, "foo").status == "partly failed"


def test_a_hook_without_the_marker_is_named(make: Callable[..., PluginCandidate]) -> None:
    def register_backbones(register: Any) -> None:
        raise AssertionError("never called")

    with pytest.warns(PluginWarning, match="not marked with `@zoo.hookimpl`"):
        load(make("foo", register_backbones=register_backbones))


def test_a_raising_hook_loses_only_its_own_entries(make: Callable[..., PluginCandidate]) -> None:
    @hookimpl
    def register_backbones(register: Callable[[Any], None]) -> None:
        register(row("half"))
        raise RuntimeError("boom")

    @hookimpl
    def register_strategies(register: Callable[[Any], None]) -> None:
        register(Nothing)

    candidate = make("foo", register_backbones=register_backbones, register_strategies=register_strategies)
    with pytest.warns(PluginWarning, match="failed in `register_backbones`: RuntimeError: boom"):
        plugins = load(candidate)
    assert "half" not in plugins.backbones
    assert "nothing" in plugins.strategies
    assert "resnet18" in plugins.backbones
    assert only(plugins, "foo").status == "partly failed"


def test_nobody_displaces_a_built_in(make: Callable[..., PluginCandidate]) -> None:
    plugins = load(make("aaa", register_backbones=registering(row("resnet18"))))
    assert plugins.backbones.find("resnet18").provider == "torchvision"
    assert plugins.backbones.find("aaa/resnet18").provider == "aaa"
    assert "`torchvision/resnet18`" in only(plugins, "aaa").notes[0]


def test_a_plugin_that_takes_a_built_in_s_name_is_refused(make: Callable[..., PluginCandidate]) -> None:
    candidate = make("timm", "backbone-zoo-evil", register_backbones=registering(row("evil")))
    with pytest.warns(PluginWarning, match="the name `timm` belongs to `backbone-zoo`"):
        plugins = load(candidate)
    assert "evil" not in plugins.backbones
    assert plugins.backbones.find("timm/resnet18")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("text", "takes a backbone"),
        (row("has space"), "or a space"),
        (row("a/b"), "a backbone's name must not contain"),
        (Backbone(name="x", summary="two\nlines", build="a:b"), "`summary`"),
        (Backbone(name="x", summary="a bell \a", build="a:b"), "`summary`"),
        (row("x\x1b[31m"), "`name` must be one line of printable text"),
    ],
)
def test_a_bad_entry_is_refused(make: Callable[..., PluginCandidate], entry: Any, reason: str) -> None:
    with pytest.warns(PluginWarning, match=reason):
        load(make("foo", register_backbones=registering(entry)))


def test_a_noun_has_its_article(make: Callable[..., PluginCandidate]) -> None:
    bad = Augmentation(name="a:b", summary="a test", target="a:b")
    with pytest.warns(PluginWarning, match="an augmentation's name must not contain"):
        load(make("foo", register_augmentations=implementing("register_augmentations", bad)))


ROWS: dict[str, Any] = {
    "register_backbones": row("x"),
    "register_augmentations": Augmentation(name="x", summary="a test", target="a:b"),
    "register_losses": Loss(name="x", summary="a test", target="a:b"),
    "register_optimizers": Optimizer(name="x", summary="a test", target="a:b"),
    "register_schedules": Schedule(name="x", summary="a test", target="a:b", rise="a:b", lowering="a:b"),
    "register_callbacks": Callback(name="x", summary="a test", target="a:b"),
    "register_datasets": Dataset(name="x", summary="a test", open="a:b"),
    "register_metrics": Metric(name="x", summary="a test", compute="a:b"),
    "register_exporters": Exporter(name="x", summary="a test", suffix=".x", write="a:b", open="a:b", verify="a:b"),
    "register_runtimes": Runtime(
        name="x", summary="a test", accepts="run", devices=("cpu",), available="a:b", load="a:b"
    ),
    "register_commands": Command(name="x", summary="a test", target="a:b"),
}
WEIGHTS = Weights(tag="x", preprocess=Preprocess())


def implementing(hook: str, entry: Any) -> Callable[..., None]:
    def function(register: Callable[[Any], None]) -> None:
        register(entry)

    function.__name__ = hook
    found: Callable[..., None] = hookimpl(function)
    return found


@pytest.mark.parametrize("hook", ROWS)
def test_every_field_of_every_row_is_checked(make: Callable[..., PluginCandidate], hook: str) -> None:
    good = ROWS[hook]
    plugins = Plugins([make("good", **{hook: implementing(hook, good)})])
    plugins.load_everything()  # no warning
    assert only(plugins, "good").provides
    for field in dataclasses.fields(good):
        bad = dataclasses.replace(good, **{field.name: object()})
        with pytest.warns(PluginWarning, match=rf"failed in `{hook}`: .*`{field.name}` .*object object"):
            plugins = Plugins([make("foo", **{hook: implementing(hook, bad)})])
            plugins.load_everything()
        assert only(plugins, "foo").provides == {}


@pytest.mark.parametrize(
    ("hook", "changes", "reason"),
    [
        ("register_datasets", {"open": "no_function"}, "`open` is written `module:function`"),
        ("register_commands", {"target": "no_function"}, "`target` is written `module:function`"),
        ("register_runtimes", {"load": "no_function"}, "`load` is written `module:function`"),
        ("register_runtimes", {"devices": ("tpu",)}, "`devices` are some of cpu cuda"),
        ("register_runtimes", {"devices": ()}, "`devices` are some of cpu cuda"),
        ("register_exporters", {"precisions": ()}, "`precisions` are some of fp32 fp16 int8"),
        ("register_exporters", {"preprocessing": ()}, "`preprocessing` are some of graph outside"),
        ("register_runtimes", {"devices": "cpu"}, "`devices` is a tuple of texts, not 'cpu'"),
        ("register_exporters", {"suffix": "onnx"}, "begins with a dot"),
        ("register_exporters", {"precisions": ("int4",)}, "`precisions` is a tuple"),
        ("register_exporters", {"runtimes": {"cpu": 1}}, "`runtimes` is a mapping"),
        ("register_backbones", {"gflops": float("nan")}, "`gflops` is not a finite number"),
        ("register_backbones", {"gflops": True}, "`gflops` is a number or None, not True"),
        ("register_backbones", {"weights": (WEIGHTS, WEIGHTS)}, "two sets of weights with one tag"),
        ("register_backbones", {"weights": (dataclasses.replace(WEIGHTS, top1=80.1),)}, "from 0 to 1, not 80.1"),
        (
            "register_backbones",
            {"weights": (dataclasses.replace(WEIGHTS, source=cast("str", 1)),)},
            "weights's `source` is a text",
        ),
    ],
)
def test_values_that_no_row_has(
    make: Callable[..., PluginCandidate], hook: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.warns(PluginWarning, match=reason):
        Plugins(
            [make("foo", **{hook: implementing(hook, dataclasses.replace(ROWS[hook], **changes))})]
        ).load_everything()


def test_strategies_that_could_not_be_used(make: Callable[..., PluginCandidate]) -> None:
    class Unfinished(Strategy):
        name: ClassVar[str] = "unfinished"
        summary: ClassVar[str] = "a test"

    class Odd(Nothing):
        pretrained: ClassVar[Any] = "yes"

    for kind, reason in ((Unfinished, "does not implement `phases`"), (Odd, "`pretrained` is True or False")):
        with pytest.warns(PluginWarning, match=reason):
            Plugins([make("foo", register_strategies=implementing("register_strategies", kind))]).load_everything()


def test_rows_of_built_ins_are_right(plugins: Plugins) -> None:
    for plural in KINDS:
        for entry in getattr(plugins, plural):
            check_row(entry.value, plural)


def test_a_function_that_is_not_there_is_no_traceback(make: Callable[..., PluginCandidate]) -> None:
    plugins = Plugins([make("foo", register_datasets=implementing("register_datasets", ROWS["register_datasets"]))])
    with pytest.raises(ZooError, match="`a:b` cannot be loaded: No module named 'a'"):
        open_images("x", 0, plugins)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (None, "returned NoneType, not `zoo.Images`"),
        (KeyError("column"), "dataset `x` of plugin `foo` failed: KeyError: 'column'"),
        ({"train": 2, "validation": 2, "test": 2}, "unknown split `validation`"),
        ({"train": 2, "val": 0, "test": 2}, "split `val` of `x` is empty"),
        ({"train": 2, "valid": 2}, "unknown split `valid`"),
        ({}, "has no split"),
        ({"train": 2}, "has train alone"),
        ({"test": 2}, "has test alone"),
        ([Sample("a", "u", "f"), Sample("a", "v", "f")], "two images with the id `a`"),
        ([Sample("a", "u", "f"), Sample("b", "w", "f")], "has the label `w`, not a class"),
        ([("a", "u", "f")], "not a `zoo.Sample`"),
    ],
)
def test_a_dataset_s_mistake_is_named(make: Callable[..., PluginCandidate], returned: Any, reason: str) -> None:
    def opened(argument: str, split_seed: int) -> Any:
        if isinstance(returned, Exception):
            raise returned
        if isinstance(returned, list):
            return Images(name="x", classes=("u", "v"), splits={"train": tuple(returned)})
        if returned is None:
            return None
        splits: Any = {
            role: tuple(Sample(f"{role}{index}", "uv"[index], "f") for index in range(count))
            for role, count in returned.items()
        }
        return Images(name="x", classes=("u", "v"), splits=splits)

    good = dataclasses.replace(ROWS["register_datasets"], open=opened)
    plugins = Plugins([make("foo", register_datasets=implementing("register_datasets", good))])
    with pytest.raises(ZooError, match=reason) as error:
        assign_roles(open_images("x", 0, plugins), TINY)
    assert error.value.exit_code == 1
    if "valid" in reason:
        assert error.value.hint is not None and "`val`" in error.value.hint


class Answers:
    """A predictor of a plugin, right but for what a test changes."""

    classes: Any = ("u", "v")
    preprocess: Any = Preprocess()
    device: Any = "cpu"
    answer: Any = np.zeros((1, 2), np.float32)

    def __init__(self, **changed: Any) -> None:
        vars(self).update(changed)

    def logits(self, photographs: Any) -> Any:
        return self.answer


class WithoutLogits:
    classes, preprocess, device = ("u", "v"), Preprocess(), "cpu"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, ("`None`", "`classes`")),
        ("text", ("`'text'`", "`classes`")),
        (Answers(classes="uv"), ("`classes`", "a tuple of texts", "`'uv'`")),
        (Answers(classes=(1, 2)), ("`classes`", "a tuple of texts", "`(1, 2)`")),
        (Answers(preprocess={"crop": 224}), ("`preprocess`", "`zoo.Preprocess`")),
        (Answers(device=0), ("`device`", "a text", "`0`")),
        (WithoutLogits(), ("`logits`",)),
    ],
)
def test_what_an_exporter_opens_is_checked(
    make: Callable[..., PluginCandidate], tmp_path: Path, returned: Any, words: tuple[str, ...]
) -> None:
    plugins, file = _foo(make, tmp_path, open=lambda path, device: returned, foreign=lambda *given: returned)
    for preprocess in (None, Preprocess()):
        with refused(ZooError, "zoo_foo:", "exporter `x`", "zoo plugins", *words):
            predict(file, [], plugins=plugins, preprocess=preprocess)


@pytest.mark.parametrize(
    "answer",
    [None, [[0.0, 1.0]], np.zeros(2, np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 2), np.int64), "ab"],
)
def test_logits_of_a_plugin_are_checked(make: Callable[..., PluginCandidate], tmp_path: Path, answer: Any) -> None:
    plugins, file = _foo(make, tmp_path, open=lambda path, device: Answers(answer=answer))
    photograph = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(photograph)
    with refused(ZooError, "Answers", "(1, 2)", "1 photograph", "2 classes", "zoo plugins"):
        predict(file, [photograph], plugins=plugins)


def test_other_functions_of_an_exporter_are_checked(make: Callable[..., PluginCandidate], tmp_path: Path) -> None:
    ask: tuple[tuple[str, Any, Callable[..., Any], str], ...] = (
        ("verify", True, verify, "a list of `zoo.Check`s"),
        ("verify", ["passed"], verify, "a list of `zoo.Check`s"),
        ("inspect", "metadata", inspect, "dict"),
    )
    for name, returned, call, wanted in ask:
        plugins, file = _foo(make, tmp_path, **{name: lambda *given, answer=returned: answer})
        with refused(ZooError, "zoo_foo:", "exporter `x`", wanted):
            call(file, plugins=plugins)


def _foo(make: Callable[..., PluginCandidate], folder: Path, **functions: Any) -> tuple[Plugins, Path]:
    """Plugins with an exporter that has these functions, and a file of its format."""
    for function in functions.values():
        function.__module__ = "zoo_foo"
    exporter = dataclasses.replace(ROWS["register_exporters"], suffix=".foo", **functions)
    file = folder / "model.foo"
    file.touch()
    return Plugins([make("foo", register_exporters=implementing("register_exporters", exporter))]), file


def test_a_name_registered_twice_is_refused(make: Callable[..., PluginCandidate]) -> None:
    with pytest.warns(PluginWarning, match="registered twice"):
        load(make("foo", register_backbones=registering(row("same"), row("same"))))


def test_strict_raises(make: Callable[..., PluginCandidate]) -> None:
    point = importlib.metadata.EntryPoint("foo", "zoo_no_such_module", "zoo.plugins")
    with pytest.raises(ModuleNotFoundError):
        load(PluginCandidate("foo", "backbone-zoo-foo", "0.3", point), ZOO_STRICT_PLUGINS="1")


def test_disabled_plugins_are_left_out_and_shown(make: Callable[..., PluginCandidate]) -> None:
    point = importlib.metadata.EntryPoint("foo", "zoo_no_such_module", "zoo.plugins")
    plugins = load(PluginCandidate("foo", "backbone-zoo-foo", "0.3", point), ZOO_DISABLE_PLUGINS="foo,timm")
    assert only(plugins, "foo").status == "disabled"
    assert "timm/resnet18" not in plugins.backbones
    assert "torchvision/resnet18" in plugins.backbones


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown backbone `inceptionv3`") as error:
        Plugins().backbones.find("inceptionv3")
    assert error.value.hint is not None and "`inception_v3`" in error.value.hint
    assert error.value.exit_code == 2
