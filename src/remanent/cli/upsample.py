"""`remanent upsample`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import console, interface, print_json
from remanent.jobs.upsample_config import UpsampleSettings

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(UpsampleSettings)
def upsample(
    settings: UpsampleSettings,
    out: Annotated[Path, typer.Option(help="The JSON file to write; it must not be there yet.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the records that a model learns late, and write which ones to repeat.

    USEFUL: an early model's outputs are clustered in two, class by class; the cluster with the higher mean loss lacks
    what is learnt first. Train again from the same weights on the data with these records repeated once. Wrong labels
    are learnt late too, and would be repeated: look at them first.

    [bold]Example[/bold]

    remanent upsample --data table.csv --label species --out repeat.json

    [bold]Results[/bold] go to the file OUT: the indices, from 0, of the records to repeat, and each class's clusters.
    `Useful.load(OUT).sampler(dataset)` in `remanent.data.useful` is a sampler for a DataLoader.
    """
    from remanent.cli.tables import table
    from remanent.jobs.upsample import upsample as run

    found = run(settings, out, interface=interface())
    if json:
        print_json({**asdict(found), "file": str(found.file)})
        return
    rows = [
        (
            found.names[item.label],
            str(item.records),
            str(item.slow),
            "" if item.fast_loss is None else f"{item.fast_loss:.3f}",
            "" if item.slow_loss is None else f"{item.slow_loss:.3f}",
        )
        for item in found.useful.classes
    ]
    console().print(table(("class", "records", "learnt late", "mean loss of the others", "their own"), rows))
    if found.early_epochs is not None:
        typer.echo(f"The early model was trained for {found.early_epochs} epochs.")
    typer.echo(f"{found.file}: {len(found.useful.slow)} of {found.useful.records} records to repeat.")
