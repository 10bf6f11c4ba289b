"""`remanent demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import interface

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The demo's folder; one that was cut off goes on.")] = Path("runs/demo"),
    model: Annotated[
        str | None,
        typer.Option(help="The model; `tiny` is made on the spot and needs no download.", show_default="smollm2-135m"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.", show_default="0")] = None,
) -> None:
    """Teach a model fictitious authors, unlearn some of them twice, audit and certify both.

    The main job from end to end, on a real language model and embedded records: a deletion request is served the plain
    way and the durable way, and both are audited at every condition, the 4-bit ones among them.

    [bold]Example[/bold]

    remanent demo --out runs/demo

    [bold]Results[/bold] go to the folder OUT: a run per way, each with its model, audit and certificate, and
    report.html. One table and three questions, answered before and after at 4 bits, are printed. Killed at any moment
    and called again, it goes on where it was.
    """
    from remanent.jobs.config import DemoSettings, parse
    from remanent.jobs.demo import demo as run

    given = {"model": model, "seed": seed}
    settings = parse(DemoSettings, {name: value for name, value in given.items() if value is not None}, "demo")
    run(settings, out, interface=interface())
