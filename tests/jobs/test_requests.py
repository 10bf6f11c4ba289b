"""Deletion requests one after another: what a run leaves, where it goes on, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from remanent.auditing.continual import SetScore
from remanent.core.checkpoint import load_checkpoint, steps_saved
from remanent.core.digest import weights_digest
from remanent.core.files import read_json
from remanent.core.intervention import worn
from remanent.data.jsonl import write_records
from remanent.data.requests import Request
from remanent.errors import InputError, RunConflictError
from remanent.jobs import requests as job
from remanent.jobs.progress import Interface
from remanent.jobs.report import report
from remanent.jobs.requests import obey
from remanent.models.load import load
from remanent.models.save import MANIFEST, is_saved
from remanent.report.text import number

from .people import GIVEN, records, run, settings, stream

pytestmark = pytest.mark.usefixtures("own_places")


def digest(done):
    return weights_digest(load(done.model).model)


def rows(done):
    return [json.loads(line) for line in (done.path / "requests.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(folder, tmp_path):
    done = run(settings(folder, curve_generate=2), tmp_path / "run", stream(5))
    assert is_saved(done.model)
    assert digest(done) != weights_digest(load(folder).model)
    assert [(row["request"], row["count"], row["steps"]) for row in rows(done)] == [(f"r{n}", 2, 3) for n in range(5)]
    points = read_json(done.path / "curve.json")
    assert [row["requests"] for row in points["rows"]] == [2, 4, 5]
    assert points["by"] == "control"
    for row in points["rows"]:
        assert 0 <= row["forget_degree"] <= 1
        assert 0 <= row["retain_utility"] <= 1
        assert row["forget"]["rouge_l"] is not None
    # Disk: two checkpoints however many requests, none of single requests, no model but the last.
    assert [step for step, _ in steps_saved(done.path / "checkpoints")] == [5, 4]
    assert not list(done.path.glob("requests/*/checkpoints"))
    assert [path.parent.name for path in done.path.rglob("model.safetensors")] == ["model"]
    assert len(list(done.path.glob("requests/*/metrics.jsonl"))) == 5
    assert read_json(done.manifest)["requests"] == 5
    page = report([done.path], done.report).read_text(encoding="utf-8")  # nothing was audited, and it says so
    assert "5 of 5 requests obeyed. Nothing of this model was audited" in page
    assert f"forget degree {number(points['rows'][-1]['forget_degree'])}" in page


def test_without_a_control_and_a_retrained_model_what_is_kept_still_has_its_line(folder, tmp_path, monkeypatch):
    shares = iter((0.9, 0.8, 0.3, 0.6))  # of both sets before the first request and after the last
    monkeypatch.setattr(job, "set_score", lambda *given, **more: SetScore(share := next(shares), share, None, 1.0))
    said = StringIO()
    given = {"retain": GIVEN["retain"]}
    interface = Interface(Console(file=said, width=200))
    done = obey(settings(folder), tmp_path / "run", records=given, requests=stream(2), interface=interface)
    text = said.getvalue()
    assert text.count("forget degree (F.D.) needs one of them") == 1
    assert text.index("F.D.") < text.index("Loading")
    points = read_json(done.path / "curve.json")
    (row,) = points["rows"]
    assert points["by"] == "nothing"
    assert (row["retain"]["score"], row["retain_line"]) == pytest.approx((60.0, 80.0))
    assert row["retain_utility"] == pytest.approx(0.75)
    assert not {"forget_line", "forget_degree"} & set(row)
    page = report([done.path], done.report).read_text(encoding="utf-8")
    assert "What was asked for has no line and no forget degree" in page
    assert "S of what was asked for 30.00, retain utility 0.75" in page


@pytest.mark.slow
def test_every_request_is_an_episode_with_a_seed_of_its_own(folder, tmp_path, monkeypatch):
    seen = []
    real = job.train
    monkeypatch.setattr(job, "train", lambda *given, **more: (seen.append((given, more)), real(*given, **more))[1])
    run(settings(folder, "npo"), tmp_path / "run")
    assert [more["name"] for _, more in seen] == ["r0", "r1", "r2"]
    assert len({given[3].seed for given, _ in seen}) == 3
    assert [[record.key for record in given[2].forget] for given, _ in seen] == [
        [f"forget/{2 * n}", f"forget/{2 * n + 1}"] for n in range(3)
    ]


def in_a_child(work):
    """Run it in a process of its own; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("method", ["fit", pytest.param("grad-diff", marks=pytest.mark.slow)])
