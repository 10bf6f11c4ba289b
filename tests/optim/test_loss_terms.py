"""SAF, MESA, R3F and SMART: loss terms round a model."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sam_cases import batch, net
from torch import nn

from remanent.core.divergence import mean_divergence
from remanent.errors import InputError, UnsupportedError
from remanent.optim import MESA, R3F, SAF, SMART

# Name -> the term of a model, with options.
TERMS = {
    "mesa": lambda model, **o: MESA(model, 0.9, **o),
    "r3f": lambda model, **o: R3F(model, **{"noise": "normal", "scale": 0.3, **o}),
    "smart": lambda model, **o: SMART(model, **{"step_size": 0.3, "decay": 0.9, **o}),
}
NOTHING = {"mesa": {"weight": 0.0}, "r3f": {"weight": 0.0}, "smart": {"weight": 0.0, "proximity": 0.0}}
INDEX = torch.arange(12)


def train(model, term, steps, optimizer=None, first=0):
    """Updates with a term; `term(logits, inputs, epoch)`. Returns the optimizer."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01)
    for number in range(first, first + steps):
        torch.manual_seed(number)
        inputs, labels = batch(number)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        (loss if term is None else loss + term(logits, inputs, number)).backward()
        optimizer.step()
    return optimizer


def of_inputs(term):
    """A term of a model's inputs, updated after each step but the last."""
    calls = []

    def call(logits, inputs, epoch):
        if calls and hasattr(term, "update"):
            term.update()
        calls.append(epoch)
        return term(logits, inputs)

    return call


def of_index(saf):
    return lambda logits, inputs, epoch: saf(logits, INDEX, epoch)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# No weight is the base, bit for bit


@pytest.mark.parametrize("name", TERMS)
def test_a_weight_of_zero_is_the_base_bit_for_bit(name):
    model, plain, passes = net(norm=True, dropout=0.3).train(), net(norm=True, dropout=0.3).train(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    train(model, of_inputs(TERMS[name](model, **NOTHING[name])), 4)
    train(plain, None, 4)
    assert same(model, plain)
    assert len(passes) == 4


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"start": 4}])
def test_saf_without_weight_or_before_its_start_is_the_base_bit_for_bit(options):
    model, plain = net(dropout=0.3), net(dropout=0.3)
    train(model, of_index(SAF(12, 3, back=1, **options)), 4)
    train(plain, None, 4)
    assert same(model, plain)


def test_mesa_before_its_start_is_the_base_bit_for_bit():
    model, plain = net(dropout=0.3), net(dropout=0.3)
    train(model, of_inputs(MESA(model, 0.9, start=4)), 4)
    train(plain, None, 4)
    assert same(model, plain)


# SAF


def test_saf_by_hand():
    """The card's case: tau 5, now (5, 0), past (0, 0): KL .120115, times 25, times .3."""
    saf = SAF(4, 2, back=3, start=3)
    index = torch.tensor([2])
    for epoch in range(3):
        assert float(saf(torch.zeros(1, 2), index, epoch)) == 0
    assert float(saf(torch.tensor([[5.0, 0.0]]), index, 3)) == pytest.approx(0.900859, abs=1e-5)


def test_saf_reads_what_the_record_was_back_epochs_ago():
    saf, seen = SAF(6, 3, back=2, start=0, weight=1.0, temperature=1.0), {}
    generator = torch.Generator().manual_seed(0)
    for epoch in range(7):
        for rows in torch.randperm(6, generator=generator).split(4):
            logits = torch.randn(len(rows), 3, generator=generator)
            term = float(saf(logits, rows, epoch))
            past = [seen.get((epoch - 2, int(row))) for row in rows]
            seen |= {(epoch, int(row)): value for row, value in zip(rows, logits, strict=True)}
            if epoch < 2:
                assert term == 0
            else:
                assert term == pytest.approx(float(mean_divergence(torch.stack(past), logits)), abs=1e-6)


def test_saf_leaves_out_records_that_were_not_there():
    saf = SAF(4, 2, back=1, start=1, weight=1.0, temperature=1.0)
    saf(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), 0)
    now = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    alone = float(SAF.__call__(copy.deepcopy(saf), now[:1], torch.tensor([0]), 1))
    assert float(saf(now, torch.tensor([0, 1]), 1)) == pytest.approx(alone)
    assert float(saf(now, torch.tensor([2, 3]), 2)) == 0, "neither was trained on in epoch 1"
    assert float(saf(now, torch.tensor([0, 1]), 5)) == 0, "nor are entries of another epoch taken for that one's"


def test_saf_has_no_gradient_through_what_is_stored():
    saf = SAF(12, 3, back=1, start=1)
    logits = torch.randn(12, 3, requires_grad=True)
    saf(logits, INDEX, 0)
    now = torch.randn(12, 3, requires_grad=True)
    saf(now, INDEX, 1).backward()
    assert logits.grad is None
    assert float(now.grad.abs().sum()) > 0


