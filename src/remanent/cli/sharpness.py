"""`remanent sharpness`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import console, interface, print_json
from remanent.jobs.config import SharpnessSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(SharpnessSettings)
def sharpness(
    settings: SharpnessSettings,
    out: Annotated[
        Path | None, typer.Option(help="Where figures and report go; runs/sharpness-<name>.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure how flat the loss of some records is around a model.

    How much the loss grows at random and at the worst points nearby, the largest eigenvalue of its Hessian, the
    length of gradients, and the loss along a random direction; with the model before, the path between both and the
    layers that hold it back. Each with an interval, for each set of records and each precision. A figure says
    something beside another: of the same records on another model, or of other records on this one.

    Measures: standard, which are sharpness, eigenvalues, fisher (trace of the Fisher information), gradient, landscape,
    and with --other path and stragglers (by putting a layer back); all, which adds trace, spectrum, plane, layers,
    noise (the loss under Gaussian noise), neurons (the share of active ones), kernel (condition number of the tangent
    kernel of a batch's answers), and with --other criticality (stragglers by how far a layer can go back).

    Definitions: worst-l2-0.05, average-l2-element-0.02, worst-linf-row-0.01-normalized ...: case, norm, scale (none
    where it is left out, tensor, row, element), radius, and whether logits are normalized. Each says by how much the
    loss grows, and the share of tokens that are not the most likely.

    [bold]Example[/bold]

    remanent sharpness --model runs/r1/model --other ./my-model --data forget.jsonl,retain.jsonl --at full,int4-row

    [bold]Results[/bold] go to the folder OUT: sharpness.json, report.html, and a PNG of each plot. Stopped at any
    moment and called again, it goes on with the measure that it was at.
    """
    from remanent.cli.tables import table
    from remanent.jobs.folders import sharpness_folder
    from remanent.jobs.sharpness import measure_sharpness
    from remanent.report.sharpness_view import columns, lines

    folder = out or sharpness_folder(settings.model)
    found = measure_sharpness(settings, folder, interface=interface())
    if json:
        print_json(found)
        return
    console().print(table(columns(found), lines(found)))
    typer.echo(folder / "report.html")
