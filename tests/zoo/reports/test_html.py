"""Reports: one file, nothing from the network, read by a real browser where there is one."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, browser, in_chromium
from tests_support import TINY, make_photos

import zoo.reports.html
from zoo import Plugins, Run, UsageError, ZooError, report, train
from zoo.reports.html import _command_of, _study_page, _study_verdict, render
from zoo.reports.plots import fraction_curves, learning_curves
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.learning_curve import where_transfer_pays
from zoo.studies.results import Results
from zoo_cli.main import run as run_zoo
from zoo_cli.train import train as train_command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with mistakes, on photographs whose class has a name that HTML would trip over."""
    folder = tmp_path_factory.mktemp("report")
    data = make_photos(folder / "data", {"train": 8, "val": 6})
    for split in ("train", "val"):
        (data / split / "red").rename(data / split / "<b>red & 'co'")
    made = train(replace(TINY, data=str(data), strategy="full", epochs=2, lr=1e-6), out=folder / "run")
    assert 0 < made.metrics["accuracy"] < 1
    return made


@pytest.fixture(scope="module")
def study(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study of which that run is the one trial that is finished."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(run.path, folder / "trials/one")
    way = {"backbone": run.record["backbone"], "strategy": "full"}
    asked = {"data": run.experiment.data, "backbones": ["timm/test_resnet"], "strategies": ["full"], "seeds": [0]}
    record = {
        "schema": 1, "study": asked, "status": "finished", "trials": 2, "data_name": "locked:photos",
        "notes": ["a note"], "created": "2026", "machine": {"cores": 2}, "versions": {},
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(record))
    lines = [
        {"name": "one", **way, "seed": 0, "fraction": 1.0, "status": "finished", "seconds": 2.0, "core_seconds": 3.0},
        {"name": "two", **way, "seed": 1, "fraction": 1.0, "status": "failed", "failure": "<script>alert(1)</script>"},
    ]
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    footprint = DeploymentCost(latency=(0.002, 0.001, 0.003), size=10**6).to_json()
    (folder / "footprints.json").write_text(json.dumps({"timm/test_resnet full": footprint}))
    stage = {"name": "stem", "depth": 0.5, "accuracy": 0.6, "interval": [0.5, 0.7], "distance": 0.4}
    advice = {"backbones": {"timm/test_resnet": {"reason": "because", "stages": [stage, {**stage, "depth": 1.0}]}}}
    (folder / "advice.json").write_text(json.dumps(advice))
    return Results.open(folder)


class Page(HTMLParser):
    """What stands in a page: its text, and whatever it would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.fetched, self.tags = "", [], []  # type: ignore[var-annotated]
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset") and not str(value).startswith(("data:", "#")):
                self.fetched.append(value)


def test_a_run_as_one_page(run: Run, tmp_path: Path) -> None:
    found = report(run, out=tmp_path / "run.html")
    page = Page(found.html.read_text())
    assert page.fetched == [] and "url(http" not in found.html.read_text()
    assert "<b>red & 'co'" in page.text and page.tags.count("img") == int((~run.predictions().correct).sum())
    assert page.tags.count("svg") == 2  # learning curve, calibration
    assert f"accuracy {run.metrics['accuracy']:.3f} on `val`" in page.text and "zoo train --data" in page.text
    rows = list(csv.reader(io.StringIO(found.csv.read_text())))
    assert len(rows) == 1 + len(run.predictions()) and rows[1][0] == run.predictions().ids[0]
    data = json.loads(found.json.read_text())
    assert data["model"]["metrics"]["accuracy"] == run.metrics["accuracy"] and "gallery" not in data
    assert sum(map(sum, data["model"]["confusion"])) == len(run.predictions())


def test_a_study_as_one_page(study: Results) -> None:
    found = report(study.path)
    html = found.html.read_text()
    page = Page(html)
    assert found.html == study.path / "report.html" and page.fetched == []
    assert "<script>alert(1)" not in html and "<script>alert(1)</script>" in page.text
    assert "cheapest" in page.text and "a note" in page.text and "because" in page.text
    assert page.tags.count("svg") == 4  # latency, depth, distance, calibration
    assert "zoo study --data" in page.text and found.csv.read_text().startswith("backbone,")
    bare = report(study.path, out=study.path / "bare.html", photographs=False).html.read_text()
    assert "data:image" in html and "data:image" not in bare and "Worst mistakes" in bare
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'(?:url\(|href=")#([^)"]+)', html):
        assert name in ids


@pytest.mark.parametrize(
    ("bare", "said"),
    [
        (
            [(10, 0.5, 0.4, 0.6), (100, 0.95, 0.93, 0.97)],
            "with up to 10 training images; with 100 no longer",
        ),
        ([(10, 0.5, 0.4, 0.6), (100, 0.6, 0.5, 0.7)], "at every number of training images, up to 100"),
        ([(10, 0.9, 0.8, 1.0), (100, 0.95, 0.93, 0.97)], "at no number of training images"),
        ([(10, 0.8, 0.74, 0.86), (100, 0.92, 0.9, 0.94)], "at no number of training images"),  # intervals overlap
        ([(10, 0.8, 0.76, 0.84), (100, 0.92, 0.9, 0.94)], "with up to 10 training images; with 100 no longer"),
    ],
)
def test_where_transfer_pays_off(bare: list[tuple[float, ...]], said: str) -> None:
    carried = [(10, 0.9, 0.85, 0.95), (100, 0.95, 0.93, 0.97)]
    assert said in where_transfer_pays({"a linear": carried, "a scratch": bare}, ["a scratch"])[0]
    assert where_transfer_pays({"a linear": carried}, []) == []
    assert where_transfer_pays({"a scratch": bare}, ["a scratch"]) == []
    assert fraction_curves({"a linear": carried}) is not None


def test_photographs_that_are_gone_leave_the_page_whole(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    record = json.loads((folder / "run.json").read_text())
    record["experiment"]["data"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(record))
    page = Page(report(folder).html.read_text())
    assert "img" not in page.tags and "Worst mistakes" in page.text


def test_the_command_of_a_report_reads_back(run: Run) -> None:
    changes = {"levels": [0.0, 9.5], "fill": [1, 2, 3], "fit": "pad", "image_size": [32, 48], "compile": True}
    record = {**run.record, "experiment": {**run.record["experiment"], **changes}}
    words = shlex.split(_command_of(Run(run.path, record)))
    assert words[:2] == ["zoo", "train"]
    context = train_command.make_context("train", words[2:])
    assert {name: context.params[name] for name in changes} == {
        **changes, "levels": (0.0, 9.5), "fill": (1, 2, 3), "image_size": (32, 48),
    }  # fmt: skip


def test_unfinished_runs_have_no_report(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is neither a run nor a study"):
        report(tmp_path)
    with pytest.raises(UsageError, match=r"does not end in `\.html`"):
        report(run, out=tmp_path / "report.pdf")
    with pytest.raises(UsageError, match="there is no folder"):
        report(run, out=tmp_path / "none/report.html")
    failed = {**run.record, "status": "failed"}
    with pytest.raises(ZooError, match="is failed, not finished") as error:
        report(Run(run.path, failed), out=tmp_path / "x.html")
    assert error.value.hint == f"`zoo train --resume {run.path}` continues it"
    trial = tmp_path / "s/trials/one"
    trial.mkdir(parents=True)
    (tmp_path / "s/study.json").write_text("{}")
    with pytest.raises(ZooError) as error:
        report(Run(trial, failed), out=tmp_path / "x.html")
    assert error.value.hint == f"`zoo study {tmp_path / 's'}` continues it"


def test_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_zoo(["report", str(run.path), "--out", str(tmp_path / "a.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.html")
    assert run_zoo(["report", str(run.path), "--out", str(tmp_path / "a.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "run"


def browse(page: Path, folder: Path, *options: str) -> tuple[str, str]:
    """Open a page in headless Chromium without a network; what it prints, and what it says on the console."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000",
            "--disable-background-networking", "--disable-component-update", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@in_chromium
def test_the_page_in_chromium(study: Results, tmp_path: Path) -> None:
    page = report(study.path, out=tmp_path / "page.html").html
    dom, said = browse(page, tmp_path, "--dump-dom")
    assert "Leaderboard" in dom and said == ""
    # its policy lets the page fetch nothing, so that whatever it tried would have been said on the console
    assert "default-src 'none'" in dom
    page.write_text(page.read_text().replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>'))
    assert "Content Security Policy" in browse(page, tmp_path, "--dump-dom")[1]


@in_chromium
def test_a_click_sorts(study: Results, tmp_path: Path) -> None:
    rows = [{**study.leaderboard["rows"][0], "strategy": name, "accuracy": value, "winner": False}
            for name, value in (("middle", 0.5), ("least", 0.25), ("most", 0.75))]  # fmt: skip
    page, _ = _study_page(study, Plugins())
    html = render({**page, "board": {**study.leaderboard, "rows": rows}})
    clicks = '<script>document.querySelectorAll("th button")[2].click()</script>'
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", clicks + "</body>"))
    dom, said = browse(file, tmp_path, "--dump-dom")
    assert said == "" and 'aria-sort="descending"' in dom
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    assert re.findall(r">(most|middle|least)</td>", body) == ["most", "middle", "least"]


@in_chromium
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(study: Results, tmp_path: Path, width: int) -> None:
    page = report(study.path, out=tmp_path / "page.html").html
    tell = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script>"
    page.write_text(page.read_text().replace("</body>", tell + "</body>"))
    dom, _ = browse(page, tmp_path, "--dump-dom", f"--window-size={width},900")
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found is not None and int(found[1]) <= int(found[2])


def board_of(study: Results, winners: int) -> dict[str, Any]:
    """A leaderboard of six configurations with long names, of which so many are winners."""
    names = [("torchvision/efficientnet_v2_s", f"linear,epochs=1+partial:{depth},lr=0.1") for depth in range(6)]
    row = study.leaderboard["rows"][0]
    rows = [
        {
            **row, "way": f"{one} {other}", "backbone": one, "strategy": other, "winner": index < winners,
            "cheapest": index == 1, "seconds": 1234.5, "core_seconds": 12345.6, "latency": [0.1234, 0.1, 0.2],
            "size": 123.4e6, "test": {"accuracy": 0.9, "interval": [0.8, 0.95]},
        }
        for index, (one, other) in enumerate(names)
    ]  # fmt: skip
    best, *others = [one["way"] for one in rows]
    pairs = [
        {"better": best, "worse": other, "difference": 0.01 * (4 - index % 3), "p_value": 0.5, "adjusted": 1.0,
         "needed": 2000 - 100 * index, "told_apart": index + 1 >= winners}
        for index, other in enumerate(others)
    ]  # fmt: skip
    comparison = {**study.leaderboard["comparison"], "pairs": pairs, "caution": None}
    names_of_winners = [one["way"] for one in rows[:winners]]
    return {**study.leaderboard, "rows": rows, "winners": names_of_winners, "comparison": comparison, "too_few": None}


def test_a_verdict_says_what_could_not_be_told(study: Results) -> None:
    board = board_of(study, 6)
    told = _study_verdict(board, board["rows"][1])
    assert told.startswith("6 of 6 configurations are winners: none is significantly worse than another, on ")
    first, last = board["winners"][0], board["winners"][-1]
    assert (
        f"could not be told: the clearest difference, 0.030 between {first} and {last}, would take about 1,600" in told
    )
    board = board_of(study, 2)
    told = _study_verdict(board, board["rows"][1])
    assert "2 of 6 configurations are winners" in told and f"between {first} and {board['winners'][1]}, would" in told
    for pair in board["comparison"]["pairs"]:
        pair["needed"] = None
    assert "they are equally accurate here" in _study_verdict(board, board["rows"][1])


def test_one_figure_has_one_interval(study: Results) -> None:
    page, _ = _study_page(study, Plugins())
    assert page["model"]["interval"] == page["board"]["rows"][0]["interval"]


@in_chromium
def test_a_leaderboard_is_seen_whole_and_on_a_phone_its_accuracy(study: Results, tmp_path: Path) -> None:
    page, _ = _study_page(study, Plugins())
    file = tmp_path / "page.html"
    file.write_text(render({**page, "board": board_of(study, 6)}))
    with browser(tmp_path / "profile") as tab:
        tab.screen(1200)
        tab.open(file.as_uri())
        box = "document.querySelector('.board').parentElement"
        assert tab.value(f"{box}.scrollWidth <= {box}.clientWidth")
        tab.screen(390, phone=True)
        cells = "[...document.querySelectorAll('.board td:nth-child(3)')]"
        edge = f"Math.max(...{cells}.map(one => one.getBoundingClientRect().right))"
        assert tab.value("innerWidth") == 390 and 0 < tab.value(edge) <= 390
        assert tab.value("document.documentElement.scrollWidth") == 390
        badges = "[...document.querySelectorAll('.badge')].map(one => one.textContent)"
        assert tab.value(badges) == ["winner", "★ cheapest", *["winner"] * 4]


def test_curves_of_two_losses_are_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training lowers the loss that was asked for; validation is always scored by the cross-entropy."""
    shown: list[str] = []
    monkeypatch.setattr(zoo.reports.html, "learning_curves", shown.extend)
    report(run, out=tmp_path / "one.html")
    assert shown == ["train", "validation"]
    shown.clear()
    shutil.copytree(run.path, tmp_path / "run")
    focal = Run.open(tmp_path / "run").update(loss={"name": "losses/focal", "options": {}, "distribution": None})
    report(focal, out=tmp_path / "two.html")
    assert shown == ["train, losses/focal", "validation, cross-entropy"]


def test_a_curve_may_be_negative() -> None:
    for values in ([2.0, 1.0], [-2.0, -3.0]):
        curve = learning_curves({"train": values})
        assert curve is not None and ("−3.0" in curve) == (min(values) < 0)
