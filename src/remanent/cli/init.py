"""`remanent init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.errors import InputError

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def init(
    out: Annotated[Path, typer.Option(help="The file; one that is there already is never overwritten.")] = Path(
        "config.yaml"
    ),
    sweep: Annotated[bool, typer.Option("--sweep", help="A file for `remanent sweep`.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="A file for `remanent compare`.")] = False,
) -> None:
    """Write a commented YAML file for `remanent run`.

    Every setting of an unlearning job and of its audit, and with --sweep of a sweep, with --compare of a comparison,
    each with its description, its choices and its default; what must be filled in is marked REQUIRED.

    [bold]Example[/bold]

    remanent init --out config.yaml

    [bold]Results[/bold] go to the file OUT, whose path is printed.
    """
    from remanent.jobs.init import init as write

    if sweep and compare:
        raise InputError("--sweep, --compare", "both", "one of the two")
    typer.echo(write(out, kind="sweep" if sweep else "compare" if compare else "run"))
