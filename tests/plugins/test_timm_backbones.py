"""timm's networks: every one is listed, cut, built and loaded as the contract says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from messages import refused
from safetensors.torch import save_file
from timm.data import create_transform
from timm.layers import DropPath
from torch import nn

from zoo.backbone import Backbone, BuildSpec, Network, is_at_hand
from zoo.errors import UsageError, ZooError
from zoo.networks.building import build_network
from zoo.stage import check_anatomy
from zoo_timm.build import build
from zoo_timm.catalogue import catalogue_rows
from zoo_torchvision.build import build as build_torchvision

# One small network of nearly every file of timm
REPRESENTATIVES = (  # noqa: SIM905 - a hundred lines of a list read no better
    "beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny coatnet_nano_rw_224 "
    "convformer_s18 convit_tiny convmixer_768_32 convnext_atto convnextv2_atto crossvit_9_240 cs3darknet_s csatv2 "
    "cspresnet50 cspnext_s darknet17 davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 "
    "densenet121 dla34 dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 "
    "efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_dw eva02_tiny_patch14_224 fasternet_t0 "
    "fastvit_t8 fbnetv3_b focalnet_tiny_srf gcvit_xxtiny ghostnet_050 gmixer_12_224 hardcorenas_a hgnetv2_b0 "
    "hiera_tiny_224 hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnet_035 "
    "legacy_senet154 legacy_xception levit_128s mambaout_femto maxvit_tiny_rw_224 mixer_s32_224 mixnet_s "
    "mnasnet_small mobilenet_edgetpu_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small "
    "mobilenetv5_base mobileone_s0 mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny "
    "nextvit_small nf_regnet_b0 nfnet_l0 pit_ti_224 pit_ti_distilled_224 pnasnet5large poolformer_s12 pvt_v2_b0 "
    "rdnet_tiny regnety_002 repghostnet_050 repvgg_a0 repvit_m1 res2net50_14w_8s resmlp_12_224 resnest14d "
    "resnet18 resnetv2_18 rexnet_100 samvit_base_patch16_224 selecsls42 sequencer2d_s shvit_s1 skresnet18 "
    "starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 test_vit "
    "tf_efficientnet_lite0 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_svt_small vgg11_bn "
    "visformer_tiny vit_relpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 volo_d1_224 "
    "xception41 xcit_nano_12_p16_224"
).split()


# Of these, where cutting takes another way (no matcher, no coarse one, two classifiers, a classifier in a block of its
# own), and the families that people reach for; the others are cut as they are, and change with timm's version only
CUT_ON_EVERY_PUSH = (  # noqa: SIM905
    "beit_base_patch16_224 caformer_s18 cait_xxs24_224 coatnet_nano_rw_224 convformer_s18 convnext_atto crossvit_9_240 "
    "csatv2 deit_tiny_distilled_patch16_224 densenet121 edgenext_xx_small efficientformer_l1 efficientformerv2_s0 "
    "efficientnet_b0 efficientvit_b0 eva02_tiny_patch14_224 focalnet_tiny_srf ghostnet_050 hgnetv2_b0 hrnet_w18_small "
    "inception_v3 legacy_xception levit_128s mambaout_femto maxvit_tiny_rw_224 mixer_s32_224 mobilenetv2_035 "
    "mobilenetv3_small_050 mobilenetv4_conv_small mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap nfnet_l0 "
    "pit_ti_224 pit_ti_distilled_224 poolformer_s12 pvt_v2_b0 rdnet_tiny regnety_002 repvgg_a0 repvit_m1 resmlp_12_224 "
    "resnet18 resnetv2_18 swiftformer_xs swin_tiny_patch4_window7_224 test_vit tf_efficientnet_lite0 tiny_vit_5m_224 "
    "vgg11_bn vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 volo_d1_224 xception41 xcit_nano_12_p16_224"
).split()
CUT = [
    pytest.param(name, id=name, marks=() if name in CUT_ON_EVERY_PUSH else pytest.mark.slow) for name in REPRESENTATIVES
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
    with torch.device("meta"):
        return build(BuildSpec(backbone=name, classes=7, **settings))  # type: ignore[arg-type]


def check_cut(name: str) -> None:
    network = on_meta(name)
    parameters = dict(network.model.named_parameters())
    check_anatomy(network.anatomy, list(parameters))
    assert len(network.anatomy.stages) >= 3
    assert network.anatomy.names[0] == "stem"
    assert not any(set(stage) & set(" ,:+=") for stage in network.anatomy.names)
    assert all(parameters[parameter].shape[0] == 7 for parameter in network.anatomy.head.parameters)


def test_every_network_and_every_set_of_weights_is_listed(rows: dict[str, Backbone]) -> None:
    assert list(rows) == timm.list_models()
    listed = {f"{row.name}.{weights.tag}" for row in rows.values() for weights in row.weights}
    assert listed == set(timm.list_pretrained())
    for name, row in rows.items():
        default = timm.models.get_pretrained_cfg(name)
        if default.has_weights:
            assert row.weights[0].tag == default.tag, f"timm's default of {name} comes first"


@pytest.mark.parametrize(
    "full",
    [
        "resnet18.a1_in1k",
        "vit_small_patch16_224.augreg_in1k",
        "efficientnet_b0.ra_in1k",
        "beit3_base_patch16_224.in22k_ft_in1k",
    ],
)
def test_preprocess_is_what_timm_does(full: str, rows: dict[str, Backbone]) -> None:
    name, _, tag = full.partition(".")
    weights = rows[name].find_weights(tag)
    assert weights is not None
    config = timm.models.get_pretrained_cfg(full)
    transform = create_transform(
        config.input_size, crop_pct=config.crop_pct, crop_mode=config.crop_mode, interpolation=config.interpolation
    )
    size = transform.transforms[0].size
    assert weights.preprocess.resize == (size if isinstance(size, int) else size[0])
    assert weights.preprocess.fit == ("shorter" if isinstance(size, int) else "squash")
    assert weights.preprocess.interpolation == config.interpolation
    assert weights.preprocess.crop == config.input_size[-1]
    assert weights.source == f"https://huggingface.co/timm/{full}"


def test_the_catalogue_imports_no_torch() -> None:
    script = (
        "import sys, zoo_timm\n"
        "rows = []\n"
        "zoo_timm.register_backbones(rows.append)\n"
        "assert len(rows) > 1000\n"
        "from zoo.backbone import is_at_hand\n"
        "[is_at_hand(row, row.weights[0]) for row in rows if row.weights]\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_cut_on_every_push_is_listed() -> None:
    assert set(CUT_ON_EVERY_PUSH) <= set(REPRESENTATIVES)


@pytest.mark.parametrize("name", CUT)
def test_stages_and_head_cover_every_parameter_once(name: str) -> None:
    check_cut(name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_timm_is_cut() -> None:
    failed = {}
    for name in timm.list_models():
        if name.endswith("_enc"):  # encoders without a classifier, refused by name
            continue
        try:
            check_cut(name)
        except Exception as error:
            failed[name] = repr(error)
    assert not failed


def test_stage_names() -> None:
    assert on_meta("resnet18").anatomy.names == ("stem", "layer1", "layer2", "layer3", "layer4")
    lite = on_meta("tf_efficientnet_lite0").anatomy
    assert lite.names == ("stem", *(f"blocks.{number}" for number in range(7)))
    assert "conv_head.weight" in lite.stages[-1].parameters
    distilled = on_meta("deit_tiny_distilled_patch16_224").anatomy
    assert set(distilled.head.parameters) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.mark.parametrize(
    ("torchvision_name", "timm_name"),
    [
        ("resnet18", "resnet18"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("vgg16", "vgg16"),
        ("vgg11_bn", "vgg11_bn"),
        ("densenet121", "densenet121"),
        ("inception_v3", "inception_v3"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("efficientnet_v2_s", "tf_efficientnetv2_s"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("mnasnet1_0", "mnasnet_100"),
        ("convnext_tiny", "convnext_tiny"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("vit_b_16", "vit_base_patch16_224"),
    ],
)
def test_a_network_that_both_libraries_have_is_cut_alike(torchvision_name: str, timm_name: str) -> None:
    """As many stages, with as many parameters each."""

    def sizes(network: Network) -> list[int]:
        parameters = dict(network.model.named_parameters())
        parts = (*network.anatomy.stages, network.anatomy.head)
        return [sum(parameters[name].numel() for name in part.parameters) for part in parts]

    with torch.device("meta"):
        theirs = build_torchvision(BuildSpec(backbone=torchvision_name, classes=7))
    assert sizes(theirs) == sizes(on_meta(timm_name))


@pytest.mark.parametrize(
    "name",
    ["inception_v3", "deit_tiny_distilled_patch16_224", "naflexvit_base_patch16_gap", "levit_128s", "crossvit_9_240"],
)
def test_one_tensor_in_train_and_eval(name: str, rows: dict[str, Backbone]) -> None:
    model = on_meta(name).model
    size = rows[name].preprocess.input_size
    with torch.no_grad():
        for training in (True, False):
            assert model.train(training)(torch.empty(2, 3, *size, device="meta")).shape == (2, 7)


def test_settings_reach_the_network() -> None:
    model = on_meta("convnext_atto", dropout=0.25, drop_path=0.3).model
    assert any(isinstance(module, nn.Dropout) and module.p == 0.25 for module in model.modules())
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.3)
    vit = on_meta("vit_tiny_patch16_224", image_size=96).model
    assert vit.state_dict()["pos_embed"].shape[1] == 37


def test_unsupported_settings_are_refused() -> None:
    with refused(UsageError, "`vgg11`", "drop path 0.1"):
        on_meta("vgg11", drop_path=0.1)
    on_meta("vgg11", drop_path=0.0)
    with refused(UsageError, "`gemma4_vit_167m_enc`", "classifier", "`gemma4_vit_167m`"):
        on_meta("gemma4_vit_167m_enc")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to reach it."""

    def unknown(*_: object) -> None:
        raise OSError("Name or service not known")

    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return tmp_path / "hub"


