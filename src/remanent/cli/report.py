"""`remanent report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of audited runs, or one of obeyed requests.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; RUN/report.html of one run, report.html of several.", show_default=False),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
) -> None:
    """Write the report of one run, or of several side by side, as one HTML file.

    The verdict on top, what is known at each condition with intervals, training curves, and what was not tested. The
    file needs no network and nothing beside it, and prints well. Of one run with requests that was not audited it shows
    the curve and each request, and says that nothing was audited.

    [bold]Example[/bold]

    remanent report runs/plain runs/durable --out report.html

    [bold]Results[/bold] go to the file OUT, whose path is printed.
    """
    from remanent.core.run_folder import RunFolder, check_writable
    from remanent.jobs.report import check
    from remanent.jobs.report import report as write

    file = out or (RunFolder(runs[0]).report if len(runs) == 1 else Path("report.html"))
    check(runs)  # a folder that holds nothing to report is said before a place for the file is made
    check_writable(file.parent)
    typer.echo(write(runs, file, title))
