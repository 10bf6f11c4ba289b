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

    [bold]Results[/bold] are printed: name, what it is, paper, year, family, and what it needs. Those of the family
    unlearning stand in the tree of a survey (arXiv 2404.02062), with its leaves that have no method here.
    """
    from remanent.cli.tables import table
    from remanent.jobs.systems import described_systems, taxonomy

    found = described_systems(family)
    if json:
        print_json(found)
        return
    if family == "unlearning":
        for item in taxonomy():
            console().print(f"\n[bold]{item['title']}[/bold]: removes {item['removes']}")
            leaves = [(leaf["leaf"], leaf["text"], ", ".join(leaf["methods"]) or "none") for leaf in item["leaves"]]
            console().print(table(("leaf", "what its methods do", "methods here"), leaves))
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
