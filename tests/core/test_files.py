from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
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


KILLED = """
import os, signal, sys
from pathlib import Path
from remanent.core.files import beside
with beside(Path(sys.argv[1]), Path.mkdir if sys.argv[2] == "folder" else Path.touch) as path:
    if sys.argv[2] == "folder":
        (path / "part").write_text("half")
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
    path.replace(sys.argv[1])
"""


def writer(target: Path, kind: str, state: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(target), kind, state]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_goes_with_the_next_write_of_the_same_target(tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "a", tmp_path / "a.b"
    for killed in (target, other):
        assert writer(killed, kind, "killed").wait() == -signal.SIGKILL
    left = sorted(os.listdir(tmp_path))
    assert [name[:3] for name in left] == [".a.", ".a."]
    write_atomic(target, "whole")
    (of_the_other,) = set(os.listdir(tmp_path)) - {"a"}
    assert of_the_other.startswith(".a.b.")
    write_atomic(other, "whole")
    assert sorted(os.listdir(tmp_path)) == ["a", "a.b"]


def test_what_a_living_writer_has_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "a"
    alive = writer(target, "file", "alive")
    assert alive.stdout is not None
    assert alive.stdout.readline() == "writing\n"
    write_atomic(target, "ours")
    assert len(os.listdir(tmp_path)) == 2
    alive.communicate("")
    assert alive.returncode == 0
    assert os.listdir(tmp_path) == ["a"]
    assert target.read_text() == ""


def test_a_path_that_was_taken_for_a_left_one_is_made_again(tmp_path: Path) -> None:
    """In the moment between making and locking it."""
    made = []

    def make(path: Path) -> None:
        made.append(path)
        if len(made) > 1:
            path.touch()

    with files.beside(tmp_path / "a", make) as path:
        assert path == made[1]
    assert os.listdir(tmp_path) == []


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
