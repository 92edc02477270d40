"""The page at `/`: one file, nothing from elsewhere, and in a real browser where there is one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from chromium import CHROMIUM, Tab, browser, in_chromium
from tests_support import COLOURS, paint

from zoo.predictor import Answers
from zoo.preprocess import Preprocess
from zoo.serving.app import make_app
from zoo.serving.model_card import model_card
from zoo.serving.page import page
from zoo.serving.served_model import Batching, ServedModel, open_served
from zoo.serving.service import Service
from zoo.unknown import Threshold

uvicorn = pytest.importorskip("uvicorn", reason="the server's requirements are not installed")

HOSTILE = "<img src=x onerror='window.broken=1'><b>red</b> & \u202eder"
LONG = "a-name-without-any-space-" * 8
SETTLED = "photographs.length && photographs.every(one => ['done', 'failed'].includes(one.state))"


SMALL = Preprocess(resize=8, crop=8)


@dataclass(frozen=True)
class ByColour:
    """A predictor that tells red from blue by the mean colour, and is as sure as it is told."""

    classes: tuple[str, ...] = ("blue", "red")
    scale: float = 0.1
    device: str = "CPUExecutionProvider"
    preprocess: Preprocess = SMALL

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        means = np.array([one.mean((0, 1)) for one in photographs])
        rows = np.zeros((len(photographs), len(self.classes)), np.float32)
        rows[:, 0], rows[:, 1] = self.scale * means[:, 2], self.scale * means[:, 0]
        return rows


GUARD = Threshold(rate=0.05, images=1234, split="val", parts=("distance",))


@dataclass(frozen=True)
class OfNoRed(ByColour):
    """The same with a threshold, to which what is red is of no class."""

    threshold: Threshold = GUARD

    def answers(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> Answers:
        logits = self.logits(photographs)
        return Answers(logits, np.where(logits[:, 1] > logits[:, 0], np.float32(1.5), np.float32(0.5)))


def served(name: str = "colours", digest: str = "1" * 64, **changes: Any) -> ServedModel:
    said = {
        "zoo.data_name": "<i>colours</i>",
        "zoo.license": "MIT",
        "zoo.reported_split": "val",
        "zoo.metrics": {"accuracy": 0.5, "ece": 0.04},
    }
    record = {"metadata": said, "precision": {"name": "fp32"}, "parity": {"images": 20, "accuracy": 0.9}, "bytes": 9}
    return ServedModel(
        name=name,
        path=Path("nowhere.onnx"),
        digest=digest,
        predictor=ByColour(**changes),
        record=record,
        batching=Batching(size=1, seconds={1: 0.001}),
    )


@dataclass
class Server:
    """A server on loopback."""

    address: str
    service: Service

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@contextlib.contextmanager
def serving(*models: ServedModel, around: Any = None, **settings: Any) -> Iterator[Server]:
    service = Service(models or [served()], workers=2)
    app = make_app(service, version="1.2", **settings)
    config = uvicorn.Config(around(app) if around else app, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Server(f"127.0.0.1:{listening.getsockname()[1]}", service)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            service.close()


# As it is


def test_the_page_is_one_file_and_takes_nothing_from_elsewhere() -> None:
    text, _ = page()
    assert len(text.encode()) < 32 * 2**10
    assert not re.search(r"https?:|[\"'(]//|@import|url\(|<(?:script|link|img|iframe)[^>]*\ssrc", text)
    assert re.findall(r"<link[^>]*>", text) == ['<link rel="icon" href="data:,">']


def test_the_page_makes_no_markup_of_texts() -> None:
    text, _ = page()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|Function\(", text)
    assert not re.search(r"<[a-z][^>]*\s(?:on\w+|style)=", text)  # the policy refuses both


def test_the_policy_lets_only_the_page_s_own_script_and_style_run() -> None:
    with serving() as server:
        status, headers, content = server.get("/")
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert "unsafe" not in str(policy) and policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for tag in ("script", "style"):
        own = re.findall(f"<{tag}>(.*?)</{tag}>", content.decode(), re.DOTALL)
        assert len(own) == 1 and policy[f"{tag}-src"].startswith("'sha256-")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


# The model card


def test_the_card_is_that_of_the_file(exported_run: Path) -> None:
    from zoo.plugin import Plugins

    path = exported_run / "model.onnx"
    model = open_served(path, name="model", device="cpu", threads=1, plugins=Plugins())
    run = json.loads((exported_run / "run.json").read_text(encoding="utf-8"))
    card = model_card(model)
    assert card["digest"] == hashlib.sha256(path.read_bytes()).hexdigest() and card["bytes"] == path.stat().st_size
    assert card["classes"] == ["blue", "red"] and card["precision"] == "fp32"
    assert card["accuracy"]["value"] == run["metrics"]["accuracy"]
    assert card["accuracy"]["interval_95"] == pytest.approx(run["accuracy_interval_95"])
    assert card["accuracy"]["images"] == run["data"]["reported"]["images"]
    assert card["accuracy"]["split"] == run["reported_split"]
    assert (card["backbone"], card["strategy"], card["license"]) == (run["backbone"], run["strategy"], run["license"])
    assert json.loads(json.dumps(card)) == card


def test_a_card_says_null_for_what_the_file_does_not_say() -> None:
    bare = dataclasses.replace(served(), record={})
    assert {name for name, value in model_card(bare).items() if value is None} >= {"accuracy", "license", "data"}
    of_run = dataclasses.replace(served(), record={"metadata": {"zoo.metrics": {"accuracy": 0.5}}})
    assert model_card(of_run)["accuracy"] == {"value": 0.5, "interval_95": None, "images": None, "split": None}


def test_cards_need_the_token_and_the_page_does_not() -> None:
    with serving(token="secret") as server:
        assert server.get("/")[0] == 200 and server.get("/models")[0] == 401
        status, _, content = server.get("/models", Authorization="Bearer secret")
        assert status == 200
        told = json.loads(content)
        assert json.loads(server.get("/v2", Authorization="Bearer secret")[2])["version"] == told["version"] == "1.2"
        described = json.loads(server.get("/openapi.json", Authorization="Bearer secret")[2])
        assert described["info"]["version"] == "1.2" and "/models" in described["paths"]
    (card,) = told["models"]
    assert card["ready"] is True and card["accuracy"]["interval_95"] == pytest.approx([0.699, 0.972], abs=1e-3)
    assert told["bounds"]["body"] == 16 * 2**20 and told["workers"] == 2


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.screen(1200)
        yield opened


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    files = []
    for number, colour in enumerate(("red", "blue", "red")):
        files.append(tmp_path / f"{number} {colour} <b>.jpg")
        paint(COLOURS[colour], number).save(files[-1])
    return files


def opened(tab: Tab, server: Server) -> None:
    tab.problems.clear()
    tab.open(f"http://{server.address}/")
    tab.wait("server !== null || !document.getElementById('access').hidden")


def labels(tab: Tab) -> list[str]:
    found: list[str] = tab.value("[...document.querySelectorAll('.label bdi')].map(one => one.textContent)")
    return found


@in_chromium
def test_photographs_that_are_dropped_have_labels_and_bars(tab: Tab, photographs: list[Path], tmp_path: Path) -> None:
    wrong = tmp_path / "moving.gif"
    wrong.write_bytes(b"GIF89a and so on")
    with serving() as server:
        opened(tab, server)
        assert "90.0 %" in tab.text() and "95 % interval 69.9 % to 97.2 %, on 20 images of the split val" in tab.text()
        assert tab.problems == []
        tab.drop_files(*photographs, wrong)
        tab.wait(SETTLED)
        assert labels(tab) == ["red", "blue", "red"]
        widths = tab.value("[...document.querySelectorAll('.fill')].map(one => parseFloat(one.style.width))")
        assert len(widths) == 6 and all(first > 99 > 1 > second for first, second in zip(widths[::2], widths[1::2]))
        tab.wait("document.querySelectorAll('.thumb canvas').length === 3")
        assert len(re.findall(r"queue [\d.]+, decode [\d.]+, network [\d.]+\sms", tab.text())) == 3
        assert "the image is a GIF file, which is not read; send the bytes of a JPEG" in tab.text()
        tab.wait("document.getElementById('summary').textContent.includes('1 failed')")
        assert tab.value("document.getElementById('summary').textContent") == (
            "4 of 4 photographs: 2 red, 1 blue, 1 failed"
        )
        assert all("415" in problem for problem in tab.problems)
        tab.value("document.getElementById('clear').click()")
        assert labels(tab) == [] and tab.value("document.getElementById('tools').hidden")


@in_chromium
def test_a_folder_that_is_dropped_gives_its_photographs(tab: Tab, photographs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "all/deep").mkdir(parents=True)
    for file in photographs:
        shutil.copy(file, tmp_path / "all/deep")
    (tmp_path / "all/notes.txt").write_text("no photograph")
    with serving() as server:
        opened(tab, server)
        tab.drop_files(tmp_path / "all")
        tab.wait(f"photographs.length === 3 && {SETTLED}")
        assert sorted(labels(tab)) == ["blue", "red", "red"]


@in_chromium
def test_names_with_markup_are_text(tab: Tab, photographs: list[Path]) -> None:
    with serving(served(name="it's <u>a</u> model", classes=("<script>window.broken=1</script>", HOSTILE))) as server:
        opened(tab, server)
        tab.choose_files("#files", *photographs)
        tab.wait(SETTLED)
        assert labels(tab)[0] == HOSTILE and "<i>colours</i>" in tab.text() and "it's <u>a</u> model" in tab.text()
        assert tab.value("document.querySelectorAll('b, i, u, img, main script, aside script').length") == 0
        assert tab.value("window.broken") is None and tab.problems == []


@in_chromium
def test_the_policy_refuses_what_gets_into_the_page(tab: Tab) -> None:
    with serving() as server:
        opened(tab, server)
        assert "TrustedHTML" in tab.value(
            "try { document.body.innerHTML = '<b>'; 'made' } catch (error) { String(error) }"
        )
        tab.value("document.body.append(Object.assign(document.createElement('img'), {src: '/v2'}))")
        tab.wait("true")
        tab.value("new Promise(done => setTimeout(done, 100))")
        assert any("Content Security Policy" in problem for problem in tab.problems)


@in_chromium
def test_the_threshold_is_moved_by_keyboard(tab: Tab, photographs: list[Path]) -> None:
    with serving(served(scale=0.005)) as server:  # red at about 0.71
        opened(tab, server)
        tab.choose_files("#files", *photographs)
        tab.wait(SETTLED)
        shares = tab.value("photographs.map(one => one.answer.probability)")
        assert all(0.65 < share < 0.75 for share in shares)
        tab.value("document.getElementById('threshold').focus()")
        count = "document.querySelectorAll('li.unsure .badge').length"
        for _ in range(6):
            tab.press("ArrowRight")
        assert tab.value("document.getElementById('threshold-told').textContent") == "76 %" and tab.value(count) == 3
        for _ in range(12):
            tab.press("ArrowLeft")
        assert tab.value("document.getElementById('threshold-told').textContent") == "64 %" and tab.value(count) == 0
        tab.value("document.getElementById('doubtful').click()")
        assert tab.value("[...document.querySelectorAll('#results > li')].every(one => one.offsetHeight === 0)")


@in_chromium
def test_images_of_no_class_are_marked_and_counted(tab: Tab, photographs: list[Path]) -> None:
    guarded = served()
    guarded.record["metadata"]["zoo.unknown"] = GUARD.to_json()
    with serving(dataclasses.replace(guarded, predictor=OfNoRed())) as server:
        opened(tab, server)
        tab.choose_files("#files", *photographs)
        tab.wait(SETTLED)
        told = tab.value("photographs.map(one => [one.answer.unknown, one.item.className, one.told.textContent])")
        assert {unknown for unknown, _, _ in told} == {True, False}
        for unknown, name, text in told:
            assert (name == "unknown") is unknown is text.startswith("unknown")
        count = sum(unknown for unknown, _, _ in told)
        tab.wait(f"document.getElementById('summary').textContent.includes('{count} unknown')")
        assert "red" not in tab.value("document.getElementById('summary').textContent")
        card = tab.value("document.getElementById('card').textContent")
        assert "at most 5.0 % of images of its classes are called unknown" in card and "1,234 images" in card
        tab.value("document.getElementById('doubtful').click()")
        shown = (
            "[...document.querySelectorAll('#results > li')].filter(one => one.offsetHeight).map(one => one.className)"
        )
        assert tab.value(shown) == ["unknown"] * count
        assert "Only unsure, unknown and failed" in tab.text() and tab.problems == []


def type_token(tab: Tab, token: str) -> None:
    tab.value("document.getElementById('token').value = ''; document.getElementById('token').focus()")
    for letter in token:
        tab.press(letter)
    tab.press("Enter")


@in_chromium
def test_a_token_is_asked_for_and_sent(tab: Tab, photographs: list[Path]) -> None:
    with serving(token="secret") as server:
        opened(tab, server)
        assert "This server needs a token" in tab.text()
        tab.choose_files("#files", *photographs)  # they wait for it
        type_token(tab, "wrong")
        tab.wait('document.body.innerText.includes("This is not the server\'s token")')
        type_token(tab, "secret")
        tab.wait(SETTLED)
        assert labels(tab) == ["red", "blue", "red"]
        command = tab.value("document.getElementById('curl').textContent")
        assert "Bearer $TOKEN" in command and "secret" not in command
        tab.open(f"http://{server.address}/?again")
        tab.wait("server !== null")  # the tab has kept it
        tab.value("token = 'old'")
        tab.choose_files("#files", *photographs)
        tab.wait("photographs.some(one => one.state === 'token') && document.activeElement.id === 'token'")
        type_token(tab, "secret")
        tab.wait(SETTLED)
        assert labels(tab) == ["red", "blue", "red"]
        tab.value("sessionStorage.clear()")


class Busy:
    """An application that first answers 503, and notes how many predictions are asked for at once."""

    def __init__(self, app: Any) -> None:
        self.app, self.refusals, self.now, self.most = app, 2, 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/predict":
            await self.app(scope, receive, send)
            return
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.refusals:
                self.refusals -= 1
                headers = [(b"retry-after", b"1"), (b"content-length", b"2")]
                await send({"type": "http.response.start", "status": 503, "headers": headers})
                await send({"type": "http.response.body", "body": b"{}"})
            else:
                await self.app(scope, receive, send)
        finally:
            self.now -= 1


@in_chromium
def test_a_busy_server_is_asked_again_and_never_for_many_at_once(tab: Tab, photographs: list[Path]) -> None:
    made: list[Busy] = []

    def around(app: Any) -> Busy:
        made.append(Busy(app))
        return made[0]

    with serving(around=around) as server:
        opened(tab, server)
        tab.choose_files("#files", *photographs * 5)
        tab.wait("document.body.innerText.includes('the server is busy, again in')")
        tab.wait(SETTLED)
        assert len(labels(tab)) == 15 and made[0].refusals == 0 and made[0].most <= 3  # two workers


@in_chromium
def test_another_model_is_chosen_and_asked(tab: Tab, photographs: list[Path]) -> None:
    other = served("it's other", "2" * 64, classes=("sky", "rose"))
    with serving(served(), other) as server:
        opened(tab, server)
        tab.choose_files("#files", *photographs)
        tab.wait(SETTLED)
        assert labels(tab) == ["red", "blue", "red"]
        tab.value("{ const box = document.getElementById('model'); box.value = \"it's other\"; "
                  "box.dispatchEvent(new Event('change')) }")  # fmt: skip
        tab.wait(f'{SETTLED} && photographs[0].answer.model === "it\'s other"')
        tab.wait(SETTLED)
        assert labels(tab) == ["rose", "sky", "rose"] and "2" * 64 in tab.text()
        assert tab.value("document.getElementById('curl').textContent").endswith("?model=it%27s%20other'")


@in_chromium
def test_a_new_version_of_the_file_is_told(tab: Tab, photographs: list[Path]) -> None:
    with serving() as server:
        opened(tab, server)
        server.service.put(served(digest="3" * 64))
        tab.choose_files("#files", *photographs)
        tab.wait("document.body.innerText.includes('was replaced by a new version')")
        assert "3" * 64 in tab.text()


@in_chromium
def test_a_server_that_is_gone_is_told_and_can_be_asked_again(tab: Tab, photographs: list[Path]) -> None:
    with serving() as server:
        opened(tab, server)
    tab.choose_files("#files", photographs[0])
    tab.wait("document.body.innerText.includes('the server does not answer')")
    tab.wait("!document.getElementById('again').hidden")
    assert tab.value("document.getElementById('again').click(), photographs[0].state") == "asked"


@in_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(tab: Tab, photographs: list[Path], width: int, dark: bool) -> None:
    names = (LONG, HOSTILE, *(f"class {number}" for number in range(60)))
    with serving(served(name="m" * 90, classes=names)) as server:
        tab.screen(width, dark=dark, phone=width == 390)
        try:
            opened(tab, server)
            tab.choose_files("#files", *photographs)
            tab.wait(SETTLED)
            inside, outside = tab.value("[document.documentElement.scrollWidth, innerWidth]")
            assert inside <= outside <= width
            shown = tab.value("getComputedStyle(document.body).backgroundColor")
            red = int(re.findall(r"\d+", shown)[0])
            assert red < 64 if dark else red > 192
            camera = tab.value("getComputedStyle(document.getElementById('shoot')).display")
            assert (camera != "none") == (width == 390)
        finally:
            tab.screen(1200)


@in_chromium
def test_controls_have_names_and_are_reached_by_keyboard(tab: Tab, photographs: list[Path]) -> None:
    with serving(served(), served("other", "2" * 64)) as server:
        opened(tab, server)
        tab.choose_files("#files", *photographs)
        tab.wait(SETTLED)
        controls = [
            (role, name)
            for role, name in tab.accessible()
            if role in ("button", "slider", "checkbox", "textbox", "combobox", "list", "region")
        ]
        assert {("button", "Choose photographs"), ("checkbox", "Only unsure and failed"), ("list", "Results")} <= set(
            controls
        )
        assert any(role == "slider" and name.startswith("Unsure below") for role, name in controls)
        bars = [name for role, name in controls if role == "list"]
        assert all(name for role, name in controls if role != "list") and "Results" in bars
        reached = []
        tab.value("document.activeElement.blur()")
        for _ in range(9):
            tab.press("Tab")
            reached.append(tab.value("document.activeElement.id"))
        wanted = ["model", "choose", "threshold", "doubtful", "clear"]
        assert [one for one in reached if one in wanted] == wanted


@in_chromium
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
def test_the_command_to_copy_gives_what_the_page_shows(tab: Tab, photographs: list[Path], tmp_path: Path) -> None:
    with serving(served("first"), served("second's", "2" * 64, classes=("sky", "rose"))) as server:
        opened(tab, server)
        tab.value("{ const box = document.getElementById('model'); box.value = \"second's\"; "
                  "box.dispatchEvent(new Event('change')) }")  # fmt: skip
        command = tab.value("document.getElementById('curl').textContent")
        shutil.copy(photographs[0], tmp_path / "photo.jpg")
        done = subprocess.run(
            ["sh", "-c", f"{command} --silent --noproxy '*'"], cwd=tmp_path, capture_output=True, check=True
        )
        assert json.loads(done.stdout)["label"] == "rose"
