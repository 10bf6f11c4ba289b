from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import pytest

from remanent.auditing.hashes import hash_folder, keyed_hash, list_files
from remanent.errors import InputError, IntegrityError

SECRET = bytes(range(32))


def test_keyed_hash_is_hmac_sha256() -> None:
    assert keyed_hash(SECRET, "Zoë") == hmac.new(SECRET, "Zoë".encode(), hashlib.sha256).hexdigest()


def test_keyed_hash_of_rfc_4231_case_1() -> None:
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert keyed_hash(b"\x0b" * 20, "Hi There") == expected


def test_without_the_secret_a_name_cannot_be_guessed() -> None:
    assert keyed_hash(SECRET, "Ada") != keyed_hash(SECRET[::-1], "Ada")
    assert keyed_hash(SECRET, "Ada") != hashlib.sha256(b"Ada").hexdigest()
    with pytest.raises(InputError, match="secret"):
        keyed_hash(b"short", "Ada")


def test_text_that_is_not_valid_unicode_still_has_a_name() -> None:
    assert len(keyed_hash(SECRET, "\ud800")) == 64


def test_a_folder_is_named_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("hidden")
    (tmp_path / ".x.tmp").write_text("hidden")
    (tmp_path / "b.json").write_bytes(b"b")
    (tmp_path / "sub" / "a").write_bytes(b"")
    assert hash_folder(tmp_path) == {
        "b.json": hashlib.sha256(b"b").hexdigest(),
        "sub/a": hashlib.sha256(b"").hexdigest(),
    }
    assert list_files(tmp_path) == ["b.json", "sub/a"]


def test_links_inside_are_followed_and_links_out_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    (folder / "b").symlink_to("a")
    assert set(hash_folder(folder).values()) == {hashlib.sha256(b"a").hexdigest()}
    (tmp_path / "secret").write_text("x")
    (folder / "c").symlink_to("../secret")
    with pytest.raises(IntegrityError, match="leads out"):
        hash_folder(folder)
    (folder / "c").unlink()
    (folder / "c").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(IntegrityError, match="links to folders"):
        hash_folder(folder)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(IntegrityError, match="not a file"):
        hash_folder(tmp_path)
    (tmp_path / "loop").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IntegrityError, match="not a file"):
        hash_folder(tmp_path)
    (tmp_path / "pipe").unlink()
    for name in ("a\nb", "a:b"):  # `verify` takes neither
        (tmp_path / name).write_text("")
        with pytest.raises(IntegrityError, match="characters"):
            hash_folder(tmp_path)
        (tmp_path / name).unlink()


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no files"):
        hash_folder(tmp_path)
    with pytest.raises(InputError, match="model folder"):
        hash_folder(tmp_path / "none")
