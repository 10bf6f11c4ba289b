"""SAM that climbs now and then, on a part of the batch, or along the direction of an earlier step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sam_cases import SGD, batch, bowl, closure_of, net
from torch import nn

from remanent.errors import InputError
from remanent.optim import SAM


def watched(w, seen):
    def closure():
        seen.append(w.tolist())
        loss = bowl(w)
        loss.backward()
        return loss

    return closure


def test_every_third_step_climbs_and_the_others_are_the_bases():
    w, seen = nn.Parameter(torch.tensor([1.0, 1.0])), []
    sam = SAM([w], torch.optim.SGD, rho=0.5, every=3, lr=0.0)
    for _ in range(4):
        sam.step(watched(w, seen))
    assert [point == [1.0, 1.0] for point in seen] == [True, False, True, True, True, False]
    assert sam.updates == 4


def test_between_them_the_last_direction_is_climbed_again_in_one_pass():
    w, seen = nn.Parameter(torch.tensor([1.0, 1.0])), []
    sam = SAM([w], torch.optim.SGD, rho=0.5, every=2, between="reuse", lr=0.1)
    sam.step(watched(w, seen))
    after = w.tolist()
    sam.param_groups[0]["rho"] = 1.0
    loss = sam.step(watched(w, seen))
    assert len(seen) == 3
    e = [0.12127, 0.48507]  # by hand, at (1, 1)
    assert seen[2] == pytest.approx([here + 2 * part for here, part in zip(after, e, strict=True)], abs=1e-4)
    assert float(loss) == pytest.approx(float(bowl(seen[2])))
    assert w.tolist() == pytest.approx([after[0] - 0.1 * seen[2][0], after[1] - 0.4 * seen[2][1]], abs=1e-5)


def test_a_direction_of_asam_is_relative_to_the_weights_where_it_was_taken():
    w = nn.Parameter(torch.tensor([2.0, 1.0]))
    sam = SAM([w], torch.optim.SGD, rho=0.5, adaptive=True, eta=0.01, every=2, between="reuse", lr=0.0)
    seen = []
    for _ in range(2):
        sam.step(watched(w, seen))
    e = [0.70888, 0.35797]
    assert seen[2] == pytest.approx([2 + e[0], 1 + e[1]], abs=1e-4)
    assert seen[2] == pytest.approx(seen[1], abs=1e-6)


def test_running_statistics_of_a_step_without_a_first_pass_are_of_its_only_one():
    model = net(norm=True)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, every=2, between="reuse", model=model, lr=0.0)
    means = [model[1].running_mean.clone()]
    for number in range(3):
        sam.step(closure_of(model, batch(number)))
        means.append(model[1].running_mean.clone())
    assert all(not torch.equal(one, other) for one, other in pairwise(means))
    assert int(model[1].num_batches_tracked) == 3


def test_the_ascent_on_a_part_of_the_batch():
    """e is the part's, the gradient there the whole batch's."""
    model, data = net(torch.float64), batch(0, torch.float64)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.0)
    loss = sam.step(closure_of(model, data), ascent=closure_of(model, data, slice(0, 3)))
    weights = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}

    def value(at, rows):
        return nn.functional.cross_entropy(torch.func.functional_call(model, at, data[0][rows]), data[1][rows])

    part = value(weights, slice(0, 3))
    first = torch.autograd.grad(part, list(weights.values()))
    length = torch.cat([gradient.flatten() for gradient in first]).norm()
    there = {
        n: (w + 0.3 * g / length).detach().requires_grad_() for (n, w), g in zip(weights.items(), first, strict=True)
    }
    second = torch.autograd.grad(value(there, slice(None)), list(there.values()))
    for weight, gradient in zip(model.parameters(), second, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=1e-9)
    assert float(loss) == pytest.approx(float(part.detach()))


def test_where_there_is_no_ascent_its_closure_is_not_called():
    model, calls = net(), []
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.3, every=2, **SGD)
    for _ in range(3):
        part = closure_of(model, batch(0), slice(0, 3))
        sam.step(closure_of(model, batch(0)), ascent=lambda part=part: (calls.append(1), part())[1])
    assert len(calls) == 2


def test_once_in_every_step_is_sam():
    ways = []
    for options in ({}, {"every": 1, "between": "reuse"}):
        model = net()
        sam = SAM(model.parameters(), torch.optim.SGD, **options, **SGD)
        for number in range(3):
            sam.step(closure_of(model, batch(number)))
        ways.append(list(model.parameters()))
        assert not sam.kept
    assert all(torch.equal(one, other) for one, other in zip(*ways, strict=True))


@pytest.mark.parametrize(("field", "options"), [("every", {"every": 0}), ("between", {"between": "rest"})])
def test_values_out_of_range(field, options):
    with pytest.raises(InputError, match=field):
        SAM(net().parameters(), torch.optim.SGD, lr=0.1, **options)
