from __future__ import annotations

import torch

from remanent.core.batch import Encoded, collate
from remanent.core.scores import answer_scores

RECORDS = [
    Encoded((5, 6, 7), (-100, 6, 7), "a", "x"),
    Encoded((8,), (8,)),
    Encoded((1, 2, 3, 4, 5), (-100, -100, 3, -100, 5)),
]


def test_collate_pads_on_the_right():
    batch = collate(RECORDS, [2, 0], 9)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [5, 6, 7, 9, 9]]
    assert batch.attention_mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch.labels.tolist() == [[-100, -100, 3, -100, 5], [-100, 6, 7, -100, -100]]
    assert batch.records.tolist() == [2, 0]
    assert batch.reference is None
    assert len(batch) == 2


def test_the_label_of_the_first_token_never_counts():
    assert [record.scored for record in RECORDS] == [2, 0, 2]
    batch = collate(RECORDS, [0, 1, 2], 0)
    assert batch.units("token") == 4
    assert batch.units("record") == 3


def test_targets_are_the_labels_in_the_order_of_the_scores(tiny_llama):
    batch = collate(RECORDS, [2, 1, 0], 0)
    assert batch.targets.tolist() == [3, 5, 6, 7]
    scores = answer_scores(tiny_llama(), batch)
    assert torch.equal(scores.log_probs, scores.distribution.gather(1, batch.targets[:, None])[:, 0])


def test_references_are_picked_by_record_and_travel_with_the_pieces():
    batch = collate(RECORDS, [2, 0, 1], 0).with_reference(torch.tensor([10.0, 11.0, 12.0]))
    assert batch.reference.tolist() == [12.0, 10.0, 11.0]
    first, second = batch.split(2)
    assert first.reference.tolist() == [12.0, 10.0]
    assert second.reference.tolist() == [11.0]
    assert batch.with_reference(None).reference is None
    assert torch.equal(batch.to("cpu").reference, batch.reference)


def test_each_piece_is_cut_to_its_own_longest_record():
    batch = collate(RECORDS, [2, 0, 1], 0)
    pieces = batch.split(1)
    assert [piece.input_ids.shape[1] for piece in pieces] == [5, 3, 1]
    assert [piece.records.tolist() for piece in pieces] == [[2], [0], [1]]
    assert sum(piece.units("token") for piece in pieces) == batch.units("token")
    (whole,) = batch.split(99)
    assert torch.equal(whole.input_ids, batch.input_ids)
