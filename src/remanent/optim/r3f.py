"""R3F: predictions stay the same when the input's embeddings are moved by a little noise.

L = task loss + weight * mean [KL(f(x) || f(x + z)) + KL(f(x + z) || f(x))], z drawn anew each time. A loss term, since
the step is the base optimizer's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from remanent.core.catalogue import System
from remanent.core.divergence import mean_divergence
from remanent.core.model_inputs import changed_input, counting, logits_of, unwrapped
from remanent.errors import InputError
from remanent.optim.mesa import check_term

SYSTEM = System(
    name="r3f",
    title="Robust representations through regularized fine-tuning: noise on the input, predictions as without",
    year=2020,
    arxiv="2008.03156",
    card="tram",
    family="optim",
    reproduction="tests/reproductions/test_tram.py",
    notes="Form of fairseq's code: gradients through both sides, none of the noised pass into the embeddings.",
)


class R3F:
    """The loss term of R3F: `loss = task_loss + r3f(logits, *inputs)`.

    Costs a second forward and backward pass. Noise and dropout's masks of that pass are drawn from torch's default
    generator, anew.

    Args:
        model: the model.
        weight: lambda, at least 0; 0 adds nothing and passes nothing through the model. TRAM's baseline: 0.1.
        noise: "uniform" from -scale to scale, or "normal" with standard deviation `scale`.
        scale: above 0. TRAM's baseline: normal, 0.1.

    Raises InputError for a value out of range.

    Source: arXiv 2008.03156, equation 6; fairseq, examples/rxf.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 1.0,
        noise: Literal["uniform", "normal"] = "uniform",
        scale: float = 1e-5,
    ) -> None:
        check_term(weight)
        if noise not in ("uniform", "normal"):
            raise InputError("noise", noise, "'uniform' or 'normal'")
        if not 0 < scale < float("inf"):
            raise InputError("scale", scale, "a finite number above 0")
        self.model, self.weight, self.noise, self.scale = model, weight, noise, scale

    def __call__(self, logits: Tensor, *inputs: Any, **named: Any) -> Tensor:
        """The weighted term, a mean over records, or over the positions of `attention_mask` where each has logits.

        Args:
            logits: the model's for these inputs, (..., classes), with their graph.
            inputs: what the model was given, `named` too.
        """
        if self.weight == 0:
            return logits.new_zeros(())
        with changed_input(unwrapped(self.model), self._noised):
            noised = logits_of(self.model(*inputs, **named))
        return self.weight * mean_divergence(logits, noised, symmetric=True, mask=counting(logits, named))

    def _noised(self, value: Tensor) -> Tensor:
        drawn = torch.randn_like(value) if self.noise == "normal" else 2 * torch.rand_like(value) - 1
        return value.detach() + self.scale * drawn