def test_saf_goes_on_bit_for_bit(tmp_path):
    model, saf = net(), SAF(12, 3, back=2, start=2)
    optimizer = train(model, of_index(saf), 4)
    torch.save([model.state_dict(), optimizer.state_dict(), saf.state_dict()], tmp_path / "state")
    weights, moments, stored = torch.load(tmp_path / "state", weights_only=True)
    resumed, again = net(), SAF(12, 3, back=2, start=2)
    resumed.load_state_dict(weights)
    other = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    other.load_state_dict(moments)
    again.load_state_dict(stored)
    train(model, of_index(saf), 3, optimizer, first=4)
    train(resumed, of_index(again), 3, other, first=4)
    assert same(model, resumed)
    with pytest.raises(InputError, match="back"):
        SAF(12, 3, back=3).load_state_dict(stored)


@pytest.mark.parametrize(
    ("field", "logits", "index"),
    [
        ("logits", torch.zeros(2, 4), torch.tensor([0, 1])),
        ("index", torch.zeros(2, 3), torch.tensor([0.0, 1.0])),
        ("index", torch.zeros(2, 3), torch.tensor([0, 5])),
        ("index", torch.zeros(2, 3), torch.tensor([0, -1])),
        ("index", torch.zeros(2, 3), torch.tensor([0])),
    ],
)
def test_saf_refuses_what_is_no_record(field, logits, index):
    with pytest.raises(InputError, match=field):
        SAF(5, 3)(logits, index, 0)


# MESA


def test_mesa_is_the_divergence_from_the_average():
    model = net(norm=True, dropout=0.5).train()
    mesa, average = MESA(model, 0.9, weight=0.8), copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for number in range(3):
        inputs, labels = batch(number)
        optimizer.zero_grad()
        logits = model(inputs)
        with torch.no_grad():
            expected = 0.8 * mean_divergence(average(inputs), logits, temperature=5.0)
        term = mesa(logits, inputs)
        assert float(term.detach()) == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
        (nn.functional.cross_entropy(logits, labels) + term).backward()
        optimizer.step()
        mesa.update()
        with torch.no_grad():
            for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                mean.copy_(0.9 * mean + 0.1 * value if mean.is_floating_point() else value)
    assert all(weight.grad is None for weight in mesa.average.model.parameters())


# R3F and SMART


def test_r3f_by_hand():
    """Logits (0, 0) against (ln 3, 0): KL .143841 one way, .130812 the other."""

    class Model(nn.Module):
        def forward(self, inputs):
            return inputs

    r3f = R3F(Model(), weight=2.0, noise="uniform", scale=1.0)
    r3f._noised = lambda value: value + torch.tensor([math.log(3), 0.0])
    assert float(r3f(torch.zeros(1, 2), torch.zeros(1, 2))) == pytest.approx(2 * (0.143841 + 0.130812), abs=1e-5)


@pytest.mark.parametrize(("noise", "largest"), [("uniform", 0.5), ("normal", math.inf)])
def test_r3fs_noise(noise, largest):
    seen = []
    model = nn.Identity()
    model.register_forward_hook(lambda _, __, output: seen.append(output))
    inputs = torch.zeros(2000, 3)
    R3F(model, noise=noise, scale=0.5)(inputs, inputs)
    assert float(seen[-1].abs().max()) <= largest
    assert float(seen[-1].std()) == pytest.approx(0.5 if noise == "normal" else 0.5 / 3**0.5, rel=0.05)
    assert not inputs.any()


@pytest.mark.parametrize("name", ["r3f", "smart"])
def test_the_changed_pass_gives_embeddings_no_gradient(name, tiny_llama, make_batch):
    model, given = tiny_llama(tied=False), make_batch(4, seed=1)
    inputs = {"input_ids": given.input_ids, "attention_mask": given.attention_mask}
    options = {"proximity": 0.0} if name == "smart" else {}
    term = TERMS[name](model, **options)
    term(model(**inputs).logits.detach(), **inputs).backward()
    assert model.get_input_embeddings().weight.grad is None
    assert float(model.lm_head.weight.grad.abs().sum()) > 0


def test_smarts_point_is_worse_than_noise_of_the_same_size():
    model = net(torch.float64).requires_grad_(False)
    inputs = batch(0, torch.float64)[0]
    logits = model(inputs)
    smart = SMART(model, proximity=0.0, step_size=0.1)
    z = smart._adversarial(logits.detach(), None, (inputs,), {})
    torch.testing.assert_close(z.abs().amax(dim=1), torch.full((12,), 0.1, dtype=torch.float64))
    random = [0.1 * (2 * torch.rand_like(inputs) - 1).sign() for _ in range(20)]

    def moved(by):
        return float(mean_divergence(logits, model(inputs + by)))

    assert moved(z) > sum(map(moved, random)) / 20