def test_killed_in_the_middle_of_request_7_it_goes_on_there_and_ends_the_same(method, folder, tmp_path, monkeypatch):
    chosen, asked = settings(folder, method, curve_every=0), stream(9)
    alone = run(chosen, tmp_path / "alone", asked)
    real = job.brief

    def killed_at(step):
        made = []

        def brief(losses):
            made.append(1)
            if len(made) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(losses)

        return brief

    out = tmp_path / "run"
    monkeypatch.setattr(job, "brief", killed_at(6 * 3 + 2))
    status = in_a_child(lambda: run(chosen, out, asked))
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [step for step, _ in steps_saved(out / "checkpoints")] == [6, 5]
    assert [step for step, _ in steps_saved(out / "requests" / "000007" / "checkpoints")] == [2, 1]
    seen = []
    monkeypatch.setattr(job, "brief", lambda losses: (seen.append(1), real(losses))[1])
    done = run(chosen, out, asked)
    assert len(seen) == 1 + 2 * 3  # the rest of request 7, and two more
    assert digest(done) == digest(alone)

    def told(found):
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(found)]

    assert told(done) == told(alone)
    assert read_json(done.path / "curve.json") == read_json(alone.path / "curve.json")
    states = [load_checkpoint(steps_saved(found.path / "checkpoints")[0][1]).state for found in (done, alone)]
    if method == "fit":
        assert states[0]["method"]["decisions"] == states[1]["method"]["decisions"]


@pytest.mark.parametrize(
    "moment", [pytest.param("_keep", marks=pytest.mark.slow), "_write", pytest.param("_save", marks=pytest.mark.slow)]
)
def test_cut_off_round_its_checkpoint_it_ends_the_same(moment, folder, tmp_path, monkeypatch):
    class CutOff(Exception):
        pass

    chosen = settings(folder)
    alone = run(chosen, tmp_path / "alone")
    real, calls = getattr(job._Queue, moment), []

    def cut(self, *given):
        calls.append(1)
        if len(calls) == (1 if moment == "_save" else 2):
            raise CutOff
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(job._Queue, moment, cut)
        with pytest.raises(CutOff):
            run(chosen, tmp_path / "run")
    done = run(chosen, tmp_path / "run")
    assert digest(done) == digest(alone)
    assert read_json(done.path / "curve.json") == read_json(alone.path / "curve.json")


def test_new_requests_may_come_and_give_what_they_would_have_given_at_once(folder, tmp_path):
    chosen = settings(folder)
    alone = run(chosen, tmp_path / "alone", stream(4))
    first = run(chosen, tmp_path / "run", stream(2))
    before = digest(first)
    later = run(chosen, tmp_path / "run", stream(4))
    assert before != digest(later) == digest(alone)
    assert read_json(later.path / "curve.json") == read_json(alone.path / "curve.json")
    said = StringIO()
    run(chosen, tmp_path / "run", stream(4), interface=Interface(Console(file=said, width=200)))
    assert "finished already" in said.getvalue()


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        ("guardrail", {"text": "No."}),
        ("eco", {}),
        pytest.param("eul", {"width": 4, "epochs": 1.0}, marks=pytest.mark.slow),
        pytest.param("uld", {"epochs": 1.0}, marks=pytest.mark.slow),
        pytest.param("pga-projection", {"hooks": True}, marks=pytest.mark.slow),
    ],
)
def test_what_is_put_round_the_model_is_there_when_more_requests_come(method, chosen, folder, tmp_path):
    own = {"method": method, "hyperparameters": chosen, "curve_every": 0}
    own |= dict.fromkeys(("steps", "batch_size", "learning_rate"))
    at_once, grown = settings(folder, **own), tmp_path / "grown"
    whole = run(at_once, tmp_path / "whole", stream(3))
    run(at_once, grown, stream(2))
    done = run(at_once, grown, stream(3))
    assert [item.kind for item in worn(load(done.model).model)] == [method] * 3
    assert read_json(done.model / MANIFEST) == read_json(whole.model / MANIFEST)  # the hash of every file
    over = settings(str(whole.model), **own)  # a model that wears some from the start keeps each once
    run(over, tmp_path / "over", stream(4)[3:])
    more = run(over, tmp_path / "over", stream(5)[3:])
    assert len(worn(load(more.model).model)) == 5


def test_checkpoints_of_a_version_that_kept_nothing_round_the_model_are_refused(folder, tmp_path, monkeypatch):
    """Going on from them would take off what stands round the model, and let what it hides come back."""
    own = {"hyperparameters": {"text": "No."}, "curve_every": 0} | dict.fromkeys(
        ("steps", "batch_size", "learning_rate")
    )
    chosen, real = settings(folder, "guardrail", **own), job.save_checkpoint
    monkeypatch.setattr(
        job,
        "save_checkpoint",
        lambda path, kept: real(path, replace(kept, state={k: v for k, v in kept.state.items() if k != "worn"})),
    )
    done = run(chosen, tmp_path / "run", stream(2))
    monkeypatch.undo()
    with pytest.raises(RunConflictError, match="start a new run"):
        run(chosen, done.path, stream(3))
    assert len(worn(load(done.model).model)) == 2


