"""Measures exported files: which networks can be exported, accuracy and latency of files, and errors of `zoo bench`.

    python benchmarks/deployment.py backbones
    python benchmarks/deployment.py pairs --pairs 100
    python benchmarks/deployment.py precisions whole --runs RUN...

backbones   export and verify seventy networks of all families, with batches of 1, 2 and 7
pairs       how often `zoo bench` reports a significant difference: for equal models, and for one a tenth slower
precisions  each run in fp32, fp16 and int8: labels, accuracy lost, and latency interleaved and alone, with torch
whole       throughput of the file from bytes to label, and of decoding, Pillow's resize and the network alone

Each part writes its results to `benchmarks/results/deployment.json`; `deployment.md` has all of them as tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from zoo.system.environment import machine, versions

ROOT = Path(__file__).resolve().parents[1]

# One or two networks of every family, at the smallest image size that uses all their parts; 0: the default size
BACKBONES = {
    **{f"torchvision/{name}": 64 for name in (
        "vgg11", "vgg16_bn", "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "googlenet", "densenet121",
        "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1", "efficientnet_b0",
        "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "swin_t", "swin_v2_t",
    )},
    "torchvision/alexnet": 0, "timm/inception_v4": 128,
    "torchvision/inception_v3": 128, "torchvision/vit_b_16": 64, "torchvision/maxvit_t": 0,
    "lite/efficientnet_lite0": 64, "lite/efficientnet_lite2": 64,
    **{f"timm/{name}": 64 for name in (
        "resnet26d", "seresnet18", "ecaresnet26t", "skresnet18", "resnetv2_50", "res2net50_26w_4s", "dpn48b",
        "dla34", "vovnet39a", "hrnet_w18_small", "cspresnet50", "darknet53", "xception41",
        "regnetx_002", "regnetz_b16", "mixnet_s", "ghostnet_100", "lcnet_050", "tinynet_e", "hardcorenas_a",
        "fbnetc_100", "tf_efficientnetv2_b0", "rexnet_100", "repvgg_a0", "mobileone_s0", "edgenext_xx_small",
        "convnextv2_atto", "nf_resnet26", "poolformer_s12", "mobilenetv4_conv_small",
    )},
    "timm/vit_tiny_patch16_224": 0, "timm/deit_tiny_patch16_224": 0, "timm/swin_tiny_patch4_window7_224": 0,
    "timm/mobilevit_xxs": 0, "timm/levit_128s": 0, "timm/maxvit_rmlp_pico_rw_256": 0, "timm/coatnet_nano_rw_224": 0,
    "timm/mixer_s32_224": 0, "timm/xcit_nano_12_p16_224": 0, "timm/cait_xxs24_224": 0, "timm/eva02_tiny_patch14_224": 0,
    "timm/gcvit_xxtiny": 0, "timm/efficientformer_l1": 0, "timm/fastvit_t8": 0, "timm/tiny_vit_5m_224": 0,
}  # fmt: skip

ONE = """
import json, sys, time, dataclasses
import torch
from pathlib import Path
from zoo.networks.building import build_network
from zoo.exporter import ExportSpec
from zoo.plugin import Plugins
from zoo_onnx.inspection import inspect
from zoo_onnx.verify import verify
from zoo_onnx.write import write
name, size, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
torch.manual_seed(0)
backbone = Plugins().backbones.find(name).value
network = build_network(backbone, classes=3, image_size=size or None)
preprocess = backbone.preprocess
if size:
    preprocess = dataclasses.replace(preprocess, resize=size, crop=size)
with torch.no_grad():
    for parameter in network.anatomy.head.parameters:
        torch.nn.init.normal_(network.model.get_parameter(parameter), 0, 0.05)
began = time.perf_counter()
write(ExportSpec(model=network.model.eval(), preprocess=preprocess, classes=("a", "b", "c"),
                 metadata={"backbone": name}, file=file))
