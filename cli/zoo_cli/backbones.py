"""Tables of backbones: size, cost, accuracy, whether their weights are on this machine; and of their stages."""

from __future__ import annotations

import math
from typing import Any

from rich.markup import escape
from rich.table import Table

from zoo.backbone import Backbone, is_at_hand
from zoo.catalogue import Entry
from zoo.networks.profile import MOST, NetworkProfile, profile_networks
from zoo.plugin import Plugins
from zoo.preprocess import size_json
from zoo_cli.options import console, fits, print_json

FIGURES = ("parameters", "GFLOPs", "input", "top-1")


def print_backbones(entries: list[Entry[Backbone]], plugins: Plugins, as_json: bool) -> None:
    """Print a row for each network: provider, size, cost, input, accuracy, licence, weights."""
    facts = profile_networks([entry.value for entry in entries])
    if as_json:
        print_json([_row(entry, known, plugins) for entry, known in zip(entries, facts)])
        return
    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("provider")
    for title in FIGURES:
        table.add_column(title, justify="right")
    for title in ("licence", "weights", "downloaded"):
        table.add_column(title)
    narrow = Table()
    narrow.add_column("name", overflow="fold")
    for title in FIGURES:
        narrow.add_column(title, justify="right", no_wrap=True)
    narrow.add_column("downloaded", no_wrap=True)
    unknown = 0
    for entry, known in zip(entries, facts):
        row = _row(entry, known, plugins)
        unknown += known.parameters is None
        tags = row["weights"]
        default = tags[0] if tags else None
        name = entry.name if row["reached_by_short_name"] else entry.qualified
        figures = (
            f"{known.parameters / 1e6:.1f} M" if known.parameters is not None else "-",
            f"{known.gflops:.2f}" if known.gflops is not None else "-",
            f"{row['input']} px",
            f"{default['top1']:.3f}" if default and default["top1"] is not None else "-",
        )
        at_hand = "yes" if any(tag["at_hand"] for tag in tags) else "no" if tags else "-"
        narrow.add_row(name, *figures, at_hand)
        table.add_row(
            name,
            entry.provider,
            *figures,
            escape(default["license"] if default else entry.value.license),
            escape(f"{default['tag']}{f' and {len(tags) - 1} more' if len(tags) > 1 else ''}" if default else "none"),
            at_hand,
        )
    screen = console()
    if fits(screen, table):
        screen.print(table)
    else:
        screen.print(narrow)
        screen.print("[dim]licences and weights are shown in a wider terminal, or with `--json`[/dim]")
    if unknown > MOST:
        screen.print(
            f"[dim]{unknown} sizes are not known yet; list at most {MOST} networks, by a pattern, to compute them[/dim]"
        )


def _row(entry: Entry[Backbone], facts: NetworkProfile, plugins: Plugins) -> dict[str, Any]:
    backbone = entry.value
    preprocess = backbone.weights[0].preprocess if backbone.weights else backbone.preprocess
    return {
        "name": backbone.name,
        "provider": entry.provider,
        "qualified": entry.qualified,
        "reached_by_short_name": plugins.backbones.find(backbone.name) is entry,
        "summary": backbone.summary,
        "parameters": facts.parameters,
        "gflops": None if facts.gflops is None or math.isnan(facts.gflops) else facts.gflops,
        "input": size_json(preprocess.crop),
        "license": backbone.license,
        "source": backbone.source,
        "weights": [
            {
                "tag": weights.tag,
                "top1": weights.top1,
                "license": weights.license,
                "source": weights.source,
                "file": weights.file,
                "at_hand": is_at_hand(backbone, weights),
            }
            for weights in backbone.weights
        ],
    }


def print_stages(entries: list[Entry[Backbone]], plugins: Plugins, as_json: bool) -> None:
    """Print the stages of each network, input first, with their parameters; `partial:N` counts from the end."""
    import torch

    from zoo.networks.building import build_network

    found: list[dict[str, Any]] = []
    for entry in entries:
        try:
            with torch.device("meta"):
                network = build_network(entry.value, classes=1000)
        except RuntimeError:  # torchvision's RegNets read values while they are built, which `meta` tensors lack
            network = build_network(entry.value, classes=1000)
        sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
        stages = (*network.anatomy.stages, network.anatomy.head)
        rows = [{"name": stage.name, "parameters": sum(sizes[name] for name in stage.parameters)} for stage in stages]
        found.append({"backbone": entry.qualified, "stages": rows})
    if as_json:
        print_json(found)
        return
    for one in found:
        table = Table("stage", "parameters", "trained by", title=one["backbone"])
        for index, row in enumerate(one["stages"]):
            left = len(one["stages"]) - 1 - index
            trained = "every strategy" if left == 0 else f"partial:{left} and up, full"
            table.add_row(row["name"], f"{row['parameters']:,}", trained)
        console().print(table)
