"""ESAM: a cheaper SAM, that moves some of the weights and takes the second gradient on some of the records.

Stochastic weight perturbation: a random share `beta` of the tensors moves, by e / beta. Sharpness-sensitive data
selection: of the batch, the share `gamma` whose loss rises most from w to w + e makes the second gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.displacement import Ascent
from remanent.core.state import keep_generators
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.optim.sam import SAM
from remanent.optim.two_pass import gradients_of

SYSTEM = System(
    name="esam",
    title="Efficient SAM: a share of the tensors moves, the most sensitive records make the second gradient",
    year=2022,
    arxiv="2110.03141",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam_family.py",
    notes="Exactly the share gamma of the records is kept, where the official code keeps one less; tensors are drawn "
    "for the first step too, at least one of them.",
)

Rows = slice | Tensor
RecordLosses = Callable[[Rows], Tensor]

_GENERATOR = "generator"


class ESAM(SAM):
    """Efficient SAM round a base optimizer.

    `step(losses, records=64)`. The first backward pass makes gradients of the tensors alone that will move, the second
    sees the share `gamma` of the records; a forward pass without gradients at w + e chooses them.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer. Called with the groups and the rest of `options`.
        rho: radius, at least 0.
        beta: chance of each tensor to move, above 0 and at most 1.
        gamma: share of the records in the second gradient, above 0 and at most 1; 1 leaves the choice out.
        seed: of the draws of tensors.
        forward_size: records that pass through the model at a time; None is the whole batch.
        options: `SAM`'s other options, but not `between`, and the base optimizer's.

    Raises InputError for a value out of range.

    Source: arXiv 2110.03141, algorithm 1; github.com/dydjw9/Efficient_SAM, 1e06840.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        beta: float = 0.6,
        gamma: float = 0.5,
        seed: int = 0,
        forward_size: int | None = None,
        **options: Any,
    ) -> None:
        for name, share in (("beta", beta), ("gamma", gamma)):
            if not 0 < share <= 1:
                raise InputError(name, share, "above 0, at most 1")
        if forward_size is not None and forward_size < 1:
            raise InputError("forward_size", forward_size, "at least 1, or None")
        if "between" in options:
            raise InputError("between", options["between"], "left out: each climb has its own draw")
        self.beta, self.gamma, self.forward_size = beta, gamma, forward_size
        self._generator = torch.Generator().manual_seed(seed)
        self._moves: set[str] | None = None
        super().__init__(params, base, rho=rho, **options)

    def gradients(  # type: ignore[override]
        self, closure: RecordLosses, scaler: GradScaler | None = None, *, records: int
    ) -> Tensor:
        """Everything of a step but the base optimizer's: leaves its gradient in `.grad`, the weights at w.

        Args:
            closure: given rows of the batch, a slice or a tensor of indices, returns the loss of each record,
                shape (rows,). It runs no backward and scales nothing: both are done here.
            scaler: that of `step`.
            records: of the batch; in this process.

        Returns the mean loss at w.
        """
        if records < 1:
            raise InputError("records", records, "at least 1")
        self._refuse_displaced()
        self._handle = None
        self.zero_grad()
        whole = torch.arange(records)
        if self._plan() == "here":
            loss = self._run(closure, whole, scaler, synchronized=True).mean()
            self.first_step(scaler)
            self._finish(scaler)
            return loss
        weights = self._weights()
        rewind = keep_generators(weights) if self.same_masks else lambda: None
        still = [weights[name] for name in weights.trainable() if name not in self._moving_names(weights)]
        for weight in still:
            weight.requires_grad_(False)
        try:
            here = self._run(closure, whole, scaler, synchronized=False)
        finally:
            for weight in still:
                weight.requires_grad_(True)
        if self.perturbation == "global":
            self._average(gradients_of(weights).values())
        if self.first_step(scaler):
            try:
                rows = whole
                if self.gamma < 1:
                    rewind()
                    with torch.no_grad():
                        there = torch.cat([self._losses(closure, part) for part in self._parts(whole)])
                    rows = most_sensitive(here, there, self.gamma)
                rewind()
                self._run(closure, rows, scaler, synchronized=True)
            except BaseException:
                self.restore()
                raise
        self._finish(scaler)
        return here.mean()

    def second_step(self, scaler: GradScaler | None = None) -> None:
        """As SAM's; the next step draws its tensors anew."""
        super().second_step(scaler)
        self._moves = None

    def state_dict(self) -> dict[str, Any]:
        """As SAM's, with where the draws of tensors are."""
        return {**super().state_dict(), _GENERATOR: self._generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As SAM's."""
        given = dict(state_dict)
        drawn = given.pop(_GENERATOR, None)
        super().load_state_dict(given)
        if drawn is not None:
            self._generator.set_state(drawn.cpu())
        self._moves = None

    def _moving_names(self, weights: Weights) -> set[str]:
        """Those drawn for this step, at least one."""
        if self._moves is None:
            names = list(weights.trainable())
            chances = torch.rand(len(names) + 1, generator=self._generator)
            drawn = {name for name, chance in zip(names, chances, strict=False) if chance < self.beta}
            self._moves = drawn or {names[int(chances[-1] * len(names))]}
        return self._moves

    def _ascents(self) -> list[Ascent]:
        return [replace(ascent, rho=ascent.rho / self.beta) for ascent in super()._ascents()]

    def _moving(self, weights: Weights, gradients: Mapping[str, Tensor]) -> list[str]:
        drawn = self._moving_names(weights)
        return [name for name in super()._moving(weights, gradients) if name in drawn]

    def _displace(self, weights: Weights, gradients: Mapping[str, Tensor]) -> float:
        drawn = self._moving_names(weights)
        return super()._displace(weights, {name: gradient for name, gradient in gradients.items() if name in drawn})

    def _run(self, closure: RecordLosses, rows: Tensor, scaler: GradScaler | None, *, synchronized: bool) -> Tensor:
        """Forward and backward of the mean over rows. Returns each record's loss."""
        losses, parts = [], self._parts(rows)
        for number, part in enumerate(parts, 1):
            together = synchronized and number == len(parts)
            # Of a first pass, where tensors stand still, DistributedDataParallel would wait for their gradients.
            with nullcontext() if together else self._apart(), torch.enable_grad():
                found = self._losses(closure, part)
                loss = found.sum() / len(rows)
                if found.requires_grad:  # not where nothing that was drawn takes part in it
                    (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            losses.append(found.detach())
        return torch.cat(losses)

    def _parts(self, rows: Tensor) -> list[Tensor]:
        return list(rows.split(self.forward_size or len(rows)))  # type: ignore[no-untyped-call]

    @staticmethod
    def _losses(closure: RecordLosses, rows: Tensor) -> Tensor:
        found = closure(rows)
        if not isinstance(found, Tensor) or found.shape != rows.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError("closure", shape, f"the loss of each of {len(rows)} records, shape ({len(rows)},)")
        return found


def most_sensitive(here: Tensor, there: Tensor, share: float) -> Tensor:
    """The records whose loss rises most, in the order of the batch.

    Args:
        here: each record's loss at w, shape (records,).
        there: at w + e.
        share: of the records that are kept, above 0 and at most 1; at least one record is.
    """
    count = max(1, int(len(here) * share))
    return torch.topk((there - here).float(), count).indices.sort().values.cpu()
