"""Names that reveal nothing, and digests that reveal any change."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from remanent.core.files import sha256_file
from remanent.errors import InputError, IntegrityError

SECRET_BYTES = 16
UNSAFE = '\\:*?"<>|'  # in names of files: some system could not hold the file, or would take it for another
HARMLESS_NAMES = ("license", "licence", "notice", "copying")


def keyed_hash(secret: bytes, text: str) -> str:
    """HMAC-SHA256 in hexadecimal: it names a text only to those who hold the secret, however few texts there are.

    Args:
        secret: at least 16 random bytes, kept outside the run folder.
        text: anything, for example a record's key.
    """
    if len(secret) < SECRET_BYTES:
        raise InputError("secret", f"{len(secret)} bytes", f"at least {SECRET_BYTES} random bytes")
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def hash_folder(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of every file in a folder and below it, by name relative to it ("a/b", sorted).

    Hidden files and folders (".git", ".cache") are left out: no loader reads them.

    Raises:
        InputError: where it is not a folder.
        IntegrityError: where it is empty, a link leads out of it, or something in it is neither file nor folder.
    """
    found = {name: sha256_file(Path(folder) / name) for name in list_files(folder)}
    if not found:
        raise IntegrityError(f"{folder}: the folder holds no files")
    return found


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files in a folder and below it, relative, sorted, hidden ones left out. Raises as `hash_folder`."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError("model folder", str(folder), "an existing folder")
    return sorted(_walk(root))


def is_inside(folder: Path, path: Path) -> bool:
    """Whether a path, with its links followed, lies in a folder."""
    # realpath, since Path.resolve raises on a loop of links
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _walk(root: Path) -> Iterator[str]:
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise IntegrityError(f"{Path(place) / name}: links to folders are not followed; copy the files instead")
        for name in files:
            path = Path(place) / name
            if name.startswith("."):
                continue
            if not is_inside(root, path):
                raise IntegrityError(f"{path}: the link leads out of the folder; copy the file instead")
            if not path.is_file():
                raise IntegrityError(f"{path}: is not a file")
            relative = path.relative_to(root).as_posix()
            if not relative.isprintable() or any(character in relative for character in UNSAFE):
                raise IntegrityError(f"{relative!a}: the name of a file has characters that no model file needs")
            yield relative


def is_harmless(name: str) -> bool:
    """Whether a file beside a model is one that no loader reads: a page, a licence, a notice."""
    path = PurePosixPath(name.lower())
    return path.suffix == ".md" or (path.stem in HARMLESS_NAMES and path.suffix in ("", ".txt"))
