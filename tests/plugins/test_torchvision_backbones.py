"""torchvision's networks: every one is listed, cut, built and loaded as the contract says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision.models
from messages import refused
from torch import nn
from torchvision.models import get_model_weights, list_models
from torchvision.ops import StochasticDepth

from zoo.backbone import Backbone, BuildSpec, Network, Weights, is_at_hand
from zoo.errors import UsageError, ZooError
from zoo.networks.building import build_network
from zoo.preprocess import Preprocess
from zoo.stage import check_anatomy
from zoo_torchvision.build import build
from zoo_torchvision.catalogue import catalogue_rows
from zoo_torchvision.download import fetch_state

NAMES = list_models(module=torchvision.models)

# RegNet computes its widths with tensors, which `meta` cannot; these take gigabytes for real
HUGE = ("regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "regnet_y_16gf", "regnet_x_16gf")

# Of a family that is cut by the same patterns, what lies between its smallest and its largest
BETWEEN = (
    "convnext_small", "convnext_base", "densenet161", "densenet169", "efficientnet_b1", "efficientnet_b2",
    "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_v2_m", "mnasnet0_75",
    "mnasnet1_0", "regnet_x_800mf", "regnet_x_3_2gf", "regnet_x_8gf", "regnet_y_800mf", "regnet_y_3_2gf",
    "regnet_y_8gf", "resnet34", "resnet50", "resnet101", "resnext101_32x8d", "resnext101_64x4d",
    "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "swin_s", "swin_v2_s", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16",
    "vgg16_bn", "vgg19", "vit_b_16", "vit_l_32", "vit_l_16", "wide_resnet101_2",
)  # fmt: skip
CUT = [
    pytest.param(name, id=name, marks=pytest.mark.slow if name in BETWEEN else ()) for name in NAMES if name not in HUGE
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests' shared cache, for fixtures of the module too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.getbasetemp() / "zoo-cache"))
        catalogue_rows()
        yield


@pytest.fixture(scope="module")
def rows() -> dict[str, Backbone]:
    return {row.name: row for row in catalogue_rows()}


def on_meta(name: str, **settings: object) -> Network:
    device = "cpu" if name.startswith("regnet") else "meta"
    with torch.device(device):
        return build(BuildSpec(backbone=name, classes=7, **settings))  # type: ignore[arg-type]


def test_every_network_and_every_set_of_weights_is_listed(rows: dict[str, Backbone]) -> None:
    assert list(rows) == NAMES
    for name, row in rows.items():
        published = get_model_weights(name)
        assert row.weights[0].tag == published.DEFAULT.name
        assert {weights.tag for weights in row.weights} == {entry.name for entry in published}
        for weights in row.weights:
            entry = published[weights.tag]
            transforms = entry.transforms()
            assert (weights.preprocess.resize, weights.preprocess.crop) == (
                transforms.resize_size[0],
                transforms.crop_size[0],
            )
            assert weights.source == entry.url and weights.file in entry.url


def test_rows_say_what_torchvision_says(rows: dict[str, Backbone]) -> None:
    resnet = rows["resnet50"]
    assert resnet.weights[0].tag == "IMAGENET1K_V2" and resnet.weights[0].top1 == 0.80858
    assert (resnet.parameters, resnet.gflops) == (25_557_032, 4.089)
    assert resnet.summary == "ResNet-50 from Deep Residual Learning for Image Recognition"
    swag = rows["vit_b_16"].find_weights("IMAGENET1K_SWAG_E2E_V1")
    assert swag is not None and swag.license == "CC-BY-NC-4.0" and swag.preprocess.crop == 384
    features = rows["vgg16"].find_weights("IMAGENET1K_FEATURES")
    assert features is not None and features.top1 is None


def test_the_catalogue_imports_no_torch() -> None:
    script = (
        "import sys, zoo_torchvision\n"
        "rows = []\n"
        "zoo_torchvision.register_backbones(rows.append)\n"
        "assert len(rows) >= 80\n"
        "from zoo.backbone import is_at_hand\n"
        "is_at_hand(rows[0], rows[0].weights[0])\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", CUT)
def test_stages_and_head_cover_every_parameter_once(name: str) -> None:
    network = on_meta(name)
    parameters = dict(network.model.named_parameters())
    check_anatomy(network.anatomy, list(parameters))
    assert len(network.anatomy.stages) >= 4
    assert network.anatomy.names[0] == "stem"
    assert not any(set(stage) & set(" ,:+=") for stage in network.anatomy.names)
    # the head is the layer as wide as the classes, and nothing else
    assert 1 <= len(network.anatomy.head.parameters) <= 2
    assert all(parameters[parameter].shape[0] == 7 for parameter in network.anatomy.head.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_huge_networks_are_cut_too(name: str) -> None:
    network = on_meta(name)
    check_anatomy(network.anatomy, [parameter for parameter, _ in network.model.named_parameters()])


def test_stage_names() -> None:
    assert on_meta("resnet18").anatomy.names == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert len(on_meta("vit_b_16").anatomy.names) == 13
    assert on_meta("densenet121").anatomy.stages[-1].parameters[-2:] == (
        "features.norm5.weight",
        "features.norm5.bias",
    )
    assert "classifier.3.weight" in on_meta("vgg16").anatomy.stages[-1].parameters


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "squeezenet1_1", "vit_b_32", "swin_t", "alexnet"])
def test_one_tensor_in_train_and_eval(name: str, rows: dict[str, Backbone]) -> None:
    model = on_meta(name).model
    images = torch.empty(2, 3, *rows[name].preprocess.input_size, device="meta")
    with torch.no_grad():
        for training in (True, False):
            assert model.train(training)(images).shape == (2, 7)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_auxiliary_heads_and_input_transform_change_no_prediction(
    name: str, rows: dict[str, Backbone], tmp_path: Path
) -> None:
    """torchvision's own network, as it is with its weights, against ours with our preprocess."""
    theirs = getattr(torchvision.models, name)(init_weights=False, transform_input=True).eval()
    for module in theirs.modules():  # trained statistics are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build_network(rows[name], classes=1000, weights_file=tmp_path / "weights.pth").model.eval()
    pixels = torch.rand(2, 3, 96, 96)
    transforms = get_model_weights(name).DEFAULT.transforms()

    def normalise(mean: list[float], std: list[float]) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    preprocess = rows[name].preprocess
    with torch.no_grad():
        expected = theirs(normalise(transforms.mean, transforms.std))
        found = ours(normalise(list(preprocess.mean), list(preprocess.std)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3, "the comparison sees something"


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v3_small", "vit_b_32", "convnext_tiny", "googlenet"])
def test_dropout_stands_before_the_head(name: str) -> None:
    torch.manual_seed(0)
    network = on_meta(name, dropout=0.9)
    plain = on_meta(name)
    assert network.anatomy == plain.anatomy, "parameters keep their names"
    rates = {module.p for module in network.model.modules() if isinstance(module, nn.Dropout)} | {
        module.dropout for module in network.model.modules() if isinstance(getattr(module, "dropout", None), float)
    }
    assert 0.9 in rates


def test_dropout_drops_in_training_only() -> None:
    model = build(BuildSpec(backbone="resnet18", classes=7, dropout=0.5)).model
    features = torch.ones(64, 512)
    dropped = model.train().get_submodule("fc")(features)
    assert dropped.std(dim=0).min() > 0
    assert model.eval().get_submodule("fc")(features).std(dim=0).max() < 1e-5


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "maxvit_t", "efficientnet_b0"])
def test_drop_path_scales_the_ramp(name: str) -> None:
    def ramp(drop_path: float | None) -> list[float]:
        layers = on_meta(name, drop_path=drop_path).model.modules()
        return [layer.p for layer in layers if isinstance(layer, StochasticDepth)]

    own, half, none = ramp(None), ramp(0.05), ramp(0.0)
    assert sum(own) > 0 and sum(none) == 0
    assert half == sorted(half) and max(half) == pytest.approx(0.05, rel=0.07)


