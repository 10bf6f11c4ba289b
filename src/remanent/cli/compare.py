"""`remanent compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from remanent.cli.compare_options import CompareOptions, file_of
from remanent.cli.options import from_settings
from remanent.cli.output import interface
from remanent.cli.sweep import start

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(CompareOptions, optional=True)
def compare(
    settings: Any,
    out: Annotated[Path, typer.Option(help="The comparison's folder; one that was cut off goes on.")],
    config: Annotated[
        Path | None,
        typer.Argument(help="A YAML file; `remanent init --compare` writes one. Options go before what it says."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print compare.json in place of the table.")] = False,
) -> None:
    """Compare methods over seeds at one budget of passes, and keep the best model.

    Every method has its own settings, which are its defaults where nothing is said, and passes at most as many records
    forward and backward, at every point together, as every other. The model before unlearning stands beside them, and
    with --base retrained ones, which are held to no budget. The method is chosen that keeps most of those that are
    forgotten within epsilon at the worst precision with every seed; of its seeds the model that keeps most stays.

    [bold]Example[/bold]

    remanent compare --model ./my-model --forget forget.jsonl --retain retain.jsonl --control unseen.jsonl
    --method npo,durable,ssd --set durable.retain_weight=8 --set npo.learning_rate=2e-5 --seeds 0,1,2 --budget 2000
    --out runs/c1

    [bold]Results[/bold] go to the folder OUT: trials/ (a run folder each, models deleted but for the best),
    compare.json (written after each trial), compare.html with the frontier, and chosen.yaml, which `remanent run`
    takes. Stopped at any moment and called again, it goes on; with more methods or seeds, it does what is missing.
    """
    from remanent.jobs.compare import Comparison

    start(Comparison(file_of(settings, config), out, interface()), out, json)
