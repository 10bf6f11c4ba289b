"""The battery: each attacker is its own probe by hand, and one that is not linear sees what the others do not."""

from __future__ import annotations

import pytest
import torch

from remanent.auditing import cross_sequence as module
from remanent.auditing.cross_sequence import BATTERY, cross_sequence, probe_battery
from remanent.data.authors import author_sets
from remanent.errors import InputError
from remanent.models.tiny import tiny


@pytest.fixture(scope="module")
def world():
    sets = author_sets(3, forget=4, retain=1, control=8, questions=3)
    return sets, tiny([*sets.forget, *sets.control], hidden=32)


def test_the_linear_one_is_cross_sequence_and_unseen_stands_beside_it(world):
    sets, loaded = world
    how = {"contexts": ("",), "depths": (1,), "permutations": 0}
    done = []
    linear = {name: BATTERY[name] for name in ("linear", "linear, C 10")}
    found = probe_battery(
        loaded.model,
        loaded.tokenizer,
        sets.forget,
        sets.control,
        probes=linear,
        on_progress=lambda *counts: done.append(counts),
        **how,
    )
    [alone] = cross_sequence(loaded.model, loaded.tokenizer, sets.forget, sets.control, **how)
    assert found["linear"] == [alone]
    [other] = cross_sequence(loaded.model, loaded.tokenizer, sets.forget, sets.control, strength=10.0, **how)
    assert found["linear, C 10"] == [other]
    assert done == [(1, 2), (2, 2)]
    assert alone.gap == alone.taught.accuracy - alone.unseen.accuracy
    with pytest.raises(InputError, match="at least 6 groups"):
        probe_battery(loaded.model, loaded.tokenizer, sets.forget, sets.control[:6], **how)


def test_a_network_sees_a_ring_that_no_linear_attacker_does(world, monkeypatch):
    """Forget lies round the origin, unseen further out: states put in the place of a model's."""
    sets, loaded = world
    generator = torch.Generator().manual_seed(0)

    def states(model, tokenizer, records, contexts, depths):
        rows = torch.randn(len(records), 2, generator=generator)
        rows = rows / rows.norm(dim=1, keepdim=True)
        far = torch.tensor([0.3 if record in sets.forget else 3.0 for record in records])
        return dict.fromkeys(depths, rows * far[:, None])

    monkeypatch.setattr(module, "_states", states)
    found = probe_battery(
        loaded.model, loaded.tokenizer, sets.forget, sets.control, contexts=("",), depths=(1,), permutations=0
    )
    assert list(found) == list(BATTERY)
    for name, [gap] in found.items():
        if name.startswith("network"):
            assert gap.taught.accuracy > 0.85
            assert gap.gap > 0.3
        else:
            assert gap.taught.accuracy < 0.85
