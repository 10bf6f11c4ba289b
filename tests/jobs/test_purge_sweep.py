"""Purge of a sweep: what its trials and the sweep itself keep that still knows, and no trial that can go on."""

from __future__ import annotations

import json
import shutil

import pytest

import remanent.jobs.sweep_trial as sweep_trial
from remanent.core.files import read_json
from remanent.errors import InputError
from remanent.jobs.purge import plan_purge, purge
from remanent.jobs.sweep import sweep


def asked(world):
    return world.file(method=["grad-diff", "npo"], unlearn={"steps": 2, "checkpoint_every": 1, "evaluate_records": 4})


@pytest.fixture(scope="module")
def once(sweep_world, tmp_path_factory):
    """A sweep of two trials: grad-diff's audit failed, npo's is done."""
    out = tmp_path_factory.mktemp("purge") / "s1"
    audited = sweep_trial.run_audit

    def audit(settings, run, **more):
        if "grad-diff" in str(run):
            raise MemoryError("no memory left")
        return audited(settings, run, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_trial, "run_audit", audit)
        view = sweep(asked(sweep_world), out)
    assert [row["status"] for row in view.rows] == ["failed", "done"]
    return out


@pytest.fixture
def out(once, tmp_path, monkeypatch):
    """A copy that a test may change, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "remanent" / "reference").mkdir(parents=True)
    return shutil.copytree(once, tmp_path / "s1")


def trials(out):
    (failed,), (done,) = (list((out / "trials").glob(f"{name}-*/")) for name in ("grad-diff", "npo"))
    return failed, done


def test_it_removes_what_failed_trials_and_the_sweep_keep(out, sweep_world):
    failed, done = trials(out)
    (done / "checkpoints").mkdir()  # killed between its row and the end of its clean-up
    (out / ".sweep.json.abcd.tmp").write_text("{")
    gone = [failed / "checkpoints", done / "checkpoints", out / "audits", out / ".sweep.json.abcd.tmp"]
    assert all(path.exists() for path in gone)
    kept = [out / "sweep.json", out / "sweep.yaml", out / "inputs.json", done / "audit.json", done / "judgement.json"]
    before = {path: path.read_bytes() for path in [*kept, failed / "model" / "model.safetensors"]}
    plan = plan_purge(out)
    purge(plan)
    assert not any(path.exists() for path in gone)
    assert not (out.parent / "cache" / "remanent" / "reference").exists()
    assert {path: path.read_bytes() for path in before} == before
    (record,) = read_json(out / "manifest.json")["purged"]
    assert record["state"] == "done"
    assert {str(path) for path in gone} <= {item["path"] for item in record["removed"]}
    (checkpoints,) = [item for item in record["removed"] if item["path"] == str(failed / "checkpoints")]
    assert checkpoints["size"] > 0
    assert "failed" in checkpoints["what"]
    remains = {item["path"]: item["what"] for item in record["remains"]}
    assert "not audited" in remains[str(failed / "model")]
    assert str(sweep_world.model) in remains
    assert str(sweep_world.files["forget"]) in remains
    outputs = read_json(done / "manifest.json")["outputs"]
    assert outputs
    assert all((done / name).is_file() for name in outputs)


def test_the_sweep_goes_on_afterwards(out, sweep_world):
    purge(plan_purge(out))
    view = sweep(asked(sweep_world), out)
    assert [row["status"] for row in view.rows] == ["done", "done"]
    assert len(read_json(out / "manifest.json")["purged"]) == 1


def test_a_finished_trial_is_a_finished_run_though_its_model_is_gone(out):
    failed, done = trials(out)
    (done / "audit").mkdir()
    assert not (done / "model").exists()
    purge(plan_purge(done))
    assert not (done / "audit").exists()
    remains = {item["path"] for item in read_json(done / "manifest.json")["purged"][0]["remains"]}
    assert str(failed / "checkpoints") in remains


def test_a_kept_model_is_listed_with_its_verdict(out):
    failed, done = trials(out)
    shutil.copytree(failed / "model", done / "model")
    remains = {item.path: item.what for item in plan_purge(out).remains}
    assert read_json(done / "judgement.json")["verdict"] in remains[str(done / "model")]


@pytest.mark.parametrize("lost", ["row", "results"])
def test_a_trial_that_can_go_on_keeps_its_checkpoints(out, lost):
    failed, done = trials(out)
    if lost == "row":  # cut off after its audit
        (out / "trials" / f"{done.name}.json").unlink()
    else:  # cut off before the sweep wrote down how it ended
        found = read_json(out / "sweep.json")
        rows = [row for row in found["trials"] if row["status"] != "failed"]
        (out / "sweep.json").write_text(json.dumps({**found, "trials": rows}))
    with pytest.raises(InputError, match=rf"{(done if lost == 'row' else failed).name} goes on from its checkpoints"):
        plan_purge(out)


def test_a_failed_trials_own_folder_is_no_finished_run(out):
    failed, _ = trials(out)
    shutil.rmtree(failed / "model")
    with pytest.raises(InputError, match="goes with its sweep's folder"):
        plan_purge(failed)


def test_a_link_is_not_followed(out, tmp_path):
    failed, _ = trials(out)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(failed, elsewhere)
    failed.symlink_to(elsewhere)
    plan = plan_purge(out)
    purge(plan)
    assert list((elsewhere / "checkpoints").iterdir())
    assert "a link, not followed" in {item.path: item.what for item in plan.remains}[str(failed)]
    shutil.move(out / "trials", tmp_path / "trials")
    (out / "trials").symlink_to(tmp_path / "trials")
    assert plan_purge(out).remains[0].path == str(out / "trials")


def test_a_sweeps_file_alone_is_no_folder_of_one(out, tmp_path):
    shutil.copy(out / "sweep.yaml", tmp_path / "sweep.yaml")
    with pytest.raises(InputError, match="a run, a sweep or a comparison"):
        plan_purge(tmp_path)
