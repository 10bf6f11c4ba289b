from __future__ import annotations

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.episode import Episode
from remanent.core.saliency_mask import Masked, kth_largest, row_norms, saliency, top_share
from remanent.core.weights import Weights
from remanent.errors import DivergedError, InputError, UnsupportedError
from remanent.unlearning.grad_diff import GradDiff


def test_the_share_is_of_all_tensors_together_by_hand():
    scores = {"a": torch.tensor([[1.0, 9.0], [3.0, 4.0]]), "b": torch.tensor([8.0, 0.5])}
    found = top_share(scores, 0.5)  # 9, 8 and 4
    assert found["a"].tolist() == [[False, True], [False, True]]
    assert found["b"].tolist() == [True, False]


def test_ties_are_all_chosen_and_zeros_never():
    assert top_share({"a": torch.tensor([2.0, 2.0, 2.0, 1.0])}, 0.5)["a"].tolist() == [True, True, True, False]
    assert top_share({"a": torch.tensor([2.0, 0.0, 0.0, 0.0])}, 0.5)["a"].tolist() == [True, False, False, False]
    with pytest.raises(UnsupportedError, match="no gradient"):
        top_share({"a": torch.zeros(4)}, 0.5)
    with pytest.raises(DivergedError, match="saliency of a"):
        top_share({"a": torch.tensor([1.0, float("nan")])}, 0.5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_kth_value_is_that_of_a_sort(scale):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(5000, generator=generator).square() * scale
    values[:500] = values[0]
    values[500:700] = 0.0
    ordered = values.sort(descending=True).values
    for k in (1, 2, 37, 500, 2500, 4800, 5000):
        assert kth_largest([values[:1234].view(2, 617), values[1234:]], k) == float(ordered[k - 1])


def test_rows_by_hand_and_where_they_lie(tiny_gpt2):
    model = torch.nn.Linear(2, 2)
    scores = {"weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "bias": torch.tensor([7.0, 0.0])}
    found = row_norms(scores, Weights.of(model))
    assert found["weight"].tolist() == [[5.0], [1.0]]
    assert found["bias"].tolist() == [7.0, 0.0]
    weights = Weights.of(tiny_gpt2())
    found = row_norms(weights, weights)
    assert found["transformer.h.0.mlp.c_fc.weight"].shape == (1, 128)  # a Conv1D has its output neurons as columns
    assert found["transformer.wte.weight"].shape == (48, 1)


def test_saliency_is_the_absolute_value_of_the_summed_gradient(tiny_llama, make_records, mean_loss):
    model, records = tiny_llama().train(), make_records(7)
    found = saliency(model, records, Weights.of(model), records_per_pass=3)
    assert model.training
    batch = collate(records, range(7), 0)
    mean_loss(model.eval(), batch).backward()
    for name, weight in Weights.of(model).items():
        torch.testing.assert_close(found[name], weight.grad.abs() * batch.units("token"), rtol=1e-3, atol=1e-4)


def test_begin_is_deterministic_and_looks_at_the_chosen_weights_only(tiny_llama, make_records):
    from remanent.core.selection import LINEARS

    episode = Episode("one", "erase", {"forget": make_records(5), "retain": make_records(5, seed=2)})
    method = Masked(GradDiff(), select=LINEARS, share=0.3)
    first, second = (method.begin(tiny_llama(), episode).mask for _ in range(2))
    assert set(first) == set(LINEARS.of(Weights.of(tiny_llama())))
    assert all(torch.equal(first[name], second[name]) for name in first)
    moving = sum(int(mask.sum()) for mask in first.values())
    assert moving == round(0.3 * sum(mask.numel() for mask in first.values()))


def test_a_share_of_1_needs_no_mask(tiny_llama, make_records):
    episode = Episode("one", "erase", {"forget": make_records(2)})
    assert Masked(GradDiff(), share=1.0).begin(tiny_llama(), episode).mask == {}


def test_what_is_wrong_is_named(tiny_llama, make_records):
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="share"):
            Masked(GradDiff(), share=share)
    with pytest.raises(InputError, match="records_per_pass"):
        Masked(GradDiff(), records_per_pass=0)
    with pytest.raises(InputError, match="forget"):
        Masked(GradDiff()).begin(tiny_llama(), Episode("one", "erase", {"retain": make_records(2)}))
