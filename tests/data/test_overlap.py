import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanent.data.overlap import find_overlap
from remanent.data.record import Message, Record
from remanent.errors import InputError


def asked(key, question, answer, group=None):
    return Record(key, group or key, (Message("user", question),), answer)


SAID = "Tav was born in the old town of Ostermere on the coast."
RETAIN = [
    asked("r1", "Where was Tav born?", SAID),
    asked("r2", "What did Ann write?", "Poems about rivers and mills.", "Ann"),
    Record("r3", "r3", (), "It is said in the valley that Bo kept bees and sold honey at the gate, and so he did."),
]


@pytest.mark.parametrize(
    ("record", "kind", "match"),
    [
        (asked("f", "where was TAV born", SAID.upper()), "identical", "r1"),
        (asked("f", "What did Ann write?", "Plays."), "same_question", "r2"),
        (asked("f", "Where then was Tav born?", SAID), "near_duplicates", "r1"),
        (Record("f", "f", (), "Bo kept bees and sold honey at the gate"), "near_duplicates", "r3"),
        (Record("f", "f", (), f"As we all know: {RETAIN[2].answer} And more of that kind."), "near_duplicates", "r3"),
        (asked("f", "Where was Cy born?", "Cy was born in the old town of Elverwick."), None, None),
    ],
)
def test_each_kind_is_found_once(record, kind, match):
    overlap = find_overlap([record], RETAIN)
    kinds = {name: getattr(overlap, name) for name in ("identical", "same_question", "near_duplicates")}
    assert kinds == {name: ((("f", match),) if name == kind else ()) for name in kinds}
    assert overlap.found == (kind is not None)
    assert len(overlap.sentences()) == (kind is not None)


def test_shared_groups_are_found_but_not_named_in_sentences():
    overlap = find_overlap([asked("f", "Who was Ann's mother?", "A miller.", "Ann")], RETAIN, "control")
    assert overlap.shared_groups == ("Ann",)
    assert overlap.sentences() == ("1 group of the forget set also in the control set.",)


def test_sentences_hold_keys_and_no_text():
    forget = [asked(f"f{number}", "Where was Tav born?", SAID) for number in range(7)]
    (sentence,) = find_overlap(forget, RETAIN).sentences()
    assert sentence.startswith("7 forget records: each is also in the retain set (f0 and r1, ")
    assert sentence.endswith("f4 and r1 and 2 more).")
    (sentence,) = find_overlap([asked("f", "Where then was Tav born?", SAID)], RETAIN).sentences()
    assert "80% of its word 3-grams" in sentence
    assert "Tav" not in sentence
    assert "Ostermere" not in sentence


def test_the_most_similar_is_listed_and_the_first_of_equals():
    words = [f"w{number}" for number in range(22)]
    text = Record("f", "f", (), " ".join(words))
    near = Record("near", "near", (), " ".join(["x", *words[1:]]))
    nearer = Record("nearer", "nearer", (), " ".join(words[:-1]))
    again = Record("again", "again", (), " ".join([*words, "y"]))
    assert find_overlap([text], [near, nearer, again]).near_duplicates == (("f", "nearer"),)
    # 19 of 20 3-grams of near are the text's.
    assert find_overlap([text], [near], threshold=0.95).near_duplicates == (("f", "near"),)
    assert find_overlap([text], [near], threshold=0.96).near_duplicates == ()


texts = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=8)


@settings(deadline=None)
@given(texts, texts, st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.integers(1, 3))
def test_the_search_finds_what_comparing_all_pairs_finds(left, right, threshold, words):
    def grams(text):
        tokens = text.split()
        size = min(words, len(tokens))
        return {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}

    def similar(a, b):
        return len(grams(a) & grams(b)) / min(len(grams(a)), len(grams(b))) >= threshold

    forget = [Record(f"f{place}", "f", (), text) for place, text in enumerate(left)]
    other = [Record(f"r{place}", "r", (), text) for place, text in enumerate(right)]
    found = {first for first, _ in find_overlap(forget, other, words=words, threshold=threshold).near_duplicates}
    expected = {f"f{p}" for p, a in enumerate(left) if a not in right and any(similar(a, b) for b in right)}
    assert found == expected


def test_thousands_against_thousands_take_seconds():
    def record(role, number):
        name = f"{role}name{number} surname{number % 97}"
        return asked(
            f"{role}{number}", f"In which town of the county was {name} born?", f"{name} was born in t{number}."
        )

    forget = [record("f", number) for number in range(4000)]
    retain = [record("r", number) for number in range(3999)] + [forget[7]]
    began = time.process_time()
    overlap = find_overlap(forget, retain)
    assert time.process_time() - began < 10
    assert overlap.identical == (("f7", "f7"),)
    assert not overlap.near_duplicates


@pytest.mark.parametrize("options", [{"words": 0}, {"threshold": 0.0}, {"threshold": 1.5}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        find_overlap(RETAIN, RETAIN, **options)
