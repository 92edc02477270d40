"""Shows what `zoo serve --to` writes to those who read it: Triton's and KServe's own parsers, and a real Triton.

    python3.11 -m venv clients && clients/bin/pip install "tritonclient[http,grpc]" kserve "kubernetes<34"
    python3.11 -m venv triton && triton/bin/pip install nvidia-pytriton onnxruntime onnx
    python benchmarks/serve_targets.py model.onnx photographs/ --clients clients/bin/python --triton triton/bin/python

For Ray Serve it takes a third one, by `--ray ray/bin/python`:

    python3.11 -m venv ray && ray/bin/pip install "ray[serve]"
    ray/bin/pip install --no-deps packaging/backbone-zoo-serve
    ray/bin/pip install --requirement packaging/container-requirements.txt

The wheel `nvidia-pytriton` holds `tritonserver` with its Python backend alone, so the written repository cannot run
there as it is. A copy with the same configuration but for the backend runs the same file by a model of 20 lines. All is
on this machine. The result goes to benchmarks/results/serving_targets.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.image import decode
from zoo.dataset import BytesSource

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/serving_targets.md"
READY_SECONDS = 90.0
PHOTOGRAPHS = 12

PARSE_CONFIG = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""

# Keys that the model does not know get lost on the way there and back; an empty `name` is added
PARSE_SERVICE = """
import json, sys, yaml
import kserve, kserve.models
from kubernetes import client
for name in dir(kserve.models):  # the client looks types up by name in a module of its own
    if not hasattr(client.models, name):
        setattr(client.models, name, getattr(kserve.models, name))
api, found = client.ApiClient(), []
for document in yaml.safe_load_all(open(sys.argv[1])):
    read = api._ApiClient__deserialize(document, kserve.V1beta1InferenceService)
    again = api.sanitize_for_serialization(read)
    for model in filter(None, [again["spec"]["predictor"].get("model")]):
        assert model.pop("name") == ""
    found.append({"name": read.metadata.name, "same": again == document})
print(json.dumps(found))
"""

# The same tensors as the file, by the Python backend
MODEL = """
import numpy as np, onnxruntime, triton_python_backend_utils as utils
from pathlib import Path

class TritonPythonModel:
    def initialize(self, args):
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        answers = []
        for request in requests:
            feed = {one.name: utils.get_input_tensor_by_name(request, one.name).as_numpy()
                    for one in self.session.get_inputs()}
            names = [one.name for one in self.session.get_outputs()]
            found = self.session.run(names, feed)
            utils.Logger.log_info(f"ran on {[list(one.shape) for one in feed.values()]}")
            answers.append(utils.InferenceResponse([utils.Tensor(*pair) for pair in zip(names, found)]))
        return answers
"""

RAY = """
import json, sys, time, urllib.request
begun = time.monotonic()
import ray
from ray import serve
port, photograph, folder = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, _temp_dir="/tmp/zoo-ray", object_store_memory=100 * 2**20)
init = time.monotonic() - begun
from serve_with_ray import application
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
serve.run(application)
ready = time.monotonic() - begun
def ask(path, data=None):
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)) as answer:
        return json.load(answer)
print(json.dumps({"version": ray.__version__, "init": init, "ready": ready, "health": ask("/v2/health/ready"),
                  "answer": ask("/predict", open(photograph, "rb").read())}), flush=True)
serve.shutdown()
ray.shutdown()
"""

ASK = """
import json, sys
import numpy as np
import tritonclient.http as http
url, model, folder = sys.argv[1:]
client = http.InferenceServerClient(url, network_timeout=60, connection_timeout=60)
config = client.get_model_config(model)
rows = []
from pathlib import Path
for file in sorted(Path(folder).glob("*.npy")):
    image = np.load(file)[None]
    put = http.InferInput("photographs", image.shape, "UINT8")
    put.set_data_from_numpy(image)
    plain = client.infer(model, [put], outputs=[http.InferRequestedOutput("probabilities")])
    named = client.infer(model, [put], outputs=[http.InferRequestedOutput("probabilities", class_count=1)])
    rows.append([plain.as_numpy("probabilities")[0].tolist(), named.as_numpy("probabilities")[0][0].decode()])
print(json.dumps({"ready": client.is_model_ready(model), "max_batch_size": config["max_batch_size"],
                  "rows": rows}))
