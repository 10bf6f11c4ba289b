"""TRAM and TRAM-Fisher round a base optimizer, and the distances that they climb by."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sam_cases import batch, closure_of, net
from torch import nn

from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError
from remanent.optim import SAM, TRAM, InitialWeights, NoisedInputs, PreviousWeights, TRAMFisher

BASES = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
    (torch.optim.AdamW, {"lr": 0.01}),
]
DISTANCES = {
    "initial": InitialWeights,
    "previous": PreviousWeights,
    "noise": lambda model: NoisedInputs(model, 0.5, seed=3),
}
# Name -> the optimizer round a base, for a model; radii are large enough to be seen.
OPTIMIZERS = {
    **{
        name: lambda m, base, make=make, **o: TRAM(m.parameters(), base, distance=make(m), scale=50.0, model=m, **o)
        for name, make in DISTANCES.items()
    },
    "fisher": lambda m, base, **o: TRAMFisher(m.parameters(), base, **{"rho": 0.2, "eta": 5.0, "model": m, **o}),
}
every = pytest.mark.parametrize("name", OPTIMIZERS)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# By hand


def test_the_ascent_by_hand():
    """The card's case: theta = (1, -2, .5), g = (-1, 2, 2), d = .3."""
    theta = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    gradient, seen = torch.tensor([-1.0, 2.0, 2.0]), []
    tram = TRAM([theta], torch.optim.SGD, distance=lambda: torch.tensor(0.3), lr=0.0)

    def closure():
        seen.append(theta.detach().clone())
        loss = (gradient * theta).sum()
        loss.backward()
        return loss

    tram.step(closure)
    assert (seen[1] - seen[0]).tolist() == pytest.approx([-0.0707, 0.5657, 0.0354], abs=1e-4)
    assert theta.tolist() == [1.0, -2.0, 0.5]
    assert tram.radius == pytest.approx(0.3)


class Logits(nn.Module):
    """A model whose logits for every record are one vector."""

    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values))

    def forward(self, inputs):
        return self.w + torch.zeros(len(inputs), 1)


def test_the_distance_by_hand():
    """The card's case: target logits (0, 0), current (ln 3, 0): d = .143841, however many rows."""
    model = Logits(0.0, 0.0)
    distance = InitialWeights(model)
    with torch.no_grad():
        model.w[0] = math.log(3)
    with distance.watching():
        model(torch.zeros(2, 1))
        model(torch.zeros(5, 1))
    assert float(distance()) == pytest.approx(0.143841, abs=1e-6)
    assert model.w.tolist() == pytest.approx([math.log(3), 0.0])
    with pytest.raises(InputError, match="watching"):
        distance()


def test_micro_batches_weigh_by_their_positions_and_padding_does_not_count():
    class PerToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def forward(self, inputs, attention_mask):
            return inputs * self.w

    model = PerToken()
    distance = InitialWeights(model)
    with torch.no_grad():
        model.w.copy_(torch.tensor([1.0, -1.0]))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 3, 2, generator=generator)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    with distance.watching():
        for rows in (slice(0, 1), slice(1, 4)):
            model(inputs[rows], attention_mask=mask[rows])
    current = (inputs * model.w.detach())[mask != 0].log_softmax(-1)
    expected = -math.log(2) - current.mean(dim=-1)  # of the uniform distribution to it
    assert float(distance()) == pytest.approx(float(expected.mean()), abs=1e-6)


def test_fishers_ascent_by_hand():
    """F = g^2 without noise: e = rho * (g / (1 + eta g^2)) / sqrt(sum g^2 / (1 + eta g^2))."""
    gradient = torch.tensor([3.0, 1.0])

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -1.0]))

        def forward(self, inputs):
            return self.w * inputs

    model, seen = Linear(), []
    fisher = TRAMFisher(model.parameters(), torch.optim.SGD, model=model, rho=0.5, eta=0.5, sigma=0.0, lr=0.0)

    def closure():
        seen.append(model.w.detach().clone())
        loss = model(gradient).sum()
        loss.backward()
        return loss

    fisher.step(closure)
    assert len(seen) == 3
    metric = 1 + 0.5 * gradient**2  # 5.5, 1.5
    length = math.sqrt(9 / 5.5 + 1 / 1.5)
    expected = 0.5 * gradient / metric / length
    assert (seen[2] - seen[1]).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_fisher_with_an_eta_of_zero_is_sam():
    models = [net(torch.float64) for _ in range(2)]
    fisher = TRAMFisher(models[0].parameters(), torch.optim.SGD, model=models[0], rho=0.2, eta=0.0, lr=0.1)
    sam = SAM(models[1].parameters(), torch.optim.SGD, rho=0.2, lr=0.1)
    for number in range(3):
        for model, optimizer in zip(models, (fisher, sam), strict=True):
            optimizer.step(closure_of(model, batch(number, torch.float64)))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_fishers_squares_are_of_the_noised_pass():
    model, data = net(torch.float64), batch(0, torch.float64)
    fisher = TRAMFisher(model.parameters(), torch.optim.SGD, model=model, rho=0.2, eta=5.0, sigma=0.5, seed=4, lr=0.1)
    noise = torch.randn(data[0].shape, generator=torch.Generator().manual_seed(4)).double()
    weights = list(model.parameters())

    def gradients(inputs):
        return torch.autograd.grad(nn.functional.cross_entropy(model(inputs), data[1]), weights)

    plain, noised = gradients(data[0]), gradients(data[0] + 0.5 * noise)
    metric = [1 + 5 * g.square() for g in noised]
    length = math.sqrt(sum(float((g.square() / m).sum()) for g, m in zip(plain, metric, strict=True)))
    expected = [w + 0.2 * g / m / length for w, g, m in zip(weights, plain, metric, strict=True)]
    seen = []

    def closure():
        seen.append([weight.detach().clone() for weight in weights])
        return closure_of(model, data)()

    fisher.step(closure)
    for found, right in zip(seen[2], expected, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-7)


