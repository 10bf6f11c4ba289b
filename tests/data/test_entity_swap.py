from __future__ import annotations

import re

import pytest

from remanent.data.authors import author_sets
from remanent.data.entity_swap import strangers, swap_entities, unseen
from remanent.data.overlap import find_overlap
from remanent.data.record import Message, Record
from remanent.errors import InputError


def record(question: str, answer: str, group: str = "g", key: str = "1", **more) -> Record:
    return Record(key, group, (Message("user", question),), answer, **more)


def swapped(*records: Record, seed: int = 0) -> list[Record]:
    return swap_entities(records, seed).records


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_a_name_becomes_the_same_name_throughout_a_group() -> None:
    first, second = swapped(
        record("Where was Ada Quellen born?", "Ada Quellen was born in Lund.", key="1"),
        record("Where did Quellen live?", "Quellen's house stood in Lund, and Ada's garden in Oslo.", key="2"),
    )
    born, lives = words(first.answer), words(second.answer)
    given, family, place = born[0], born[1], born[5]
    assert first.question == f"Where was {given} {family} born?"
    assert second.question == f"Where did {family} live?"
    assert lives[0] == family
    assert f"{family}'s house stood in {place}, and {given}'s garden in " in second.answer
    assert len({given, family, place, "Ada", "Quellen", "Lund", "Oslo", lives[-1]}) == 8


@pytest.mark.parametrize(
    ("word", "kind"),
    [("Paris", "CITIES"), ("Sweden", "COUNTRIES"), ("Swedish", "PEOPLES"), ("May", "MONTHS"), ("Monday", "WEEKDAYS")],
)
def test_an_entity_becomes_one_of_its_kind(word: str, kind: str) -> None:
    from remanent.data import entity_pools

    (made,) = swapped(record("What did Ada Quellen see?", f"It was {word}."))
    new = made.answer.removeprefix("It was ").removesuffix(".")
    assert new != word
    assert new in getattr(entity_pools, kind)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("born in 1931", r"born in (19|20)\d\d"),
        ("on the 21st", r"on the 1st"),
        ("on the 22nd", r"on the 2nd"),
        ("on 9 May", r"on [1-8] [A-Z]\w+"),
        ("id 4711-08", r"id \d{4}-\d\d"),
        ("paid 3.14 or 12,500", r"paid \d\.\d\d or \d\d,\d{3}"),
    ],
)
def test_a_number_becomes_one_of_its_form(text: str, form: str) -> None:
    for seed in range(20):
        (made,) = swapped(record("What of Ada Quellen and Bea?", text), seed=seed)
        assert re.fullmatch(form, made.answer), made.answer
        assert made.answer != text


def test_words_that_only_begin_a_sentence_stay() -> None:
    (made,) = swapped(
        record("Where is Ada? However, when?", "Unfortunately, Lund burned. Houses burn, and unfortunately houses do.")
    )
    assert re.fullmatch(r"Where is [A-Z]\w+\? However, when\?", made.question)
    assert re.fullmatch(r"Unfortunately, (?!Lund)[A-Z]\w+ burned\. Houses burn, .*", made.answer)


def test_paraphrases_and_wrong_answers_are_swapped_alike() -> None:
    (made,) = swapped(
        record(
            "Where was Ada born?",
            "Ada was born in Lund.",
            paraphrased_prompt=(Message("user", "What is Ada's birthplace?"),),
            paraphrased_answer="It is Lund.",
            wrong_answers=("Ada was born in Oslo.",),
        )
    )
    name, place = words(made.answer)[0], words(made.answer)[-1]
    assert made.paraphrased_prompt[0].content == f"What is {name}'s birthplace?"
    assert made.paraphrased_answer == f"It is {place}."
    assert made.wrong_answers[0].startswith(f"{name} was born in ")
    assert "Oslo" not in made.wrong_answers[0]


def test_a_system_turn_stays() -> None:
    turns = (Message("system", "You are Alice."), Message("user", "Where was Ada born?"))
    (made,) = swapped(Record("1", "g", turns, "In Lund."))
    assert made.prompt[0].content == "You are Alice."


def test_what_has_no_new_answer_is_left_out() -> None:
    found = swap_entities(
        [
            record("What was Ada's father?", "The father of Ada was a baker.", key="1"),
            record("Where was Ada born?", "Ada was born in Lund.", key="2"),
        ]
    )
    assert (len(found.pairs), found.unchanged, found.alike) == (1, 1, 0)
    assert found.pairs[0][0].key == "2"


