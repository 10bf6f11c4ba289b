from __future__ import annotations

import pytest
import torch

from remanent.auditing.condition import parse_conditions
from remanent.auditing.ensembles import THOROUGH
from remanent.auditing.generation import generate
from remanent.auditing.measure import AuditSet
from remanent.auditing.prompts import FewShot
from remanent.core.decoding import Greedy, Sampled
from remanent.core.displacement import Here, Rounding
from remanent.data.authors import author_sets
from remanent.data.encode import prompt_ids
from remanent.data.record import Message, Record
from remanent.errors import InputError
from remanent.models.tiny import tiny


def record(name: str, group: str, system: bool = False) -> Record:
    turns = (Message("user", f"{name}?"),)
    return Record(name, group, (Message("system", "Be short."), *turns) if system else turns, f"{name}!")


def test_examples_stand_before_the_question_and_never_of_its_own_group():
    retain = [record("a", "A"), record("a2", "A"), record("b", "B"), record("c", "C")]
    prompts = FewShot(2).given(retain)
    (unseen, own) = prompts([record("x", "X"), retain[1]])
    assert [turn.content for turn in unseen.prompt] == ["a?", "a!", "b?", "b!", "x?"]
    assert [turn.role for turn in unseen.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert [turn.content for turn in own.prompt] == ["b?", "b!", "c?", "c!", "a2?"]
    assert (unseen.key, unseen.group, unseen.answer) == ("x", "X", "x!")


def test_a_system_turn_stays_in_front_once():
    prompts = FewShot(1).given([record("a", "A", system=True), record("b", "B", system=True)])
    (asked,) = prompts([record("x", "X", system=True)])
    assert [turn.content for turn in asked.prompt] == ["Be short.", "a?", "a!", "x?"]


def test_plain_text_is_left_alone_and_too_few_groups_are_said():
    text = Record("t", "T", (), "Once upon a time.")
    prompts = FewShot(1).given([record("a", "A"), record("b", "B")])
    assert prompts([text]) == [text]
    with pytest.raises(InputError, match="at least 3 groups"):
        FewShot(2).given([record("a", "A"), record("b", "B"), text])


def test_no_text_stands_in_the_name_that_is_written_down():
    assert repr(FewShot(1).given([record("a", "A"), record("b", "B")])) == "FewShot(count=1)"


def test_a_cut_answer_is_cut_at_the_same_token():
    sets = author_sets(1, forget=2, retain=3, control=1, questions=1)
    tokenizer = tiny([*sets.forget, *sets.retain]).tokenizer
    plain = AuditSet.of(sets.forget, tokenizer, str)
    longest = max(len(item.input_ids) for item in plain.encoded)
    cut = AuditSet.of(sets.forget, tokenizer, str, longest - 3)
    asked = cut.asked(FewShot(2).given(sets.retain), tokenizer)
    assert [item.scored for item in asked.encoded] == [item.scored for item in cut.encoded]
    assert min(item.scored for item in asked.encoded) < max(item.scored for item in plain.encoded)
    for before, after in zip(cut.encoded, asked.encoded, strict=True):
        assert after.input_ids[-before.scored :] == before.input_ids[-before.scored :]


def test_names_of_conditions():
    found = {item.info.name: item for item in parse_conditions("few-shot-3,sampled-0.8,sampled-0.5-4+few-shot-2+nf4")}
    assert found["few-shot-3"].prompts == FewShot(3)
    assert found["few-shot-3"].displacement == Here()
    assert found["sampled-0.8"].decoding == Sampled(0.8, 8)
    assert found["sampled-0.8"].answers_only
    both = found["sampled-0.5-4+few-shot-2+nf4"]
    assert (both.decoding, both.prompts, both.displacement) == (Sampled(0.5, 4), FewShot(2), Rounding("nf4"))
    assert all(item.info.kind == "attack" for name, item in found.items() if name != "full")
    (_, relearned) = parse_conditions("relearning-overlap+few-shot-2")
    assert relearned.prompts == FewShot(2)
    assert {"few-shot-3", "sampled-0.8"} <= set(THOROUGH)


NONSENSE = "few-shot-0 few-shot sampled-0 sampled-0.8-0 sampled- few-shot-2+relearning few-shot-2+sampled-1"
NONSENSE += " sampled-1+sampled-1 relearning-overlap+sampled-1 few-shot-1+few-shot-1"


@pytest.mark.parametrize("name", NONSENSE.split())
def test_what_makes_no_sense_is_refused(name):
    with pytest.raises(InputError, match="at"):
        parse_conditions(name)


def test_samples_are_seeded_and_leave_the_generator_as_it_was():
    sets = author_sets(1, forget=3, retain=1, control=1, questions=1)
    made = tiny(sets.forget, hidden=32)
    prompts = [prompt_ids(item, made.tokenizer) for item in sets.forget]

    def draw(seed: int) -> list[str]:
        return generate(made.model, made.tokenizer, prompts, 6, None, Sampled(1.5, 4), seed)

    before = torch.random.get_rng_state()
    first = draw(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (len(first), draw(1) == first, draw(2) == first) == (12, True, False)
    cold = generate(made.model, made.tokenizer, prompts, 6, None, Sampled(1e-4, 2), 0)
    greedy = generate(made.model, made.tokenizer, prompts, 6, None, Greedy())
    assert cold == [answer for answer in greedy for _ in range(2)]  # each prompt's samples stand together