def test_requests_that_were_obeyed_may_not_change(folder, tmp_path):
    chosen = settings(folder, "npo")
    run(chosen, tmp_path / "run", stream(2))
    changed = [stream(2)[0], Request("r1", tuple(records("forget", 1, 7)))]
    for other in (changed, stream(2)[::-1], stream(1)):
        with pytest.raises(RunConflictError, match="is not the same any more"):
            run(chosen, tmp_path / "run", other)
    (tmp_path / "run" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunConflictError, match="start a new run from"):
        run(chosen, tmp_path / "run", stream(3))


def test_a_request_that_came_before_is_skipped_and_said(folder, tmp_path):
    said = StringIO()
    again = [*stream(1), Request("again", tuple(replace(r, key=f"again/{r.key}") for r in stream(1)[0].records))]
    chosen = settings(folder, hyperparameters={"calibrate": True, "layers": 1, "epsilon": 100.0})
    done = run(chosen, tmp_path / "run", again, interface=Interface(Console(file=said, width=200)))
    assert [row["planned_steps"] for row in rows(done)] == [3, 0]
    assert "request again: the method found nothing left" in said.getvalue()
    assert "1 of them without training" in said.getvalue()


@pytest.mark.parametrize(
    "method", ["ssd", "idk-dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("task-vector", "salun"))]
)
def test_any_method_obeys_requests(method, folder, tmp_path):
    loop = {} if method != "ssd" else dict.fromkeys(("steps", "batch_size", "learning_rate"))
    done = run(settings(folder, method, curve_every=0, **loop), tmp_path / "run", stream(2))
    assert digest(done) != weights_digest(load(folder).model)
    assert len(rows(done)) == 2


def test_a_stopping_rule_looks_at_each_request(folder, tmp_path):
    # The model knows nothing, so that nothing is better known than the control: it stops when it first looks.
    chosen = settings(folder, "grad-diff", stop=True, stop_at="full", evaluate_every=1, stop_margin=5.0)
    done = run(chosen, tmp_path / "run", stream(2))
    assert [(row["stopped_by_rule"], row["steps"]) for row in rows(done)] == [(True, 1), (True, 1)]


@pytest.mark.slow
def test_models_are_kept_where_they_are_asked_for(folder, tmp_path):
    done = run(settings(folder, keep_models=True), tmp_path / "run", stream(3))
    kept = sorted((done.path / "models").iterdir())
    assert [path.name for path in kept] == ["000001", "000002", "000003"]
    assert weights_digest(load(kept[2]).model) == digest(done) != weights_digest(load(kept[1]).model)


@pytest.mark.slow
def test_the_lines_end_at_a_retrained_model(folder, tmp_path):
    done = run(settings(folder, retrained=folder), tmp_path / "run", stream(2))
    points = read_json(done.path / "curve.json")
    assert points["by"] == "retrained"
    assert points["before"] == points["after"]


@pytest.mark.parametrize(
    ("change", "requests", "said"),
    [
        ({"method": "retrain", "base": "m"}, None, "obeys all requests at once"),
        ({"data": {"forget": "f.jsonl"}}, None, "nothing beside requests"),
        ({"requests": "nowhere"}, (), "at least one request"),
        ({"audit_every": 1, "adapter": "lora-nf4"}, None, "not audited"),
        ({"stop_at": "relearning-unrelated-2"}, None, "precisions only"),
        ({"retrained": "nowhere/at/all"}, None, "nowhere/at/all"),
        ({}, [stream(1)[0], stream(1)[0]], "names that differ"),
        ({}, [stream(1)[0], Request("other", stream(1)[0].records)], "keys differ"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(change, requests, said, folder, tmp_path):
    with pytest.raises(InputError, match=said):
        run(settings(folder, **{"steps": None, **change}), tmp_path / "run", requests)
    assert not (tmp_path / "run").exists()


def test_requests_without_retained_records_where_the_method_needs_them(folder, tmp_path):
    with pytest.raises(InputError, match=r"data.retain"):
        obey(settings(folder), tmp_path / "run", requests=stream(2))


def test_a_plain_run_with_requests_is_this_job(folder, tmp_path):
    from remanent.jobs.unlearn import unlearn

    queue = tmp_path / "queue"
    queue.mkdir()
    for request in stream(2):
        write_records(queue / f"{request.name}.jsonl", request.records)
    chosen = settings(folder, requests=str(queue))
    assert [row["request"] for row in rows(unlearn(chosen, tmp_path / "run", records=GIVEN))] == ["r0", "r1"]


def test_from_python_requests_are_lists_by_name_and_may_grow(monkeypatch, tmp_path):
    import remanent

    seen = []

    class Run:
        path = tmp_path

    monkeypatch.setattr(job, "obey", lambda chosen, out, **given: (seen.append((chosen, given)), Run)[1])
    for count in (1, 2):
        asked = {request.name: list(request.records) for request in stream(count)}
        remanent.unlearn("m", requests=asked, retain=GIVEN["retain"], out=tmp_path, method="npo", progress=False)
    (first, _), (second, given) = seen
    assert first == second  # or the folder would refuse those that came later
    assert given["requests"] == stream(2)
    assert list(given["records"]) == ["retain"]
