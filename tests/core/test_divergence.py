from __future__ import annotations

import math

import pytest
import torch

from remanent.core.divergence import kl_divergence


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