def test_smarts_average_starts_faster():
    model = net()
    smart = SMART(model, weight=0.0, decay=0.9, early_decay=0.5, early_updates=1)
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    smart.update()
    torch.testing.assert_close(smart.average.model[0].weight, start + 0.5)
    smart.update()
    torch.testing.assert_close(smart.average.model[0].weight, start + 0.55)


# What they share


@pytest.mark.parametrize("name", TERMS)
def test_padding_does_not_count(name, tiny_llama, make_batch):
    """Logits at padding, made absurd, change nothing."""
    model, given = tiny_llama(), make_batch(4, seed=1)
    assert not bool(given.attention_mask.all())
    with torch.no_grad():
        teacher_moves = TERMS[name](model)
        for weight in model.parameters():
            weight.mul_(1.05)
    inputs = {"input_ids": given.input_ids, "attention_mask": given.attention_mask}
    logits = model(**inputs).logits.detach()
    spoiled = torch.where(given.attention_mask[..., None] == 0, logits + 50 * torch.rand_like(logits), logits)
    terms = []
    for one in (logits, spoiled):
        torch.manual_seed(0)
        terms.append(float(teacher_moves(one, **inputs).detach()))
    assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    assert terms[0] > 0


@pytest.mark.parametrize("name", TERMS)
def test_a_run_goes_on_bit_for_bit(name, tmp_path):
    model = net(dropout=0.3)
    term = TERMS[name](model)
    optimizer = train(model, of_inputs(term), 3)
    if hasattr(term, "update"):
        term.update()
        torch.save(term.state_dict(), tmp_path / "term")
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state")
    weights, moments = torch.load(tmp_path / "state", weights_only=True)
    resumed = net(dropout=0.3)
    again = TERMS[name](resumed)
    resumed.load_state_dict(weights)
    other = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    other.load_state_dict(moments)
    if hasattr(term, "update"):
        again.load_state_dict(torch.load(tmp_path / "term", weights_only=True))
    train(model, of_inputs(term), 3, optimizer, first=3)
    train(resumed, of_inputs(again), 3, other, first=3)
    assert same(model, resumed)


@pytest.mark.parametrize("name", TERMS)
def test_a_lora_learns_with_it(name, tiny_llama, lora, make_batch):
    model, given = lora(tiny_llama()).train(), make_batch(6, seed=1)
    term = TERMS[name](model)
    frozen = {key: w.detach().clone() for key, w in model.named_parameters() if not w.requires_grad}
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    inputs = {"input_ids": given.input_ids, "attention_mask": given.attention_mask}
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        output = model(**inputs, labels=given.labels)
        (output.loss + term(output.logits, **inputs)).backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
        if hasattr(term, "update"):
            term.update()
    assert losses[-1] < losses[0]
    assert all(torch.equal(w, frozen[key]) for key, w in model.named_parameters() if key in frozen)
    if name != "r3f":
        copied = [w for w in term.average.model.parameters() if all(w is not one for one in model.parameters())]
        assert len(copied) == sum(w.requires_grad for w in model.parameters()), "the base is not copied"


def test_tokens_without_embeddings_are_refused():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, ids):
            return self.table(ids).mean(dim=1)

    model, ids = Tokens(), torch.ones(2, 4, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="get_input_embeddings"):
        R3F(model)(model(ids), ids)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("weight", lambda m: MESA(m, 0.9, weight=-1.0)),
        ("temperature", lambda m: MESA(m, 0.9, temperature=0.0)),
        ("decay", lambda m: MESA(m, 1.0)),
        ("start", lambda m: MESA(m, 0.9, start=-1)),
        ("model", lambda m: MESA(m.requires_grad_(False), 0.9)),
        ("weight", lambda m: SAF(5, 3, weight=math.nan)),
        ("records", lambda m: SAF(0, 3)),
        ("back", lambda m: SAF(5, 3, back=0)),
        ("start", lambda m: SAF(5, 3, start=-1)),
        ("noise", lambda m: R3F(m, noise="laplace")),
        ("scale", lambda m: R3F(m, scale=0.0)),
        ("weight", lambda m: R3F(m, weight=math.inf)),
        ("proximity", lambda m: SMART(m, proximity=-1.0)),
        ("noise", lambda m: SMART(m, noise=0.0)),
        ("step_size", lambda m: SMART(m, step_size=-1.0)),
        ("early_decay", lambda m: SMART(m, early_decay=1.0)),
        ("decay", lambda m: SMART(m, decay=-0.1)),
        ("early_updates", lambda m: SMART(m, early_updates=-1)),
    ],
)
def test_values_out_of_range(field, make):
    with pytest.raises(InputError, match=field):
        make(net())


def test_sixteen_bit_weights_are_warned_of():
    with pytest.warns(UserWarning, match="16 bits"):
        MESA(net().to(torch.bfloat16), 0.9)
