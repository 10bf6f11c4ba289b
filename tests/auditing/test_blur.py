"""BLUR: pairs and relearning sets by hand, similarity against scikit-learn, and what a model that knows half says."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from remanent.auditing.blur import Combined, Keyword, Nearest, RelearnedLikeness, Together, closeness
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, PARAPHRASED, RETAIN, TEXT
from remanent.auditing.judgement import Criteria
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.auditing.relearning import RelearningAttack, likeness, relearned
from remanent.auditing.text_score import TextScore
from remanent.core.activations import mean_states
from remanent.core.batch import Encoded, collate
from remanent.core.displacement import Rounding
from remanent.data.authors import author_sets
from remanent.data.record import Message, Record
from remanent.data.similarity import nearest_similarity, similarities
from remanent.errors import InputError
from remanent.models.tiny import tiny

SETS = author_sets(3, forget=4, retain=12, control=6, questions=4)
NAMED = {FORGET: list(SETS.forget), RETAIN: list(SETS.retain), CONTROL: list(SETS.control)}


def record(name: str, group: str, answer: str = "yes", system: bool = False) -> Record:
    turns = (Message("user", f"{name}?"),)
    return Record(name, group, (Message("system", "Be short."), *turns) if system else turns, answer)


def test_pairs_in_both_orders():
    named = {FORGET: [record("f", "F", system=True)], RETAIN: [record("r", "R")]}
    asked = {order: Combined(order).given(named) for order in ("forget", "retain")}
    for first, expected in (("forget", "f? r?"), ("retain", "r? f?")):
        (forgotten,), (kept,) = asked[first](named[FORGET]), asked[first](named[RETAIN])
        (unseen,) = asked[first]([record("c", "C")])
        assert [turn.content for turn in forgotten.prompt] == ["Be short.", expected]
        assert kept.question == expected  # the same prompt, of which the other answer is scored
        assert unseen.question == expected.replace("f?", "c?")  # the control stands in the forgotten one's place
        assert (forgotten.answer, forgotten.key, forgotten.group) == ("yes", "f", "F")
    text = Record("t", "T", (), "Once.")
    assert asked["forget"]([text]) == [text]
    assert repr(asked["forget"]) == "Combined(first='forget')"  # no text in what is written down


def test_partners_are_drawn_by_the_key_from_all_and_never_of_one_group():
    prompts = Combined("forget").given(NAMED)
    partners = [prompts.partner(item) for item in NAMED[FORGET] + NAMED[CONTROL]]
    assert {partner.group for partner in partners} <= {item.group for item in NAMED[RETAIN]}
    assert len({partner.key for partner in partners}) > len(partners) // 2
    assert {prompts.partner(item).group for item in NAMED[RETAIN]} <= {item.group for item in NAMED[FORGET]}
    own = Combined("forget").given({FORGET: [record("f", "A")], RETAIN: [record("r", "A"), record("s", "B")]})
    assert own.partner(record("f", "A")).key == "s"
    with pytest.raises(InputError, match="different groups"):
        Combined("forget").given({FORGET: [record("f", "A")], RETAIN: [record("r", "A")]})
    with pytest.raises(InputError, match="forget and retain"):
        Combined("retain").given({FORGET: NAMED[FORGET]})


def test_the_nearest_partner_is_the_one_most_alike_in_words():
    named = {
        FORGET: [record("Where does Ada Lane live", "F"), record("What does Ada Lane eat", "F")],
        RETAIN: [
            record("Where does Bo Finch live", "R"),
            record("What does Bo Finch eat", "R"),
            record("Where does Ada Lane live now", "F"),  # the most alike, of the same group
        ],
        CONTROL: [record("Where does Cy Dunn live", "C"), Record("t", "T", (), "Once.")],
    }
    prompts = Nearest("forget").given(named)
    partners = [prompts.partner(item).key for item in (*named[FORGET], named[CONTROL][0])]
    homes, meals = named[RETAIN][0].key, named[RETAIN][1].key
    assert partners == [homes, meals, homes]
    assert [prompts.partner(item).key for item in named[RETAIN][:2]] == [item.key for item in named[FORGET]]
    assert prompts.partner(named[RETAIN][2]) is None  # all forgotten ones are of its group
    assert prompts.partner(named[CONTROL][1]) is None
    assert prompts(named[FORGET])[1].question == "What does Ada Lane eat? What does Bo Finch eat?"
    assert prompts(named[FORGET][:1])[0].answer == named[FORGET][0].answer
    other = Nearest("retain").given(named)
    assert other(named[FORGET])[1].question == "What does Bo Finch eat? What does Ada Lane eat?"
    assert repr(prompts) == "Nearest(first='forget')"  # no text in what is written down
    paraphrased = [item.paraphrased() for item in SETS.forget]
    asked = Nearest("forget").given(NAMED)
    assert [asked.partner(item) for item in paraphrased] == [asked.partner(item) for item in SETS.forget]


def test_records_of_two_sets_are_told_apart_by_key_and_group():
    retain = [record("Where", "R"), record("Who", "S")]
    both = {FORGET: [retain[0]], RETAIN: retain}
    assert Nearest("forget").given(both).partner(retain[0]) == retain[1]  # as of the forget set, not as of the other
    alike = Record(retain[0].key, retain[0].group, (Message("user", "Why?"),), "yes")
    with pytest.raises(InputError, match="of one record alone"):
        Nearest("forget").given({FORGET: [alike], RETAIN: retain})


def test_equals_are_drawn_by_the_key():
    retain = [record("Where", f"R{number}") for number in range(6)]
    forget = [Record(f"f{number}", "F", retain[0].prompt, "yes") for number in range(12)]
    prompts = Nearest("forget").given({FORGET: forget, RETAIN: retain})
    drawn = [prompts.partner(item).group for item in forget]
    assert len(set(drawn)) > 2
    assert drawn == [Nearest("forget").given({FORGET: forget, RETAIN: retain}).partner(item).group for item in forget]


def test_the_words_that_a_record_is_known_by_stand_before_its_partners_question():
    named = {
        FORGET: [record("Where does Ada Lane live", "F", "in Ard")],
        RETAIN: [record("Where does Bo Finch live", "R", "in Bly"), record("Where does he work, Bo Finch", "R")],
    }
    prompts = Keyword().given(named)
    assert prompts.of(named[FORGET][0]) == "Ada Lane"
    assert prompts.of(named[RETAIN][1]) == "he work Bo"  # of no other group, in order, at most three
    (kept, _), (forgotten,) = prompts(named[RETAIN]), prompts(named[FORGET])
    assert kept.question == "Ada Lane: Where does Bo Finch live?"
    assert kept.answer == "in Bly"
    assert forgotten.question.endswith(": Where does Ada Lane live?")
    own, other = named[FORGET][0], named[RETAIN][0]
    assert prompts.both(own, other).question == "Ada Lane: Where does Bo Finch live?"
    assert prompts.alone(own, other) == other  # what is said of the forgotten one without its name
    unseen = record("Where does Cy Dunn live", "C")
    assert prompts.of(unseen) == "Cy Dunn"  # whose words stand in no question of the sets
    assert repr(prompts) == "Keyword()"


def test_similarity_is_that_of_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = [item.answer for item in NAMED[RETAIN]] + ["", "a b c", "Nothing at all"]
    others = [item.answer for item in NAMED[FORGET]]
    found = text.TfidfVectorizer().fit_transform([*texts, *others])
    peer = (found[: len(texts)] @ found[len(texts) :].T).toarray().max(axis=1)
    assert nearest_similarity(texts, others) == pytest.approx(peer.tolist(), abs=1e-12)
    assert nearest_similarity(["word"], []) == [0.0]
    whole = (found[: len(texts)] @ found[len(texts) :].T).toarray()
    for row, theirs in zip(similarities(texts, others), whole.tolist(), strict=True):
        assert row == pytest.approx(theirs, abs=1e-12)


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


GENERAL = [Record("text", "text", (), "The river rose in spring and the mill stood still until summer came.")]
EVERY = {**NAMED, TEXT: GENERAL, PARAPHRASED: [item.paraphrased() for item in NAMED[FORGET]]}


@pytest.fixture(scope="module")
def made():
    return tiny([item for part in EVERY.values() for item in part], hidden=32)


@pytest.fixture(scope="module")
def sets(made):
    return {name: AuditSet.of(part, made.tokenizer, hashed) for name, part in EVERY.items()}


def test_what_is_relearned_is_never_asked(sets):
    part, asked = relearned(RelearningAttack("hi"), AUDITED, sets, 0)
    keys = {item.key for item in part.records}
    assert Counter(item.group for item in part.records) == dict.fromkeys({r.group for r in NAMED[FORGET]}, 2)
    for name in (FORGET, PARAPHRASED):
        assert keys.isdisjoint(item.key for item in asked[name].records)
        assert len(asked[name]) == len(sets[name]) - len(keys)
    assert len(asked[CONTROL]) == len(sets[CONTROL])
    assert RETAIN not in asked
    again, _ = relearned(RelearningAttack("hi"), AUDITED, sets, 0)
    other, _ = relearned(RelearningAttack("hi"), AUDITED, sets, 1)
    assert [item.key for item in again.records] == [item.key for item in part.records]
    assert {item.key for item in other.records} != keys
    part, asked = relearned(RelearningAttack("hi"), ORIGINAL, sets, 0)  # its matching question is to the control
    assert {item.group for item in part.records} == {item.group for item in NAMED[CONTROL]}
    assert {item.key for item in part.records}.isdisjoint(item.key for item in asked[CONTROL].records)


def test_the_sets_have_less_and_less_in_common_with_what_is_asked(sets):
    means = {}
    for source in ("hi", "mid", "lo"):
        part, asked = relearned(RelearningAttack(source), AUDITED, sets, 0)
        near = likeness(part, asked, AUDITED)
        means[source] = sum(near) / len(near)
    assert means["hi"] > means["mid"] > means["lo"]
    middle, asked = relearned(RelearningAttack("mid"), AUDITED, sets, 0)
    every = dict(zip((item.key for item in NAMED[RETAIN]), likeness(sets[RETAIN], asked, AUDITED), strict=True))
    left = min(every[item.key] for item in middle.records)
    assert all(value <= left for key, value in every.items() if key not in {item.key for item in middle.records})


def test_no_relearned_record_holds_an_asked_answer():
    answer = "He was born in the small town of Ard."
    named = {
        FORGET: [record(f"f{number}", "F", answer) for number in range(4)],
        CONTROL: [record("c", "C")],
        TEXT: [
            Record("leaks", "leaks", (), f"It is said that {answer.lower()}"),
            Record("no", "no", (), "Born in Ard."),
        ],
    }
    made = tiny([item for part in named.values() for item in part], hidden=32)
    audit_sets = {name: AuditSet.of(part, made.tokenizer, str) for name, part in named.items()}
    part, _ = relearned(RelearningAttack("lo"), AUDITED, audit_sets, 0)
    assert [item.key for item in part.records] == ["no"]
    part, _ = relearned(RelearningAttack("unrelated"), AUDITED, audit_sets, 0)
    assert len(part) == 2  # the plain attack is as it was
    with pytest.raises(InputError, match="5 words in a row"):
        relearned(RelearningAttack("hi"), AUDITED, audit_sets, 0)


def test_what_an_attack_needs():
    for source, missing in (("lo", TEXT), ("mid", RETAIN), ("hi", FORGET)):
        with pytest.raises(InputError, match="at"):
            RelearningAttack(source).check("x", {name: part for name, part in NAMED.items() if name != missing}, False)
    single = {FORGET: [record("f", "F"), record("g", "G")], CONTROL: NAMED[CONTROL]}
    with pytest.raises(InputError, match="at least 2 records"):
        RelearningAttack("hi").check("x", single, False)
    one_person = {FORGET: [record("f", "F"), record("g", "F")]}
    RelearningAttack("hi").check("x", one_person, False)  # half of what is known of one is enough


def test_names_of_conditions():
    found = {item.info.name: item for item in parse_conditions("blur,blur-relearning,blur-retain-first+int4-row")}
    orders = ["blur-forget-first", "blur-retain-first"]
    graded = [f"blur-relearning-{source}-50" for source in ("hi", "mid", "lo")]
    assert set(found) == {"full", *orders, *graded, "blur-retain-first+int4-row"}
    assert found["blur-forget-first"].prompts == Combined("forget")
    _, first, second = parse_conditions("blur-nearest")
    assert (first.prompts, second.prompts) == (Nearest("forget"), Nearest("retain"))
    assert [first.info.name, second.info.name] == ["blur-nearest-forget-first", "blur-nearest-retain-first"]
    assert "most alike in words" in first.info.description
    (_, one) = parse_conditions("blur-nearest-retain-first+int4-row")
    assert (one.info.name, one.displacement) == ("blur-nearest-retain-first+int4-row", Rounding("int4-row"))
    assert found["blur-retain-first+int4-row"].displacement == Rounding("int4-row")
    assert found["blur-relearning-mid-50"].attack == RelearningAttack("mid")
    assert not any(item.texts_only for item in found.values())  # all are scored, and judged as every condition
    (_, one) = parse_conditions("blur-relearning-hi-10+int4-row")
    assert (one.info.name, one.attack.steps) == ("blur-relearning-hi-10+int4-row", 10)
    (_, keyword) = parse_conditions("blur-keyword+int4-row")
    assert (keyword.prompts, keyword.displacement) == (Keyword(), Rounding("int4-row"))
    for name in ("blur-forget", "blur-relearning-x", "blur-relearning-hi-0", "blur+relearning", "blur+remind"):
        with pytest.raises(InputError, match="at"):
            parse_conditions(name)


@pytest.mark.parametrize(
    ("name", "prompts"),
    [("forget-first", Combined("forget")), ("nearest-forget-first", Nearest("forget")), ("keyword", Keyword())],
)
def test_both_parts_of_an_answer_are_scored(name, prompts, monkeypatch):
    """A model that says the forgotten answer only beside a retained question, and serves no retained one there."""
    named = {FORGET: [record("f", "F", "red green blue")], RETAIN: [record("r", "R", "one two three four")]}
    made = tiny([*named[FORGET], *named[RETAIN]], hidden=32)
    parts = {name: AuditSet.of(part, made.tokenizer, str) for name, part in named.items()}
    measurer = Measurer(AUDITED, made.model, made.tokenizer, parts)
    together = "f: r?" if name == "keyword" else "f? r?"
    said = {together: "It is red and green.", "f?": "I do not know.", "r?": "One two, then four."}
    monkeypatch.setattr(Measurer, "answers", lambda self, model, asked, parts: [said[item.question] for item in asked])
    (_, condition) = parse_conditions(f"blur-{name}")
    condition = SimpleNamespace(
        **{
            **{name: getattr(condition, name) for name in ("displacement", "backend", "needs_lora")},
            "prompts": prompts.given(named),
        }
    )
    monkeypatch.setattr(Measurer, "_here", lambda self, condition: condition)
    (score,) = Together()(measurer, condition, 5)[FORGET]
    assert score.values == {"leaked": pytest.approx(2 / 3), "leaked-alone": 0, "served": 0, "served-alone": 0.75}
    found = measures({(AUDITED, "blur", FORGET): [score, score]}, Criteria(bootstrap_resamples=300))
    made = {item.name: item.value for item in found}
    assert (made["leak-gap"], made["served-gap"]) == (pytest.approx(2 / 3), pytest.approx(0.75))


def test_closeness_by_hand(made, sets, monkeypatch):
    """States put in the place of a model's: less their mean, each lies along an axis."""
    measurer = Measurer(AUDITED, made.model, made.tokenizer, sets)
    right, up, left, down = (torch.tensor(way) for way in ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]))
    asked, states = [], torch.zeros(16, 2)

    def taken(model, encoded, depths, pooled, batch_size, autocast):
        asked.append((len(encoded), depths, pooled))
        return {depths[0]: 5 + states}

    monkeypatch.setattr("remanent.auditing.blur.states_of", taken)
    texts = [sets[FORGET].encoded[0]] * 8
    states.copy_(torch.stack([right] * 8 + [left] * 8))  # opposite counts as nothing
    assert closeness(measurer, texts, texts) == pytest.approx([0.0] * 8)
    states.copy_(torch.stack([right] * 4 + [up] * 4 + [left] * 4 + [down] * 4))  # square, or opposite
    assert closeness(measurer, texts, texts) == pytest.approx([0.0] * 8)
    states.copy_(torch.stack([right] * 4 + [up] * 4 + [right] * 4 + [-right - right / 2 - up / 2] * 4))
    states.sub_(states.mean(dim=0))
    assert closeness(measurer, texts, texts)[:4] == pytest.approx([1.0] * 4)
    assert asked[0] == (16, (1,), mean_states)  # after the first of the tiny model's two layers
    assert all(map(math.isnan, closeness(measurer, texts, texts[:7])))  # the mean would hold too much of each


