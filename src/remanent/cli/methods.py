"""`remanent methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from remanent.cli.output import console, print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def methods(
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON, with notes and descriptions.")] = False,
) -> None:
    """List the methods that make a model forget, with their hyper-parameters.

    Each is a choice of `remanent unlearn --method NAME`; the defaults are the paper's, and --set NAME=VALUE changes
    one.

    [bold]Example[/bold]

    remanent methods

    [bold]Results[/bold] are printed: name, paper, year, what it needs, and the hyper-parameters with their defaults.
    """
    from remanent.cli.tables import table
    from remanent.jobs.systems import described_methods

    found = described_methods()
    if json:
        print_json(found)
        return
    rows = [
        (
            item["name"],
            item["paper"] or None,
            str(item["year"]),
            ", ".join(item["needs"]),
            ", ".join(f"{name}={_spelled(value)}" for name, value in item["hyperparameters"].items()) or None,
        )
        for item in found
    ]
    console().print(table(("name", "paper", "year", "needs", "hyper-parameters"), rows))


def _spelled(value: float | str | bool) -> str:
    """As --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:.6g}"
