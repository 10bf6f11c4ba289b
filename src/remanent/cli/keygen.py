"""`remanent keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import passphrase

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def keygen(
    key: Annotated[Path, typer.Option(help="Where the private key goes; keep it to yourself.")] = Path("signer.key"),
    pub: Annotated[Path, typer.Option(help="Where the public key goes; hand it out.")] = Path("signer.pub"),
    passphrase_file: Annotated[
        Path | None, typer.Option(help="A file whose first line encrypts the private key.")
    ] = None,
) -> None:
    """Make the key pair that signs certificates and verifies them.

    Ed25519, as PEM. Whoever verifies must have the public key from you, and not from beside the certificate. A file
    that is there already is never overwritten.

    [bold]Example[/bold]

    remanent keygen --key signer.key --pub signer.pub

    [bold]Results[/bold] are the two files, the private one readable by its owner only; the key's id is printed.
    """
    from remanent.auditing.signing import generate_key

    identity = generate_key(key, pub, passphrase(passphrase_file))
    typer.echo(f"private key: {key} (keep it to yourself)\npublic key:  {pub} (hand it out)\nkey id:      {identity}")
