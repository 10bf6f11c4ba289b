from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from remanent.core import reference
from remanent.core.displacement import AdapterOff
from remanent.core.reference import data_digest, reference_nll
from remanent.core.scores import score_records


@pytest.fixture
def passes(monkeypatch):
    """How often the set was really scored."""
    made = []

    def counted(*arguments, **options):
        made.append(1)
        return score_records(*arguments, **options)

    monkeypatch.setattr(reference, "score_records", counted)
    return made


def test_the_reference_of_a_trained_lora_is_base_and_adapter(tiny_llama, lora, make_records, snapshot, same_bits):
    """What knows the records is the model before unlearning, not the base under its adapter."""
    records, model = make_records(5), lora(tiny_llama())
    before = snapshot(model)
    found = reference_nll(model, records, pad_id=0)
    assert torch.equal(found, score_records(model, records, pad_id=0).nll.float())
    assert found.dtype == torch.float32
    assert found.shape == (5,)
    assert not torch.allclose(found, reference_nll(tiny_llama(), records, pad_id=0))
    assert same_bits(snapshot(model), before)


def test_the_reference_of_a_new_lora_is_its_base(tiny_llama, lora, make_records):
    records, model = make_records(5), lora(tiny_llama())
    with AdapterOff().at(model):
        new = reference_nll(model, records, pad_id=0)
    assert torch.equal(new, reference_nll(tiny_llama(), records, pad_id=0))


def test_the_cache_hits_for_the_same_and_misses_for_anything_else(tiny_llama, make_records, tmp_path, passes):
    model, records, cache = tiny_llama(), make_records(5), tmp_path / "new" / "cache"
    first = reference_nll(model, records, pad_id=0, cache=cache)
    assert torch.equal(reference_nll(tiny_llama(), make_records(5), pad_id=0, cache=cache), first)
    assert len(passes) == 1
    changed = [
        (tiny_llama(seed=1), records, {}),
        (model, make_records(5, seed=1), {}),
        (model, records[:4], {}),
        (model, records[::-1], {}),
        (model, records, {"autocast": torch.bfloat16}),
    ]
    for count, (other, data, options) in enumerate(changed, start=2):
        found = reference_nll(other, data, pad_id=0, cache=cache, **options)
        assert len(passes) == count
        assert torch.equal(found, reference_nll(other, data, pad_id=0, **options))
        passes.pop()
    assert len(list(cache.iterdir())) == 1 + len(changed)


def test_a_cached_score_is_read_and_not_made_again(tiny_llama, make_records, tmp_path, passes):
    model, records = tiny_llama(), make_records(3)
    reference_nll(model, records, pad_id=0, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    save_file({"nll": load_file(file)["nll"] + 1}, file)
    found = reference_nll(model, records, pad_id=0, cache=tmp_path)
    torch.testing.assert_close(found, reference_nll(model, records, pad_id=0) + 1)


def test_tokens_labels_and_their_order_count(make_records):
    from dataclasses import replace

    records = make_records(3)
    other = replace(records[0], labels=(-100,) * len(records[0].labels))
    renamed = replace(records[0], key="another", group="another")
    assert data_digest(records) == data_digest([renamed, *records[1:]])
    assert len({data_digest(found) for found in (records, records[::-1], records[:2], [other, *records[1:]])}) == 4
