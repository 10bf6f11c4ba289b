"""MUSE's figures: what is continued and compared, where an answer ends, and the series over several audits."""

from __future__ import annotations

import pytest

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, FORGET, RETAIN, Evidence, Measure, Measurement, RecordScore
from remanent.auditing.judgement import Criteria
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.auditing.muse import CONTINUED, Muse, cut, series
from remanent.data.record import Message, Record
from remanent.errors import InputError
from remanent.models.tiny import tiny


def question(name: str, answer: str) -> Record:
    return Record(name, name, (Message("user", f"{name}?"),), answer)


TEXT = Record("t", "t", (), "one two three four five six seven eight")
NAMED = {
    FORGET: [TEXT, question("who", "red green")],
    RETAIN: [question("what", "blue"), question("when", "grey"), question("where", "pink")],
}


@pytest.fixture
def measurer():
    made = tiny([*NAMED[FORGET], *NAMED[RETAIN]], hidden=32)
    sets = {name: AuditSet.of(part, made.tokenizer, str) for name, part in NAMED.items()}
    return Measurer(AUDITED, made.model, made.tokenizer, sets)


def test_the_second_half_is_compared_and_answers_end_at_the_next_question(measurer, monkeypatch):
    seen = []

    def written(self, model, begun, room):
        said = []
        for tokens in begun:
            seen.append((self.tokenizer.decode(tokens), room))
            whole = self.sets[FORGET].encoded[0].input_ids
            rest = self.tokenizer.decode(whole[len(whole) // 2 :])
            said.append(rest if room == CONTINUED else "Red green\nQuestion: who else? blue")
        return said

    monkeypatch.setattr(Measurer, "written", written)
    (_, condition) = parse_conditions("muse")
    look = Muse().given(NAMED)
    assert look.examples.count == 2  # of three groups, one's own left out
    found = look(measurer, condition, 5)
    assert [dict(score.values) for score in found[FORGET]] == [{"verbatim": 1.0}, {"knowledge": 1.0}]
    continued = [text for text, room in seen if room == CONTINUED]
    assert len(continued) == 1
    assert TEXT.answer.startswith(continued[0])
    assert 0 < len(continued[0]) < len(TEXT.answer)
    assert sum("what?" in text and "blue" in text for text, room in seen if room != CONTINUED) >= 1
    made = measures({(AUDITED, "muse", name): part for name, part in found.items()}, Criteria(bootstrap_resamples=300))
    names = {(item.records, item.name): item.value for item in made}
    assert names[FORGET, "verbatim"] == names[FORGET, "knowledge"] == 1.0
    assert names[RETAIN, "knowledge"] < 0.5


def test_a_long_text_is_cut_128_tokens_before_its_end(measurer, monkeypatch):
    text = Record("long", "long", (), " ".join(["one two three four five"] * 60))
    part = AuditSet.of([text], measurer.tokenizer, str)
    ids = part.encoded[0].input_ids
    assert len(ids) > 2 * CONTINUED
    asked = []

    def written(self, model, begun, room):
        asked.extend(begun)
        return [self.tokenizer.decode(ids[-CONTINUED:])]

    monkeypatch.setattr(Measurer, "written", written)
    (found,) = Muse()._continued(measurer, measurer.model, part, 5)
    assert asked == [ids[:-CONTINUED]]
    assert found.values == {"verbatim": 1.0}


def test_where_an_answer_ends():
    assert cut(" blue \n\nMore") == "blue"
    assert cut("blue\nQuestion 2") == "blue"
    assert cut("blue Question: next") == "blue"
    assert cut("blue\ngrey") == "blue\ngrey"


def test_a_model_that_knows_nothing_is_asked_in_earnest(measurer):
    (_, condition) = parse_conditions("muse")
    found = Muse().given(NAMED)(measurer, condition, 5)
    assert [len(found[name]) for name in (FORGET, RETAIN)] == [2, 3]
    assert all(0 <= value <= 1 for part in found.values() for score in part for value in score.values.values())
    with pytest.raises(InputError, match="forget or a retain set"):
        Muse().given({})
    with pytest.raises(InputError, match="after the"):
        parse_conditions("muse+relearning")


def test_series_over_audits():
    def audit(size, known):
        scores = tuple(RecordScore(f"{row:016x}", "0" * 16, 1.0, 1, 1) for row in range(size))
        figures = ((FORGET, "verbatim", 0.1), (FORGET, "knowledge", 0.2), (RETAIN, "knowledge", known))
        made = tuple(Measure(AUDITED, "muse", part, name, value, None, None, size) for part, name, value in figures)
        made += (Measure("original", "muse", RETAIN, "knowledge", 0.7, None, None, size),)
        return Evidence((), (Measurement(AUDITED, "full", FORGET, scores),), measures=made)

    rows = series([audit(2, 0.6), audit(4, 0.5)])
    assert [row["forgotten"] for row in rows] == [2.0, 4.0]
    assert [(row["utility"], row["utility-before"]) for row in rows] == [(0.6, 0.7), (0.5, 0.7)]
    assert rows[1]["utility-change"] == pytest.approx(-0.1)
    assert rows[0]["priv-leak"] is None
    assert series([]) == []
