"""Files that are either the old one or the whole new one, whatever happens in between.

`write_atomic` writes a temporary file in the same folder, flushes it to the disk, and renames it over the target; then
it flushes the folder, so that the name survives a power cut too. What it accepts: two flushes a file (some
milliseconds); a link at the target is replaced, not followed; after kill -9 a temporary file (`.name.xxxx.tmp`) may
stay behind, which nothing reads, and which the next write of that file removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
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
    # One whose mode is given is its writer's alone until it is whole.
    first = 0o666 if mode is None else 0o600
    with beside(target, lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, first))) as temporary:
        with naming(target), open(temporary, "wb") as file:
            if mode is not None:
                temporary.chmod(mode)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    _flush_folder(target.parent)


@contextlib.contextmanager
def beside(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A new path beside a target, `.name.xxxx.tmp`; what is still there of it afterwards is removed.

    What killed writers of the same target left is removed first. A path is locked while it is written, which tells the
    two apart; where there are no such locks (other systems, some network file systems) everything is left.

    Args:
        target: what the path is to be renamed to.
        make: makes the file or folder.
    """
    for path in left_beside(target, "tmp"):
        with _lock(path, wait=False) as held:
            if held:
                remove(path)
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        make(temporary)
        with _lock(temporary, wait=True):
            if not temporary.exists():
                continue  # another process took it for a left one, in the moment before it was locked
            try:
                yield temporary
            finally:
                remove(temporary)
            return


def left_beside(target: Path, end: str) -> list[Path]:
    """Paths beside a target that were made for it: `.name.xxxx.end`."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.{end}")
    return [path for path in target.parent.iterdir() if name.fullmatch(path.name)] if target.parent.is_dir() else []


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it, as far as it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the block holds the lock of a file or folder, which the system frees when a process dies."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


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
