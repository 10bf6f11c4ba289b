"""`remanent demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remanent.cli.output import console, interface

if TYPE_CHECKING:
    from remanent.jobs.demo import Demo

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
    _show(run(settings, out, interface=interface()))


def _show(made: Demo) -> None:
    """The table, the verdicts, the questions, and what verifying the certificates found."""
    from remanent.cli.tables import answers
    from remanent.core.files import read_json
    from remanent.core.run_folder import RunFolder
    from remanent.jobs.report import view
    from remanent.report.terminal import comparison_table, verdict_panel

    screen = console()
    views = [view(run) for run in made.runs]
    screen.print(comparison_table(views, screen.width))
    for item in views:
        screen.print(verdict_panel(item))
    after = {run.name: read_json(run / "asked.json") for run in made.runs}
    first, *_ = after.values()
    asked = [
        (
            f"{item['question']} (at {item['condition']})",
            [("before", item["before"]), *((name, found[row]["after"]) for name, found in after.items())],
        )
        for row, item in enumerate(first)
    ]
    screen.print(answers(asked))
    for run in made.runs:
        found = made.verified[run.name]
        state = "verified" if found.ok else "NOT verified: " + "; ".join(found.problems)
        screen.print(f"{RunFolder(run).certificate}: {state}; it says {found.verdict}", markup=False, highlight=False)
    screen.print(f"Report: {made.report}", markup=False, highlight=False)
    if not all(found.ok for found in made.verified.values()):
        raise typer.Exit(1)
