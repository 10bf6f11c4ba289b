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
    parent: Annotated[
        Path | None, typer.Option(help="The certificate of a model that this one comes from, or an earlier one of it.")
    ] = None,
    parent_key: Annotated[
        Path | None, typer.Option(help="The public key that signed the parent; your own by default.")
    ] = None,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="An adapter's folder that was merged into the model; may be repeated.")
    ] = None,
    quantized: Annotated[
        list[Path] | None, typer.Option(help="A quantized file of the model that lies elsewhere; may be repeated.")
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Of a run with requests: sign the audits between them too, as one chain.")
    ] = False,
    passphrase_file: Annotated[Path | None, typer.Option(help="A file whose first line opens the key.")] = None,
) -> None:
    """Sign what the audit of a run found.

    The certificate is an in-toto Statement in a DSSE envelope: it names every file of the model by its SHA-256, and
    holds every line of the verdict with its reason. It never holds the forgotten text. A verdict of FAILED is signed
    like any other. A signature proves origin, not truth.

    It names where the model comes from (the original, the base, adapters) and each quantized file in the run's folder,
    audited or not. With a parent it is chained to it by its hash; parents are copied to RUN/parents/, and handed on
    with the certificate.

    [bold]Example[/bold]

    remanent certify runs/r1 --key signer.key

    remanent certify runs/r2 --key signer.key --parent runs/r1/certificate.json

    remanent certify runs/queue --key signer.key --chain

    [bold]Results[/bold] go to RUN/certificate.json, whose path is printed.

    Next: `remanent verify`.
    """
    from remanent.core.run_folder import check_writable
    from remanent.errors import InputError
    from remanent.jobs.certify import certify as sign

    if not run.is_dir():
        raise InputError("run", str(run), "a run's folder")
    check_writable(run)
    certificate = sign(
        run,
        key,
        model=model,
        passphrase=passphrase(passphrase_file),
        parent=parent,
        parent_key=parent_key,
        adapters=adapter or (),
        quantized=quantized or (),
        chain=chain,
    )
    typer.echo(certificate)
