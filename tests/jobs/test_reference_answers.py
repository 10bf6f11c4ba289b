"""Questions without answers: the reference's own are put there, and an audit that has none of it is refused."""

from __future__ import annotations

import json

import pytest

from remanent.data.authors import author_sets
from remanent.data.encode import encode_all
from remanent.data.record import Message, Record
from remanent.errors import InputError
from remanent.jobs import reference_answers as module
from remanent.jobs.audit import run_audit
from remanent.jobs.config import AuditSettings, DataSettings
from remanent.jobs.data import JobData, load_data
from remanent.jobs.reference_answers import reference_answers
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

SETS = author_sets(1, forget=3, retain=12, control=1, questions=1)


def unanswered(name: str) -> Record:
    return Record(name, name, (Message("user", f"{name}?"),), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, and BLUR's questions, of which one has an answer."""
    place = tmp_path_factory.mktemp("world")
    loaded = tiny([*SETS.forget, *SETS.retain], hidden=32)
    save(loaded.model, loaded.tokenizer, place / "model")
    (place / "blur").mkdir()
    texts = {"forget": [f"Question: {item.question}\nAnswer:" for item in SETS.forget]}
    texts["retain"] = [f"Question: {item.question}\nAnswer:" for item in SETS.retain]
    texts["retain"][0] += f" {SETS.retain[0].answer}"
    for name, rows in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in rows)
        (place / "blur" / f"rwku_{name}.jsonl").write_text(lines, encoding="utf-8")
    return place


def test_what_has_an_answer_keeps_it_and_what_gets_none_is_left_out(folder, monkeypatch):
    kept = Record("r", "r", (Message("user", "r?"),), "gold")
    data = JobData(
        [unanswered("a"), unanswered("b")], {"train": [unanswered("t")], "audit": [kept, unanswered("s")]}, {}, []
    )
    asked = []

    def said(model, tokenizer, prompts, room, autocast):
        asked.append((len(prompts), room))
        return [" own "] + [" "] * (len(prompts) - 1) if len(asked) == 1 else ["other"] * len(prompts)

    monkeypatch.setattr(module, "generate", said)
    found, notes = reference_answers(data, str(folder / "model"))
    assert [(record.key[:11], record.answer) for record in found.forget] == [("a, answered", "own")]
    first, second = found.retain["audit"]
    assert (first.key, first.answer, second.key[:11], second.answer) == ("r", "gold", "s, answered", "other")
    assert found.retain["train"] == data.retain["train"]  # nothing asks them
    assert asked == [(2, 64), (1, 64)]
    assert "1 of 2 forget questions" in notes[0]
    assert "1 of 1 retain questions" in notes[1]
    assert ["left out" in note for note in notes] == [True, False]
    keys = found.forget[0].key
    monkeypatch.setattr(module, "generate", lambda model, tokenizer, prompts, room, autocast: ["other"] * len(prompts))
    assert reference_answers(data, str(folder / "model"))[0].forget[0].key != keys, "another answer: another record"
    whole = JobData([kept], {}, {}, [])
    assert reference_answers(whole, None) == (whole, ())
    with pytest.raises(InputError, match="3 questions have no answers"):
        reference_answers(data, None)
    monkeypatch.setattr(module, "generate", lambda model, tokenizer, prompts, room, autocast: [""] * len(prompts))
    with pytest.raises(InputError, match="that the reference answers with anything"):
        reference_answers(data, str(folder / "model"))


def test_an_audit_by_name_scores_against_the_references_answers(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REMANENT_DATA", str(folder))
    monkeypatch.setenv("REMANENT_SECRET", str(tmp_path / "secret"))
    data = DataSettings(forget="blur:rwku/forget", retain="blur:rwku/retain")
    with pytest.raises(InputError, match="an audit with --reference"):
        load_data(data)  # who trains on them needs answers
    model = str(folder / "model")
    settings = AuditSettings(model=model, reference=model, data=data, at="blur-forget-first", generate=2)
    monkeypatch.setattr(module, "generate", lambda model, tokenizer, prompts, *how: ["It is so."] * len(prompts))
    evidence, _ = run_audit(settings, tmp_path / "audit")
    assert any("3 of 3 forget questions that have none are the original model's own" in note for note in evidence.notes)
    tokenizer = load(model).tokenizer
    own = Record("a", "a", (Message("user", "Who?"),), "It is so.")
    (length,) = {item.scored for item in encode_all([own], tokenizer)}
    for name in ("full", "blur-forget-first"):
        measured = evidence.find("audited", name, "forget")
        assert [score.tokens for score in measured.scores] == [length] * 3
    assert evidence.measure("audited", "blur-forget-first", "forget", "served").n == 2
    assert "It is so" not in (tmp_path / "audit" / "audit.json").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="the model before unlearning"):
        run_audit(settings.model_copy(update={"reference": None}), tmp_path / "other")
    assert not (tmp_path / "other" / "audit.json").exists()