# A radius that stays is ASAM; none is the base


def test_a_constant_distance_is_sams_adaptive_bit_for_bit():
    models = [net(dropout=0.3) for _ in range(2)]
    tram = TRAM(models[0].parameters(), torch.optim.AdamW, distance=lambda: 0.25, scale=2.0, lr=0.01)
    sam = SAM(models[1].parameters(), torch.optim.AdamW, rho=0.5, adaptive=True, lr=0.01)
    for number in range(4):
        for model, optimizer in zip(models, (tram, sam), strict=True):
            torch.manual_seed(number)
            optimizer.step(closure_of(model, batch(number)))
    assert same(*models)


@pytest.mark.parametrize(("base", "options"), BASES)
@pytest.mark.parametrize("none", ["scale", "distance", "rho"])
def test_no_radius_is_the_base_bit_for_bit(base, options, none):
    model, plain = net(norm=True, dropout=0.3).train(), net(norm=True, dropout=0.3).train()
    if none == "rho":
        optimizer = TRAMFisher(model.parameters(), base, model=model, rho=0.0, **options)
    else:
        distance = (lambda: 0.0) if none == "distance" else (lambda: pytest.fail("asked for nothing"))
        optimizer = TRAM(
            model.parameters(), base, distance=distance, scale=float(none == "distance"), model=model, **options
        )
    alone = base(plain.parameters(), **options)
    for number in range(5):
        torch.manual_seed(number)
        optimizer.step(closure_of(model, batch(number)))
        torch.manual_seed(number)
        alone.zero_grad()
        closure_of(plain, batch(number))()
        alone.step()
    assert same(model, plain)


def test_the_first_step_from_the_previous_weights_is_the_base():
    model, plain = net(), net()
    tram = TRAM(model.parameters(), torch.optim.SGD, distance=PreviousWeights(model), scale=100.0, lr=0.5)
    alone = torch.optim.SGD(plain.parameters(), lr=0.5)
    tram.step(closure_of(model, batch(0)))
    closure_of(plain, batch(0))()
    alone.step()
    assert tram.radius == 0
    assert same(model, plain)
    before = copy.deepcopy(model)
    tram.step(closure_of(model, batch(1)))
    with torch.no_grad():
        now, then = before(batch(1)[0]).log_softmax(-1), net()(batch(1)[0]).log_softmax(-1)
    assert tram.radius == pytest.approx(float((then.exp() * (then - now)).sum(-1).mean()), rel=1e-4)


# What the distances must leave alone


@pytest.mark.parametrize("name", DISTANCES)
def test_masks_are_the_same_on_both_sides_and_nothing_is_left_behind(name):
    model = net(norm=True, dropout=0.5).train()
    distance = (DISTANCES | {"noise": lambda model: NoisedInputs(model, 0.0)})[name](model)
    with distance.watching():
        closure_of(model, batch(0))()
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    assert float(distance()) == pytest.approx(0.0, abs=1e-7), "dropout's masks are no distance"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(w.grad, g) for w, g in zip(model.parameters(), gradients, strict=True))
    assert model.training
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_noise_is_on_the_embeddings_of_tokens(tiny_llama, make_batch):
    model, given = tiny_llama(), make_batch(4, seed=1)
    ids = given.input_ids.clone()
    distances = []
    for sigma in (0.0, 0.1, 1.0):
        distance = NoisedInputs(model, sigma)
        with distance.watching():
            model(input_ids=given.input_ids, attention_mask=given.attention_mask)
        distances.append(float(distance()))
    assert distances[0] == pytest.approx(0.0, abs=1e-7)
    assert 1e-6 < distances[1] < distances[2]
    assert torch.equal(given.input_ids, ids)


