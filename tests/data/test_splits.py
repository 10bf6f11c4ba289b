import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanent.data.record import Record
from remanent.data.splits import CONTROL_SHARES, RETAIN_SHARES, split_by_group
from remanent.errors import InputError


def records_of(groups, each=2):
    return [Record(f"{group}/{number}", group, (), "text") for group in groups for number in range(each)]


def groups_of(records):
    return {record.group for record in records}


def test_shares_count_groups_by_largest_remainder():
    sides = split_by_group(records_of(map(str, range(20))), RETAIN_SHARES, seed=0)
    assert {name: len(groups_of(side)) for name, side in sides.items()} == {"train": 10, "select": 3, "audit": 7}
    # 7 groups: 3.5, 1.05 and 2.45 -> 3, 1 and 2, and the one left goes to the largest remainder, .5.
    sides = split_by_group(records_of(map(str, range(7))), RETAIN_SHARES, seed=0)
    assert {name: len(groups_of(side)) for name, side in sides.items()} == {"train": 4, "select": 1, "audit": 2}


def test_a_small_share_gets_a_group_where_there_are_enough():
    sides = split_by_group(records_of("abc"), RETAIN_SHARES, seed=0)
    assert [len(groups_of(side)) for side in sides.values()] == [1, 1, 1]
    with pytest.raises(InputError, match="got 2; expected at least 3 groups, one for each of train, select, audit"):
        split_by_group(records_of("ab"), RETAIN_SHARES, seed=0)
    assert split_by_group(records_of("ab"), {"all": 1.0, "none": 0.0}, seed=0)["none"] == []


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 0.7, "b": 0.7}, {"a": -0.5, "b": 1.5}, {"a": float("nan")}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match="share"):
        split_by_group(records_of("abc"), shares, seed=0)


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=3), unique=True, min_size=3, max_size=40),
    st.integers(0, 2**40),
    st.randoms(use_true_random=False),
)
def test_sides_are_a_partition_by_whole_groups_whatever_the_order(groups, seed, shuffler: random.Random):
    records = records_of(groups)
    sides = split_by_group(records, RETAIN_SHARES, seed)
    assert sorted(record.key for side in sides.values() for record in side) == sorted(r.key for r in records)
    assert sum(len(groups_of(side)) for side in sides.values()) == len(groups)
    assert all(sides.values())
    shuffled = records.copy()
    shuffler.shuffle(shuffled)
    again = split_by_group(shuffled, RETAIN_SHARES, seed)
    assert {name: groups_of(side) for name, side in again.items()} == {n: groups_of(s) for n, s in sides.items()}


def test_another_seed_is_another_split():
    records = records_of(map(str, range(40)))
    assert groups_of(split_by_group(records, CONTROL_SHARES, 0)["select"]) != groups_of(
        split_by_group(records, CONTROL_SHARES, 1)["select"]
    )


def test_the_split_stays_what_it_was():
    sides = split_by_group(records_of("abcdefgh"), CONTROL_SHARES, seed=0)
    assert sorted(groups_of(sides["select"])) == ["d", "f"]
