"""`remanent verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def verify(
    certificate: Annotated[Path, typer.Argument(help="The certificate.")],
    model: Annotated[Path, typer.Option(help="The folder of the model that it should be about.")],
    key: Annotated[Path, typer.Option(help="The public key of whom you trust, had from them.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result and the statement as JSON.")] = False,
) -> None:
    """Check a certificate against a model's files and a public key.

    Whether this key signed it, whether it is unchanged, and whether it names exactly the files of the folder, by their
    SHA-256. A signature proves origin, not truth: who signed says that the audit found this.

    [bold]Example[/bold]

    remanent verify runs/r1/certificate.json --model runs/r1/model --key signer.pub

    [bold]Results[/bold] are printed: the problems, or the verdict that the certificate holds.

    [bold]Exit code[/bold]: 0 where the certificate is good, whatever its verdict; 1 where there is any problem.
    """
    from remanent.auditing.verify import verify as check

    found = check(certificate, model, key)
    if json:
        print_json(asdict(found))
    else:
        for problem in found.problems:
            typer.echo(f"Problem: {problem}")
        for note in found.notes:
            typer.echo(f"Note: {note}")
        if found.ok:
            typer.echo(f"Good: signed by this key, unchanged, and about exactly these files. Verdict: {found.verdict}")
        else:
            typer.echo("Not good: do not rely on this certificate for this model.")
    if not found.ok:
        raise typer.Exit(1)