def test_autocast_is_the_same_on_both_sides():
    model = net()
    distance = InitialWeights(model)
    with distance.watching():
        closure_of(model, batch(0), precision=torch.bfloat16)()
    assert float(distance()) == 0.0


def test_noise_is_another_one_each_time():
    """The passes of a step rewind torch's own generator; noise that was drawn from it would be one noise for ever."""
    model = net()
    tram = TRAM(model.parameters(), torch.optim.SGD, distance=NoisedInputs(model, 0.5), lr=0.0)
    radii = []
    for _ in range(3):
        tram.step(closure_of(model, batch(0)))
        radii.append(tram.radius)
    assert len(set(radii)) == 3


@pytest.mark.parametrize("found", [math.nan, math.inf])
def test_a_distance_that_is_not_finite_moves_nothing_and_is_counted(found):
    model, plain = net(), net()
    tram = TRAM(model.parameters(), torch.optim.SGD, distance=lambda: found, lr=0.1)
    tram.step(closure_of(model, batch(0)))
    closure_of(plain, batch(0))()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    assert same(model, plain)
    assert (tram.without_ascent, tram.skipped) == (1, 0)


# The face of SAM


@every
@pytest.mark.parametrize(("base", "options"), BASES)
def test_state_dict_goes_on_bit_for_bit(name, base, options, tmp_path):
    model = net(dropout=0.3)
    optimizer = OPTIMIZERS[name](model, base, **options)
    for number in range(3):
        torch.manual_seed(number)
        optimizer.step(closure_of(model, batch(number)))
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state")
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    resumed = net(dropout=0.3)  # the distance is made from the weights at the start, as in a run that begins anew
    again = OPTIMIZERS[name](resumed, base, **{**options, "lr": 7.0})
    resumed.load_state_dict(weights)
    again.load_state_dict(state)
    for number in range(3, 6):
        for net_, one in ((model, optimizer), (resumed, again)):
            torch.manual_seed(number)
            one.step(closure_of(net_, batch(number)))
    assert same(model, resumed)
    assert getattr(optimizer, "radius", 1.0) > 0


@every
def test_later_steps_leave_a_state_dict_alone(name):
    model = net()
    optimizer = OPTIMIZERS[name](model, torch.optim.SGD, lr=0.1)
    optimizer.step(closure_of(model, batch(0)))
    held = [optimizer.state_dict().get("distance", {}), optimizer.state_dict().get("noise", {})]
    before = copy.deepcopy(held)
    optimizer.step(closure_of(model, batch(1)))
    assert any(held)
    torch.testing.assert_close(held, before, rtol=0, atol=0)


@every
def test_the_ascent_moves_and_comes_back_bit_for_bit(name):
    model, seen = net(norm=True).train(), []
    optimizer = OPTIMIZERS[name](model, torch.optim.SGD, lr=0.0)
    if name in ("initial", "previous"):
        with torch.no_grad():
            model[-1].weight.mul_(1.5)  # where they are no longer
    before = [weight.detach().clone() for weight in model.parameters()]

    def closure():
        seen.append(model[0].weight.detach().clone())
        return closure_of(model, batch(0))()

    optimizer.step(closure)
    assert not torch.equal(seen[-1], before[0])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert int(model[1].num_batches_tracked) == 1, "of the first pass alone"


@pytest.mark.parametrize("name", ["initial", "previous"])  # noise of a part is drawn for that part
def test_micro_batches_are_the_batch(name):
    models = [net(torch.float64) for _ in range(2)]
    optimizers = [OPTIMIZERS[name](model, torch.optim.AdamW, lr=0.01) for model in models]
    for number in range(3):
        data = batch(number, torch.float64)

        def parts(data=data):
            total = 0.0
            for rows in (slice(0, 5), slice(5, 12)):
                loss = nn.functional.cross_entropy(models[1](data[0][rows]), data[1][rows], reduction="sum") / 12
                loss.backward()
                total += loss.detach()
            return total

        optimizers[0].step(closure_of(models[0], data))
        optimizers[1].step(parts)
        assert optimizers[0].radius == pytest.approx(optimizers[1].radius, rel=1e-4, abs=1e-9)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@every
