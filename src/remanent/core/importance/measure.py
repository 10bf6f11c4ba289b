"""How much each weight matters for data: powers of the gradients of records, of positions, or of batches.

A record's gradient of a linear layer is a sum over its positions of (output gradient) x (input), and both factors are
there anyway in one backward pass. So squares are taken from the factors, layer by layer, and no gradient of a single
record is kept. Where a record has one position the sum of squares is (g^2)^T (a^2), one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch
from remanent.core.importance.capture import Capture
from remanent.core.importance.losses import SampleLoss, answer_nll
from remanent.core.importance.uses import Power, Use, add_gradient, add_powers
from remanent.core.modes import evaluating
from remanent.core.state import State
from remanent.core.weights import Weights, identity
from remanent.errors import InputError, UnsupportedError, did_you_mean

Reduce = Literal["sum_of_squares", "sum_of_abs", "abs_of_sum", "batch_mean_squared"]
Unit = Literal["record", "position", "batch"]
_POWERS: Mapping[str, Power] = {"sum_of_squares": "squares", "sum_of_abs": "absolutes"}
_PROBED = 2  # records on which the layers are measured against autograd
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of a 16-bit type: 0.05


def importance(
    model: nn.Module,
    batches: Iterable[Any],
    loss: SampleLoss = answer_nll,
    *,
    reduce: Reduce = "sum_of_squares",
    unit: Unit = "record",
    weights: Weights | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> dict[str, Tensor]:
    """Sums of powers of gradients at the model's weights, in eval mode. The model is given back as it was.

    | reduce | value of a weight | used by |
    | --- | --- | --- |
    | "sum_of_squares" | sum over units of g^2 | Fisher, EWC |
    | "sum_of_abs" | sum over units of |g| | MAS; DurableUn's masks by batch |
    | "abs_of_sum" | |sum of g|, whatever the unit | SalUn |
    | "batch_mean_squared" | mean over batches of (mean g)^2 | SSD, LFSSD |

    g of a "record" is the gradient of its loss; of a "position" what one position of a record adds to that gradient
    (so attention's other positions have no part in it: cheap, and not the gradient of one token's loss); of a "batch"
    the gradient of the mean of all that the loss returns. Records and positions are exact: tied weights are added up
    before the power is taken. Layers of other kinds than linear (Conv1D too), embedding, LayerNorm and RMSNorm,
    and those whose factors do not give autograd's gradient on the first records, go through a backward pass per
    record; `on_warning` names them.

    Args:
        model: records must not depend on each other in it.
        batches: what `loss` takes, on the model's device: `Batch`, tensors, or tuples and dicts of tensors whose first
            dimension is the records.
        loss: gives a loss for each record, which may be of any size; of float32 or float64. Where batches are the unit
            it may give the batch's mean loss itself.
        reduce: as above.
        unit: as above.
        weights: those that are wanted; default all that take a gradient.
        on_batch: called after each batch with the number of its records.
        on_warning: called with a sentence.

    Returns:
        name of the weight -> its importance, of its shape, on its device; float32, or float64 where the weight is.

    Raises:
        InputError: for no batch, no weight or an unknown choice.
        UnsupportedError: where positions are asked of a layer that a record passes as a whole.
    """
    return _measure(model, batches, loss, reduce, unit, weights, on_batch, on_warning)[0]


def fisher(
    model: nn.Module,
    batches: Iterable[Any],
    loss: SampleLoss = answer_nll,
    *,
    unit: Unit = "record",
    weights: Weights | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information: `importance(reduce="sum_of_squares")` over the number of records.

    Empirical where the loss is the NLL of given labels, exact where it draws them (`sampled_answer_nll`).
    Arguments, results and errors as there. Source: Kirkpatrick et al., EWC (arXiv:1612.00796).
    """
    values, records = _measure(model, batches, loss, "sum_of_squares", unit, weights, on_batch, on_warning)
    return {name: value.div_(records) for name, value in values.items()}


