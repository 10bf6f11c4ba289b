"""Sweeps from end to end on a tiny model: what they find, what they leave, and that they go on where they were."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from remanent.core.files import read_json
from remanent.errors import InputError, RunConflictError
from remanent.jobs.audit import run_audit
from remanent.jobs.config import AuditSettings, DataSettings, UnlearnSettings
from remanent.jobs.progress import Interface
from remanent.jobs.run import read_job
from remanent.jobs.sweep import sweep
from remanent.jobs.sweep_config import SweepFile
from remanent.jobs.sweep_trial import PUBLISHED
from remanent.jobs.unlearn import unlearn

SCRIPT = """
import json, sys
from pathlib import Path
from remanent.jobs.sweep import sweep
from remanent.jobs.sweep_config import SweepFile
sweep(SweepFile.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))
"""
AXES = {"method": ["npo", "durable"], "retain_weight": [1, 8], "budget": 96}


def found(out):
    """Everything that a sweep found, but for how long it took."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_memory")}
        for row in read_json(out / "sweep.json")["trials"]
    ]


@pytest.fixture(scope="module")
def swept(sweep_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "grid"
    return out, sweep(sweep_world.file(**AXES, fresh_seeds=[7]), out)


def test_a_row_for_every_combination_at_equal_passes(swept):
    out, view = swept
    rows = [row for row in found(out) if not row["fresh"]]
    assert [(row["method"], row["hyperparameters"]["retain_weight"]) for row in rows] == [
        ("npo", 1.0), ("npo", 8.0), ("durable", 1.0), ("durable", 8.0)
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"done"}
    assert {row["passes"] for row in rows} == {96}
    assert {row["method"]: row["planned_steps"] for row in rows} == {"npo": 12, "durable": 6}
    assert len(view.settings) == 4


def test_figures_are_those_of_the_run_folders_audit(swept):
    out, _ = swept
    for row in found(out):
        judged = read_json(out / "trials" / row["name"] / "judgement.json")
        assert row["verdict"] == judged["verdict"]
        gaps = {line["condition"]: -line["value"] for line in judged["lines"] if line["name"] == "forgotten-relative"}
        assert set(gaps) == {"full", "int8", "int4-row"}
        worst = max(gaps, key=gaps.__getitem__)
        assert (row["forget_gap"]["condition"], row["forget_gap"]["value"]) == (worst, gaps[worst])
        assert row["forget_gap"]["low"] <= row["forget_gap"]["value"] <= row["forget_gap"]["high"]
        kept = {line["condition"]: line["value"] for line in judged["lines"] if line["name"] == "kept"}
        assert row["retention"]["value"] == min(kept.values())
        assert row["attacked_gap"] is None


def test_the_published_accuracies_are_means_over_tokens(swept):
    out, _ = swept
    row = found(out)[0]
    measured = read_json(out / "trials" / row["name"] / "audit.json")["measurements"]
    for name, (conditions, records) in PUBLISHED.items():
        for subject, part in (("audited", "published"), ("original", "before")):
            (scores,) = [
                item["scores"]
                for item in measured
                if (item["subject"], item["condition"], item["records"]) == (subject, conditions[0], records)
            ]
            accuracy = sum(score["hits"] for score in scores) / sum(score["tokens"] for score in scores)
            assert row[part][name] == pytest.approx(accuracy)
    assert row["before"]["FA"] > row["published"]["FA"]


def test_models_are_deleted_and_runs_stay(swept):
    out, _ = swept
    for row in found(out):
        run = out / "trials" / row["name"]
        assert not (run / "model").exists()
        assert not (run / "checkpoints").exists()
        assert {"config.yaml", "metrics.jsonl", "manifest.json", "audit.json"} <= {file.name for file in run.iterdir()}


def test_the_original_is_measured_once(swept):
    out, _ = swept
    assert len(list((out / "audits").glob("original-*"))) == 1
    assert len(list((out / "audits").glob("audited-*"))) == len(found(out))


def test_the_chosen_runs_again_as_a_file_and_on_fresh_seeds(swept):
    out, view = swept
    assert view.chosen is not None, [row["forget_gap"] for row in found(out)]
    assert read_json(out / "sweep.json")["chosen"] == view.chosen
    (fresh,) = [row for row in found(out) if row["fresh"]]
    assert (fresh["setting"], fresh["seed"]) == (view.chosen, 7)
    job = read_job(out / "chosen.yaml", out / "elsewhere")
    assert job.unlearn.method == view.chosen.rpartition("-")[0]
    assert job.audit is not None
    assert job.audit.model == str(out / "elsewhere" / "model")


def test_the_page_is_there(swept):
    out, _ = swept
    assert "<svg" in (out / "sweep.html").read_text(encoding="utf-8")


def test_nothing_of_the_forget_set_is_in_the_results(swept, sweep_world):
    out, _ = swept
    records = [json.loads(line) for line in sweep_world.files["forget"].read_text().splitlines()]
    for name in ("sweep.json", "sweep.html", "chosen.yaml"):
        text = (out / name).read_text(encoding="utf-8")
        assert not [record["key"] for record in records if record["answer"] in text or record["key"] in text]


def test_a_finished_sweep_does_nothing_and_more_seeds_do_what_is_missing(swept, sweep_world, tmp_path):
    before, _ = swept
    out = tmp_path / "again"
    shutil.copytree(before, out)
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.parent != out}
    sweep(sweep_world.file(**AXES, fresh_seeds=[7]), out)
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    assert found(out) == found(before)
    more = sweep(sweep_world.file(**{**AXES, "method": ["npo"], "retain_weight": [8]}, seeds=[0, 3]), out)
    assert [row["seed"] for row in more.rows] == [0, 3]
    assert more.rows[0]["name"] in {row["name"] for row in found(before)}