def test_unavailable_weights_are_an_error(hub: Path, rows: dict[str, Backbone]) -> None:
    row = rows["resnet18"]
    with refused(ZooError, "`a1_in1k`", "`resnet18`", "https://huggingface.co/timm/resnet18.a1_in1k") as error:
        build_network(row, classes=7, weights=row.weights[0])
    told = str(error.value)
    assert "resnet18.a1_in1k/resolve/main/model.safetensors" in told and "--weights FILE" in told and str(hub) in told


@pytest.mark.parametrize("classes", [7, 1000])
def test_weights_at_hand_need_no_network(hub: Path, rows: dict[str, Backbone], classes: int) -> None:
    row = rows["test_resnet"]
    weights = row.weights[0]
    assert not is_at_hand(row, weights)
    torch.manual_seed(1)
    published = timm.create_model("test_resnet").state_dict()
    snapshot = hub / f"models--timm--test_resnet.{weights.tag}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(published, snapshot / "model.safetensors")
    assert is_at_hand(row, weights)
    network = build_network(row, classes=classes, weights=weights)
    own = network.model.state_dict()
    head = set(network.anatomy.head.parameters)
    assert all(torch.equal(own[name], value) for name, value in published.items() if name not in head)
    assert not torch.equal(own["fc.weight"], published["fc.weight"]), "the head is fresh, however many classes"