def test_efficientnet_takes_drop_path_as_torchvision_does() -> None:
    theirs = torchvision.models.efficientnet_b0(stochastic_depth_prob=0.4)
    expected = [layer.p for layer in theirs.modules() if isinstance(layer, StochasticDepth)]
    found = [layer.p for layer in on_meta("efficientnet_b0", drop_path=0.4).model.modules() if hasattr(layer, "mode")]
    assert found == pytest.approx(expected)


def test_unsupported_settings_are_refused() -> None:
    with refused(UsageError, "`resnet18`", "`--drop-path 0.1`"):
        on_meta("resnet18", drop_path=0.1)
    on_meta("resnet18", drop_path=0.0)
    with refused(UsageError, "`vit_b_16`", "16 pixels", "230") as error:
        on_meta("vit_b_16", image_size=230)
    assert "224 or 240" in str(error.value.hint)
    with refused(UsageError, "`maxvit_t`", "230 pixels"):
        on_meta("maxvit_t", image_size=230)


def test_an_image_size_too_small_is_refused(rows: dict[str, Backbone]) -> None:
    with refused(UsageError, "`squeezenet1_1`", "8 pixels"):
        build_network(rows["squeezenet1_1"], classes=7, image_size=8)


def published(folder: Path, model: nn.Module, stem: str) -> Weights:
    """Weights as torchvision publishes them, behind a `file:` address: the hash stands in the name."""
    file = folder / "weights.pth"
    torch.save(model.state_dict(), file)
    name = f"{stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(folder / name)

    return Weights(
        tag="TEST", preprocess=Preprocess(), source=(folder / name).as_uri(), file=name, at_hand="os.path:exists"
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_download_into_torch_hub(tmp_path: Path, hub: Path, rows: dict[str, Backbone]) -> None:
    theirs = torchvision.models.squeezenet1_1()
    weights = published(tmp_path, theirs, "squeezenet1_1")
    for _ in range(2):
        network = build_network(rows["squeezenet1_1"], classes=1000, weights=weights)
        assert [path.name for path in hub.iterdir()] == [weights.file]
        (tmp_path / weights.file).unlink(missing_ok=True)  # the second time it is at hand
    own, state = network.model.state_dict(), theirs.state_dict()
    for name, value in state.items():
        same = torch.equal(own[name], value)
        assert same != (name in network.anatomy.head.parameters and name.endswith("weight")), name
    row = rows["squeezenet1_1"]
    assert not is_at_hand(row, row.weights[0])
    (hub / row.weights[0].file).write_bytes(b"")
    assert is_at_hand(row, row.weights[0])


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, hub: Path, rows: dict[str, Backbone]) -> None:
    weights = published(tmp_path, nn.Linear(1, 1), "squeezenet1_1")
    (tmp_path / weights.file).unlink()
    with refused(ZooError, "`TEST`", "`squeezenet1_1`", "downloaded", "No such file") as error:
        build_network(rows["squeezenet1_1"], classes=7, weights=weights)
    assert str(hub / weights.file) in str(error.value) and "--weights FILE" in str(error.value)
    assert not list(hub.iterdir()), "nothing half-downloaded is left"


