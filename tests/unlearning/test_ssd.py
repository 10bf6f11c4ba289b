from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from remanent.core.batch import collate
from remanent.core.edit import EditSettings
from remanent.core.importance import fisher, importance, squared_answer_logits, token_nll
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.ssd import SSD, damped, dampen, edit, importances


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


def convolutional():
    """Convolutions with batch norm, in train mode, whose running statistics are those of some images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    for _ in range(3):
        model(torch.randn(16, 1, 6, 6) + 1)
    return model


def transformer():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    images = {"image_size": 6, "patch_size": 2, "num_channels": 1, "num_labels": 4}
    return ViTForImageClassification(ViTConfig(**sizes, **images, attention_probs_dropout_prob=0.1)).train()


VISION = pytest.mark.parametrize("make", [convolutional, transformer])


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    pixels, labels = torch.randn(24, 1, 6, 6, generator=generator), torch.randint(0, 4, (24,), generator=generator)
    everything = list(zip(pixels.split(8), labels.split(8), strict=True))
    chosen = (labels == labels[0]).nonzero()[:8, 0]
    return everything, [(pixels[chosen], labels[chosen])]


def logits_of(model, inputs):
    output = model(inputs)
    return output if isinstance(output, torch.Tensor) else output.logits


def by_autograd(model, batches, label_free=False):
    """Mean over batches of the squared gradient of the mean loss, or label-free of its absolute value."""
    model.eval()
    found = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for pixels, labels in batches:
        model.zero_grad()
        outputs = logits_of(model, pixels)
        (outputs.square().sum(dim=1).mean() if label_free else functional.cross_entropy(outputs, labels)).backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                found[name] += (weight.grad.abs() if label_free else weight.grad.square()) / len(batches)
    return found


@VISION
@pytest.mark.parametrize("label_free", [False, True])
def test_vision_models_are_damped_by_the_rule_and_running_statistics_stay(
    make, label_free, images, snapshot, same_bits
):
    model, plain = make(), make()
    everything, forget = images
    before = snapshot(model)
    of_all = importances(model, everything, label_free=label_free)
    assert same_bits(snapshot(model), before)
    of_forget = importances(model, forget, label_free=label_free)
    for found, batches in ((of_all, everything), (of_forget, forget)):
        for name, value in by_autograd(plain, batches, label_free).items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-9)
    made = dampen(model, everything, forget, alpha=1.5, label_free=label_free)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    after, weights = snapshot(model), set(of_all)
    assert {n: v.tolist() for n, v in after.items() if n not in weights} == {
        n: v.tolist() for n, v in before.items() if n not in weights
    }
    moved = 0
    for name in weights:
        chosen = of_forget[name] > 1.5 * of_all[name]
        factor = torch.where(chosen, of_all[name] / of_forget[name].clamp_min(1e-38), 1.0).clamp(max=1.0)
        torch.testing.assert_close(after[name], before[name] * factor)
        moved += int((factor < 1).sum())
    assert made.report["damped"] == moved > 0
    assert made.report["batch_size"] == {"all": 8, "forget": len(forget[0][0])}
    made.undo.undo()
    assert same_bits(snapshot(model), before)


def test_importances_serve_again_and_a_loss_of_ones_own_may_be_the_mean(images, snapshot, same_bits):
    everything, forget = images

    def mean_loss(model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1])

    models = [convolutional() for _ in range(3)]
    dampen(models[0], everything, forget, alpha=1.5)
    dampen(models[1], importances(models[1], everything), forget, alpha=1.5)
    dampen(models[2], everything, forget, mean_loss, alpha=1.5)
    assert same_bits(snapshot(models[0]), snapshot(models[1]))
    for name, value in snapshot(models[2]).items():
        torch.testing.assert_close(value, snapshot(models[0])[name])


def test_what_does_not_fit_is_named_before_anything_moves(images, lora, tiny_llama, snapshot, same_bits):
    everything, forget = images
    model, said = convolutional(), []
    before = snapshot(model)
    for given in ({"alpha": 0.0}, {"strength": -1.0}, {"alpha": 1e9}):
        with pytest.raises(InputError, match=next(iter(given))):
            dampen(model, everything, forget, **given)
    with pytest.raises(InputError, match="batches"):
        dampen(model, [], forget)
    with pytest.raises(UnsupportedError, match="adapter"):
        dampen(lora(tiny_llama()), everything, forget)
    assert same_bits(snapshot(model), before)
    dampen(model, everything, [tuple(part[:3] for part in forget[0])], alpha=1.5, on_warning=said.append)
    assert "8 samples, of the forget set 3" in said[0]
