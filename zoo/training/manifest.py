"""Manifests: the content of `run.json` and `splits.json` before the first step."""

from __future__ import annotations

import hashlib
import sys
import uuid
from pathlib import Path
from typing import Any

import torch

from zoo.backbone import Network, published_file
from zoo.data.opening import found_text
from zoo.dataset import Images
from zoo.experiment import Experiment
from zoo.networks.building import count_parameters
from zoo.runs.run import now
from zoo.storage.files import SCHEMA
from zoo.system.environment import machine, versions
from zoo.training.optimizer import trained_by
from zoo.training.preparation import Job
from zoo.training.seen_images import seen_to_json
from zoo.training.setup import PlannedPhases, Setup


def common_manifest(
    experiment: Experiment, setup: Setup, network: Network, planned: PlannedPhases, images: Images
) -> dict[str, Any]:
    """What `run.json` begins with, for a run of one network and for one of folds."""
    return {
        "schema": SCHEMA,
        "id": uuid.uuid4().hex,  # also in the run's checkpoints
        "status": "running",
        "lr": None if experiment.lr == "find" else experiment.lr,
        "created": now(),
        "command": command(),
        "experiment": experiment.to_json(),
        "backbone": setup.backbone.qualified,
        "strategy": str(setup.plan),
        "augment": setup.augment.to_json(),
        "loss": setup.loss.to_json(),
        "optimizer": setup.optimizer.to_json(),
        "schedule": {
            **setup.schedule.to_json(),
            "follows_validation": setup.schedule.entry.value.lowering is not None,
        },
        **({"callbacks": [one.to_json() for one in setup.callbacks]} if setup.callbacks else {}),
        "weights": weights_manifest(setup),
        "from": None if setup.parent is None else setup.parent.to_json(),
        "license": setup.backbone.value.license,
        "classes": list(images.classes),
        "preprocess": setup.preprocess.to_json(),
        "stages": [*network.anatomy.names, network.anatomy.head.name],
        "phases": phases_manifest(network, planned),
        "parameters": count_parameters(network.model),
        "device": device_manifest(setup),
        "versions": versions(),
        "machine": machine(),
        "data_name": images.name,
        **({"data_files": dict(images.files)} if images.files else {}),
    }


def initial_manifest(job: Job) -> dict[str, Any]:
    """The content of `run.json` before the first step: settings, decisions, data, weights, versions and machine."""
    return {
        **common_manifest(job.experiment, job.setup, job.network, job.phases, job.images),
        "from": _from_manifest(job),
        **(
            {
                "teachers": {
                    name: {**one.to_json(), **seen_to_json(job.seen, one.source)} for name, one in job.teachers.items()
                }
            }
            if job.teachers
            else {}
        ),
        **({} if job.kept is None else {"kept_features": job.kept.to_json()}),
        "start_sha256": job.start_digest,
        "data": {name: {"images": len(part.samples), "sha256": part.digest} for name, part in job.decoded.items()},
        "reported_split": job.roles.reported or (job.earlier.reported_split if job.earlier else "val"),
        "final": job.earlier.to_json() if job.earlier else None,
        "chosen_on": ("val" if job.images.may_choose else "carved from train") if job.roles.choose else None,
        "notes": [found_text(job.images), *job.images.notes, *job.roles.notes, *job.phases.notes],
        "bad_images": [{"path": file.id, "reason": file.reason} for file in job.bad],
        "exclude": job.selection.exclusion,
        "dropped": list(job.selection.dropped),
        "leaks": [leak.to_json() for leak in job.leaks],
        "shared_groups": [group.to_json() for group in job.shared_groups],
        "doubtful_images": [
            {"path": file.id, "reason": file.reason} for part in job.decoded.values() for file in part.doubtful
        ],
    }


def _from_manifest(job: Job) -> dict[str, Any] | None:
    """What `run.json` says of the run that a run goes on from. None: it goes on from none."""
    if job.inheritance is None:
        return None
    return {**job.inheritance.to_json(), **seen_to_json(job.seen, job.inheritance.parent)}


def command() -> list[str] | None:
    """The command that was typed, where it was one of zoo's."""
    return ["zoo", *sys.argv[1:]] if Path(sys.argv[0]).stem == "zoo" else None


def phases_manifest(network: Network, planned: PlannedPhases) -> list[dict[str, Any]]:
    """What `run.json` says of each phase."""
    sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    return [
        {
            "name": phase.name,
            "epochs": count,
            "norm": phase.norm,
            "trains": list(phase.trains),
            "solver": phase.solver,
            "lr": [phase.lr * group.lr for group in phase.groups],  # factors of the run's rate
            "ema": phase.ema,
            "mixup": phase.mixup,
            "cutmix": phase.cutmix,
            **{word: value for word in ("bss", "stochnorm") if (value := getattr(phase, word)) is not None},
            "pull": phase.pull,
            "feature_pull": phase.feature_pull,
            **(
                {}
                if phase.distill is None
                else {
                    "distill": phase.distill,
                    "distill_temperature": phase.distill_temperature,
                    "distill_weight": phase.distill_weight,
                }
            ),
            "trainable_parameters": sum(sizes[name] for name in trained_by(network, phase)),
        }
        for phase, count in zip(planned.phases, planned.epochs)
    ]


def weights_manifest(setup: Setup) -> dict[str, Any]:
    """What `run.json` says of the weights that training starts from."""
    if setup.parent is not None:
        license = (setup.parent.run.record.get("weights") or {}).get("license", "unknown")
        return {"tag": "run", "source": str(setup.parent.file), "sha256": setup.parent.sha256, "license": license}
    weights = setup.weights
    file = published_file(setup.backbone.value, weights) if weights else setup.weights_file
    return {
        "tag": weights.tag if weights else "file" if setup.weights_file else "none",
        "source": weights.source if weights else str(setup.weights_file or ""),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file else None,
        "license": weights.license if weights else "unknown" if setup.weights_file else "none",
    }


def device_manifest(setup: Setup) -> dict[str, Any]:
    """What `run.json` says of the device."""
    return {
        "name": str(setup.device.place),
        "precision": setup.device.precision,
        "reason": setup.device.reason,
        "threads": torch.get_num_threads(),
    }


def splits_manifest(job: Job) -> dict[str, Any]:
    """The content of `splits.json`: the images of each role, and the SHA-256 of their contents."""
    return {
        "schema": SCHEMA,
        "roles": {name: [sample.id for sample in part.samples] for name, part in job.decoded.items()},
        "sha256": {name: list(part.contents) for name, part in job.decoded.items()},
    }
