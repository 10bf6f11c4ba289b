"""`remanent audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import interface
from remanent.jobs.config import AuditSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(AuditSettings)
def audit(
    settings: AuditSettings,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the figures go: the run's folder where the model is one's, else runs/audit-<name>.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """Ask a saved model what it still knows, at every condition that it may meet.

    Loads the saved files as saved and measures how well the forgotten, retained and unseen records and general text
    are known: at full precision, rounded to each named precision, and after somebody fine-tunes it again. Every line
    of the verdict can fail, and says why in figures. Without a forget set it asks only whether what should stay has
    stayed.

    Conditions: standard or thorough, which are fixed lists; full, bf16, int8, int4-row, int4-g32, nf4, prune-0.3,
    noise-0.01, adapter-off, bnb-nf4, torchao-int8, gguf-q4_0, gguf:FILE, relearning, relearning-overlap+int4-row,
    few-shot-3, sampled-0.8 ...
    They are measured from cheap to expensive, and the worst decides.

    [bold]Example[/bold]

    remanent audit --model runs/r1/model --reference ./my-model --forget forget.jsonl --retain retain.jsonl --control
    unseen.jsonl --at bf16,int8,int4-row,int4-g32,nf4,relearning

    With --require a measure becomes a line of the verdict too: MEASURE\\[@CONDITION]\\[/RECORDS], then >= or <= and a
    number, quoted. It is judged by its interval, and NOT ASSESSABLE where it was not made.

    remanent audit --model runs/r1/model --forget forget.jsonl --retain retain.jsonl --at utility --require
    "model-utility>=0.5" --require "extraction-strength<=0.2"

    [bold]Results[/bold] go to the folder OUT: audit.json (every score, no text) and judgement.json. What is measured
    already is not measured again when the same command is called again.

    [bold]Exit code[/bold]: 0 where the verdict is PASSED or WARNED, 1 where it is FAILED or NOT ASSESSABLE.

    Next: `remanent certify`, `remanent report`.
    """
    from remanent.cli.verdict import end_with
    from remanent.jobs.audit import run_audit
    from remanent.jobs.folders import audit_folder

    folder = out or audit_folder(settings.model)
    run_audit(settings, folder, interface=interface())
    end_with(folder, json)
