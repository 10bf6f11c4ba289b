"""What the job of sharpness hands to its measures, and where it keeps what they find."""

from __future__ import annotations

import pytest
from torch import nn

from remanent.core.batch import Encoded, collate
from remanent.core.importance.losses import token_nll
from remanent.errors import InputError, UnsupportedError
from remanent.jobs.sharpness import _groups, _possible, _Task
from remanent.sharpness.surface import LossSurface


def test_sets_whose_names_look_alike_have_files_of_their_own():
    files = {_Task(data, "full", "trace", 1, 1.0, lambda tick: {}).file for data in ("x/y.jsonl", "x_y.jsonl")}
    assert len(files) == 2
    assert all("/" not in file for file in files)


def test_tokens_are_drawn_by_the_group_of_their_record():
    encoded = [Encoded((1, 2, 3), (-100, 2, 3), group) for group in ("b", "a", "b")] + [Encoded((1, 2), (-100, 2), "c")]
    groups = _groups(encoded)
    found = [groups(collate(encoded, places, 0)).tolist() for places in ((0, 1), (2, 3))]
    assert found == [[0, 0, 1, 1], [0, 0, 2]]


def test_what_a_set_or_model_has_no_figure_of_is_left_out_or_refused_by_name():
    one = collate([Encoded((1, 2, 3), (-100, 2, 3))], [0], 0)
    surface = LossSurface(nn.Linear(2, 2), [one], token_nll)
    measures, said = ["trace", "neurons", "kernel"], []
    assert _possible(measures, ["all"], "set.jsonl", surface, said.append) == ["trace"]
    assert [text.split()[0] for text in said] == ["kernel", "neurons"]
    assert "set.jsonl" in said[0]
    assert "batch_size of 2" in said[0]
    with pytest.raises(InputError, match=r"set\.jsonl.*larger set"):
        _possible(measures, ["all", "kernel"], "set.jsonl", surface, said.append)
    with pytest.raises(UnsupportedError, match="no ReLU"):
        _possible(measures, ["neurons"], "set.jsonl", surface, said.append)
    assert _possible(["trace"], ["trace"], "set.jsonl", surface, said.append) == ["trace"]
