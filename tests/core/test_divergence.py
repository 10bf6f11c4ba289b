from __future__ import annotations

import math

import pytest
import torch

from remanent.core.divergence import kl_divergence, mean_divergence


def test_by_hand():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(p.log(), q.log()).tolist() == pytest.approx([expected, 0.0], abs=1e-7)


def test_it_is_torchs_own():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 7, generator=generator).log_softmax(-1) for _ in range(2))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_tokens_that_have_no_probability_in_either_give_no_nan():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    log_p = torch.tensor([[2.0, 1.0, -math.inf]]).log_softmax(-1)
    divergence = kl_divergence(log_p, logits.log_softmax(-1)).sum()
    divergence.backward()
    assert math.isfinite(divergence.item())
    assert bool(logits.grad.isfinite().all())
    assert kl_divergence(log_p[:, :2], logits[:, :2].detach().log_softmax(-1)).item() == pytest.approx(
        divergence.item()
    )


def test_the_mean_at_a_temperature_by_hand():
    """tau 5, target (0, 0), logits (5, 0): KL .120115, times 25."""
    target, logits = torch.zeros(1, 2), torch.tensor([[5.0, 0.0]])
    assert mean_divergence(target, logits, temperature=5.0).item() == pytest.approx(3.002863, abs=1e-5)
    both = mean_divergence(target, logits, symmetric=True) - mean_divergence(target, logits)
    assert both.item() == pytest.approx(mean_divergence(logits, target).item())


def test_logits_that_a_softmax_rounds_to_zero():
    assert mean_divergence(torch.zeros(1, 2), torch.tensor([[200.0, 0.0]])).item() == pytest.approx(99.306853, abs=1e-4)


def test_a_mask_takes_the_mean_over_what_is_left():
    generator = torch.Generator().manual_seed(0)
    target, logits = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    each = [mean_divergence(target[i, j], logits[i, j]).item() for i, j in mask.nonzero().tolist()]
    assert mean_divergence(target, logits, mask=mask).item() == pytest.approx(sum(each) / 3)
    assert mean_divergence(target, logits, mask=0 * mask).item() == 0
