from __future__ import annotations

from pathlib import Path

import pytest

from remanent.errors import InputError
from remanent.jobs.folders import Sides, audit_folder, check_new_file, sides


@pytest.fixture
def run(tmp_path):
    (tmp_path / "r1" / "model").mkdir(parents=True)
    (tmp_path / "r1" / "config.yaml").write_text("model: ./before\ndata:\n  system: Be brief.\n")
    return tmp_path / "r1"


def test_a_run_has_both_sides_and_its_system_turn(run):
    assert sides(str(run)) == Sides(str(run / "model"), "./before", "Be brief.")


def test_a_run_that_taught_has_its_system_turn_at_the_top(run):
    (run / "config.yaml").write_text("model: base\nsystem: Be kind.\n")
    assert sides(str(run)) == Sides(str(run / "model"), "base", "Be kind.")


def test_a_model_is_an_after_alone(run, tmp_path):
    assert sides(str(run / "model")) == Sides(str(run / "model"))
    assert sides("owner/name") == Sides("owner/name")


def test_a_run_without_its_model_yet_is_refused(run):
    (run / "model").rmdir()
    with pytest.raises(InputError, match="has saved its model"):
        sides(str(run))


def test_where_an_audit_goes(run, tmp_path, monkeypatch):
    assert audit_folder(str(run / "model")) == run
    monkeypatch.chdir(run / "model")
    assert audit_folder(".").resolve() == run
    (tmp_path / "plain").mkdir()
    assert audit_folder(str(tmp_path / "plain")) == Path("runs/audit-plain")
    assert audit_folder("owner/name") == Path("runs/audit-name")
    assert audit_folder("models/small.gguf") == Path("runs/audit-small")


def test_a_new_file_is_none_that_is_there_and_its_folder_is(run):
    check_new_file(run / "new.csv")
    with pytest.raises(InputError, match="not there yet"):
        check_new_file(run / "config.yaml")
    with pytest.raises(InputError, match="folder that is there"):
        check_new_file(run / "none" / "new.csv")
