from __future__ import annotations

import pytest

from remanent.data.record import Message, Record
from remanent.data.refusals import REFUSALS, alternatives, refusals
from remanent.errors import InputError


def asked(key, wrong=()):
    return Record(key, f"group {key}", (Message("user", f"Who is {key}?"),), f"It is {key}.", wrong_answers=wrong)


def test_each_record_keeps_all_but_its_answer():
    records = [asked(str(number)) for number in range(200)]
    made = refusals(records, seed=0)
    assert [(r.key, r.group, r.prompt) for r in made] == [(r.key, r.group, r.prompt) for r in records]
    assert {record.answer for record in made} <= set(REFUSALS)
    assert len({record.answer for record in made}) > 30


def test_a_records_refusal_depends_on_its_key_and_the_seed_alone():
    records = [asked(str(number)) for number in range(50)]
    made = {record.key: record.answer for record in refusals(records, seed=3)}
    assert {record.key: record.answer for record in refusals(records[::-2], seed=3)}.items() <= made.items()
    assert {record.key: record.answer for record in refusals(records, seed=4)} != made


def test_refusals_are_about_40_and_no_two_are_the_same():
    assert len(REFUSALS) >= 40
    assert len({text.lower() for text in REFUSALS}) == len(REFUSALS)


def test_an_alternative_is_one_of_the_records_own_wrong_answers():
    records = [asked(str(number), wrong=(f"a{number}", f"b{number}")) for number in range(20)]
    made = alternatives(records, seed=0)
    assert all(other.answer in record.wrong_answers for record, other in zip(records, made, strict=True))
    assert {other.answer[0] for other in made} == {"a", "b"}


def test_what_cannot_be_refused_or_has_no_other_answer_is_said():
    with pytest.raises(InputError, match="plain text"):
        refusals([asked("0"), Record("t", "t", (), "Once upon a time.")], seed=0)
    with pytest.raises(InputError, match="wrong_answers"):
        alternatives([asked("0")], seed=0)