def _measure(
    model: nn.Module,
    batches: Iterable[Any],
    loss: SampleLoss,
    reduce: Reduce,
    unit: Unit,
    weights: Weights | None,
    on_batch: Callable[[int], None] | None,
    on_warning: Callable[[str], None],
) -> tuple[dict[str, Tensor], int]:
    for field, value, choices in (("reduce", reduce, get_args(Reduce)), ("unit", unit, get_args(Unit))):
        if value not in choices:
            raise InputError(field, value, did_you_mean(value, choices))
    chosen = Weights.of(model).trainable() if weights is None else weights
    if not chosen:
        raise InputError("weights", "none", "at least one weight that takes a gradient")
    everything = Weights.of(model)
    totals = {name: torch.zeros_like(weight, dtype=_wide(weight)) for name, weight in chosen.items()}
    apart = reduce in _POWERS and unit != "batch"
    state = State.of(everything, moved=everything.only(()), gradients_aside=True)
    with state, evaluating(model), torch.enable_grad():
        wanted = {identity(weight) for weight in chosen.values()}
        for parameter in model.parameters():
            parameter.requires_grad_(identity(parameter) in wanted)
        if apart:
            records = _Apart(model, chosen, loss, unit, totals, on_warning).run(batches, _POWERS[reduce], on_batch)
        else:
            records = _together(model, chosen, loss, reduce, totals, batches, on_batch)
    return totals, records


def _together(
    model: nn.Module,
    chosen: Weights,
    loss: SampleLoss,
    reduce: Reduce,
    totals: dict[str, Tensor],
    batches: Iterable[Any],
    on_batch: Callable[[int], None] | None,
) -> int:
    """One gradient per batch."""
    records = passed = 0
    for batch in batches:
        losses = loss(model, batch)
        size = records_of(batch)
        whole = losses.sum() if reduce == "abs_of_sum" else losses.mean()
        if losses.requires_grad and losses.numel():
            whole.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in chosen.items():
                if weight.grad is None:
                    continue
                gradient = weight.grad.to(totals[name].dtype)
                if reduce == "abs_of_sum":
                    totals[name].add_(gradient)
                elif reduce == "sum_of_abs":
                    totals[name].add_(gradient.abs())
                else:
                    totals[name].addcmul_(gradient, gradient)
                weight.grad = None
        records, passed = records + size, passed + 1
        if on_batch is not None:
            on_batch(size)
    if passed == 0:
        raise InputError("batches", "none", "at least one batch")
    for total in totals.values():
        if reduce == "abs_of_sum":
            total.abs_()
        elif reduce == "batch_mean_squared":
            total.div_(passed)
    return records


