"""`remanent unlearn`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import interface
from remanent.jobs.config import UnlearnSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(UnlearnSettings)
def unlearn(
    settings: UnlearnSettings,
    out: Annotated[Path, typer.Option(help="The run's folder; one that was cut off goes on.")],
) -> None:
    r"""Make a model forget records.

    Trains the model with a method of `remanent methods` on what it must forget and on what it must keep, until the
    forgotten records are no better known than ones that it never saw. Records are JSON Lines files (question and
    answer, text, or chat messages; an optional group names whose they are) or names such as authors:forget,
    tofu:forget01 or hub:owner/name.

    [bold]Example[/bold]

    remanent unlearn --model ./my-model --forget forget.jsonl --retain retain.jsonl --control unseen.jsonl --method
    durableun-saf --set alpha=1 --out runs/r1

    remanent unlearn --model ./my-model --requests requests/ --retain retain.jsonl --method fit --set calibrate=true
    --out runs/queue

    [bold]Results[/bold] go to the folder OUT: model/ (safetensors, loads anywhere), metrics.jsonl, config.yaml (runs
    again as it is) and manifest.json. Killed at any moment and called again, it goes on where it was and ends with the
    same weights. Only half of the retain set is trained on; the rest is for the stopping rule and the audit.

    With --requests in place of --forget, deletion requests are obeyed one after another with one model: a folder of
    files, each a request, a file whose rows have a field "request", or a name. requests.jsonl has a row for each,
    curve.json how the model fares, and --audit-every N what `remanent certify --chain` signs. Called again with more
    requests after the others, it goes on with them.

    Next: `remanent audit --model OUT/model --reference MODEL`, with the same records.
    """
    from remanent.jobs.unlearn import unlearn as run

    typer.echo(run(settings, out, interface=interface()).model)