def test_killed_and_called_again_it_finds_the_same(swept, sweep_world, tmp_path):
    before, _ = swept
    out, axes = tmp_path / "killed", {**AXES, "retain_weight": [8]}
    command = [sys.executable, "-c", SCRIPT, json.dumps(sweep_world.data(**axes)), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(out.glob("trials/durable-*/checkpoints/*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [row["method"] for row in read_json(out / "sweep.json")["trials"]] == ["npo"]
    assert len(list(out.glob("trials/*.json"))) == 1
    sweep(sweep_world.file(**axes), out)
    assert found(out) == [
        row for row in found(before) if row["hyperparameters"] == {"retain_weight": 8.0} and not row["fresh"]
    ]


def test_a_trial_that_diverges_or_fails_is_a_row_and_the_others_go_on(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.sweep_trial as module

    audited, fails = module.run_audit, [True]

    def audit(settings, out, **more):
        if "grad-diff" in str(out) and fails:
            raise MemoryError("no memory left")
        return audited(settings, out, **more)

    monkeypatch.setattr(module, "run_audit", audit)
    asked = sweep_world.file(
        method=["grad-ascent", "grad-diff", "npo"], learning_rate=[1e30], unlearn={"steps": 6, "stop": False}
    )
    view = sweep(asked, tmp_path)
    assert [row["status"] for row in view.rows] == ["diverged", "diverged", "diverged"]
    assert all("step" in row["reason"] for row in view.rows)
    assert view.chosen is None
    out = tmp_path / "second"
    asked = sweep_world.file(method=["grad-diff", "npo"], unlearn={"steps": 2})
    view = sweep(asked, out)
    assert [row["status"] for row in view.rows] == ["failed", "done"]
    assert "no memory left" in view.rows[0]["reason"]
    fails.clear()  # what failed is tried again; what is done is not
    stamp = (out / "trials" / f"{view.rows[1]['name']}.json").stat().st_mtime_ns
    view = sweep(asked, out)
    assert [row["status"] for row in view.rows] == ["done", "done"]
    assert (out / "trials" / f"{view.rows[1]['name']}.json").stat().st_mtime_ns == stamp


def test_ctrl_c_leaves_a_page_and_the_sweep_goes_on(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.sweep_trial as module

    audited, calls = module.run_audit, []

    def audit(settings, out, **more):
        calls.append(out)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return audited(settings, out, **more)

    monkeypatch.setattr(module, "run_audit", audit)
    asked = sweep_world.file(seeds=[0, 1], unlearn={"steps": 2})
    with pytest.raises(KeyboardInterrupt):
        sweep(asked, tmp_path)
    assert len(found(tmp_path)) == 1
    assert (tmp_path / "sweep.html").is_file()
    assert len(sweep(asked, tmp_path).rows) == 2


def test_a_call_that_is_stopped_keeps_what_ended_before_on_its_page(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.sweep_trial as module

    asked = sweep_world.file(learning_rate=[1e-3, 3e-3], unlearn={"steps": 1}, audit={"at": "full", "epsilon": 9.0})
    sweep(asked, tmp_path)
    before = found(tmp_path)
    more = sweep_world.file(
        learning_rate=[1e-4, 1e-3, 3e-3], unlearn={"steps": 1}, audit={"at": "full", "epsilon": 9.0}
    )

    def stop(*arguments, **others):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_audit", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep(more, tmp_path)
    assert found(tmp_path) == before
    assert all(row["setting"] in (tmp_path / "sweep.html").read_text() for row in before)


def test_nothing_is_written_of_results_where_no_trial_ended(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.sweep_trial as module

    def stop(*arguments, **others):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_audit", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep(sweep_world.file(unlearn={"steps": 1}), tmp_path)
    assert not (tmp_path / "sweep.json").exists()


def test_what_was_chosen_goes_where_nothing_is_any_more(sweep_world, tmp_path):
    easy = {"unlearn": {"steps": 1}, "audit": {"at": "full", "epsilon": 9.0}}
    assert sweep(sweep_world.file(**easy, fresh_seeds=[7]), tmp_path).chosen is not None
    assert (tmp_path / "chosen.yaml").is_file()
    strict = {**easy, "audit": {"at": "full", "epsilon": 1e-6}}
    assert sweep(sweep_world.file(**strict), tmp_path).chosen is None
    assert not (tmp_path / "chosen.yaml").exists()


def test_fresh_seeds_are_those_of_the_choice_alone(sweep_world, tmp_path):
    easy = {"unlearn": {"steps": 4, "stop": False}, "audit": {"at": "full", "epsilon": 9.0}}
    first = sweep(sweep_world.file(**easy, learning_rate=[3e-2], fresh_seeds=[7]), tmp_path)
    second = sweep(sweep_world.file(**easy, learning_rate=[3e-2, 1e-5], fresh_seeds=[7]), tmp_path)
    assert second.chosen != first.chosen  # a rate that changes nothing keeps all
    assert [row["setting"] for row in second.rows if row["fresh"]] == [second.chosen]


def test_kept_models_stay(sweep_world, tmp_path):
    sweep(sweep_world.file(keep_models=True, unlearn={"steps": 1}), tmp_path)
    (row,) = found(tmp_path)
    assert (tmp_path / "trials" / row["name"] / "model" / "model.safetensors").is_file()


def test_what_cannot_run_is_said_before_any_work(sweep_world, tmp_path):
    for asked, field in (
        (sweep_world.file(method=["npo", "npoo"]), "npoo"),
        (sweep_world.file(method=["retrain"]), "base"),
        (sweep_world.file(seeds=[1, 1]), "seeds"),
        (sweep_world.file(seeds=[1], fresh_seeds=[1]), "seeds"),
        (sweep_world.file(audit={"at": "int5-nonsense"}), "at"),
        (sweep_world.file(audit={"epsilonn": 1.0}), "epsilon"),
        (sweep_world.file(audit={"at": "divergence:nowhere"}), "the folder of a saved model"),
        (sweep_world.file(audit={"retrained": "./typo"}), "retrained: got './typo'"),
        (sweep_world.file(audit={"reference": "./typo"}), "reference: got './typo'"),
        (sweep_world.file(audit={"data": {**sweep_world.data()["unlearn"]["data"], "split_seed": 1}}), "split_seed"),
        (sweep_world.file(unlearn={"stop_at": "relearning"}), "stop_at"),
        (sweep_world.file(unlearn={"requests": str(sweep_world.files["forget"])}), "unlearn.requests"),
        (sweep_world.file(hyperparameters={"beta": [0.1, -1.0]}), "beta"),
        (sweep_world.file(unlearn={"data": {**sweep_world.data()["unlearn"]["data"], "control": None}}), "control"),
    ):
        with pytest.raises(InputError, match=field):
            sweep(asked, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_of_something_else_or_of_other_records_is_refused(swept, sweep_world, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunConflictError, match="not empty"):
        sweep(sweep_world.file(), tmp_path)
    out = tmp_path / "changed"
    shutil.copytree(swept[0], out)
    shorter = tmp_path / "forget.jsonl"
    shorter.write_text("".join(sweep_world.files["forget"].read_text().splitlines(keepends=True)[:-1]))
    asked = sweep_world.data(**AXES)
    asked["unlearn"]["data"]["forget"] = str(shorter)
    with pytest.raises(RunConflictError, match="forget changed"):
        sweep(SweepFile.model_validate(asked), out)


def test_a_folder_whose_audit_is_held_to_something_else_by_now_is_refused(sweep_world, tmp_path):
    retrained, forget, out = tmp_path / "retrained", tmp_path / "forget.jsonl", tmp_path / "out"
    shutil.copytree(sweep_world.model, retrained)
    shutil.copy(sweep_world.files["forget"], forget)
    data = {**sweep_world.data()["unlearn"]["data"], "forget": str(forget)}
    asked = sweep_world.file(
        unlearn={"steps": 1},
        audit={"at": "full", "retrained": str(retrained), "reference": str(retrained), "data": data},
    )
    sweep(asked, out)
    (retrained / "config.json").write_text((retrained / "config.json").read_text() + "\n")
    forget.write_text("".join(forget.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunConflictError, match=r"audit\.data\.forget, audit\.reference, audit\.retrained changed"):
        sweep(asked, out)


@pytest.mark.parametrize("kind", ["sweep", "unlearn", "audit"])
def test_a_folder_in_which_another_process_works_is_refused(sweep_world, tmp_path, held, kind):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    data = sweep_world.data()["unlearn"]
    job = {
        "sweep": lambda: sweep(sweep_world.file(), tmp_path),
        "unlearn": lambda: unlearn(UnlearnSettings.model_validate(data), tmp_path),
        "audit": lambda: run_audit(
            AuditSettings(model=str(sweep_world.model), data=DataSettings(**data["data"])), tmp_path
        ),
    }[kind]
    with held(tmp_path), pytest.raises(RunConflictError, match="in use by process"):
        job()
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_the_saved_file_is_the_sweep_itself(swept):
    out, _ = swept
    file = SweepFile.model_validate(yaml.safe_load((out / "sweep.yaml").read_text()))
    assert file.sweep.method == ("npo", "durable")
    assert file.unlearn.threads == 1


def test_methods_at_unequal_passes_are_warned_of(sweep_world, tmp_path):
    warnings = []

    class Heard(Interface):
        def warn(self, text):
            warnings.append(text)

    sweep(sweep_world.file(method=["npo", "durable"], unlearn={"steps": 1}), tmp_path, interface=Heard())
    assert any("equal passes" in text for text in warnings)