def test_a_download_with_a_wrong_hash_is_not_kept(tmp_path: Path, hub: Path, rows: dict[str, Backbone]) -> None:
    weights = published(tmp_path, nn.Linear(1, 1), "squeezenet1_1")
    (tmp_path / weights.file).write_bytes(b"tampered")
    with refused(ZooError, "`squeezenet1_1`", "invalid hash"):
        build_network(rows["squeezenet1_1"], classes=7, weights=weights)
    assert not list(hub.iterdir())


def test_a_damaged_file_at_hand_is_named(hub: Path, rows: dict[str, Backbone]) -> None:
    row = rows["squeezenet1_1"]
    hub.mkdir(parents=True)
    (hub / row.weights[0].file).write_bytes(b"half a file")
    with refused(ZooError, "squeezenet1_1-b8a52dc0.pth`", "weights", "`squeezenet1_1`") as error:
        build_network(row, classes=7, weights=row.weights[0])
    assert str(hub / row.weights[0].file) in str(error.value) and "delete it" in str(error.value)


def test_a_vit_file_fits_another_image_size() -> None:
    translate = on_meta("vit_b_32", image_size=96).translate
    assert translate is not None
    published = {"encoder.pos_embedding": torch.rand(1, 50, 768)}  # 7 x 7 patches and the class token
    found = translate(published)["encoder.pos_embedding"]
    assert found.shape == (1, 10, 768) and torch.equal(found[:, 0], published["encoder.pos_embedding"][:, 0])
    assert published["encoder.pos_embedding"].shape == (1, 50, 768), "the caller's tensors stay as they were"


def test_old_densenet_names_are_translated() -> None:
    network = on_meta("densenet121")
    assert network.translate is not None
    names = list(network.model.state_dict())
    old = {}
    for name in names:
        for kind in ("norm", "conv"):
            for number in "12":
                name = name.replace(f".{kind}{number}.", f".{kind}.{number}.") if "denselayer" in name else name
        old[name] = torch.zeros(())
    assert any(".norm.1." in name for name in old)
    renamed = network.translate(old)
    missing = [name for name in names if name not in renamed]
    assert all(name.endswith("num_batches_tracked") for name in missing), "which the old files do not have"


def test_a_download_prints_nothing_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(1)}, published)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()[:8]
    published = published.rename(tmp_path / f"net-{digest}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    weights = Weights(tag="T", source=published.as_uri(), file=published.name, license="none", preprocess=Preprocess())
    assert list(fetch_state("net", weights)) == ["a"]
    captured = capsys.readouterr()
    assert captured.out == "" and "Downloading" in captured.err
