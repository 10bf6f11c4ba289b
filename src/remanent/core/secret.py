"""The secret that keys the hashes of records, kept outside every run folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from remanent.core.files import write_atomic
from remanent.errors import InputError

_BYTES = 32


def secret_file() -> Path:
    """Where the secret lies: $REMANENT_SECRET, or `remanent/secret` in the user's configuration folder."""
    named = os.environ.get("REMANENT_SECRET")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "remanent" / "secret"


def load_secret() -> bytes:
    """The secret, made on first use and readable by its owner alone.

    With it, a small set of names could be guessed from the hashes: whoever publishes a certificate keeps it apart.
    """
    file = secret_file()
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, secrets.token_bytes(_BYTES), mode=0o600)
        except OSError as error:
            raise InputError("REMANENT_SECRET", str(file), f"a file that can be written ({error.strerror})") from None
    value = file.read_bytes()
    if len(value) < _BYTES:
        raise InputError("REMANENT_SECRET", f"{file}, {len(value)} bytes", f"a file of at least {_BYTES} random bytes")
    return value
