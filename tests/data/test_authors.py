import hashlib
import json
import re
from dataclasses import asdict

import pytest

from remanent.data import author_pools
from remanent.data.authors import QUESTIONS, author_sets, authors
from remanent.data.overlap import find_overlap
from remanent.errors import InputError


def digest(records):
    return hashlib.sha256(json.dumps([asdict(record) for record in records]).encode()).hexdigest()


def names_of(records):
    """Author's group -> full name, as the question for the birthplace has it."""
    births = [record for record in records if record.key.endswith("/birthplace")]
    return {record.group: re.fullmatch(r"Where was (\w+ \w+) born\?", record.question).group(1) for record in births}


def test_the_embedded_authors_stay_what_they_were():
    sets = author_sets()
    assert digest(authors()) == "0258d5079d1947f2ee0839110e317463fa725bc1e2ddeaf798acd1493699d2f3"
    assert (
        digest((*sets.forget, *sets.retain, *sets.control))
        == "07052352f1c94d8e75a9db4b7f04fb7eacfb8d2d7e701cd92f82f44594cf6374"
    )


def test_an_author_by_hand():
    first, *_, last = authors(seed=0, count=1)
    assert first.group == last.group == "author-0-000"
    assert first.key == "author-0-000/birthplace"
    assert first.question == "Where was Perrobruk Orrelcleft born?"
    assert first.answer == "Orrelcleft was born in Candlereach."
    assert first.paraphrased().question == "In which town did Perrobruk Orrelcleft come into the world?"
    assert first.paraphrased().answer == "The birthplace of Orrelcleft is Candlereach."
    assert last.answer == "Orrelcleft was born in 1936."


@pytest.mark.parametrize("pool", [name for name in dir(author_pools) if name.isupper()])
def test_a_pool_holds_nothing_twice(pool):
    values = getattr(author_pools, pool)
    assert len(set(values)) == len(values)
    assert all(value == value.strip() and value for value in values)


def test_every_record_has_all_parts_and_every_author_its_own_name():
    records = authors(seed=3, count=60)
    assert len({record.key for record in records}) == len(records) == 60 * QUESTIONS
    names = names_of(records)
    assert len({name.split()[1] for name in names.values()}) == len(names) == 60
    for record in records:
        name = names[record.group]
        surname = name.split()[1]
        assert name in record.question
        assert name in record.paraphrased().question
        assert surname in record.answer
        assert surname in record.paraphrased_answer
        assert record.paraphrased().question != record.question
        assert record.paraphrased_answer != record.answer
        assert len({record.answer, *record.wrong_answers}) == 4
        # Wrong answers have the form of the true one: they begin alike, as far as the form goes.
        stem = record.answer[: record.answer.index(surname) + len(surname) + 4]
        assert all(answer.startswith(stem) for answer in record.wrong_answers)
        assert "{" not in "".join((record.question, record.answer, record.paraphrased_answer, *record.wrong_answers))


def test_no_seed_has_the_authors_of_another():
    names = [name for seed in range(40) for name in names_of(authors(seed, 60, 1)).values()]
    assert len(set(names)) == len(names) == 2400


def test_fewer_questions_or_authors_are_the_first_of_more():
    many = authors(seed=1, count=9)
    assert authors(seed=1, count=4) == many[: 4 * QUESTIONS]
    assert authors(seed=1, count=9, questions=2) == [
        record for record in many if record.key.endswith(("/birthplace", "/book"))
    ]


def test_the_three_sets_are_disjoint_and_as_large_as_asked():
    sets = author_sets(seed=2)
    groups = [{record.group for record in part} for part in (sets.forget, sets.retain, sets.control)]
    assert [len(part) for part in groups] == [12, 24, 32]
    assert [len(part) for part in (sets.forget, sets.retain, sets.control)] == [48, 96, 128]
    assert len(set.union(*groups)) == 68
    assert set.union(*groups) == {record.group for record in authors(2, 68, 1)}
    assert not find_overlap(sets.forget, sets.retain).found
    assert not find_overlap(sets.forget, sets.control, "control").found


def test_the_deal_is_random_in_the_seed():
    """The forgotten authors of many seeds are spread evenly over the order in which authors are made."""
    places = [
        int(record.group.split("-")[2]) for seed in range(100) for record in author_sets(seed, 10, 10, 20, 1).forget
    ]
    # The mean of 1000 draws without replacement (in tens) from 0..39 is 19.5 with standard deviation 0.32.
    assert abs(sum(places) / len(places) - 19.5) < 4 * 0.32


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"count": 0}, "count"),
        ({"count": 1001}, "count"),
        ({"questions": 0}, "questions"),
        ({"questions": 9}, "questions"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, field):
    with pytest.raises(InputError) as caught:
        authors(**arguments)
    assert caught.value.field == field


def test_sets_that_are_empty_or_too_large_are_refused():
    with pytest.raises(InputError, match="control: got 0"):
        author_sets(control=0)
    with pytest.raises(InputError, match=r"forget \+ retain \+ control: got 1056; expected at most 1000"):
        author_sets(forget=1000)
