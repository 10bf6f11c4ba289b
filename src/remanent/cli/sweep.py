"""`remanent sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import console, interface, print_json
from remanent.cli.sweep_options import SweepOptions, file_of

if TYPE_CHECKING:
    from remanent.jobs.sweep import Sweep

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(SweepOptions, optional=True)
def sweep(
    settings: Any,
    out: Annotated[Path, typer.Option(help="The sweep's folder; one that was cut off goes on.")],
    config: Annotated[
        Path | None,
        typer.Argument(help="A YAML file; `remanent init --sweep` writes one. Options go before what it says."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print sweep.json in place of the table.")] = False,
) -> None:
    """Compare methods and settings over seeds, on one model and one set of records.

    Every trial unlearns and audits as `remanent run` does, at an equal budget of passes where one is named. A trial
    that diverges is a row with its reason. The setting is chosen that keeps most of those that are forgotten within
    epsilon at the worst precision with every development seed; fresh seeds then run it again. Only audit figures of
    development seeds choose.

    [bold]Example[/bold]

    remanent sweep --model ./my-model --forget forget.jsonl --retain retain.jsonl --control unseen.jsonl --method npo
    --method durable --learning-rate 1e-5,3e-5 --retain-weight 1,8 --set beta=0.1,0.2 --seeds 0,1,2 --budget 2000
    --out runs/s1

    [bold]Results[/bold] go to the folder OUT: trials/ (a run folder each, models deleted unless --keep-models),
    sweep.json (written after each trial), sweep.html with the frontier, and chosen.yaml, which `remanent run` takes.
    Stopped at any moment and called again, it goes on; with more values or seeds, it does what is missing.
    """
    from remanent.jobs.sweep import Sweep

    start(Sweep(file_of(settings, config), out, interface()), out, json)


def start(trials: Sweep, out: Path, json: bool) -> None:
    """Run a sweep or a comparison and show what came of it; exit code 1 where no trial ended well."""
    from remanent.core.files import read_json
    from remanent.report.sweep_terminal import show

    view = trials.run()
    if json:
        print_json(read_json(trials.results))
    else:
        show(view, console())
        typer.echo(out / trials.page.name)
    if not any(item.seeds for item in view.settings):
        raise typer.Exit(1)