class _Apart:
    """Gradients of single records or positions: from the layers' factors, or one by one."""

    def __init__(
        self,
        model: nn.Module,
        chosen: Weights,
        loss: SampleLoss,
        unit: Unit,
        totals: dict[str, Tensor],
        on_warning: Callable[[str], None],
    ) -> None:
        self.model, self.chosen, self.loss, self.unit, self.totals = model, chosen, loss, unit, totals
        self.warn, self.warned = on_warning, False
        self.capture = Capture(model, chosen)

    def run(self, batches: Iterable[Any], power: Power, on_batch: Callable[[int], None] | None) -> int:
        records = 0
        self.power = power
        with self.capture.hooked():
            for batch in batches:
                if records == 0:
                    self._probe(batch)
                size = records_of(batch)
                self._one(batch, size)
                records += size
                if on_batch is not None:
                    on_batch(size)
        if records == 0:
            raise InputError("batches", "none", "at least one batch")
        return records

    def _probe(self, batch: Any) -> None:
        """Find the weights whose factors do not give autograd's own gradient, and freeze the others."""
        first = _first(batch, _PROBED)
        found = {name: torch.zeros_like(total) for name, total in self.totals.items()}
        true: dict[str, Tensor] = {}

        def deliver(name: str, uses: list[Use]) -> None:
            add_gradient(found[name], uses)

        with self.capture.running(records_of(first), deliver) as forward_is_over:
            losses = self.loss(self.model, first)
            _check(losses, first)
            if not losses.requires_grad:
                raise InputError("loss", "a loss that no weight has a part in", "a loss of the wanted weights")
            forward_is_over()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            for name, weight in self.chosen.items():
                true[name] = torch.zeros_like(found[name]) if weight.grad is None else weight.grad.to(found[name].dtype)
                weight.grad = None
        wrong = {name for name in self.chosen if _differ(found[name], true[name], self.chosen[name].dtype)}
        self._leave_out(wrong | self.capture.misfits)

    def _leave_out(self, names: set[str]) -> None:
        self.capture.leave_out(names)
        self.alone = self.chosen.only(name for name in self.chosen if name not in self.capture.names)
        for name, weight in self.chosen.items():
            weight.requires_grad_(name in self.alone)

    def _one(self, batch: Any, size: int) -> None:
        with self.capture.running(size, self._deliver) as forward_is_over:
            losses = self.loss(self.model, batch)
            _check(losses, batch)
            new = self.capture.misfits & self.capture.names
            if losses.requires_grad and not new:
                self._one_by_one(losses)
                forward_is_over()
                losses.sum().backward()  # type: ignore[no-untyped-call]
        for weight in self.alone.values():
            weight.grad = None
        if new:
            self._leave_out(new)
            self._one(batch, size)

    def _deliver(self, name: str, uses: list[Use]) -> None:
        if self.unit == "position":
            uses = [use.by_position() for use in uses]
            if len({use.shape for use in uses}) > 1:
                raise UnsupportedError(
                    f"{name} is used at other positions in one layer than in another; take a loss that makes logits "
                    "at every position, such as positions_nll"
                )
        add_powers(self.totals[name], uses, self.power)

    def _one_by_one(self, losses: Tensor) -> None:
        """A backward pass per record for the weights that the layers' factors do not give."""
        if not self.alone:
            return
        named = list(self.alone.items())
        whole = torch.autograd.grad(losses.sum(), [w for _, w in named], retain_graph=True, allow_unused=True)
        named = [item for item, gradient in zip(named, whole, strict=True) if gradient is not None]
        names = [name for name, _ in named]
        if names and self.unit == "position":
            raise UnsupportedError(f"no positions are known in {_listed(names)}: take unit 'record', or other weights")
        if names and not self.warned:
            self.warn(
                f"one backward pass per record, since the factors of these weights are not known: {_listed(names)}"
            )
            self.warned = True
        for value in losses.unbind() if names else ():
            gradients = torch.autograd.grad(value, [w for _, w in named], retain_graph=True, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    gradient = gradient.to(self.totals[name].dtype)
                    self.totals[name].add_(gradient.square() if self.power == "squares" else gradient.abs())


def records_of(batch: Any) -> int:
    """How many records a batch holds."""
    if isinstance(batch, Batch | Tensor):
        return len(batch)
    return records_of(next(iter(batch.values() if isinstance(batch, Mapping) else batch)))


def _first(batch: Any, count: int) -> Any:
    if isinstance(batch, Batch):
        return batch.split(count)[0]
    if isinstance(batch, Mapping):
        return {key: _first(value, count) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_first(value, count) for value in batch)
    return batch[:count] if isinstance(batch, Tensor) else batch


def _check(losses: Tensor, batch: Any) -> None:
    if losses.dim() != 1 or len(losses) != records_of(batch):
        raise InputError("loss", f"shape {tuple(losses.shape)}", f"a loss for each of the {records_of(batch)} records")


def _differ(found: Tensor, true: Tensor, dtype: torch.dtype) -> bool:
    return bool((found - true).norm() > _TOLERANCE.get(dtype, 0.05) * true.norm())


def _wide(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _listed(names: Iterable[str], most: int = 6) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
