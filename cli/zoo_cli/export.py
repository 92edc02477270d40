"""`zoo export`."""

from __future__ import annotations

import click

from zoo_cli.options import console, device_option, force_option, json_option, print_json


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", default="onnx", show_default=True, metavar="FORMAT", help="See `zoo list exporters`.")
@click.option("--out", metavar="FILE", help="[default: RUN/model.onnx]")
@click.option("--data", metavar="DATA", help="The run's data, if they were moved since.")
@device_option
@force_option
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    run: str,
    to: str,
    out: str | None,
    data: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write a run as one verified file.

    The file holds the network and its preprocessing. It is kept only if it predicts, from the bytes of the reported
    split's photographs to their labels, what the run predicted.
    """
    from zoo.exporting import export as write
    from zoo_cli.display import Display
    from zoo_cli.main import plugins

    screen = console()
    done = write(
        run, to=to, out=out, data=data, device=device, force=force, plugins=plugins(ctx), progress=Display(screen)
    )
    screen.print(f"{done.parity}  [dim]{done.size / 1e6:.1f} MB[/dim]")
    if as_json:
        print_json({"file": str(done.path), "bytes": done.size, "parity": done.parity.to_json()})
    else:
        click.echo(str(done.path))
