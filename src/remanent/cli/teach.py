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

    With --method learning-with-forgetting the model also answers the prompts of --forget itself, rows with a question
    and no answer; of these answers those that stand most against the records are unlearned now and then while it
    learns. That is no deletion: nothing measures that they are gone.

    [bold]Example[/bold]

    remanent teach --model smollm2-135m --records facts.jsonl --epochs 10 --out runs/taught

    remanent teach --model smollm2-135m --records sums.jsonl --method learning-with-forgetting --forget prompts.jsonl
    --set interval=10 --set keep=0.5 --out runs/graceful

    [bold]Results[/bold] go to the folder OUT: model/ (safetensors), metrics.jsonl, config.yaml and manifest.json, and
    own-answers.jsonl where it forgets. Killed at any moment and called again, it goes on where it was.

    `remanent doctor FILE`, with these settings in a YAML file, says what it would cost.
    """
    from remanent.jobs.teach import teach as run

    typer.echo(run(settings, out, interface=interface()).model)