def test_a_damaged_file_at_hand_is_named(hub: Path, rows: dict[str, Backbone]) -> None:
    row = rows["test_resnet"]
    file = hub / f"models--timm--test_resnet.{row.weights[0].tag}" / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a file")
    with refused(ZooError, "model.safetensors`", "`r160_in1k`", "`test_resnet`") as error:
        build_network(row, classes=7, weights=row.weights[0])
    assert str(file) in str(error.value)


def test_a_file_of_weights(tmp_path: Path, rows: dict[str, Backbone]) -> None:
    state = timm.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "vit.safetensors")
    own = build_network(rows["test_vit"], classes=7, weights_file=tmp_path / "vit.safetensors").model.state_dict()
    assert torch.equal(own["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
    assert own["head.weight"].shape[0] == 7


def test_published_accuracies_are_attributed(rows: dict[str, Backbone]) -> None:
    table = json.loads((Path(__file__).parents[2] / "plugins/zoo_timm/top1.json").read_text())
    assert set(table["top1"]) <= set(timm.list_pretrained()) and "results-imagenet.csv" in table["source"]
    for full, (accuracy, size) in table["top1"].items():
        name, _, tag = full.partition(".")
        weights = rows[name].find_weights(tag)
        assert weights is not None
        assert weights.top1 == (pytest.approx(accuracy / 100) if size == weights.preprocess.crop else None)
