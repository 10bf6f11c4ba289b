"""`remanent certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import passphrase

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def certify(
    run: Annotated[Path, typer.Argument(help="The run's folder, with its audit.")],
    key: Annotated[Path, typer.Option(help="The private key, from `remanent keygen`.")],
    model: Annotated[
        Path | None, typer.Option(help="The audited model's folder; RUN/model by default.", show_default=False)
    ] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="A file whose first line opens the key.")] = None,
) -> None:
    """Sign what the audit of a run found.

    The certificate is an in-toto Statement in a DSSE envelope: it names every file of the model by its SHA-256, and
    holds every line of the verdict with its reason. It never holds the forgotten text. A verdict of FAILED is signed
    like any other. A signature proves origin, not truth.

    [bold]Example[/bold]

    remanent certify runs/r1 --key signer.key

    [bold]Results[/bold] go to RUN/certificate.json, whose path is printed.

    Next: `remanent verify`.
    """
    from remanent.core.run_folder import check_writable
    from remanent.errors import InputError
    from remanent.jobs.certify import certify as sign

    if not run.is_dir():
        raise InputError("run", str(run), "a run's folder")
    check_writable(run)
    typer.echo(sign(run, key, model=model, passphrase=passphrase(passphrase_file)))
