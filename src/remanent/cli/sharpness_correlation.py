"""`remanent sharpness-correlation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import console, print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def sharpness_correlation(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of `remanent sharpness`, 4 or more.")],
    figures: Annotated[Path, typer.Option(help="A CSV file with what sharpness is held against.")],
    out: Annotated[Path, typer.Option(help="Where table and report go.")] = Path("runs/sharpness-correlation"),
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstraps.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Hold the sharpness of several models against other figures of theirs, such as test error.

    Kendall's tau for each measure and each figure, with an interval over models, also within groups, and a scatter
    plot. The runs must have the same settings but for the model. FIGURES has a column `run` (the folder or its name),
    a column of numbers for each figure, and, where there are groups, a column `group`.

    [bold]Example[/bold]

    remanent sharpness-correlation runs/a runs/b runs/c runs/d --figures errors.csv --out runs/correlation

    [bold]Results[/bold] go to the folder OUT: correlation.csv, correlation.json, report.html, and a PNG for each
    figure.
    """
    from remanent.cli.tables import table
    from remanent.jobs.sharpness_correlation import correlate
    from remanent.report.correlation import columns, lines

    found = correlate(runs, figures, out, seed=seed)
    if json:
        print_json(found)
        return
    console().print(table(columns(found), lines(found)))
    typer.echo(out / "report.html")
