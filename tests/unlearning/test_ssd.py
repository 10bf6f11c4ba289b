from __future__ import annotations

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.edit import EditSettings
from remanent.core.importance import fisher, importance, squared_answer_logits, token_nll
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning.ssd import SSD, damped, edit


def test_the_cards_golden_check():
    """theta = (2, -3), I_D = (1, 1), I_f = (20, 5), alpha 10, lambda 1 -> (0.1, -3)."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[2.0, -3.0]])
    found = damped({"weight": torch.ones(1, 2)}, {"weight": torch.tensor([[20.0, 5.0]])})
    undo = found.dampening.apply(model)
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.1, -3.0]]))
    assert found.counts == {"damped": 1, "deleted": 0, "weights": 2}
    assert found.largest_ratio == 20
    undo.undo()
    assert model.weight.tolist() == [[2.0, -3.0]]


def test_selection_is_strict_the_factor_is_bounded_and_nothing_is_divided_by_nothing():
    everything = {"w": torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])}
    forget = {"w": torch.tensor([10.0, 10.1, 0.0, 3.0, 40.0])}
    found = damped(everything, forget, alpha=10.0, strength=20.0)
    # equal to alpha: not selected; 20 / 10.1 is above 1; 0 > 0 is not selected; I_D = 0: deleted; 20 / 40.
    assert found.dampening.factors["w"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.5]
    assert found.counts == {"damped": 2, "deleted": 1, "weights": 5}


@pytest.fixture
def data(make_records):
    return {"forget": make_records(4, seed=1), "retain": make_records(9, seed=2)}


@pytest.mark.parametrize(
    ("options", "of"),
    [
        ({}, lambda m, b: importance(m, b, token_nll, reduce="batch_mean_squared")),
        (
            {"label_free": True},
            lambda m, b: {
                n: v / len(b)
                for n, v in importance(m, b, squared_answer_logits, reduce="sum_of_abs", unit="batch").items()
            },
        ),
        ({"importance": "record"}, fisher),
    ],
)
def test_the_edit_is_the_rule_on_importances_of_the_answers(tiny_llama, data, options, of):
    """With batches as large as all data their order is no matter, so that the importances can be taken by hand."""
    model, plain = tiny_llama(), tiny_llama()
    data = {role: records[:4] for role, records in data.items()}
    everything = [*data["forget"], *data["retain"]]

    class Whole(SSD):
        def _importances(self, model, records, size, settings):
            return super()._importances(model, records, len(records), settings)

    done = Whole(alpha=1.2, batch_size=4, **options).edit(model, data, EditSettings())
    expected = damped(
        of(plain, [collate(everything, range(8), 0)]), of(plain, [collate(data["forget"], range(4), 0)]), alpha=1.2
    )
    assert done.report["damped"] == expected.counts["damped"] > 0
    expected.dampening.apply(plain)
    for name, weight in Weights.of(model).items():
        torch.testing.assert_close(weight, Weights.of(plain)[name])


def test_report_and_undo(tiny_llama, data, snapshot, same_bits):
    model = tiny_llama().train()
    before, warned, seen = snapshot(model), [], []
    chosen = edit(alpha=1.5)
    settings = EditSettings(seed=3, on_warning=warned.append, on_batch=seen.append)
    done = chosen.edit(model, data, settings)
    assert not same_bits(snapshot(model), before)
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    report = done.report
    assert moved == {name for name, count in report["by_weight"].items() if count}
    assert report["damped"] == sum(report["by_weight"].values())
    assert report["weights"] == sum(weight.numel() for weight in Weights.of(model).values())
    assert (report["batch_size"], report["batches"]) == (4, {"all": 4, "forget": 1})
    assert report["order"] == "shuffled, seed 3"
    assert "4 records, so batches of both sets have 4 rather than 64" in warned[0]
    assert sum(seen) == chosen.passes({"forget": 4, "retain": 9}) == 17
    assert model.training
    done.undo.undo()
    assert same_bits(snapshot(model), before)


def test_the_same_seed_gives_the_same_edit(tiny_llama, data, snapshot, same_bits):
    models = [tiny_llama() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        edit(alpha=1.5, batch_size=2).edit(model, data, EditSettings(seed=seed))
    assert same_bits(snapshot(models[0]), snapshot(models[1]))
    assert not same_bits(snapshot(models[0]), snapshot(models[2]))


def test_an_alpha_that_selects_nothing_is_refused_and_the_model_stays(tiny_llama, data, snapshot, same_bits):
    model, warned = tiny_llama(), []
    before = snapshot(model)
    with pytest.raises(InputError, match=r"alpha: got 1000000\.0; expected less: the largest ratio"):
        edit(alpha=1e6).edit(model, data, EditSettings())
    with pytest.raises(InputError, match="alpha"):
        # |D| / |D_f| = 13 / 4: by record no ratio can be larger.
        edit(alpha=3.5, importance="record").edit(model, data, EditSettings(on_warning=warned.append))
    assert "at most 3.25 times" in warned[0]
    assert same_bits(snapshot(model), before)


@pytest.mark.parametrize(
    "given",
    [
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"strength": -1.0},
        {"batch_size": 0},
        {"importance": "sample"},
        {"importance": "record", "label_free": True},
    ],
)
def test_what_is_wrong_is_named(given):
    with pytest.raises(InputError, match=list(given)[-1]):
        edit(**given)
