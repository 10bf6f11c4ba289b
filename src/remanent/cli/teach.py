"""`remanent teach`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import interface
from remanent.jobs.config import TeachSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(TeachSettings)
def teach(
    settings: TeachSettings,
    out: Annotated[Path, typer.Option(help="The run's folder; one that was cut off goes on.")],
) -> None:
    """Fine-tune a model on records.

    Plain fine-tuning of all weights with AdamW: the model that knows something, which unlearning starts from, or the
    gold reference that never saw the records.

    [bold]Example[/bold]

    remanent teach --model smollm2-135m --records facts.jsonl --epochs 10 --out runs/taught

    [bold]Results[/bold] go to the folder OUT: model/ (safetensors), metrics.jsonl, config.yaml and manifest.json.
    Killed at any moment and called again, it goes on where it was.
    """
    from remanent.jobs.teach import teach as run

    typer.echo(run(settings, out, interface=interface()).model)
