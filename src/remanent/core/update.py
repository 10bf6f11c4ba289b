"""One update of a method, in its fixed order. The same object runs in our loop, in a user's, and in Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch
from remanent.core.combine import add_in
from remanent.core.curvature import add_hessian_product, twice_differentiable
from remanent.core.displacement.base import Context, Displacement, Here, learning_at
from remanent.core.displacement.restored import Restored
from remanent.core.memory import in_pieces_that_fit
from remanent.core.method import AskingCombine, At, Method, Objective, UpdateView
from remanent.core.modes import evaluating
from remanent.core.optimizer_scales import step_scales
from remanent.core.packed import keep_as_packed, refuse_repacked
from remanent.core.predict import Predict
from remanent.core.selection import EVERYTHING
from remanent.core.state import keep_generators
from remanent.core.weights import Weights, identity, norm
from remanent.errors import DivergedError, InputError, UnsupportedError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Update:
    """Callable: one update on named batches.

    All micro-batches at every point -> unscale -> combine -> pull -> mask -> clip -> optimizer -> observe ->
    after_update.

    Args:
        model: in train mode, or in eval mode for training without dropout: it is left as it is.
        method: the composition.
        optimizer: over the weights that train.
        steps: the run's number of updates, for weights that change over it.
        micro_batch: most records per forward and backward pass; None takes each batch whole. Changes memory, not the
            result. Halved where memory runs out, and then it stays so.
        max_grad_norm: clips the gradient's L2 norm; None does not clip.
        autocast: dtype of the arithmetic; weights and gradients keep theirs.
        accelerator: scales losses and adds gradients up over processes; None is one process.
        reference: the model as it was before training, for objectives that ask it; None: as it is now.
        on_warning: called with a sentence, where memory ran out.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        micro_batch: int | None = None,
        max_grad_norm: float | None = None,
        autocast: torch.dtype | None = None,
        accelerator: Accelerator | None = None,
        reference: Displacement | None = None,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise InputError("micro_batch", micro_batch, "at least 1 record, or None")
        if accelerator is not None and accelerator.gradient_accumulation_steps != 1:
            expected = "1, since an update divides its losses itself; use micro_batch"
            raise InputError("gradient_accumulation_steps", accelerator.gradient_accumulation_steps, expected)
        self.model, self.method, self.optimizer = model, method, optimizer
        self.steps, self.micro_batch, self.max_grad_norm = steps, micro_batch, max_grad_norm
        self.autocast, self.accelerator, self.warn = autocast, accelerator, on_warning
        refuse_repacked(model)
        keep_as_packed(model)
        self.weights = Weights.of(model)
        self.step = 0
        self._found: dict[str, float] = {}  # the losses of the newest gradients
        self._drawn: dict[str, Callable[[], None]] = {}  # term -> puts the generators back where its gradient began
        if method.select != EVERYTHING:
            _refuse_unselected(self.weights, method, optimizer)
        moved = {identity(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        # In the order of the model, so that optimizers that group parameters otherwise get the same sums.
        self.moved = self.weights.only(name for name, tensor in self.weights.items() if identity(tensor) in moved)
        self.reference = reference or reference_of(method, self.moved)
        self._masks = {
            name: method.mask[name].to(self.moved[name].device) for name in self.moved if name in method.mask
        }
        self._fixed = {name: self.moved[name].detach()[~mask] for name, mask in self._masks.items()}

    def __call__(self, batches: Mapping[str, Batch]) -> dict[str, float]:
        """Make one update. Returns the mean of each loss as "term@point", unweighted, and "gradient_norm".

        Raises, before the optimizer moves anything, DivergedError when a loss or the gradient is not finite, and
        UnsupportedError when memory does not hold one record.
        """
        losses = self.gradients(batches)
        self.optimizer.step()
        self.updated()
        return losses

    @torch.no_grad()
    def updated(self) -> None:
        """What follows the optimizer's step: masked entries go back where they were, then the method's own."""
        for name, mask in self._masks.items():
            self.moved[name][~mask] = self._fixed[name]
        self.method.observe(self._found, self.step, self.steps)
        self.method.after_update(self.model, self.step)

    def gradients(self, batches: Mapping[str, Batch]) -> dict[str, float]:
        """Everything of an update but the optimizer: leaves the finished gradient, and nothing else, in `.grad`.

        Returns and raises what a call does.
        """
        missing = [role for role in self.method.roles if role not in batches]
        if missing:
            raise InputError("batches", ", ".join(batches) or "none", f"a batch named '{missing[0]}'")
        self.step += 1
        totals = self._totals(batches)
        wanted = {role: batches[role] for role in self.method.roles}
        # What follows needs no more memory for larger pieces, and waits for other processes: it is never made twice.
        (sums, apart), self.micro_batch = in_pieces_that_fit(
            lambda size: self._sums(_pieces(wanted, size), totals),
            self.micro_batch,
            largest=max(len(batch) for batch in wanted.values()),
            again=keep_generators(self.weights),
            warn=self.warn,
        )
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            if self.method.combine:
                apart = {key: self._added_up(gradients) for key, gradients in apart.items()}
            else:
                self._put_gradients(self._added_up(self._take_gradients()))
            sums = {name: self.accelerator.reduce(value, "sum") for name, value in sums.items()}
        if self.method.combine:
            self._put_gradients(self._combined(apart, wanted, totals))
        if self.accelerator is not None:
            self.accelerator.unscale_gradients(self.optimizer)
        if self.method.pull is not None:
            sums["pull"] = self.method.pull.add_gradient(self.weights)
        for name, mask in self._masks.items():
            gradient = self.moved[name].grad
            if gradient is not None:
                gradient.mul_(mask)
        self._found = {name: float(value) for name, value in sums.items()}
        losses = self._found | {"gradient_norm": self._clip()}
        self._check_finite(losses, batches)
        return losses

    def _sums(
        self, pieces: list[dict[str, Batch]], totals: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[tuple[str, str], dict[str, Tensor]]]:
        """The mean of each loss, and the gradients: in `.grad`, or apart by (term, point) for a combination."""
        for tensor in self.weights.values():
            tensor.grad = None
        places = [(place, place.weight_at(self.step, self.steps)) for place in self.method.places]
        places = [(place, weight) for place, weight in places if weight != 0]
        if self.reference is not None:
            pieces = self._with_reference(pieces, self.reference, self._roles(place for place, _ in places))
        # Running statistics are those of the point where the model is, else of the last: once an update, as training
        # has them.
        here = any(not place.displacement.resolve(self.step).moving(self.weights) for place, _ in places)
        sums: dict[str, Tensor] = {}
        apart: dict[tuple[str, str], dict[str, Tensor]] = {}
        for number, (place, weight) in enumerate(places, start=1):
            names = place.terms or tuple(self.method.objective.terms)
            factors = {name: weight * self.method.weights.get(name, 1.0) / totals[name] for name in names}
            # What a combination needs apart is taken apart: one backward pass per term, at the one point.
            for group in [(name,) for name in names] if self.method.combine else [names]:
                last = number == len(places) and not here
                if self.method.combine:
                    self._drawn[group[0]] = keep_generators(self.weights)
                sums.update(self._at(place, group, factors, pieces, totals, keep_buffers=last))
                if self.method.combine:
                    add_in(apart.setdefault((group[0], self._point_name(place)), {}), self._take_gradients())
        return sums, apart

    def _point_name(self, place: At) -> str:
        """The name under which a point's gradients are kept: "" where the combination adds a term's points up anyway,
        so that one of each term is held rather than one of each point."""
        return "" if getattr(self.method.combine, "sums_points", False) else str(place.displacement)

    def _at(
        self,
        place: At,
        group: tuple[str, ...],
        factors: Mapping[str, float],
        pieces: list[dict[str, Batch]],
        totals: Mapping[str, int],
        keep_buffers: bool,
    ) -> dict[str, Tensor]:
        """Add one point's gradient of the terms in `group` to `.grad`: the weights move once, by all terms of the
        place, and all micro-batches run there. Returns the mean of each loss."""
        sums: dict[str, Tensor] = {}
        displacement = place.displacement.resolve(self.step)
        label = str(displacement)
        climbed = {name: [self._loss({name: factor}, piece) for piece in pieces] for name, factor in factors.items()}
        context = Context(self.model, climbed, self.step, self.autocast)
        with learning_at(displacement, self.weights, context, keep_buffers=keep_buffers):
            for piece in pieces:
                terms = self._terms(group, piece)
                for name, value in terms.items():
                    mean = value.detach() / totals[name]
                    sums[f"{name}@{label}"] = sums.get(f"{name}@{label}", torch.zeros_like(mean)) + mean
                if any(value.requires_grad for value in terms.values()):
                    self._backward(sum((factors[name] * value for name, value in terms.items()), torch.zeros(())))
                elif any(_scored(self.method.objective, name, piece) for name in terms):
                    raise UnsupportedError(
                        "the loss reaches no weight that trains; with a LoRA under reentrant gradient checkpointing, "
                        "the input embeddings must require gradients: put it on with add_lora, or call the model's "
                        "enable_input_require_grads()"
                    )
        return sums

    @torch.no_grad()
    def _with_reference(
        self, pieces: list[dict[str, Batch]], reference: Displacement, roles: set[str]
    ) -> list[dict[str, Batch]]:
        """The micro-batches with what the objective wants of the reference for those roles: all asked before any graph
        is built, since weights that move would break it."""
        asked = [{role: batch for role, batch in piece.items() if role in roles} for piece in pieces]
        with reference.at(self.weights), evaluating(self.model):
            found = [
                self.method.objective.at_reference(piece, Predict(self.model, self.autocast)) if piece else {}
                for piece in asked
            ]
        return [
            {role: replace(batch, live=live.get(role)) for role, batch in piece.items()}
            for piece, live in zip(pieces, found, strict=True)
        ]

    def _roles(self, places: Iterable[At]) -> set[str]:
        terms = self.method.objective.terms
        return {role for place in places for name in place.terms or terms for role in terms[name].roles}

    def _loss(self, factors: Mapping[str, float], piece: Mapping[str, Batch]) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            terms = self._terms(tuple(factors), piece)
            return sum((factors[name] * value for name, value in terms.items()), torch.zeros((), requires_grad=True))

        return loss

    def _terms(self, names: tuple[str, ...], piece: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses of those names on a micro-batch, each batch passed through the model once."""
        roles = {role for name in names for role in self.method.objective.terms[name].roles}
        wanted = {role: batch for role, batch in piece.items() if role in roles}
        losses = self.method.objective.losses(wanted, Predict(self.model, self.autocast))
        return {name: losses[name] for name in names if name in losses}

    def _totals(self, batches: Mapping[str, Batch]) -> dict[str, int]:
        objective = self.method.objective
        counts = {name: objective.counted(name, batches) for name in objective.terms}
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            here = torch.tensor(list(counts.values()), device=self.accelerator.device)
            counts = dict(zip(counts, self.accelerator.reduce(here, "sum").tolist(), strict=True))
        return {name: max(1, count) for name, count in counts.items()}

    def _backward(self, loss: Tensor) -> None:
        if self.accelerator is not None:
            self.accelerator.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def _take_gradients(self) -> dict[str, Tensor]:
        taken = {name: tensor.grad for name, tensor in self.weights.items() if tensor.grad is not None}
        for name in taken:
            self.weights[name].grad = None
        return taken

    def _put_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            self.weights[name].grad = gradient

    def _added_up(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self.accelerator is not None
        # Every process must take part for every weight, also for one that its own records did not reach.
        return {
            name: self.accelerator.reduce(gradients.get(name, torch.zeros_like(tensor)), "sum")
            for name, tensor in self.weights.trainable().items()
        }

    @torch.no_grad()
    def _combined(
        self,
        apart: Mapping[tuple[str, str], Mapping[str, Tensor]],
        wanted: Mapping[str, Batch],
        totals: Mapping[str, int],
    ) -> Mapping[str, Tensor]:
        """One gradient of several; a combination sees them as they are, not as fp16's loss scaling has made them."""
        combine = self.method.combine
        assert combine is not None
        # What else takes a gradient does not move, and is no part of a length or of an inner product.
        apart = {key: {name: part[name] for name in self.moved if name in part} for key, part in apart.items()}
        scaler = None if self.accelerator is None else self.accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        if isinstance(combine, AskingCombine):
            combine = combine.within(
                UpdateView(
                    self.step,
                    self.steps,
                    lambda: step_scales(self.optimizer, self.moved),
                    lambda vectors: self._times_hessian(vectors, wanted, totals, scale),
                )
            )
        if scale == 1.0:
            return combine(apart)
        unscaled = {key: {name: value / scale for name, value in part.items()} for key, part in apart.items()}
        return {name: value * scale for name, value in combine(unscaled).items()}

    @torch.enable_grad()
    def _times_hessian(
        self,
        vectors: Mapping[str, Mapping[str, Tensor]],
        wanted: Mapping[str, Batch],
        totals: Mapping[str, int],
        scale: float,
    ) -> dict[str, Tensor]:
        """The sum over terms of each one's Hessian times its vector, by all micro-batches, over all processes."""
        factors = dict.fromkeys(vectors, 0.0)
        for place in self.method.places:
            if place.displacement.resolve(self.step).moving(self.weights):
                raise UnsupportedError(f"the Hessian is of losses where the model is, not of those at {place}")
            for name in set(place.terms or self.method.objective.terms) & set(vectors):
                weight = place.weight_at(self.step, self.steps) * self.method.weights.get(name, 1.0)
                factors[name] += weight / totals[name]
        trained = self.moved.trainable()

        def attempt(size: int | None) -> dict[str, Tensor]:
            # Aside from what the update has found so far; buffers and generators are given back too.
            with Here().at(self.weights), twice_differentiable():
                pieces = _pieces(dict(wanted), size)
                if self.reference is not None:
                    pieces = self._with_reference(pieces, self.reference, set(wanted))
                for name, vector in vectors.items():
                    if name in self._drawn and factors[name]:
                        self._drawn[name]()
                        for piece in pieces:
                            for value in self._terms((name,), piece).values():
                                if value.requires_grad:
                                    add_hessian_product(scale * factors[name] * value, trained, vector)
                return self._take_gradients()

        largest = max(len(batch) for batch in wanted.values())
        found, self.micro_batch = in_pieces_that_fit(
            attempt, self.micro_batch, largest=largest, again=lambda: None, warn=self.warn
        )
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            found = self._added_up(found)
        return {name: value / scale for name, value in found.items()} if scale != 1.0 else found

    @torch.no_grad()
    def _clip(self) -> float:
        gradients = [weight.grad for weight in self.moved.values() if weight.grad is not None]
        length = norm(gradients)
        if self.max_grad_norm is not None and length > self.max_grad_norm:
            torch._foreach_mul_(gradients, float(self.max_grad_norm / length))
        return float(length)

    def _check_finite(self, losses: Mapping[str, float], batches: Mapping[str, Batch]) -> None:
        scaler = None if self.accelerator is None else self.accelerator.scaler
        for name, value in losses.items():
            # Under fp16's loss scaling a gradient that overflows is the scaler's business: it skips the step.
            if not torch.isfinite(torch.tensor(value)) and not (name == "gradient_norm" and scaler is not None):
                records = {role: batch.records.tolist() for role, batch in batches.items()}
                raise DivergedError(f"step {self.step}: {name} is {value}; records of the batch: {records}")


def _scored(objective: Objective, term: str, piece: Mapping[str, Batch]) -> bool:
    """Whether a term has anything to learn from: a record with a scored token."""
    return any(piece[role].units("token") > 0 for role in objective.terms[term].roles)


def reference_of(method: Method, weights: Weights) -> Displacement | None:
    """The method's own reference, else the point where weights are now; None where its objective asks for neither.

    The latter costs a copy of the weights. Of a LoRA that was just put on, it is the base.
    """
    if type(method.objective).at_reference is Objective.at_reference:
        return None
    return method.reference or Restored({name: tensor.detach().clone() for name, tensor in weights.items()})


def _refuse_unselected(weights: Weights, method: Method, optimizer: torch.optim.Optimizer) -> None:
    chosen = {identity(tensor) for tensor in method.select.of(weights).values()}
    names = {identity(tensor): name for name, tensor in weights.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if identity(parameter) not in chosen:
                name = names.get(identity(parameter), "a parameter of another model")
                raise InputError("optimizer", name, "only weights that the method selects")


def _pieces(batches: Mapping[str, Batch], micro_batch: int | None) -> list[dict[str, Batch]]:
    """Micro-batches, the n-th of every role together, so that terms that need several roles see matching records."""
    if micro_batch is None:
        return [dict(batches)]
    split: dict[str, list[Batch]] = {role: batch.split(micro_batch) for role, batch in batches.items()}
    count = max(len(parts) for parts in split.values())
    return [{role: parts[index] for role, parts in split.items() if index < len(parts)} for index in range(count)]
