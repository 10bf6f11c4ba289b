from __future__ import annotations

import pytest
import torch
from sam_cases import SGD, batch, closure_of, losses_of, net
from torch import nn

from remanent.errors import InputError
from remanent.optim import ESAM, SAM
from remanent.optim.esam import most_sensitive


def test_the_most_sensitive_records_are_those_whose_loss_rises_most():
    here, there = torch.tensor([1.0, 5.0, 2.0, 0.0]), torch.tensor([1.5, 5.1, 4.0, 0.2])
    assert most_sensitive(here, there, 0.5).tolist() == [0, 2]
    assert most_sensitive(here, there, 0.25).tolist() == [2]
    assert most_sensitive(here, there, 0.01).tolist() == [2], "one at least"
    assert most_sensitive(here, there, 1.0).tolist() == [0, 1, 2, 3]


def test_all_tensors_and_all_records_is_sam():
    ways = []
    for make in (ESAM, SAM):
        model = net(torch.float64, norm=True)
        own = {"beta": 1.0, "gamma": 1.0} if make is ESAM else {}
        optimizer = make(model.parameters(), torch.optim.SGD, model=model, **own, **SGD)
        for number in range(3):
            data = batch(number, torch.float64)
            if make is ESAM:
                optimizer.step(losses_of(model, data), records=12)
            else:
                optimizer.step(closure_of(model, data))
        ways.append(list(model.parameters()))
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_some_tensors_move_by_more():
    """By rho / beta together; the others not at all, and the first pass makes no gradient of them."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(5, 5) for _ in range(20)))
    optimizer = ESAM(model.parameters(), torch.optim.SGD, rho=0.3, beta=0.6, gamma=0.25, lr=0.0)
    start = [weight.detach().clone() for weight in model.parameters()]
    seen, shares = [], []

    def losses(rows):
        moved = [float((w.detach() - s).norm()) for w, s in zip(model.parameters(), start, strict=True)]
        seen.append((len(rows), torch.is_grad_enabled(), sum(w.requires_grad for w in model.parameters()), moved))
        return nn.functional.cross_entropy(model(inputs[rows]), labels[rows], reduction="none")

    for number in range(10):
        inputs, labels = batch(number)
        seen.clear()
        optimizer.step(losses, records=12)
        (first, made, taking, _), (forward, without, _, _), (second, again, all_of_them, moved) = seen
        assert (first, forward, second) == (12, 12, 3)
        assert (made, without, again) == (True, False, True)
        assert sum(length > 0 for length in moved) == taking < all_of_them == 40
        assert sum(length**2 for length in moved) ** 0.5 == pytest.approx(0.3 / 0.6, rel=1e-4)
        shares.append(taking / 40)
    assert len(set(shares)) > 1, "drawn anew for each step"
    assert 0.5 < sum(shares) / len(shares) < 0.7


def test_at_least_one_tensor_moves():
    model = net()
    optimizer = ESAM(model.parameters(), torch.optim.SGD, beta=1e-9, lr=0.0)
    before = [weight.detach().clone() for weight in model.parameters()]
    drawn = set()
    for _ in range(20):
        drawn |= optimizer._moving_names(optimizer._weights())
        assert len(optimizer._moves) == 1
        optimizer.step(losses_of(model, batch(0)), records=12)
    assert len(drawn) > 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_parts_of_a_batch_are_the_batch():
    ways = []
    for size in (None, 5):
        model = net(torch.float64)
        optimizer = ESAM(model.parameters(), torch.optim.SGD, forward_size=size, rho=0.3, **SGD)
        seen = []
        for number in range(3):
            losses = losses_of(model, batch(number, torch.float64))
            optimizer.step(lambda rows, losses=losses, seen=seen: (seen.append(len(rows)), losses(rows))[1], records=12)
        ways.append(list(model.parameters()))
    assert seen[:7] == [5, 5, 2, 5, 5, 2, 5]
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_loss_that_is_not_one_for_each_record_is_refused():
    model = net()
    optimizer = ESAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(InputError, match="each of 12 records"):
        optimizer.step(lambda rows: losses_of(model, batch(0))(rows).mean(), records=12)
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("beta", {"beta": 0.0}),
        ("gamma", {"gamma": 1.1}),
        ("forward_size", {"forward_size": 0}),
        ("between", {"between": "base"}),
    ],
)
def test_values_out_of_range(field, options):
    with pytest.raises(InputError, match=field):
        ESAM(net().parameters(), torch.optim.SGD, lr=0.1, **options)
