"""Ray executor: trials as tasks of Ray Core, each of which Ray begins at most once."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError, quoted
from zoo.plugin import Plugins
from zoo.storage.address import without_secrets
from zoo.studies.remote_executor import MOST_SLOTS, RemoteExecutor, TrialLost
from zoo.studies.remote_trial import carry_out
from zoo.system.processors import usable_cpus

LOOPBACK = "127.0.0.1"
CLIENT_PORT = 10001  # of `ray start --head`
MEMORY = 100 * 2**20  # of the object store, in bytes: requests and answers are short
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 30.0  # between two looks at how a trial is that gives no answer
IDLE_LOOKS = 3  # in a row that found nothing to run on the cluster
TOKEN = (
    "`RAY_AUTH_TOKEN`, or the file that `RAY_AUTH_TOKEN_PATH` names or `~/.ray/auth_token`, holds the cluster's token"
)


class RayExecutor(RemoteExecutor):
    """Trials as tasks of a Ray cluster, or of Ray on this machine only. Implements `TrialExecutor`."""

    def __init__(
        self,
        address: str = "",
        *,
        cpus: int = 1,
        gpus: float = 0.0,
        jobs: int | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        """Look for the cluster; it is used from the first trial on.

        Args:
            address: `HOST` or `HOST:PORT` of a cluster's Ray client server; `auto`: the cluster that this machine is
                part of; empty: Ray is started on this machine. It is asked to listen on loopback, and may take
                the machine's own address all the same.
            cpus: Processors of each trial.
            gpus: GPUs of each trial.
            jobs: Most trials at a time. None: as many as the cluster has room for when the trials begin.
            plugins: Loaded plugins. None: they are loaded.

        Raises:
            UsageError: a number is too small, or the address is not one.
            ZooError: Ray is not installed, or the cluster is not there.
        """
        super().__init__(cpus, gpus, plugins)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when it is imported
        try:
            import ray
        except ImportError as error:
            raise ZooError("`--on ray` needs Ray", hint="pip install 'backbone-zoo[ray]'") from error
        self._ray: Any = ray
        self._address = address if address in ("", "auto") else _reached(address)
        if self._address not in ("", "auto"):
            _check_client_server(self._address)
        self._jobs = jobs
        self._refs: set[Any] = set()
        self._slots = 0
        self._stopped = False

    @property
    def slots(self) -> int:  # type: ignore[override]
        if not self._slots:
            self._start()
        return self._slots

    def _start(self) -> None:
        self._stopped = False
        quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        try:
            if not self._address:
                _have_token()
                self._ray.init(
                    address="local",  # never that of RAY_ADDRESS
                    num_cpus=usable_cpus(),
                    include_dashboard=False,
                    object_store_memory=MEMORY,
                    _node_ip_address=LOOPBACK,
                    **quiet,
                )
            else:
                url = "auto" if self._address == "auto" else f"ray://{self._address}"
                self._ray.init(address=url, **quiet)
            nodes = self._nodes()
        except Exception as error:  # Ray raises errors of every kind, and some of gRPC
            what = f"the cluster at `{self._address}` cannot be used" if self._address else "Ray does not start"
            raise ZooError(
                f"{what}: {told(error)}", hint="`ray status` says how the cluster is; Ray and Python must be equal"
            ) from error
        room = self._room(nodes)
        if not room:
            has = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
            self._ray.shutdown()
            raise ZooError(
                f"no machine has room for a trial of {self.cpus} CPU and {self.gpus:g} GPU: {has or 'there is none'}",
                hint="pass smaller `--cpus-per-trial` and `--gpus-per-trial`",
            )
        self._slots = min(room, self._jobs or room, MOST_SLOTS)
        # at most once: a trial whose process dies is an outcome, and never begun again by Ray
        self._task = self._ray.remote(carry_out).options(max_retries=0, num_cpus=self.cpus, num_gpus=self.gpus)

    def _nodes(self) -> list[dict[str, float]]:
        """Resources of each machine that is there, in use or not."""
        return [node.get("Resources", {}) for node in self._ray.nodes() if node.get("Alive", node.get("alive"))]

    def _idle(self) -> bool:
        """Whether nothing runs on the cluster, though it has processors."""
        there = float(self._ray.cluster_resources().get("CPU", 0.0))
        return 0 < there <= float(self._ray.available_resources().get("CPU", 0.0))

    def _room(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many trials machines have room for at a time, if they do nothing else."""
        room = 0
        for node in nodes:
            fits = int(node.get("CPU", 0) // self.cpus)
            room += min(fits, int(node.get("GPU", 0) // self.gpus)) if self.gpus else fits
        return room

    def _wait(self, ref: Any, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of a task.

        A task whose machine was cut off may be waited for by Ray without end, finished or not, as is one for which no
        machine is left.

        Raises:
            TrialLost: the run is finished and there is no answer, or nothing runs on the cluster for long.
            ZooError: no machine is left that has room for it.
        """
        idle = 0
        while True:
            try:
                found: dict[str, Any] = self._ray.get(ref, timeout=LOOK_SECONDS)
                return found
            except self._ray.exceptions.GetTimeoutError:
                idle = idle + 1 if self._idle() else 0
                if idle >= IDLE_LOOKS or self.finished(request):
                    raise TrialLost("Ray has lost it") from None
                if not self._room(self._nodes()):
                    raise ZooError(
                        "no machine of the cluster is left that has room for a trial",
                        hint="`zoo study FOLDER --on ...` continues when there is one; `ray status` says how it is",
                    ) from None

    def run_once(self, request: dict[str, Any]) -> dict[str, Any]:
        errors = self._ray.exceptions
        lost = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.TaskCancelledError)
        ref = None
        try:
            ref = self._task.remote(request)
            self._refs.add(ref)
            return self._wait(ref, request)
        except (ZooError, TrialLost):
            with contextlib.suppress(Exception):  # it may be in Ray's queue still
                self._ray.cancel(ref, force=True)
            raise
        except lost as error:
            raise TrialLost(f"its process or its machine is gone: {type(error).__name__}") from error
        except Exception as error:
            if self._stopped:
                raise TrialLost("the study was stopped") from error
            raise ZooError(
                f"Ray cannot carry out a trial: {told(error)}",
                hint="is zoo installed on every machine of the cluster, and is the cluster there? `zoo study FOLDER` "
                "continues the study",
            ) from error
        finally:
            self._refs.discard(ref)

    def stop(self) -> None:
        self._stopped = True
        if not self._slots:
            return
        for ref in tuple(self._refs):
            with contextlib.suppress(Exception):
                self._ray.cancel(ref, force=True)
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        self._slots = 0


def _have_token() -> None:
    """Have a Ray that is started here use a token that is in no file.

    Ray would write one to `~/.ray/auth_token`, and every later `ray start` would take it up.
    """
    asked = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if not asked and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _reached(address: str) -> str:
    """The address with its port, if something listens there.

    Raises:
        UsageError: it is not an address.
        ZooError: nothing listens there.
    """
    host, colon, port = address.rpartition(":")
    host, port = (host, port) if colon else (address, str(CLIENT_PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host:
        raise UsageError(f"`ray://{address}` is not an address", hint=f"such as `ray://head:{CLIENT_PORT}`")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ZooError(
            f"there is no cluster at `ray://{host}:{port}`: {(error.strerror or str(error)).lower()}",
            hint="`ray start --head` starts one; the port is that of its Ray client server",
        ) from error
    return f"{host}:{port}"


def _check_client_server(address: str) -> None:
    """Ask a Ray client server for a sign of life, with the token that this machine has for a cluster, if it has one.

    Ray's own client takes no token unless `RAY_AUTH_MODE` is set, tries again for half a minute, and says of a token
    that is refused that the connection timed out.

    Raises:
        ZooError: the cluster refuses the token, or wants one; or no client server listens there.
    """
    import grpc

    try:
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:  # a Ray without tokens
        return
    with contextlib.suppress(ImportError):
        from ray._private.authentication import authentication_token_setup as tokens

        logging.getLogger(tokens.__name__).setLevel(logging.ERROR)
        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        with init_grpc_channel(address) as channel:
            channel.unary_unary("/ray.rpc.RayletDriver/ClusterInfo")(b"", timeout=CONNECT_SECONDS)
    except grpc.RpcError as error:
        code = error.code()
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise ZooError(f"the cluster at `ray://{address}` refuses the token, or wants one", hint=TOKEN) from error
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED):
            raise ZooError(
                f"what listens at `{address}` does not answer as Ray's client server: {code.name.lower()}",
                hint=f"its port is {CLIENT_PORT} unless `ray start --ray-client-server-port` says another; a cluster "
                "with TLS needs `RAY_USE_TLS=1` here, too",
            ) from error
    except Exception as error:  # of certificates, for instance
        if type(error).__name__ == "AuthenticationError":  # of Ray, which says it in ten lines
            raise ZooError("`RAY_AUTH_MODE` is `token`, and there is no token on this machine", hint=TOKEN) from error
        raise ZooError(f"`ray://{address}` cannot be asked: {told(error)}", hint=TOKEN) from error


def told(error: BaseException) -> str:
    """Ray's message on one line, without secrets."""
    return without_secrets(quoted(error))
