"""Views: test-time augmentation of an exported file, and the run that such a file is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.errors import UsageError, ZooError
from zoo.preprocess import Preprocess, pixels_text
from zoo.runs.run import Run

if TYPE_CHECKING:
    from zoo.backbone import Network
    from zoo.dataset import Sample
    from zoo.plugin import Plugins
    from zoo.predictions import Predictions
    from zoo.progress import Progress

Views = Literal["flip", "five-crop", "ten-crop"]
KEY = "tta"  # of an exported file's metadata

_TOLD: dict[str, tuple[str, str]] = {
    "flip": ("each image and its mirror image", "twice"),
    "five-crop": ("the four corners and the centre of each image", "five times"),
    "ten-crop": ("the four corners and the centre of each image, and these mirrored", "ten times"),
}
_SECTION = (
    "\n\n## Test-time augmentation\n\nThe file classifies {}, and gives the mean of their probabilities. It takes "
    "about {} as long as without. {}"
)
_OVER_ALL = "The figures above are those of all of them together."


class RunOverFlip(Run):
    """A run whose network gives the mean of the probabilities of each image and of its mirror image."""

    def load_network(self, plugins: Plugins | None = None) -> Network:
        """The network over both views, on the CPU, in eval mode; it raises as that of a run."""
        from zoo.networks.mean_network import FlippedViews

        network = super().load_network(plugins)
        return replace(network, model=FlippedViews(network.model).eval())


class RunOverFiveCrops(Run):
    """A run whose network gives the mean of the probabilities of five crops of each resized image."""

    mirrored = False

    @property
    def preprocess(self) -> Preprocess:
        """That of the run, but the centre crop is as large as what the image is resized to."""
        own = super().preprocess
        return replace(own, crop=own.resize)

    def load_network(self, plugins: Plugins | None = None) -> Network:
        """The network over all crops, on the CPU, in eval mode; it raises as that of a run."""
        from zoo.networks.mean_network import CroppedViews

        network, own = super().load_network(plugins), super().preprocess
        model = CroppedViews(network.model, own.resize_size, own.input_size, mirrored=self.mirrored)
        return replace(network, model=model.eval())


class RunOverTenCrops(RunOverFiveCrops):
    """A run whose network gives the mean of the probabilities of five crops of each image, and of their mirrors."""

    mirrored = True


_RUNS: dict[str, type[Run]] = {"flip": RunOverFlip, "five-crop": RunOverFiveCrops, "ten-crop": RunOverTenCrops}


def over_views(run: Run, views: str | None) -> Run:
    """The run as it classifies with test-time augmentation; itself without.

    Raises:
        UsageError: there are no such views, or the run has a score of unknown images, which is one view's; or crops are
            asked for and images are not resized to more than the network takes.
    """
    if views is None:
        return run
    if views not in get_args(Views):
        raise UsageError(f"unknown test-time augmentation `{views}`", hint=f"known is {' '.join(get_args(Views))}")
    if run.record.get("unknown"):
        raise UsageError(
            f"run `{run.path}` has a threshold for unknown images, which was set on single views, so its file can have "
            f"no `--tta {views}`",
            hint="leave `--tta` out, or train without `--unknown-rate`",
        )
    own = run.preprocess
    if views != "flip" and own.resize == own.crop:
        raise UsageError(
            f"run `{run.path}` resizes images to the {pixels_text(own.crop)} that its network takes, which leaves no "
            f"room for `--tta {views}`",
            hint="pass `--tta flip`" if own.fit == "shorter" else "pass `--tta flip`, or train with `--fit crop`",
        )
    return _RUNS[views](run.path, run.record)


def views_metadata(
    metadata: Mapping[str, Any], views: str, run: Run, table: Predictions | None, plugins: Plugins
) -> dict[str, Any]:
    """Metadata of a file over views: its own figures, and what it does.

    Args:
        metadata: That of a file over single views.
        views: What the file averages.
        run: The run that it is of, over single views.
        table: Predictions of the run over views. None: it has no held-out images.
        plugins: Loaded plugins.
    """
    from zoo.evaluation.evaluation import defined_metrics
    from zoo.evaluation.statistics import accuracy_interval
    from zoo.exporting.model_card import card_of_file

    text, whose = metadata["card"], "The figures above are those of single views."
    figures: dict[str, Any] = {"metrics": {}, "accuracy_interval_95": None}
    if table is not None:
        metrics, undefined = defined_metrics(table, plugins)
        figures = {"metrics": metrics, "accuracy_interval_95": list(accuracy_interval(table))}
        text, whose = card_of_file(run, table, {**figures, "undefined": undefined}), _OVER_ALL
    section = _SECTION.format(*_TOLD[views], whose)
    return {**metadata, **figures, KEY: views, "card": f"{text.rstrip()}{section}"}


def views_of(recorded: Mapping[str, Any]) -> str | None:
    """The views of a file, from what it records about itself; None: it has none."""
    metadata = recorded.get("metadata")
    found = None
    if isinstance(metadata, dict):
        found = metadata.get(KEY, metadata.get(f"zoo.{KEY}"))
    return None if found is None else str(found)


def predictions_over_views(
    run: Run, samples: Sequence[Sample], split: str, plugins: Plugins, progress: Progress
) -> Predictions:
    """Predictions of a run over views on the images that the run was scored on.

    Raises:
        ZooError: one cannot be decoded.
    """
    from zoo.data.decoding import default_workers
    from zoo.evaluation.scoring import score

    predictor = run.predictor("cpu", plugins)
    table, bad = score(predictor, samples, split, workers=default_workers(), advance=progress.advance)
    if bad:
        raise ZooError(f"`{bad[0].id}` cannot be decoded: {bad[0].reason}", hint="pass the run's own photographs")
    return table