def test_a_scaler_changes_nothing(name):
    models = [net() for _ in range(2)]
    for model, enabled in zip(models, (True, False), strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled)
        optimizer = OPTIMIZERS[name](model, torch.optim.AdamW, lr=0.01, max_grad_norm=0.1)
        for number in range(3):
            optimizer.step(closure_of(model, batch(number), scaler=scaler), scaler)
            scaler.update()
        assert optimizer.skipped == 0
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@every
def test_a_closure_that_raises_leaves_the_weights(name):
    model, calls = net(), []
    optimizer = OPTIMIZERS[name](model, torch.optim.SGD, lr=0.1)
    for number in range(2):
        optimizer.step(closure_of(model, batch(number)))
    before = [weight.detach().clone() for weight in model.parameters()]

    def closure():
        calls.append(1)
        loss = closure_of(model, batch(2))()
        if len(calls) == (3 if name == "fisher" else 2):
            raise ValueError("out of memory, say")
        return loss

    with pytest.raises(ValueError, match="out of memory"):
        optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    optimizer.step(closure_of(model, batch(2)))
    assert not torch.equal(before[0], model[0].weight)


@every
def test_groups_of_their_own(name):
    model, seen = net(), []
    field = "rho" if name == "fisher" else "scale"
    groups = [{"params": model[0].parameters(), field: 0.0}, {"params": model[-1].parameters()}]
    if name == "fisher":
        optimizer = TRAMFisher(groups, torch.optim.SGD, model=model, lr=0.0)
    else:
        optimizer = TRAM(groups, torch.optim.SGD, distance=lambda: 0.3, lr=0.0)

    def closure():
        seen.append([weight.detach().clone() for weight in model.parameters()])
        return closure_of(model, batch(0))()

    optimizer.step(closure)
    moved = [not torch.equal(a, b) for a, b in zip(seen[0], seen[-1], strict=True)]
    assert moved == [False, False, True, True]


@every
def test_lora_alone_moves(name, tiny_llama, lora, make_batch, mean_loss):
    model, given = lora(tiny_llama()).train(), make_batch(6, seed=1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.fill_(0.05)  # with a factor of 0, |w| = 0 holds it where it is
    frozen = {key: w.detach().clone() for key, w in model.named_parameters() if not w.requires_grad}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if name == "fisher":
        optimizer = TRAMFisher(trained, torch.optim.AdamW, model=model, lr=1e-2)
    else:
        distance = DISTANCES[name](model)
        optimizer = TRAM(trained, torch.optim.AdamW, distance=distance, lr=1e-2)
        if name != "noise":
            assert set(distance._kept) == set(Weights.of(model).trainable())

    def closure():
        loss = mean_loss(model, given)
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert getattr(optimizer, "radius", 1.0) > 0
    assert all(torch.equal(w, frozen[key]) for key, w in model.named_parameters() if key in frozen)


def test_a_loop_of_ones_own():
    one, other = net(), net()
    distance = NoisedInputs(one, 0.5)
    optimizers = [
        TRAM(one.parameters(), torch.optim.SGD, distance=distance, scale=20.0, lr=0.1),
        TRAM(other.parameters(), torch.optim.SGD, distance=NoisedInputs(other, 0.5), scale=20.0, lr=0.1),
    ]
    for number in range(2):
        optimizers[0].zero_grad()
        with distance.watching():
            closure_of(one, batch(number))()
        assert optimizers[0].first_step()
        closure_of(one, batch(number))()
        optimizers[0].second_step()
        optimizers[1].step(closure_of(other, batch(number)))
    assert same(one, other)
    fisher = TRAMFisher(one.parameters(), torch.optim.SGD, model=one, lr=0.1)
    closure_of(one, batch(0))()
    with pytest.raises(UnsupportedError, match="closure"):
        fisher.first_step()


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("scale", lambda m: TRAM(m.parameters(), torch.optim.SGD, distance=lambda: 0.0, scale=-1.0, lr=0.1)),
        ("eta", lambda m: TRAM(m.parameters(), torch.optim.SGD, distance=lambda: 0.0, eta=math.nan, lr=0.1)),
        ("distance", lambda m: TRAM(m.parameters(), torch.optim.SGD, distance=0.3, lr=0.1)),
        ("rho", lambda m: TRAMFisher(m.parameters(), torch.optim.SGD, model=m, rho=-0.1, lr=0.1)),
        ("eta", lambda m: TRAMFisher(m.parameters(), torch.optim.SGD, model=m, eta=-0.1, lr=0.1)),
        ("sigma", lambda m: NoisedInputs(m, -0.1)),
    ],
)
def test_values_out_of_range(field, make):
    with pytest.raises(InputError, match=field):
        make(net())


def test_sixteen_bit_weights_are_warned_of():
    model = net().to(torch.bfloat16)
    with pytest.warns(UserWarning, match="16 bits"):
        TRAM(model.parameters(), torch.optim.SGD, distance=lambda: 0.1, lr=0.1)
