"""`remanent controls`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import interface, print_json
from remanent.jobs.config import ControlsSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(ControlsSettings)
def controls(
    settings: ControlsSettings,
    out: Annotated[Path, typer.Option(help="The control file to write; it must not be there yet.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make unseen control records by swapping the entities of the forget records.

    Names, places, dates and numbers become others of their kind, the same throughout a group; the sentences stay.
    Records whose answer then says nothing new, or that still read like a forgotten one, are left out. Whether the
    control is as hard as the forget set is then measured on a base model, which must have seen neither: real unseen
    records of the same kind are better wherever there are any.

    [bold]Example[/bold]

    remanent controls --forget forget.jsonl --model ./base --out control.jsonl

    [bold]Results[/bold]: the file OUT, and a sentence on how the two compare.

    [bold]Exit code[/bold]: 0 where they are comparable, 1 where they are not or the records do not decide.
    """
    from remanent.jobs.controls import controls as run

    found = run(settings, out, interface=interface())
    if json:
        print_json({**asdict(found), "file": str(found.file), "comparable": found.comparable})
    else:
        left_out = f"left out {found.unchanged} without a new answer and {found.alike} too much alike"
        typer.echo(f"{found.file}: {found.records} records of {found.groups} groups; {left_out}.")
        typer.echo(found.sentence())
    if not found.comparable:
        raise typer.Exit(1)
