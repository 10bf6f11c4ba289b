"""`remanent systems`."""

from __future__ import annotations

from typing import Annotated

import typer

from remanent.cli.output import console, print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def systems(
    family: Annotated[str | None, typer.Option(help="Only those of this family, such as unlearning.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON, with notes and descriptions.")] = False,
) -> None:
    """List the published systems that Remanent holds.

    [bold]Example[/bold]

    remanent systems --family unlearning

    [bold]Results[/bold] are printed: name, what it is, paper, year, family, and what it needs.
    """
    from remanent.cli.tables import table
    from remanent.jobs.systems import described_systems

    found = described_systems(family)
    if json:
        print_json(found)
        return
    rows = [
        (
            item["name"],
            item["title"],
            item["paper"] or None,
            str(item["year"]),
            item["family"],
            ", ".join(item["needs"]),
        )
        for item in found
    ]
    console().print(table(("name", "what it is", "paper", "year", "family", "needs"), rows))
