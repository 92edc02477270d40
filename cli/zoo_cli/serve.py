"""`zoo serve`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import click

import zoo
from zoo.data.image_formats import OPTIONAL_NAMES, format_names, why_not_read
from zoo.errors import UsageError, ZooError
from zoo_cli.options import device_option, force_option


class _Seconds(click.FloatRange):
    """A finite number in a range, which `nan` would pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{found} is not a finite number", param, ctx)
        return found


@click.command()
@click.argument("files", metavar="FILE.onnx...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    help="Port of the Open Inference Protocol over gRPC; 0 takes a free one.  [default: no gRPC]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with a token that requests must name as `Authorization: Bearer TOKEN`.",
)
@click.option("--latency", is_flag=True, help="Use all cores for one image at a time, in place of one core for each.")
@click.option(
    "--drain",
    type=_Seconds(0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to go on listening after SIGTERM; Ctrl-C skips it.",
)
@click.option(
    "--watch",
    type=_Seconds(0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between looks at the files for new versions; 0: only when SIGHUP comes.",
)
@click.option(
    "--shadow",
    type=click.Path(path_type=Path),
    metavar="NEW.onnx",
    help="File that also classifies a share of the images, after they are answered; `/shadow` tells what it changes.",
)
@click.option(
    "--shadow-share",
    type=_Seconds(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of the images that go through the shadow, too.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Origin of web pages that may call the server; may be given several times.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=16 * 2**20,
    show_default=True,
    metavar="BYTES",
    help="Longest body of a request.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=50_000_000,
    show_default=True,
    help="Largest image, from the size that its file declares.",
)
@click.option(
    "--queue",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Images that may wait for a worker; beyond it requests are rejected with 503.",
)
@click.option(
    "--deadline",
    type=_Seconds(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait of a request.",
)
@click.option(
    "--accept",
    multiple=True,
    type=click.Choice([name.lower() for name in OPTIONAL_NAMES]),
    help="Further format of images that is read; may be given several times.  "
    f"[default: {format_names().replace(' or ', ' and ')}]",
)
@click.option("--max-connections", type=click.IntRange(1), default=1000, show_default=True, help="Open connections.")
@click.option(
    "--to",
    type=(click.Choice(["triton", "kserve"]), click.Path(path_type=Path)),
    metavar="triton|kserve PATH",
    help="Start no server, but write what others serve the files with: a model repository for Triton into a folder, "
    "or InferenceServices for KServe into a folder or a .yaml file.",
)
@click.option(
    "--storage-uri",
    metavar="URI",
    help="With `--to kserve`: where the cluster finds the folder of `--to triton`.  [default: a placeholder]",
)
@force_option
@device_option
def serve(
    files: tuple[Path, ...],
    host: str,
    port: int,
    grpc_port: int | None,
    token_file: Path | None,
    latency: bool,
    drain: float,
    watch: float,
    shadow: Path | None,
    shadow_share: float,
    origins: tuple[str, ...],
    max_body: int,
    max_pixels: int,
    queue: int,
    deadline: float,
    accept: tuple[str, ...],
    max_connections: int,
    to: tuple[str, Path] | None,
    storage_uri: str | None,
    force: bool,
    device: str,
) -> None:
    """Serve exported files over HTTP.

    Each file is verified before it takes requests. A new version of a file takes over while the server runs, if it
    verifies and has the same input and classes. Does not need torch.

    \b
    zoo serve runs/first/model.onnx
    curl --data-binary @photo.jpg http://127.0.0.1:8080/predict
    zoo serve runs/first/model.onnx --to triton models
    """
    from zoo_cli.serve_target import check_options, write_target

    check_options(click.get_current_context())
    if to is not None:
        _check_files(files)
        write_target(click.get_current_context(), files, *to, storage_uri, force, device)
        return
    _check_extra()
    if grpc_port is not None:
        _check_extra(("grpc", "google.protobuf"), "grpcio protobuf", "`zoo serve --grpc-port`")
    _check_files(files)
    if shadow is not None:
        _check_files((shadow,))
    for name in accept:
        reason = why_not_read(name.upper())
        if reason is not None:
            raise ZooError(f"`--accept {name}` {reason}")
    from zoo.serving.access_token import read_token
    from zoo.serving.bounds import Bounds
    from zoo.serving.origin import check_origin
    from zoo.serving.supervisor import hold, listen, supervise
    from zoo.system.processors import usable_cpus

    bounds = Bounds(
        body=max_body,
        bodies=max(4 * max_body, Bounds.bodies),
        pixels=max_pixels,
        pixels_in_flight=max(4 * max_pixels, Bounds.pixels_in_flight),
        queue=queue,
        deadline=deadline,
        connections=max_connections,
        accept=tuple(sorted(name.upper() for name in accept)),
    )
    for origin in origins:
        check_origin(origin)
    token = read_token(token_file) if token_file is not None else None
    cores = usable_cpus()
    settings = {
        "files": [str(file.absolute()) for file in files],
        "device": device,
        "workers": 1 if latency else cores,
        "threads": cores if latency else 1,
        "token": token,
        "origins": list(origins),
        "drain": drain,
        "watch": watch,
        "shadow": None if shadow is None else str(shadow.absolute()),
        "shadow_share": shadow_share,
        "version": zoo.__version__,
        "bounds": dataclasses.asdict(bounds),
    }
    listening = listen(host, port)
    held = None  # until the end
    if grpc_port is not None:
        held, settings["grpc"] = hold(host, grpc_port)
    status = supervise(settings, [listening])
    if held is not None:
        held.close()
    click.get_current_context().exit(status)


def _check_extra(
    modules: tuple[str, ...] = ("starlette", "uvicorn", "httptools", "prometheus_client"),
    packages: str = "starlette uvicorn httptools prometheus-client",
    user: str = "`zoo serve`",
) -> None:
    missing = [name for name in modules if not _is_installed(name)]
    if missing:
        raise ZooError(
            f"{user} needs {', '.join(f'`{name}`' for name in missing)}, which is not installed",
            hint=f"`pip install {packages}`",
        )


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _check_files(files: tuple[Path, ...]) -> None:
    names: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "is not there"
            raise ZooError(f"`{file}` {what}", hint="`zoo export RUN` makes a file that can be served")
        if not file.stem.isprintable() or "/" in file.stem:
            shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(file))
            raise UsageError(
                f"`{shown}` has a name that requests cannot say, since not all of it can be printed", hint="rename it"
            )
        if file.stem in names:
            raise UsageError(
                f"`{names[file.stem]}` and `{file}` have the same name, by which requests tell them apart",
                hint="rename or link one of them",
            )
        names[file.stem] = file
