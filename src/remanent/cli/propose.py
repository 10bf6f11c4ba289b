"""`remanent propose`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import interface, print_json
from remanent.jobs.propose_config import ProposeSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(ProposeSettings)
def propose(
    settings: ProposeSettings,
    out: Annotated[Path, typer.Option(help="The CSV file to write; it must not be there yet.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Propose designs that should score higher than those of a table.

    Offline optimization: a surrogate learns the score from the table, IGNITE keeps its mean prediction from moving
    much with its weights, and a search climbs it. Nothing is measured; what the surrogate promises is more than can be
    expected, above all outside the table's range.

    [bold]Example[/bold]

    remanent propose --table designs.csv --score yield --skip id --out proposals.csv

    [bold]Results[/bold] go to the file OUT: the table's columns of designs, `promised` (what the surrogate predicts)
    and `outside` (in how many inputs a proposal leaves the table's range), the most promising first.
    """
    from remanent.jobs.propose import propose as run

    found = run(settings, out, interface=interface())
    if json:
        print_json({**asdict(found), "file": str(found.file)})
        return
    for sentence in found.sentences():
        typer.echo(sentence)