seconds = time.perf_counter() - began
failed = [check.detail for check in verify(file, "cpu") if not check.passed]
said = inspect(file)["metadata"]["zoo.exporter"]
print(json.dumps({"seconds": round(seconds, 1), "failed": failed, **said}, allow_nan=False))
"""


def backbones(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export each network in a process of its own, `--jobs` at once; a failure is recorded with its reason."""
    rows: dict[str, Any] = dict(options.known)

    def one(name: str) -> None:
        file = folder / f"{name.replace('/', '-')}.onnx"
        command = [sys.executable, "-c", ONE, name, str(BACKBONES[name]), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        lines = [line for line in done.stderr.strip().splitlines() if "Error" in line]
        rows[name] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"refused": lines[-1:]}
        file.unlink(missing_ok=True)
        print(f"{len(rows):3d} {name} {json.dumps(rows[name], allow_nan=False)[:200]}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, [name for name in BACKBONES if name not in rows]))
    good = [name for name, row in rows.items() if row.get("failed") == []]
    return {"networks": len(rows), "passed": len(good), "rows": {name: rows[name] for name in BACKBONES}}


# A plugin with runtimes that use onnxruntime; with `slowed`, a call takes `LONGER` times its own time
SLOWED = """
import time
import zoo
from zoo_runtimes.onnxruntime import load_cpu

def load(work):
    session = load_cpu(work)
    prepare = session.prepare
    def slowed(batch):
        call = prepare(batch)
        def longer():
            began = time.perf_counter()
            found = call()
            until = began + (time.perf_counter() - began) * LONGER
            while time.perf_counter() < until:
                pass
            return found
        return longer
    session.prepare = slowed
    return session

@zoo.hookimpl
def register_runtimes(register):
    for name in ("first", "second"):
        register(zoo.Runtime(name=name, summary=name, accepts="onnx", devices=("cpu",), available=lambda device: None,
                             load="zoo_runtimes.onnxruntime:load_cpu"))
    register(zoo.Runtime(name="slowed", summary="slowed", accepts="onnx", devices=("cpu",),
                         available=lambda device: None, load="slowed:load"))
"""


def pairs(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """How often a pair differs significantly: two equal models, and a model with one that takes a tenth longer."""
    import importlib.metadata

    from zoo.latency.measurement import bench
    from zoo.plugin import Candidate, Plugins

    (folder / "slowed.py").write_text(SLOWED.replace("LONGER", "1.1"))
    sys.path.insert(0, str(folder))
    point = importlib.metadata.EntryPoint("slowed", "slowed", "zoo.plugins")
    from zoo_onnx import __name__ as exporter

    plugins = Plugins(
        [
            Candidate("slowed", "slowed", "1", point),
            Candidate("onnx", "backbone-zoo", "1", importlib.metadata.EntryPoint("onnx", exporter, "zoo.plugins")),
        ],
        environ={},
    )
    found: dict[str, Any] = {"seconds": options.seconds, "model": options.runs[0].name}
    for kind, names in (("same", ("first", "second")), ("a tenth longer", ("first", "slowed"))):
        told, ratios, floors = 0, [], []
        for number in range(options.pairs):
            report = bench(
                [options.runs[0]],
                runtimes=names,
                device="cpu",
                batch_sizes=(1,),
                seconds=options.seconds,
                plugins=plugins,
            )
            one, other = (outcome.measurements[0] for outcome in report.outcomes)
            told += one.told_apart or other.told_apart
            ratios.append(other.p50.value / one.p50.value)
            floors.append(report.noise_floor[1])
            print(
                f"{kind} {number + 1}: {told} significant, ratio {ratios[-1]:.3f}, floor {floors[-1]:.3f}", flush=True
            )
        found[kind] = {
            "pairs": options.pairs,
            "told_apart": told,
            "ratio": [round(float(value), 4) for value in np.percentile(ratios, (2.5, 50, 97.5))],
            "noise_floor": [round(float(value), 4) for value in np.percentile(floors, (50, 90, 97.5))],
        }
    return found


def precisions(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure each run in every precision: latency interleaved with torch, then each alone."""
    from zoo import Run, export
    from zoo.latency.measurement import bench

    found: dict[str, Any] = {}
    for path in options.runs:
        run = Run.open(path)
        rows: dict[str, Any] = {}
        files = []
        for precision in ("fp32", "fp16", "int8"):
            file = folder / f"{path.name}-{precision}.onnx"
            done = export(run, precision=precision, out=file, force=True)  # type: ignore[arg-type]
            files.append(file)
            rows[precision] = {**done.parity.summary(), "bytes": done.size}
            print(path.name, done.parity, flush=True)
        names = ["torch-eager", "onnxruntime-cpu"]
        together = bench([path, *files], runtimes=names, batch_sizes=(1, 32), seconds=options.seconds, device="cpu")
        for outcome in together.measured:
            key = f"{outcome.label} on {outcome.name}"
            alone = bench(
                [Path(outcome.target)],
                runtimes=[outcome.name],
                batch_sizes=(1, 32),
                seconds=options.seconds,
                device="cpu",
            )
            rows[key] = {
                str(one.batch_size): {
                    "p50_ms": [round(value * 1000, 2) for value in (one.p50.value, one.p50.low, one.p50.high)],
                    "alone_ms": round(lone.p50.value * 1000, 2),
                    "told_apart": one.told_apart,
                    "images_per_second": round(one.images_per_second.value, 1),
                }
                for one, lone in zip(outcome.measurements, alone.measured[0].measurements)
            }
            print(key, rows[key], flush=True)
        rows["noise_floor"] = together.noise_floor
        rows["others"] = together.others
        found[path.name] = rows
    return found


def whole(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the throughput of each run; see `bytes_to_label`."""
    found = {}
    for path in options.runs:
        found[path.name] = bytes_to_label(path, folder / f"{path.name}.onnx")
        print(path.name, json.dumps(found[path.name], indent=2, allow_nan=False), flush=True)
    return found


def bytes_to_label(path: Path, file: Path) -> dict[str, Any]:
    """Images per second of each step alone, and of the whole file."""
    import onnx

    from zoo import Plugins, Run, export
    from zoo.data.decoding import default_workers
    from zoo.data.image import decode, normalise, pixels
    from zoo.data.opening import choose_split, open_images
    from zoo.evaluation.scoring import score
    from zoo_onnx.session import open_file, open_session

    run = Run.open(path)
    export(run, out=file, force=True)
    ours = run.predictions()
    samples = choose_split(open_images(run.experiment.data, run.experiment.split_seed, Plugins()), ours.split)[1]
    predictor = open_file(file, "cpu")
    part = onnx.utils.Extractor(onnx.load(str(file))).extract_model(["pixels"], ["logits"])
    network = open_session(part.SerializeToString(), "cpu", file)
    photographs = [decode(sample.source) for sample in samples]
    seen = [pixels(one, run.preprocess) for one in photographs]
    inputs = normalise(np.stack(seen), run.preprocess)
    steps: dict[str, Callable[[], Any]] = {
        "decode": lambda: [decode(sample.source) for sample in samples],
        "resize": lambda: [normalise(pixels(one, run.preprocess)[None], run.preprocess) for one in photographs],
        "network": lambda: [network.run(["logits"], {"pixels": one[None]}) for one in inputs],
        "file, one by one": lambda: [predictor.logits([decode(sample.source)]) for sample in samples],
        "file, as `zoo evaluate` does": lambda: score(predictor, samples, ours.split, workers=default_workers()),
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(6):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            rates[name].append(len(samples) / (time.perf_counter() - began))
    row: dict[str, Any] = {name: round(median(values[1:]), 1) for name, values in rates.items()}
    parts = 1 / sum(1 / row[name] for name in ("decode", "resize", "network"))
    row["the parts one after the other"] = round(parts, 1)
    row["share, one by one"] = round(row["file, one by one"] / parts, 3)
    row["share, as `zoo evaluate` does"] = round(row["file, as `zoo evaluate` does"] / parts, 3)
    return row


def page(found: dict[str, Any]) -> str:
    """All results as Markdown; parts that were not run are left out."""
    text = ["# Deployment", "", "Made by `benchmarks/deployment.py` from `deployment.json`."]
    if "precisions" in found:
        text += [
            *title("Precisions", "precisions --runs RUN...", found["precisions"]),
            "Labels: photographs that the run was scored on and that the file, given their bytes, labels as the run "
            "did. Lost: accuracy lost, with its 95 % interval (Newcombe, paired).",
            "",
            "| run | precision | labels | accuracy | lost | MB |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        runs = {name: rows for name, rows in found["precisions"].items() if name not in ("machine", "versions")}
        for name, rows in runs.items():
            for precision in ("fp32", "fp16", "int8"):
                row = rows[precision]
                low, high = row["drop_interval_95"]
                text.append(
                    f"| {name} | {precision} | {row['agreeing']} of {row['images']} | {row['accuracy']:.4f} "
                    f"| {row['drop']:.4f} ({low:.3f} to {high:.3f}) | {row['bytes'] / 1e6:.1f} |"
                )
        text += [
            "",
            "Latency of the network alone, each subject in its own process, calls interleaved: p50 in ms with its 95 % "
            "interval (bootstrap), and p50 of the same subject measured alone.",
            "",
            "| subject | batch | p50, ms | alone, ms | interleaved / alone | images/s |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for rows in runs.values():
            for name, sizes in rows.items():
                for size, row in sizes.items() if " on " in name else ():
                    p50, low, high = row["p50_ms"]
                    text.append(
                        f"| {name} | {size} | {p50:.2f} ({low:.2f} to {high:.2f}) | {row['alone_ms']:.2f} "
                        f"| {p50 / row['alone_ms']:.2f} | {row['images_per_second']:.0f} |"
                    )
    if "whole" in found:
        text += [
            *title("Bytes to label", "whole --runs RUN...", found["whole"]),
            "Images per second, the median of five rounds, batches of one.",
            "",
            "| what | images/s or share |",
            "| --- | --- |",
        ]
        for name, rows in found["whole"].items():
            if name not in ("machine", "versions"):
                text += [f"| {what} | {value} |" for what, value in rows.items()]
    if "pairs" in found:
        text += [
            *title("Pairs in `zoo bench`", "pairs --pairs 100 --seconds 0.3 --runs FILE", found["pairs"]),
            "Second / first: ratio of p50, quantiles 2.5 %, 50 % and 97.5 % over the pairs. Noise floor: quantiles "
            "50 %, 90 % and 97.5 %.",
            "",
            "| second of the pair | significantly different | second / first | noise floor |",
            "| --- | --- | --- | --- |",
        ]
        for kind in ("same", "a tenth longer"):
            row = found["pairs"][kind]
            ratio, floor = (", ".join(f"{value:.3f}" for value in row[key]) for key in ("ratio", "noise_floor"))
            text.append(f"| {kind} | {row['told_apart']} of {row['pairs']} | {ratio} | {floor} |")
    if "backbones" in found:
        part = found["backbones"]
        text += [
            *title("Networks", "backbones", part),
            f"{part['passed']} of {part['networks']} networks were exported and verified, with batches of 1, 2 and 7; "
            "random weights, three classes. Difference: the largest from torch, relative to the largest logit.",
            "",
            "| network | exporter | difference | seconds | failed |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, row in part["rows"].items():
            if "refused" in row:
                text.append(f"| {name} | - | - | - | refused: {' '.join(row['refused'])} |")
            else:
                failed = "; ".join(row["failed"]) or "-"
                text.append(f"| {name} | {row['name']} | {row['difference']:.0e} | {row['seconds']:.0f} | {failed} |")
    return "\n".join(text) + "\n"


def title(name: str, command: str, part: dict[str, Any]) -> list[str]:
    """A heading, the command, the machine and the versions."""
    what = part["machine"]
    machine_ = f"{what['processor']}, {what['cores']} cores, {what['system']}"
    installed = ", ".join(f"{name} {part['versions'][name]}" for name in ("torch", "onnxruntime-gpu", "onnx"))
    return ["", f"## {name}", "", f"`python benchmarks/deployment.py {command}`", f"on {machine_}; {installed}.", ""]


PARTS = {"backbones": backbones, "pairs": pairs, "precisions": precisions, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, help="what to measure, see above")
    parser.add_argument(
        "--runs", nargs="+", type=Path, default=[], help="finished runs; for `pairs`, one exported file"
    )
    parser.add_argument("--pairs", type=int, default=100, help="number of pairs of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="number of networks exported at once")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of timed calls of each subject")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "deployment.json", help="file of results"
    )
    options = parser.parse_args()
    if set(options.parts) - {"backbones"} and not options.runs:
        parser.error("--runs is needed")
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    rows = found.get("backbones", {}).get("rows", {})
    options.known = {name: row for name, row in rows.items() if "refused" not in row}  # not exported again
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = {"machine": machine(), "versions": versions(), **PARTS[name](options, Path(folder))}
        options.out.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
        options.out.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    main()
