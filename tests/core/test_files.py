from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from remanent.core import files
from remanent.core.files import parse_json, read_json, sha256_file, write_atomic, write_json
from remanent.errors import IntegrityError


def test_bytes_and_text_arrive_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"\x00\xff")
    write_atomic(tmp_path / "b", "Zoë\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "Zoë\n".encode()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_the_mode_of_a_replaced_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_atomic(target, "one", mode=0o600)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    write_atomic(target, "two")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "new", "")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    if broken == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "a", "x")


def test_json_goes_round_in_its_order(tmp_path: Path) -> None:
    data = {"b": [1, 2.5, None, True], "a": {"ö": "\u2028"}}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data
    assert list(read_json(tmp_path / "a.json")) == ["b", "a"]


def test_json_refuses_what_is_not_finite_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "raw",
    [b"", b'{"a": 1', b'{"a": NaN}', b"[Infinity]", b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 200_000, b"1" * 10_000],
    ids=["empty", "cut", "nan", "infinity", "twice", "not-utf8", "deep", "long-number"],
)
def test_broken_json_is_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(IntegrityError, match="the envelope"):
        parse_json(raw, "the envelope")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