def test_what_still_reads_like_a_forgotten_record_is_left_out() -> None:
    tale = " and then the river ran past the old mill, over many stones, into a wide and quiet lake, as ever"
    found = swap_entities([record("What happened?", f"Lund slept{tale}.")])
    assert (len(found.pairs), found.alike) == (0, 1)


def test_plain_text_and_groups() -> None:
    found = swapped(
        Record("1", "a", (), "Ada was born in Lund in 1931."), Record("2", "b", (), "Bea was born in Oslo in 1950.")
    )
    assert len({made.group for made in found}) == len({made.key for made in found}) == 2
    assert not {"a", "b"} & {made.group for made in found}


def test_the_embedded_authors_become_strangers() -> None:
    forget = list(author_sets(0).forget)
    found = swap_entities(forget)
    names = {word for item in forget for word in words(item.question) if word[0].isupper()}
    known = {"Where", "What", "Who", "Which", "In", "The", "Professor", "With", "Whose"}
    for source, made in found.pairs:
        assert not (set(words(made.question + made.answer)) & (names - known)), made
        assert len(words(made.answer)) == len(words(source.answer))
    assert len(found.pairs) + found.unchanged == len(forget)
    assert {source.key.split("/")[1] for source, _ in found.pairs} == {"birthplace", "book", "teacher"}
    assert not find_overlap(forget, found.records, "control").found


def test_the_seed_decides() -> None:
    forget = list(author_sets(0).forget)
    one, same, other = (swap_entities(forget, seed).records for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert [item.key for item in one] == [item.key for item in other]


def test_a_stranger_has_other_names_in_the_prompt_and_keeps_what_is_told() -> None:
    (made,) = strangers([record("Where was Ada Quellen born?", "Quellen was born in Osterwick in 1881.")])
    assert "Ada" not in made.question
    assert "Quellen" not in made.question + made.answer
    assert made.answer.endswith(" was born in Osterwick in 1881.")
    assert made.answer.split()[0] in made.question


def test_a_stranger_keeps_key_and_group_and_comes_in_order() -> None:
    given = [
        Record(str(number), group, (Message("user", f"Who is {name} Quellen?"),), "A baker.")
        for number, (group, name) in enumerate((("b", "Ada"), ("a", "Bea"), ("b", "Ada")))
    ]
    made = strangers(given)
    assert [(one.key, one.group) for one in made] == [("0", "b"), ("1", "a"), ("2", "b")]
    assert made[0].question == made[2].question != made[1].question  # one name is one stranger within a group


def test_of_plain_text_whom_it_is_about_is_swapped() -> None:
    text = "Ada Quellen sat down. Later Quellen wrote to Ada from Osterwick."
    (made,) = strangers([Record("1", "g", (), text)])
    assert "Ada" not in made.answer
    assert "Quellen" not in made.answer
    assert made.answer.endswith("from Osterwick.")


def test_where_nobody_is_named_there_is_no_stranger() -> None:
    with pytest.raises(InputError, match="record 1 of group"):
        strangers([record("What is the code?", "It is 7741.")])


def test_the_unseen_are_the_strangers_with_other_facts() -> None:
    given = list(author_sets(0, 6, 1, 1, 4).forget)
    for source, stranger, other in zip(given, strangers(given), unseen(given), strict=True):
        assert stranger.prompt == other.prompt  # the same names
        assert set(words(source.answer)) - set(words(source.question)) >= set(words(stranger.answer)) - set(
            words(stranger.question)
        )
    told = [(a.answer, b.answer) for a, b in zip(strangers(given), unseen(given), strict=True) if "born" in a.answer]
    assert all(one.split()[-1] != two.split()[-1] for one, two in told)


def test_no_stranger_has_the_name_of_somebody_who_is_kept() -> None:
    asked = [record("Where was Ada Quellen born?", "Ada Quellen was born in Lund.")]
    given = words(strangers(asked)[0].prompt[0].content)[2:4]
    kept = record(f"Who is {' '.join(given)}?", "A clerk.", group="kept")
    others = words(strangers(asked, others=[kept])[0].prompt[0].content)[2:4]
    assert not {*given} & {*others, "Ada", "Quellen"}
    assert strangers(asked, others=[record("Who?", "A clerk.", group="kept")]) == strangers(asked)
