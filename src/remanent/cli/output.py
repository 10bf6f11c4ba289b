"""What a command prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from remanent.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from remanent.jobs.progress import Interface


def interface() -> Interface:
    """Where a job shows its progress."""
    from rich.console import Console

    from remanent.jobs.progress import Interface

    return Interface(Console(stderr=True))


def console() -> Console:
    """Standard output, for tables."""
    from rich.console import Console

    return Console()


def print_json(data: Any) -> None:
    """Plain data on standard output."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False))


def passphrase(file: Path | None) -> str | None:
    """The first line of a file; None where no file is given. Raises InputError where it cannot be read."""
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").split("\n", 1)[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError("--passphrase-file", str(file), f"a text file that can be read ({reason})") from None
