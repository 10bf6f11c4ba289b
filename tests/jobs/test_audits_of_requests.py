"""Audits between deletion requests, and what is signed of them."""

from __future__ import annotations

import json
import shutil

import pytest

from remanent.core.files import read_json
from remanent.data.requests import Request
from remanent.errors import InputError

from .people import records, run, settings, stream

pytestmark = pytest.mark.usefixtures("own_places")


@pytest.fixture(scope="module")
def audited(folder, tmp_path_factory):
    """A run with audits after 2, 4 and 5 requests, signed as one chain."""
    from remanent.auditing.signing import generate_key
    from remanent.jobs.certify import certify

    place = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMANENT_SECRET", str(place / "secret"))
        generate_key(place / "signer.key", place / "signer.pub")
        chosen = settings(folder, audit_every=2, audit_at="full", curve_every=0)
        done = run(chosen, place / "run", stream(5))
        certify(done.path, place / "signer.key", chain=True)
    return place, done


def test_one_chain_of_certificates_from_the_first_requests_to_the_last(audited, folder):
    from remanent.jobs.verify import verify
    from remanent.models.source import find

    place, done = audited
    assert sorted(path.name for path in (done.path / "audits").iterdir()) == ["000002", "000004", "000005"]
    assert [path.parent.name for path in done.path.rglob("model.safetensors")] == ["model"]
    found = verify(done.path / "certificate.json", done.model, place / "signer.pub", chain=True)
    assert found.ok, found.problems
    assert [link.of for link in found.chain] == ["previous", "previous"]
    assert len(list((done.path / "parents").iterdir())) == 2
    lineage = found.own.statement["predicate"]["lineage"]
    assert lineage["original"] == find(folder).files()
    said = json.dumps(found.own.statement)
    assert "forget person" not in said
    assert str(folder) not in said
    evidence = read_json(done.path / "audits" / "000004" / "audit.json")
    (asked,) = [
        item
        for item in evidence["measurements"]
        if (item["subject"], item["condition"], item["records"]) == ("audited", "full", "forget")
    ]
    assert len(asked["scores"]) == 8  # of all requests so far
    first = read_json(done.path / "audits" / "000002" / "audit.json")["subjects"]["audited"]
    assert lineage["previous"] != first


def test_a_link_that_was_changed_breaks_the_chain(audited, tmp_path):
    from remanent.jobs.verify import verify

    place, done = audited
    copy = shutil.copytree(done.path, tmp_path / "run")
    for link in (copy / "parents").iterdir():
        raw = link.read_bytes()
        link.write_bytes(raw[:300] + bytes([raw[300] ^ 1]) + raw[301:])
    assert not verify(copy / "certificate.json", copy / "model", place / "signer.pub", chain=True).ok


def test_signed_again_earlier_links_stay_and_more_requests_lengthen_the_chain(audited, folder, tmp_path, monkeypatch):
    from remanent.jobs.certify import certify
    from remanent.jobs.verify import verify

    place, done = audited
    monkeypatch.setenv("REMANENT_SECRET", str(place / "secret"))
    copy = shutil.copytree(done.path, tmp_path / "run")
    before = {path.name for path in (copy / "parents").iterdir()}
    chosen = settings(folder, audit_every=2, audit_at="full", curve_every=0)
    later = run(chosen, copy, stream(7))
    certify(later.path, place / "signer.key", chain=True)
    found = verify(later.path / "certificate.json", later.model, place / "signer.pub", chain=True)
    assert found.ok, found.problems
    assert len(found.chain) == 4  # after 2, 4, 5 and 6 requests; 7 is the newest
    assert before < {path.name for path in (copy / "parents").iterdir()}


def test_no_chain_without_audits_or_with_a_parent(audited, folder, tmp_path):
    from remanent.jobs.certify import certify

    place, done = audited
    copy = shutil.copytree(done.path, tmp_path / "run")
    with pytest.raises(InputError, match="neither a parent"):
        certify(copy, place / "signer.key", chain=True, parent=copy / "certificate.json")
    shutil.rmtree(copy / "audits")
    with pytest.raises(InputError, match="--audit-every"):
        certify(copy, place / "signer.key", chain=True)


def test_their_limits_are_the_users_and_are_checked_before_any_work(folder, tmp_path):
    """A wrong limit is said before the first request is obeyed; a right one is a line of each audit's verdict."""
    audits = {"audit_every": 2, "audit_at": "full", "curve_every": 0}
    with pytest.raises(InputError, match=r"audit_require.*int8"):
        run(settings(folder, **audits, audit_require=["extraction-strength@int8<=0.5"]), tmp_path / "run", stream(2))
    assert not (tmp_path / "run").exists()
    given = {"audit_epsilon": 0.7, "audit_upsilon": 0.4, "audit_require": ["extraction-strength<=0.5"]}
    done = run(settings(folder, **audits, **given), tmp_path / "run", stream(2))
    told = read_json(done.path / "judgement.json")
    assert (told["criteria"]["epsilon"], told["criteria"]["upsilon"]) == (0.7, 0.4)
    assert any(line["name"] == "extraction-strength<=0.5" for line in told["lines"])


def test_what_the_first_audit_could_not_ask_is_said_before_any_work(folder, tmp_path):
    """It has the fewest records: here one of its only person, of whom the attack relearns a half."""
    asked = [Request("r0", tuple(records("forget", 1, 0)[:1])), Request("r1", tuple(records("forget", 1, 1)))]
    chosen = settings(folder, audit_every=1, audit_at="full,blur-relearning-hi-1", curve_every=0)
    with pytest.raises(InputError, match="at least 2 records"):
        run(chosen, tmp_path / "run", asked)
    assert not (tmp_path / "run").exists()


def test_muses_sustainability_is_in_the_report_and_may_have_a_limit(folder, tmp_path):
    """Utility after each audit's requests, as each audit measured it; the limit is a line of each."""
    from remanent.jobs.report import report, view

    limit = "knowledge@muse/retain>=1.5"
    audits = {"audit_every": 1, "audit_at": "full,muse", "audit_require": [limit]}
    done = run(settings(folder, "npo", curve_every=0, curve_generate=2, **audits), tmp_path / "run", stream(2))
    (table,) = view(done.path).muse
    assert [(name, row["forgotten"]) for name, row in table.rows] == [("1", 2.0), ("2", 4.0)]
    for (_, row), name in zip(table.rows, ("000001", "000002"), strict=True):
        measured = read_json(done.path / "audits" / name / "audit.json")["measures"]
        known = {(item["subject"], item["records"]): item for item in measured if item["name"] == "knowledge"}
        assert row["utility"] == known["audited", "retain"]["value"] is not None
        assert row["utility-before"] == known["original", "retain"]["value"] is not None
        told = read_json(done.path / "audits" / name / "judgement.json")["lines"]
        assert [line["verdict"] for line in told if line["name"] == "knowledge/retain>=1.5"] == ["FAILED"]
    assert "MUSE’s sustainability" in report([done.path], done.report).read_text(encoding="utf-8")


def test_what_came_later_is_written_only_where_it_is_asked_for(folder):
    """So that a folder of a version without these settings is known again."""
    came_later = {"audit_epsilon", "audit_upsilon", "audit_require"}
    assert not came_later & set(settings(folder).model_dump(mode="json"))
    chosen = settings(folder, audit_upsilon=0.5)
    assert came_later & set(chosen.model_dump(mode="json")) == {"audit_upsilon"}
    assert type(chosen).model_validate(chosen.model_dump(mode="json")) == chosen