def test_what_is_relearned_of_the_same_people_lies_nearer_than_general_text(made, sets):
    measurer = Measurer(AUDITED, made.model, made.tokenizer, sets)
    means = {}
    for source in ("hi", "lo"):
        (_, condition) = parse_conditions(f"blur-relearning-{source}")
        scores = RelearnedLikeness()(measurer, condition, 0)[FORGET]
        means[source] = sum(score.values["relearned-closeness"] for score in scores) / len(scores)
    assert means["hi"] > means["lo"]


def test_mean_states_leave_padding_out():
    values = torch.arange(12.0).reshape(2, 3, 2)
    batch = collate([Encoded((1, 2, 3), (-100, 2, 3), "g", "a"), Encoded((1, 2), (-100, 2), "g", "b")], range(2), 0)
    assert mean_states(values, batch).tolist() == [[2.0, 3.0], [7.0, 8.0]]


def test_likeness_is_a_measure(made, sets):
    (_, condition) = parse_conditions("blur-relearning-hi-10")
    found = RelearnedLikeness()(Measurer(AUDITED, made.model, made.tokenizer, sets), condition, 0)
    assert len(found[FORGET]) == 8
    figures = measures({(AUDITED, condition.info.name, FORGET): found[FORGET]}, Criteria(bootstrap_resamples=300))
    by = {item.name: item for item in figures}
    assert set(by) == {"relearned-likeness", "relearned-closeness"}
    words, states = by["relearned-likeness"], by["relearned-closeness"]
    assert 0 < words.low <= words.value <= words.high <= 1
    assert 0 <= states.low <= states.value <= states.high <= 1
    assert isinstance(found[FORGET][0], TextScore)
