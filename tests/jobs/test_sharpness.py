"""What the job of sharpness hands to its measures, and where it keeps what they find."""

from __future__ import annotations

from remanent.core.batch import Encoded, collate
from remanent.jobs.sharpness import _groups, _Task


def test_sets_whose_names_look_alike_have_files_of_their_own():
    files = {_Task(data, "full", "trace", 1, 1.0, lambda tick: {}).file for data in ("x/y.jsonl", "x_y.jsonl")}
    assert len(files) == 2
    assert all("/" not in file for file in files)


def test_tokens_are_drawn_by_the_group_of_their_record():
    encoded = [Encoded((1, 2, 3), (-100, 2, 3), group) for group in ("b", "a", "b")] + [Encoded((1, 2), (-100, 2), "c")]
    groups = _groups(encoded)
    found = [groups(collate(encoded, places, 0)).tolist() for places in ((0, 1), (2, 3))]
    assert found == [[0, 0, 1, 1], [0, 0, 2]]
