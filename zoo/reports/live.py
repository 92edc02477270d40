"""Live page of a study: its report as it grows, over HTTP on this machine alone. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, counted
from zoo.plugin import Plugins
from zoo.reports.html import render_live, study_page
from zoo.reports.plots import check_plots
from zoo.runs.looks import STUDY_FILE
from zoo.studies.results import OUTCOMES_FILE, TUNED_FILE, Results
from zoo.studies.running import running_trials
from zoo.studies.search_session import read_tuned
from zoo.studies.search_status import searches_of_folder
from zoo.studies.trial import TrialState

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOOPBACK = "127.0.0.1"
REFRESH = 5  # seconds between two loads of the page


class LivePage:
    """The page of the study in a folder; what takes long to compute is kept until the study has new results."""

    def __init__(self, folder: Path, plugins: Plugins) -> None:
        self.folder, self.plugins = folder, plugins
        self._known: tuple[Any, str] | None = None
        self._lock = Lock()

    def html(self) -> str:
        """The page as it is now.

        Raises:
            ZooError: the folder holds no study any more, or a damaged one.
        """
        results = Results.open(self.folder)
        lines = status_lines(results)
        over = results.status != "running" or results.is_stopped
        return render_live(self._report(results), lines, None if over else REFRESH, str(results.path))

    def _report(self, results: Results) -> str:
        """The report of the trials that are finished; empty where none is."""
        if not any(one.finished for one in results.outcomes):
            return ""
        with self._lock:
            state = [self._changed(name) for name in (STUDY_FILE, OUTCOMES_FILE, TUNED_FILE)]
            if self._known is None or self._known[0] != state:
                try:
                    self._known = (state, study_page(results, self.plugins))
                except ZooError:  # such as a run that is being trained again
                    return ""
            return self._known[1]

    def _changed(self, name: str) -> int:
        try:
            return (self.folder / name).stat().st_mtime_ns
        except OSError:
            return 0


def status_lines(results: Results) -> list[str]:
    """How far a study is, a line each: trials, searches, and trials that run on other machines."""
    states = [one.state for one in results.outcomes]
    left = int(results.record.get("trials", 0)) - len(states)
    status = "stopped, its session is gone" if results.is_stopped else results.status
    lines = [
        f"study {status}: {counted(int(results.record.get('trials', 0)), 'trial')}, "
        f"{states.count(TrialState.FINISHED)} finished, {states.count(TrialState.REFUSED)} not trained, "
        f"{states.count(TrialState.FAILED)} failed, {left} left"
    ]
    tuned = read_tuned(results.path)
    lines += [f"search {one.name}: {one}" for one in searches_of_folder(results.path, tuned)]
    for name, found in tuned.items():
        if "tried" in found:
            lines.append(
                f"search {name}: {found['tried']} tried, {found['pruned']} pruned, {found.get('failed', 0)} failed; "
                f"best {found['settings']}"
            )
    lines += [f"{name}: running on {note.get('host')}" for name, note in running_trials(results.path).items()]
    return lines


def make_live_app(folder: Path, plugins: Plugins) -> Starlette:
    """The ASGI application of a study's page. It answers to names of this machine only."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    page = LivePage(folder, plugins)

    async def show(_: Request) -> Response:
        try:
            return HTMLResponse(await run_in_threadpool(page.html), headers={"Cache-Control": "no-store"})
        except ZooError as error:
            return PlainTextResponse(f"{error}\n", status_code=503, headers={"Cache-Control": "no-store"})

    # a page elsewhere whose name resolves to this machine must not read it
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    return Starlette(routes=[Route("/", show)], middleware=[trusted])


def serve_live(folder: Path, port: int, ready: Callable[[str], None], plugins: Plugins | None = None) -> None:
    """Show the study in a folder at `http://127.0.0.1:PORT/`, until SIGINT or SIGTERM.

    Args:
        folder: The study's folder.
        port: The port. 0: a free one.
        ready: Called with the page's address.
        plugins: Loaded plugins. None: they are loaded.

    Raises:
        ZooError: the port is taken, or a package that draws is not installed.
    """
    import uvicorn

    from zoo.serving.supervisor import listen

    check_plots()
    opened = listen(LOOPBACK, port)
    app = make_live_app(folder, plugins or Plugins())
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    ready(f"http://{LOOPBACK}:{opened.getsockname()[1]}/")
    with opened:
        uvicorn.Server(config).run(sockets=[opened])
