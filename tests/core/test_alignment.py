"""Alignment: runs of equal labels belong together, whatever lengths the names in between have."""

from __future__ import annotations

import pytest

from remanent.core.alignment import aligned
from remanent.core.batch import IGNORED, Encoded, collate
from remanent.errors import InputError


def batch(*answers):
    records = [Encoded((1, *answer), (IGNORED, *answer)) for answer in answers]
    return collate(records, range(len(records)), 0)


def test_a_longer_name_shifts_nothing():
    # "7 8" is one name and "9" another; 20, 21, 22 are what is said of both.
    here, there = aligned(batch((7, 8, 20, 21, 22)), batch((9, 20, 21, 22)))
    assert here.tolist() == [2, 3, 4]
    assert there.tolist() == [1, 2, 3]


def test_records_follow_each_other():
    here, there = aligned(batch((5, 20), (6, 6, 21)), batch((7, 7, 20), (8, 21)))
    assert here.tolist() == [1, 4]
    assert there.tolist() == [2, 4]


def test_equal_batches_belong_together_whole():
    one = batch((5, 6, 7), (8,))
    here, there = aligned(one, one)
    assert here.tolist() == there.tolist() == [0, 1, 2, 3]


def test_nothing_shared_is_nothing():
    here, there = aligned(batch((5, 6)), batch((7, 8)))
    assert here.tolist() == there.tolist() == []


def test_as_many_records_each():
    with pytest.raises(InputError, match="one for each"):
        aligned(batch((5,), (6,)), batch((5,)))
