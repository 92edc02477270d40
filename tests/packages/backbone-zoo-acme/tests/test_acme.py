"""Contract tests of zoo, applied to this plugin."""

from PIL import Image

from zoo.testing import (
    check_augmentation,
    check_backbone,
    check_callback,
    check_command,
    check_dataset,
    check_export,
    check_exporter,
    check_loss,
    check_metric,
    check_optimizer,
    check_runtime,
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


def test_the_dataset(tmp_path):
    for number in range(8):
        for label, colour in (("cat", "red"), ("dog", "blue")):
            Image.new("RGB", (32, 32), colour).save(tmp_path / f"{label}_{number}.png")
    check_dataset(f"named:{tmp_path}")


def test_the_metric():
    check_metric("brier")


def test_the_exporter():
    check_exporter("packed")


def test_the_runtime():
    check_runtime("packed-cpu")


def test_the_command():
    check_command("tally")
