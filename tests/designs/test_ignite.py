from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from remanent.core.catalogue import systems
from remanent.designs import IGNITE
from remanent.designs.ignite import mean_gradient_norm
from remanent.designs.surrogate import Recipe, Surrogate, gaussian_nll, squared_error
from remanent.errors import DivergedError, InputError
from remanent.optim import SAM

GOLDEN = Path(__file__).parent / "golden" / "ignite.safetensors"


class Square(nn.Module):
    """h(x) = w^2 x / 2."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, inputs):
        return self.weight**2 * inputs / 2


def nothing(model):
    """A loss of 0 with its backward pass."""

    def closure():
        loss = 0 * sum(parameter.sum() for parameter in model.parameters())
        loss.backward()
        return loss

    return closure


def fitting(model, inputs, scores):
    def closure():
        loss = ((model(inputs).flatten() - scores) ** 2).mean()
        loss.backward()
        return loss

    return closure


def network(seed=0, *between):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), *between, nn.Linear(8, 1)).double()


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, generator=generator).double(), torch.randn(16, generator=generator).double()


def test_by_hand():
    """The card's golden: hbar = w^2, a = 2, b = 2.2, so the term is 0.5 * 1 * 0.2; then lambda by its own step."""
    model, batch = Square(), torch.tensor([1.0, 3.0], dtype=torch.float64)
    optimizer = IGNITE(
        torch.optim.SGD(model.parameters(), lr=1.0), coefficient=0.5, rho=0.1, eta=1.0, epsilon=0.3, model=model
    )
    optimizer.step(nothing(model), lambda: model(batch).mean())
    assert model.weight.item() == pytest.approx(0.9, abs=1e-12)
    assert optimizer.norm == pytest.approx(2.0)
    assert optimizer.coefficient == pytest.approx(0.4)


def test_another_radius_by_hand():
    """rho / r = 4 scales the same difference."""
    model, batch = Square(), torch.tensor([1.0, 3.0], dtype=torch.float64)
    base = torch.optim.SGD(model.parameters(), lr=1.0)
    IGNITE(base, coefficient=0.5, eta=0.0, rho=0.4, radius=0.1).step(nothing(model), lambda: model(batch).mean())
    assert model.weight.item() == pytest.approx(0.6, abs=1e-12)


def test_the_term_is_the_gradient_of_the_norm():
    """By double differentiation, where the second point is near."""
    model, (inputs, _) = network(), data()
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(model(inputs).mean(), parameters, create_graph=True, materialize_grads=True)
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    wanted = torch.autograd.grad(0.7 * 0.3 * length, parameters, materialize_grads=True)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = IGNITE(torch.optim.SGD(parameters, lr=1.0), coefficient=0.7, eta=0.0, rho=0.3, radius=1e-5)
    optimizer.step(nothing(model), lambda: model(inputs).mean())
    for old, new, gradient in zip(before, parameters, wanted, strict=True):
        assert torch.allclose(old - new, gradient, atol=1e-5)


