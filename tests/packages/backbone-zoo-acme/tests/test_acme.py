"""Contract tests of zoo, applied to this plugin."""

from zoo.testing import (
    check_augmentation,
    check_backbone,
    check_callback,
    check_export,
    check_loss,
    check_optimizer,
    check_schedule,
    check_strategy,
)


def test_the_backbone():
    check_backbone("acmenet", image_size=32)


def test_the_strategy():
    network = check_strategy("edges:2+full", "acmenet", image_size=32)
    check_export(network, image_size=32)


def test_the_augmentation():
    check_augmentation("grey:0.3")


def test_the_loss():
    check_loss("distance:3")


def test_the_optimizer():
    check_optimizer("signs:0.8")


def test_the_schedule():
    check_schedule("falling:3")


def test_the_callback(tmp_path):
    check_callback(f"diary:{tmp_path / 'runs.csv'}")
