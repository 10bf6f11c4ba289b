"""The page of requests that were obeyed and not audited: figures by hand, what is not known, and no name."""

from __future__ import annotations

import json
import re

import pytest

from remanent.auditing.evidence import Evidence, Measure, Measurement, RecordScore
from remanent.core.files import write_json
from remanent.errors import InputError
from remanent.jobs.report import check, queue, report, view

SCORES = {"score": 40.0, "rouge_l": None, "probability": 0.4, "accuracy": 0.4, "nll": 1.0}


def row(number: int, **more: object) -> dict[str, object]:
    facts = {"steps": 3, "planned_steps": 8, "stopped_by_rule": False, "best_step": 0, "seconds": 61.0}
    named = {"request": f"name-{number}", "number": number, "records": f"{number}abcdef0123456789xyz", "count": 2}
    return {**named, **facts, **more}


@pytest.fixture
def folder(tmp_path):
    rows = [row(1), row(2, stopped_by_rule=True, best_step=2), row(3, planned_steps=0, steps=0), row(4, edit={})]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    point = {"requests": 4, "forget": SCORES, "retain": {**SCORES, "score": 81.0}}
    degrees = {"forget_line": 50.0, "forget_degree": 0.8, "retain_line": 90.0, "retain_utility": 0.9}
    ends = {"forget": SCORES, "retain": SCORES}
    curve = {"requests": 6, "before": ends, "after": ends, "by": "control", "rows": [{**point, **degrees}]}
    write_json(tmp_path / "curve.json", curve)
    (tmp_path / "config.yaml").write_text("model: <b>mine</b>\nmethod: npo\nseed: 7\n", encoding="utf-8")
    return tmp_path


def words(page: str) -> str:
    body = re.sub(r"<svg.*?</svg>", "", page.partition("<main>")[2], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_curve_requests_and_that_nothing_was_audited(folder):
    page = report([folder], folder / "report.html").read_text(encoding="utf-8")
    text = words(page)
    assert "4 of 6 requests obeyed. Nothing of a finished model was audited" in text
    assert "there is no verdict" in text
    assert "After 4 requests: forget degree 0.80, retain utility 0.90, at full precision." in text
    assert "4 40.00 50.00 0.80 81.00 90.00 0.90" in text
    assert "1 2 3 of 8 all updates made" in text
    assert "2 2 3 of 8 by the stopping rule; the weights of update 2 stay" in text
    assert "3 2 0 of 0 nothing left to train on" in text
    assert "4 2 – one edit of the weights" in text
    assert "1abcdef012345678" in text
    assert "what the model before knew of unseen records" in text
    assert "<svg" in page
    assert "name-1" not in page  # a request's name stays in the run's folder
    assert "<b>mine" not in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
    for verdict in ("PASSED", "WARNED", "FAILED"):
        assert verdict not in text


def test_audits_on_the_way_are_counted_and_a_queue_at_its_beginning_has_a_page(folder):
    (folder / "audits" / "000002").mkdir(parents=True)
    write_json(folder / "audits" / "000002" / "judgement.json", {})
    text = words(report([folder], folder / "report.html").read_text(encoding="utf-8"))
    assert "1 audit of earlier models of this queue lies in audits/" in text
    (folder / "curve.json").unlink()
    found = queue(folder)
    assert found is not None
    assert (found.total, found.finished, found.audits) == (None, False, 1)
    text = words(report([folder], folder / "report.html").read_text(encoding="utf-8"))
    assert "No point of the curve was measured yet" in text
    assert "4 requests obeyed. Nothing of a finished model" in text
    write_json(folder / "manifest.json", {"requests": 4})
    text = words(report([folder], folder / "report.html").read_text(encoding="utf-8"))
    assert "4 of 4 requests obeyed. Nothing of this model" in text
    assert "remanent audit --model RUN/model" in text


def test_muses_figures_of_the_audits_on_the_way(folder):
    """By how many requests were obeyed, of audits that were finished; of evidence that is none a sentence."""
    for name, size, utility in (("000002", 2, 0.625), ("000004", 4, 0.5), ("000006", 6, None)):
        place = folder / "audits" / name
        place.mkdir(parents=True)
        scores = tuple(RecordScore(f"{row:016x}", "0" * 16, 1.0, 1, 1) for row in range(size))
        measured = (Measurement("original", "full", "forget", ()), Measurement("audited", "full", "forget", scores))
        made = (Measure("audited", "muse", "retain", "knowledge", utility, None, None, size),)
        write_json(place / "audit.json", Evidence((), measured, measures=made).to_dict())
        (place / "audit.yaml").write_text("at: full,muse\n")
        if utility is not None:
            write_json(place / "judgement.json", {})
    text = words(report([folder], folder / "report.html").read_text(encoding="utf-8"))
    assert "MUSE’s sustainability" in text
    assert "2 2 – – – 0.62 – 0.00 4 4 – – – 0.50 – −0.12" in text
    (table,) = queue(folder).muse
    assert [name for name, _ in table.rows] == ["2", "4"]
    write_json(folder / "audits" / "000002" / "audit.json", {"schema": "another"})
    with pytest.raises(InputError, match=r"000002.audit\.json.*plain data of an audit"):
        queue(folder)
    (folder / "audits" / "000002" / "audit.yaml").write_text("at: full\n")  # which asked for no figure of MUSE's
    (table,) = queue(folder).muse
    assert [name for name, _ in table.rows] == ["4"]


def test_what_no_report_can_be_made_of(folder, tmp_path):
    check([folder])
    with pytest.raises(InputError, match=r"audit\.json and judgement\.json, or, by itself, one of requests"):
        check([folder, folder])
    with pytest.raises(InputError, match="audit"):
        check([tmp_path / "nothing"])
    with pytest.raises(InputError, match="audit"):
        view(folder)
