"""`remanent init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def init(
    out: Annotated[Path, typer.Option(help="The file; one that is there already is never overwritten.")] = Path(
        "config.yaml"
    ),
    sweep: Annotated[bool, typer.Option("--sweep", help="A file for `remanent sweep`.")] = False,
) -> None:
    """Write a commented YAML file for `remanent run`.

    Every setting of an unlearning job and of its audit, and with --sweep of a sweep, each with its description, its
    choices and its default; what must be filled in is marked REQUIRED.

    [bold]Example[/bold]

    remanent init --out config.yaml

    [bold]Results[/bold] go to the file OUT, whose path is printed.
    """
    from remanent.jobs.init import init as write

    typer.echo(write(out, sweep=sweep))
