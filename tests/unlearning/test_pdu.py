from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.update import Update
from remanent.errors import InputError
from remanent.unlearning.pdu import PDU, Dual, method


def test_by_hand(predicting, answers, taken):
    # Largest less mean: 4 - 2 and 1 - 0.
    batch, logits, predict = predicting([[0, 2]], [[4.0, 1.0, 1.0], [1.0, 0.0, -1.0]])
    loss = PDU(0.3, Dual(1.0)).losses({"forget": batch}, predict)["forget"] / 2
    assert loss.item() == pytest.approx((4.0 + 1.0) / 2, rel=1e-6)
    loss.backward()
    # (1/2) 2 (max - mean) (1 - 1/3) at the largest, and minus a third of it at the others.
    assert logits.grad[0].tolist() == pytest.approx([4 / 3, -2 / 3, -2 / 3], rel=1e-5)
    retain = answers([1.0], [2.0, 6.0])
    found = taken(PDU(0.5, Dual(10.0)), retain=retain)
    assert found["retain"].item() == pytest.approx(3.0)
    assert found["constraint"].item() == pytest.approx(10.0 * (3.0 - 0.5))


def test_which_token_is_right_does_not_matter(predicting):
    found = [
        PDU(0.3, Dual(1.0)).losses({"forget": batch}, predict)["forget"].item()
        for batch, _, predict in (predicting([[token]], [[4.0, 1.0, 1.0]]) for token in range(3))
    ]
    assert found == [found[0]] * 3


def test_the_dual_variable_by_hand():
    chosen = method(limit=0.5, dual=3.0, dual_step=2.0, dual_warmup=0.25)
    seen = []
    for step, retained in enumerate([9.0, 1.5, 0.25, 0.1, 0.0, 0.0, 0.0, 0.75], start=1):
        chosen.observe({"forget@full": 1.0, "retain@full": retained, "constraint@full": 7.0}, step, 8)
        seen.append(chosen.constrained.dual.value)
    # Two updates of warm-up; then + 2 (retained - 0.5), not below 0, and up again where the limit is passed.
    assert seen == pytest.approx([3.0, 3.0, 2.5, 1.7, 0.7, 0.0, 0.0, 0.5])


@pytest.mark.parametrize(("limit", "ends"), [(1e3, "at 0"), (0.0, "higher")])
def test_where_there_is_room_it_falls_to_0_and_where_there_is_none_it_rises(limit, ends, tiny_llama, make_batch):
    model, chosen = tiny_llama(), method(limit=limit, dual=1.0, dual_step=1.0, dual_warmup=0.0)
    update = Update(model, chosen, torch.optim.SGD(model.parameters(), lr=1e-3), steps=3)
    batches = {"forget": make_batch(4, seed=1), "retain": make_batch(4, seed=2)}
    first, *_, last = (update(batches) for _ in range(3))
    assert first["constraint@full"] == pytest.approx(first["retain@full"] - limit, rel=1e-4)
    if ends == "at 0":
        assert chosen.state_dict() == {"dual": 0.0}
        assert last["constraint@full"] == 0.0
        assert last["retain@full"] > 0  # still seen, so that the dual variable can rise again
    else:
        assert chosen.state_dict()["dual"] > 1 + first["retain@full"]


def test_cut_off_and_resumed_the_dual_variable_goes_on(tiny_llama, make_records, tmp_path):
    class CutOff(Exception):
        pass

    chosen = method(limit=0.1, dual=2.0, dual_step=0.5, dual_warmup=0.25)
    chosen = with_settings(chosen, steps=6, batch_size=3, learning_rate=1e-3, warmup=0.0)
    episode = Episode("one", "erase", {"forget": make_records(5), "retain": make_records(7, seed=2)})
    seen = {"alone": {}, "resumed": {}}

    def run(name, stop=None):
        def on_step(step, steps, losses):
            seen[name][step] = losses
            if step == stop:
                raise CutOff

        folder = None if name == "alone" else tmp_path / "run"
        run_episode(tiny_llama(), chosen, episode, Settings(0, checkpoint_every=2), folder=folder, on_step=on_step)

    run("alone")
    with pytest.raises(CutOff):
        run("resumed", stop=5)
    for step in (5, 6):
        seen["resumed"].pop(step, None)
    run("resumed")
    assert seen["resumed"] == seen["alone"]
    # The dual variable of each update, by what the constraint weighs: it moved before the cut and after it.
    dual = [row["constraint@full"] / (row["retain@full"] - 0.1) for _, row in sorted(seen["alone"].items())]
    assert dual[:2] == pytest.approx([2.0, 2.0])
    assert all(later > before + 0.1 for before, later in pairwise(dual[1:]))


def test_an_episode_does_not_start_where_another_ended(tiny_llama):
    chosen = method(dual=2.0)
    first, second = (chosen.begin(tiny_llama(), Episode("one", "erase", {})) for _ in range(2))
    first.observe({"retain@full": 9.0}, step=9, steps=10)
    assert first.constrained.dual.value > 2.0
    assert second.constrained.dual.value == chosen.constrained.dual.value == 2.0


def test_at_several_points_the_worst_counts():
    chosen = method(limit=0.0, dual=1.0, dual_step=1.0, dual_warmup=0.0)
    chosen.observe({"retain@full": 1.0, "retain@int4-row": 4.0}, 1, 2)
    assert chosen.constrained.dual.value == 5.0


@pytest.mark.parametrize("given", [{"limit": -1.0}, {"dual": math.nan}, {"dual_step": math.inf}, {"dual_warmup": 1.5}])
def test_bad_input(given):
    with pytest.raises(InputError, match=next(iter(given))):
        method(**given)