def test_a_coefficient_of_0_is_the_base_optimizer_bit_for_bit():
    inputs, scores = data()
    results = []
    for plain in (True, False):
        model = network(0, nn.BatchNorm1d(8), nn.Dropout(0.5))
        base = torch.optim.Adam(model.parameters(), lr=1e-2)
        optimizer = IGNITE(base, coefficient=0.0, eta=0.0, model=model)
        for _ in range(5):
            if plain:
                base.zero_grad()
                fitting(model, inputs, scores)()
                base.step()
            else:
                optimizer.step(fitting(model, inputs, scores), lambda model=model: model(inputs).mean())
        results.append(model.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_with_a_coefficient_the_loss_sees_the_same_masks_and_statistics():
    """What the term draws and passes through leaves nothing behind: at a rate of 0 all is as in a plain run."""
    inputs, scores = data()
    found = []
    for coefficient in (0.0, 0.5):
        model = network(0, nn.BatchNorm1d(8), nn.Dropout(0.5))
        optimizer = IGNITE(torch.optim.SGD(model.parameters(), lr=0.0), coefficient=coefficient, eta=0.0, model=model)
        losses = [
            optimizer.step(fitting(model, inputs, scores), lambda model=model: model(inputs).mean()) for _ in range(3)
        ]
        found.append((losses, model.state_dict()))
    assert [float(a) for a in found[0][0]] == [float(b) for b in found[1][0]]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_both_passes_of_the_term_share_their_masks():
    """With dropout, the same term as without it on the features that stayed: b - a vanishes with the radius."""
    inputs, _ = data()
    moved = []
    for radius in (1e-3, 1e-6):
        model = network(0, nn.Dropout(0.5))
        before = copy.deepcopy(model.state_dict())
        base = torch.optim.SGD(model.parameters(), lr=1.0)
        torch.manual_seed(3)
        IGNITE(base, coefficient=1.0, eta=0.0, rho=radius).step(nothing(model), lambda m=model: m(inputs).mean())
        moved.append(max(float((value - before[name]).abs().max()) for name, value in model.state_dict().items()))
    assert moved[1] < moved[0] / 100


def test_on_the_loss_with_lambda_1_it_is_sam():
    inputs, scores = data()
    models = [network(), network()]
    step = fitting(models[0], inputs, scores)
    ignite = IGNITE(torch.optim.SGD(models[0].parameters(), lr=0.1), coefficient=1.0, eta=0.0, rho=0.3)
    ignite.step(step, lambda: ((models[0](inputs).flatten() - scores) ** 2).mean())
    SAM(models[1].parameters(), torch.optim.SGD, rho=0.3, lr=0.1).step(fitting(models[1], inputs, scores))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_lambda_stays_at_least_0_unless_as_released():
    """rho n below epsilon: the released code turns lambda negative, and the term then raises n."""
    inputs, scores = data()
    ends = {}
    for nonnegative in (True, False):
        model = network()
        optimizer = IGNITE(
            torch.optim.SGD(model.parameters(), lr=0.05),
            coefficient=0.0,
            eta=0.5,
            rho=0.05,
            epsilon=0.2,
            nonnegative=nonnegative,
        )
        for _ in range(100):
            optimizer.step(fitting(model, inputs, scores), lambda model=model: model(inputs).mean())
        ends[nonnegative] = (optimizer.coefficient, optimizer.norm)
    assert ends[True][0] == 0
    assert ends[False][0] < -0.1
    assert ends[False][1] > ends[True][1] + 0.1


def test_a_constant_surrogate_has_no_term():
    model = nn.Linear(3, 1)
    with torch.no_grad():
        before = model.weight.clone()
    optimizer = IGNITE(torch.optim.SGD(model.parameters(), lr=1.0), coefficient=0.5, eta=0.1, epsilon=0.2)
    optimizer.step(nothing(model), lambda: 0.0 * model.weight.sum() + 1.0)
    assert torch.equal(model.weight, before)
    assert optimizer.coefficient == pytest.approx(0.5 - 0.02)


def test_weights_of_which_the_mean_does_not_depend_get_the_loss_alone():
    model = Surrogate(3, Recipe(hidden=(8,)), torch.Generator().manual_seed(0))
    inputs, scores = (item.float() for item in data())
    gradients = {}
    for coefficient in (0.0, 5.0):
        optimizer = IGNITE(torch.optim.SGD(model.parameters(), lr=0.0), coefficient=coefficient, eta=0.0)
        optimizer.step(lambda: gaussian_nll(model, inputs, scores, torch.ones(16)), lambda: model(inputs).mean())
        gradients[coefficient] = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    for name in ("most", "least"):
        assert torch.equal(gradients[0.0][name], gradients[5.0][name])
    last = gradients[5.0]["layers.2.weight"] - gradients[0.0]["layers.2.weight"]
    assert last[0].abs().max() > 0
    assert last[1].abs().max() == 0, "the row of the log standard deviation"


def test_steps_are_those_of_the_official_code():
    """Golden: three steps of gradient_ascent_IGNITE's trainer, cuong-dm/IGNITE, commit c702614, with SGD."""
    golden = load_file(GOLDEN)
    recipe = Recipe(hidden=(8, 8))
    model = Surrogate(5, recipe, torch.Generator().manual_seed(0))
    shapes = [name for name, _ in model.layers.named_parameters()]
    with torch.no_grad():
        for place, name in enumerate(shapes):
            value = golden[f"before.{place}"]
            model.layers.get_parameter(name).copy_(value.T if value.dim() == 2 else value)
    optimizer = IGNITE(
        torch.optim.SGD(model.parameters(), lr=0.05),
        coefficient=0.5,
        eta=0.1,
        rho=0.2,
        radius=0.1,
        epsilon=0.3,
        nonnegative=False,
    )
    inputs, scores, weights = golden["inputs"], golden["scores"], golden["weights"]
    for step in range(3):
        optimizer.step(lambda: gaussian_nll(model, inputs, scores, weights), lambda: model(inputs).mean())
        assert optimizer.coefficient == pytest.approx(float(golden["coefficients"][step]), abs=2e-6)
    for place, name in enumerate(shapes):
        value = golden[f"after.{place}"]
        assert torch.allclose(model.layers.get_parameter(name), value.T if value.dim() == 2 else value, atol=2e-5)
    assert float(model.most) == pytest.approx(float(golden["most"]), abs=1e-5)
    assert float(model.least) == pytest.approx(float(golden["least"]), abs=1e-5)


def test_the_state_goes_on_bit_for_bit():
    inputs, scores = data()

    def made():
        model = network()
        return model, IGNITE(torch.optim.Adam(model.parameters(), lr=0.01), coefficient=0.1, eta=0.1)

    def run(model, optimizer, steps):
        for _ in range(steps):
            optimizer.step(fitting(model, inputs, scores), lambda: model(inputs).mean())

    whole, ahead = made()
    run(whole, ahead, 4)
    half, optimizer = made()
    run(half, optimizer, 2)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(half.state_dict())
    resumed, after = made()
    resumed.load_state_dict(weights)
    after.load_state_dict(saved)
    run(resumed, after, 2)
    assert after.coefficient == ahead.coefficient
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_norm_by_hand_and_gradients_left_alone():
    model = Square(3.0)
    model.weight.grad = torch.tensor(7.0, dtype=torch.float64)
    assert mean_gradient_norm(model, lambda: model(torch.tensor([1.0, 3.0])).mean()) == pytest.approx(6.0)
    assert model.weight.grad.item() == 7.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("rho", 0.0), ("radius", -1.0), ("eta", -0.1), ("epsilon", float("nan")), ("coefficient", -1.0)],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(InputError, match=field):
        IGNITE(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), **{field: value})


