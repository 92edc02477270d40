"""Laws of the pages on the server: routes, bounds, statuses and metrics agree with the code."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import click
import pytest
from docs_pages import ROOT

from zoo.plugin import Plugins
from zoo.target import load_target

server_tables = pytest.importorskip("server_tables", reason="the server's requirements are not installed")

HOW_TO = (ROOT / "docs/how-to/serve.md").read_text(encoding="utf-8")


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def command() -> click.Command:
    (entry,) = (entry for entry in Plugins().commands if entry.name == "serve")
    loaded = load_target(entry.value.target)
    assert isinstance(loaded, click.Command)
    return loaded


def test_every_route_of_the_application_is_in_the_table() -> None:
    from zoo.serving.app import make_app
    from zoo.serving.service import Service

    service = Service([], workers=0)
    app: Any = make_app(service)
    service.close()
    routes = {
        (method, route.path.replace("{model}", "M").replace("{version}", "1"))
        for route in app._app.routes
        for method in route.methods - {"HEAD"}
    }
    assert routes == {(method, path.strip("`")) for method, path, *_ in rows(server_tables.routes())}


def test_every_bound_is_in_the_table_with_the_option_s_default(command: click.Command) -> None:
    from zoo.serving.bounds import Bounds

    table, fields = rows(server_tables.bounds()), dataclasses.fields(Bounds)
    assert len(table) == len(fields) and all(text for text, _, _ in table)
    # an option that may be given several times has no default, which is none of them
    defaults = {one.opts[0]: () if getattr(one, "multiple", False) else one.default for one in command.params}
    for field in fields:
        option = server_tables.OPTIONS.get(field.name)
        assert option is None or defaults[option] == field.default, field.name


def test_every_status_of_a_rejection_is_explained() -> None:
    section = HOW_TO.partition("## When it refuses")[2]
    explained = {
        int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in cell.split(",")
    }
    found = {int(status) for status, _, _ in rows(server_tables.rejections())}
    assert found == explained and len(found) > 8


def test_reasons_and_messages_are_read_off_the_code() -> None:
    table = {(status, reason.strip("`")) for status, reason, _ in rows(server_tables.rejections())}
    assert {("413", "pixels"), ("503", "queue"), ("504", "deadline"), ("400", "malformed")} <= table
    assert {"408", "431"} <= {status for status, _ in table}
    assert all(message for _, _, message in rows(server_tables.rejections()))


def test_metrics_have_their_labels_and_those_of_queries_exist() -> None:
    table = {name.strip("`"): (kind, labels) for name, kind, labels, _ in rows(server_tables.metrics())}
    assert table["zoo_requests_total"] == ("counter", "`route`, `code`") and all(
        one.startswith("zoo_") for one in table
    )
    named = set(re.findall(r"\bzoo_\w+", HOW_TO)) - {"zoo_"}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= set(table)
