"""mSAM, or m-sharpness: each micro-batch has its own e; the base optimizer steps with the mean of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from remanent.core.catalogue import System
from remanent.core.state import keep_generators
from remanent.errors import InputError
from remanent.optim.sam import SAM
from remanent.optim.two_pass import Closure, gradients_of

SYSTEM = System(
    name="msam",
    title="m-sharpness: SAM with a perturbation for each micro-batch",
    year=2023,
    arxiv="2302.09693",
    card="sam-family",
    family="optim",
    reproduction="tests/reproductions/test_sam_family.py",
    notes="`micro_batch_size` is a number of records, which the SAM paper calls m; the mSAM paper's m is how many "
    "micro-batches a batch has.",
)

RowsClosure = Callable[[slice], Tensor]


class MSAM(SAM):
    """SAM with a perturbation for each micro-batch, round a base optimizer.

    `step(closure, records=64)` runs the closure on `micro_batch_size` records at a time, twice each. Memory beyond
    SAM's: one copy of the gradient. Batch norm sees each micro-batch once, in its first pass.

    Args:
        params: parameters, or groups of them.
        base: makes the base optimizer. Called with the groups and the rest of `options`.
        micro_batch_size: records that share a perturbation, at least 1.
        options: `SAM`'s other options, but not `between`, and the base optimizer's.

    Raises InputError for a value out of range.

    Source: arXiv 2010.01412, section 4.1 (m-sharpness); mSAM, arXiv 2302.09693, algorithm 1.
    """

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer], *, micro_batch_size: int, **options: Any
    ) -> None:
        if micro_batch_size < 1:
            raise InputError("micro_batch_size", micro_batch_size, "at least 1")
        if "between" in options:
            raise InputError("between", options["between"], "left out: a direction belongs to one micro-batch")
        self.micro_batch_size = micro_batch_size
        super().__init__(params, base, **options)

    def gradients(  # type: ignore[override]
        self, closure: RowsClosure, scaler: GradScaler | None = None, *, records: int
    ) -> Tensor:
        """Everything of a step but the base optimizer's: leaves its gradient in `.grad`, the weights at w.

        Args:
            closure: given a slice of the batch's records, runs forward and backward on them and returns their mean
                loss. Under `scaler` it scales the loss before backward.
            scaler: that of `step`.
            records: of the batch; in this process, and the same in all.

        Returns the mean loss at w.
        """
        if records < 1:
            raise InputError("records", records, "at least 1")
        if self._plan() == "here":
            return super().gradients(partial(closure, slice(0, records)), scaler)
        starts = range(0, records, self.micro_batch_size)
        slices = [slice(start, min(start + self.micro_batch_size, records)) for start in starts]
        shares = [(rows.stop - rows.start) / records for rows in slices]
        return self.added([partial(closure, rows) for rows in slices], scaler, shares)

    def added(
        self, closures: Sequence[Closure], scaler: GradScaler | None = None, shares: Sequence[float] | None = None
    ) -> Tensor:
        """`gradients` for micro-batches that are there already, as under gradient accumulation.

        Args:
            closures: one for each micro-batch.
            scaler: that of `step`.
            shares: what each micro-batch's loss and gradient count; None adds them up.

        Returns the loss at w.
        """
        self._refuse_displaced()
        self._handle = None
        self.zero_grad()
        if self._plan() == "here":
            return super().gradients(lambda: torch.stack([closure() for closure in closures]).sum(), scaler)
        self._check_equal(len(closures))
        shares = [1.0] * len(closures) if shares is None else shares
        losses, share_before = [], shares[0]
        for closure, share in zip(closures, shares, strict=True):
            weights = self._weights()
            before = gradients_of(weights)
            self.zero_grad()
            rewind = keep_generators(weights) if self.same_masks else None
            with self._unsynchronized(), torch.enable_grad():
                losses.append(closure().detach() * share)
            if not self.first_step(scaler):
                break  # not finite, in some process: in all, the step will be skipped
            try:
                if rewind is not None:
                    rewind()
                # As autograd adds to what is there, DistributedDataParallel averages the sum, in the last pass.
                for name, gradient in before.items():
                    weights[name].grad = gradient if share == share_before else gradient.mul_(share_before / share)
                with self._unsynchronized() if len(losses) < len(closures) else nullcontext(), torch.enable_grad():
                    closure()
            except BaseException:
                self.restore()
                raise
            self._finish(scaler)
            share_before = share
        if share_before != 1.0:
            torch._foreach_mul_(list(gradients_of(self._weights()).values()), share_before)
        return torch.stack(losses).sum()

    def _check_equal(self, count: int) -> None:
        """Each micro-batch ends with a word between the processes: one that has more of them would wait for ever."""
        if not isinstance(self.model, DistributedDataParallel):
            return
        ends = torch.tensor([count, -count], device=next(self.model.parameters()).device)
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MIN, self.model.process_group)
        if int(ends[0]) != -int(ends[1]):
            raise InputError("records", f"{int(ends[0])} to {-int(ends[1])} micro-batches", "as many in every process")
