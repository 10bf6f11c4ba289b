"""Run folders: one process at a time, whatever ends it."""

from __future__ import annotations

import pytest

from remanent.core.files import read_json
from remanent.core.run_folder import RunFolder, alone
from remanent.errors import RunConflictError

pytest.importorskip("fcntl", reason="this system has no such locks")


def test_one_process_at_a_time_and_one_that_was_killed_holds_nothing(tmp_path, held):
    with (
        held(tmp_path) as other,
        pytest.raises(RunConflictError, match=f"in use by process {other.pid} on"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def test_one_process_may_come_again_and_leaves_nothing_that_counts(tmp_path):
    run = RunFolder(tmp_path / "run")
    with alone(run.path):
        run.begin("a: 1\n", {})
        run.finish()
    with alone(run.path):
        run.begin("a: 1\n", {})
    assert set(read_json(run.manifest)["outputs"]) == {"config.yaml", "inputs.json"}
    assert [file.read_bytes() for file in run.path.glob(".*")] == [b""]


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), alone(tmp_path):
        raise ZeroDivisionError
    with alone(tmp_path):
        pass
