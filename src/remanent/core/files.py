"""Files that are either the old one or the whole new one, whatever happens in between.

`write_atomic` writes a temporary file in the same folder, flushes it to the disk, and renames it over the target; then
it flushes the folder, so that the name survives a power cut too. What it accepts: two flushes a file (some
milliseconds); a link at the target is replaced, not followed; after kill -9 a temporary file (`.name.xxxx.tmp`) may
stay behind, which nothing reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remanent.errors import IntegrityError


def write_atomic(path: str | os.PathLike[str], data: bytes | str, mode: int | None = None) -> None:
    """Write a file whole or not at all.

    Args:
        path: the target; its folder must exist.
        data: bytes, or text, which is written as UTF-8.
        mode: permission bits. Default: those of the file that is replaced, else what the umask leaves of 0o666.

    Raises:
        OSError: where the folder is missing, full or read-only. The old file then stays as it was.
    """
    target = Path(path)
    raw = data.encode("utf-8") if isinstance(data, str) else data
    if mode is None:
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(target.stat().st_mode)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        with naming(target), os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                temporary.chmod(mode)  # the umask may have narrowed it
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what a full or broken disk raises becomes an OSError that names the path, also from Rust."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            number = None if error.filename else error.errno
        else:  # safetensors and tokenizers end their own exceptions' text with the system's number
            said = re.search(r"\(os error (\d+)\)", str(error))
            number = int(said[1]) if said else None
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write plain data as JSON, indented by two, keys in the order given.

    Raises:
        ValueError: where a number is not finite.
        TypeError: where something is not plain data.
    """
    write_atomic(path, json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Plain data from a JSON file.

    Raises:
        IntegrityError: where the file is missing, unreadable, not UTF-8, cut off, holds a number that is not finite,
            or names a key twice.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_json(raw, str(path))


def parse_json(raw: bytes, name: str) -> Any:
    """Plain data from JSON bytes, strictly: `name` says in the error where they came from. Raises IntegrityError."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name}: is not whole and valid JSON: {error}") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read in pieces. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is named twice")
    return found


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it; the rename has happened
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