def test_a_loss_that_is_no_number_stops_before_anything_moves():
    model, (inputs, scores) = network(), data()
    before = copy.deepcopy(model.state_dict())
    optimizer = IGNITE(torch.optim.SGD(model.parameters(), lr=1.0))
    with pytest.raises(DivergedError, match="loss"):
        optimizer.step(fitting(model, inputs * float("nan"), scores), lambda: model(inputs).mean())
    with pytest.raises(DivergedError, match="mean prediction"):
        optimizer.step(fitting(model, inputs, scores), lambda: model(inputs * float("inf")).mean())
    means = iter([1.0, float("inf")])  # finite at the weights, not at the second point
    with pytest.raises(DivergedError, match="second point"):
        optimizer.step(fitting(model, inputs, scores), lambda: model(inputs).mean() * next(means))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_record_is_in_the_catalogue():
    system = systems()["ignite"].system
    assert (system.family, system.arxiv) == ("designs", "2503.04242")


def test_the_squared_error_by_hand():
    model = Surrogate(1, Recipe(hidden=(), gaussian=False), torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.layers[0].weight.fill_(2.0)
    loss = squared_error(model, torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0]), torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx(3.0)
    assert float(model.layers[0].weight.grad) == pytest.approx(3 * 2 * 2 * 1 / 4)
