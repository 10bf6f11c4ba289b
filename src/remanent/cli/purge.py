"""`remanent purge`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def purge(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, sweep or comparison.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was removed and what remains as JSON.")] = False,
) -> None:
    """Remove what a run or a sweep keeps that still knows, and list what it cannot remove.

    Removes the run's checkpoints with the optimizer's state, its finished measurements, answers from before, and the
    cached reference scores. Leaves the model, the audit and the certificate, which can be verified afterwards as
    before. Of a sweep or a comparison: the same of every trial, also of those that failed, and the measurements that
    they share. Then lists what knows the records still and is yours to remove: the model before unlearning, its
    copies, models of trials, the records, backups.

    [bold]Example[/bold]

    remanent purge runs/r1

    [bold]Results[/bold] are printed, and recorded in RUN/manifest.json under "purged".
    """
    from remanent.jobs.purge import plan_purge
    from remanent.jobs.purge import purge as remove

    plan = plan_purge(run)
    if not json:
        typer.echo("To be removed:" if plan.removes else "Nothing is left to be removed.")
        for item in plan.removes:
            typer.echo(f"  {item.path} ({item.size / 2**20:.1f} MiB): {item.what}")
    if plan.removes and not yes:
        typer.confirm("Remove them? This cannot be undone.", abort=True, err=json)
    remove(plan)
    if json:
        print_json(
            {
                "removed": [asdict(item) for item in plan.removes],
                "remains": [asdict(item) for item in plan.remains],
                "always": list(plan.always),
            }
        )
        return
    typer.echo("Remains, and is yours to see to:")
    for item in plan.remains:
        size = f" ({item.size / 2**20:.1f} MiB)" if item.size else ""
        typer.echo(f"  {item.path}{size}: {item.what}")
    for sentence in plan.always:
        typer.echo(f"  {sentence}")