"""


def main() -> None:
    """Write the targets of a file, try them, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--clients", required=True)
    parser.add_argument("--triton", required=True)
    parser.add_argument("--ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        lines = [*parsed(arguments, room), *served(arguments, room)]
        if arguments.ray:
            lines += by_ray(arguments, room)
    RESULT.write_text("\n".join(["# Targets of `zoo serve --to`, as others read them", "", *lines, ""]))
    print(RESULT.read_text())


def zoo(*arguments: object) -> str:
    """Run the command line, and return what it printed."""
    command = [sys.executable, "-m", "zoo_cli.main", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def told(python: str, code: str, *arguments: object) -> Any:
    """The JSON that a program prints in another environment."""
    command = [python, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=clean(), check=False)
    if done.returncode:
        raise SystemExit(f"{python} failed")
    return json.loads(done.stdout.splitlines()[-1])


def clean() -> dict[str, str]:
    """An environment without this one's import path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def parsed(arguments: argparse.Namespace, room: Path) -> list[str]:
    """Write both targets, and let Triton's and KServe's own models read them."""
    zoo("serve", arguments.file, "--to", "triton", room / "models")
    zoo("serve", arguments.file, "--to", "kserve", room / "services", "--storage-uri", "s3://bucket/models")
    (model,) = (room / "models").iterdir()
    same = (model / "1/model.onnx").read_bytes() == arguments.file.read_bytes()
    config = told(arguments.clients, PARSE_CONFIG, model / "config.pbtxt")
    lines = [
        "Written by `benchmarks/serve_targets.py` with `tritonclient` "
        f"{version(arguments.clients, 'tritonclient')}, `kserve` {version(arguments.clients, 'kserve')} and "
        f"`nvidia-pytriton` {version(arguments.triton, 'nvidia-pytriton')}.",
        "",
        "## Parsers",
        "",
        f"- `1/model.onnx` equals the file byte for byte: {yes(same)}.",
        f"- `config.pbtxt` parsed by `tritonclient`'s `ModelConfig`: backend `{config['backend']}`, max_batch_size "
        f"{config['max_batch_size']}, dynamic batching {yes('dynamic_batching' in config)}, "
        f"{len(config['model_warmup'])} warm-up requests.",
        *(
            f"- {way} `{one['name']}`: {one['data_type']} {one['dims']}{', ' + labels if labels else ''}"
            for way in ("input", "output")
            for one in config[way]
            for labels in [one.get("label_filename", "")]
        ),
    ]
    for file in sorted((room / "services").iterdir()):
        (found,) = told(arguments.clients, PARSE_SERVICE, file)
        lines.append(
            f"- `{file.name}` read by kserve's `V1beta1InferenceService` as `{found['name']}`; written again, it is "
            f"the same document (no key was unknown): {yes(found['same'])}."
        )
    return lines


def served(arguments: argparse.Namespace, room: Path) -> list[str]:
    """Start the real tritonserver on the repository as it is, and on its copy with the Python backend."""
    site = subprocess.run(
        [arguments.triton, "-c", "import pytriton; print(pytriton.__path__[0])"],
        check=True, stdout=subprocess.PIPE, text=True, env=clean(),
    ).stdout.strip()  # fmt: skip
    lines = ["", "## A real `tritonserver`", ""]
    (model,) = (room / "models").iterdir()
    with triton(arguments, Path(site), room / "models", room / "first.log") as (url, ready):
        del url
        said = [line for line in (room / "first.log").read_text().splitlines() if re.search(r"onnxruntime", line)]
        lines += [
            f"Version {server_version(room / 'first.log')}. On the repository as it is: ready {yes(ready)}. The wheel "
            "has no onnxruntime backend, and says so:",
            "",
            "```text",
            *dict.fromkeys(plain(line, room) for line in said[-2:]),
            "```",
            "",
        ]
    copy = room / "copy" / model.name
    shutil.copytree(model, copy)
    config = (copy / "config.pbtxt").read_text()
    config = config.replace('backend: "onnxruntime"', 'backend: "python"')
    (copy / "config.pbtxt").write_text(config.replace('default_model_filename: "model.onnx"\n', ""))
    (copy / "1/model.py").write_text(MODEL)
    photographs = sorted(path for path in arguments.photographs.rglob("*") if path.suffix.lower() == ".jpg")
    photographs = photographs[:: max(len(photographs) // PHOTOGRAPHS, 1)][:PHOTOGRAPHS]
    (room / "images").mkdir()
    for number, path in enumerate(photographs):
        np.save(room / f"images/{number:03}.npy", decode(BytesSource(path.name, path.read_bytes)))
    ours = json.loads(zoo("predict", arguments.file, *photographs, "--json", "--top", 100))
    with triton(arguments, Path(site), room / "copy", room / "second.log") as (url, ready):
        if not ready:
            print((room / "second.log").read_text()[-4000:], file=sys.stderr)
            return [*lines, "With the Python backend it was not ready."]
        warm = re.findall(r"ran on \[(\[[\d, ]+\])", (room / "second.log").read_text())
        found = told(arguments.clients, ASK, url, model.name, room / "images")
    labels = (copy / "labels.txt").read_text().splitlines()
    equal, named, apart = 0, 0, 0.0
    for mine, (probabilities, text) in zip(ours, found["rows"]):
        expected = {one["label"]: one["probability"] for one in mine["top"]}
        apart = max(apart, *(abs(expected[label] - value) for label, value in zip(labels, probabilities)))
        equal += labels[max(range(len(labels)), key=probabilities.__getitem__)] == mine["top"][0]["label"]
        named += text.split(":", 2)[2] == mine["top"][0]["label"]
    return [
        *lines,
        'The same folder with `backend: "python"` and a model of 20 lines that runs the same file (names, shapes, '
        f"labels, warm-up and version policy unchanged): model ready {yes(found['ready'])}, max_batch_size "
        f"{found['max_batch_size']}. Before it was ready it ran the warm-up requests {', '.join(warm)}.",
        "",
        f"- {len(found['rows'])} photographs through `tritonclient.http`: {equal} labels equal `zoo predict`; the "
        f"largest difference of a probability is {apart:.1e}.",
        f"- The classification extension names the class by `labels.txt`: {named} of {len(found['rows'])}.",
        "",
        "Not shown: Triton's own onnxruntime backend, which comes in its container alone; a Kubernetes cluster.",
    ]


def by_ray(arguments: argparse.Namespace, room: Path) -> list[str]:
    """Run the example for Ray Serve on one machine, and ask it."""
    photograph = next(path for path in sorted(arguments.photographs.rglob("*.jpg")))
    environment = {**clean(), "PYTHONPATH": str(ROOT / "examples"), "MODEL": str(arguments.file.absolute())}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "HOME": str(room)}
    command = [arguments.ray, "-c", RAY, str(free_port()), str(photograph), str(room / "ray")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        return ["", "## Ray Serve", "", "It did not start."]
    found = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    (ours,) = json.loads(zoo("predict", arguments.file, photograph, "--json"))
    (best,) = ours["top"]
    same = [best["label"], best["probability"]] == [found["answer"]["label"], found["answer"]["probability"]]
    return [
        "",
        "## Ray Serve",
        "",
        f"`examples/serve_with_ray.py` on Ray {found['version']}, one replica on one machine of two busy cores: Ray "
        f"itself started in {found['init']:.0f} s, the application was ready after {found['ready']:.0f} s.",
        "",
        f"- `/v2/health/ready` says {found['health']}; label and probability of `/predict` equal `zoo predict` "
        f"bit for bit: {yes(same)}.",
    ]


@contextlib.contextmanager
def triton(arguments: argparse.Namespace, site: Path, models: Path, log: Path) -> Iterator[tuple[str, bool]]:
    """A running tritonserver: its address, and whether it became ready."""
    server, port = site / "tritonserver", free_port()
    environment = clean()
    library = Path(arguments.triton).resolve()
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if (stub / "triton_python_backend_stub").exists():
        shutil.copy2(stub / "triton_python_backend_stub", server / "backends/python/triton_python_backend_stub")
    environment["PATH"] = f"{Path(arguments.triton).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(site.parent)
    libraries = [str(library.parents[1] / "lib"), *map(str, site.parent.parent.glob("site-packages/*.libs"))]
    environment["LD_LIBRARY_PATH"] = ":".join([*libraries, environment.get("LD_LIBRARY_PATH", "")])
    command = [
        server / "bin/tritonserver", f"--model-repository={models}", f"--backend-directory={server / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
        "--exit-on-error=false", "--strict-readiness=true",
    ]  # fmt: skip
    with log.open("w") as stream:
        process = subprocess.Popen(list(map(str, command)), stdout=stream, stderr=stream, env=environment)
    try:
        yield f"127.0.0.1:{port}", wait_ready(process, port, log)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()


def wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    """Whether the server is ready; False once it has ended, or listens and says that it is not."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False
        except OSError:
            time.sleep(0.3)
    print(log.read_text()[-3000:], file=sys.stderr)
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def version(python: str, name: str) -> str:
    """The version of a distribution in another environment."""
    code = f"import importlib.metadata as m, json; print(json.dumps(m.version({name!r})))"
    return str(told(python, code))


def server_version(log: Path) -> str:
    """The version that a tritonserver tells in its log."""
    found = re.search(r"server_version\s*\|\s*(\S+)", log.read_text())
    return found[1] if found else "unknown"


def plain(line: str, room: Path) -> str:
    """A line of a log without time and machine paths."""
    line = re.sub(r"^[EWI]\d+ \S+ \d+ ", "", line).replace(str(room), "ROOM")
    return re.sub(r"(/[^/ ,:]+)+/(site-packages/)", r"\2", line)


def yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
