"""`remanent verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import interface, print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def verify(
    certificate: Annotated[Path, typer.Argument(help="The certificate.")],
    model: Annotated[Path, typer.Option(help="The folder of the model that it should be about.")],
    key: Annotated[Path, typer.Option(help="The public key of whom you trust, had from them.")],
    chain: Annotated[bool, typer.Option("--chain", help="Verify the certificates above it too.")] = False,
    parent_key: Annotated[
        list[Path] | None, typer.Option(help="A further public key that parents may be signed with; may be repeated.")
    ] = None,
    rerun: Annotated[
        int | None, typer.Option(min=1, help="Measure so many random rows of the evidence again.", show_default=False)
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="For --rerun: the audit's settings; audit.yaml beside the certificate by default."),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="For --rerun: nats; 5 times that after relearning.")] = 0.02,
    seed: Annotated[
        int | None, typer.Option(help="For --rerun: draws the rows; another each time by default.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result and the statement as JSON.")] = False,
) -> None:
    """Check a certificate against a model's files and a public key.

    Whether this key signed it, whether it is unchanged, and whether it names exactly the files of the folder, by their
    SHA-256. A signature proves origin, not truth: who signed says that the audit found this.

    With --chain the certificates above it are verified too: each by the hash in the one below, by its signature, and
    by the files of the model that it is about. They lie in the folder parents/ beside the certificate.

    With --rerun, random rows of the evidence are measured again on the model. That needs the records and the secret
    that keys their hashes ($REMANENT_SECRET).

    [bold]Example[/bold]

    remanent verify runs/r1/certificate.json --model runs/r1/model --key signer.pub

    remanent verify runs/r2/certificate.json --model runs/r2/model --key signer.pub --chain --rerun 3

    [bold]Results[/bold] are printed: the problems, or the verdict that the certificate holds.

    [bold]Exit code[/bold]: 0 where the certificate is good, whatever its verdict; 1 where there is any problem.
    """
    from remanent.jobs.verify import verify as check

    found = check(
        certificate,
        model,
        key,
        chain=chain,
        parent_keys=parent_key or (),
        rerun=rerun,
        audit_file=audit,
        tolerance=tolerance,
        seed=seed,
        interface=interface(),
    )
    if json:
        print_json({**asdict(found.own), "ok": found.ok, "chain": _plain(found.chain), "rerun": _plain(found.rerun)})
    else:
        for line in found.sentences():
            typer.echo(line)
    if not found.ok:
        raise typer.Exit(1)


def _plain(rows: tuple[object, ...] | None) -> list[dict[str, object]] | None:
    return None if rows is None else [asdict(row) for row in rows]  # type: ignore[call-overload]
