"""A method: which losses are taken, at which points, how their gradients become one, and what may move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from remanent.core.batch import Batch, Encoded, Unit
from remanent.core.displacement import Displacement, Here
from remanent.core.episode import Episode
from remanent.core.predict import Predict
from remanent.core.schedule import LearningRateSchedule, Schedule
from remanent.core.selection import EVERYTHING, Selection
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True)
class Term:
    """One named loss of an objective.

    Args:
        unit: what the loss is a mean over: "token" or "record" of the first role.
        roles: the batches that it needs.
    """

    unit: Unit
    roles: tuple[str, ...]


class Objective(Protocol):
    """Turns named batches into named losses. Owns no loop, no loader, no model and no device."""

    terms: ClassVar[Mapping[str, Term]]
    needs_reference: ClassVar[frozenset[str]] = frozenset()  # roles whose batches must carry the reference's scores
    only_at_reference: ClassVar[frozenset[str]] = frozenset()  # roles that the model in training is never asked about
    paired: ClassVar[Mapping[str, str]] = {}  # role -> the role whose records its own belong to, one to one

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        """What is wanted of the reference model for these micro-batches, by role: it comes back as `batch.live`. They
        are those of the roles whose terms the update takes.

        Computed without a graph, in eval mode, at the weights as they were before training. An objective that does
        not write this needs no such pass.
        """
        return {}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        """Each term whose batches are there, SUMMED over its unit: whoever asks divides, so that splitting a batch
        into micro-batches changes nothing."""
        ...

    def counted(self, term: str, batches: Mapping[str, Batch]) -> int:
        """What a term's sum is divided by, of an update's whole batches: the units of its first role, unless an
        objective says otherwise. Must add up over any split into micro-batches."""
        return batches[self.terms[term].roles[0]].units(self.terms[term].unit)


def check_paired(objective: Objective, data: Mapping[str, Sequence[Any]]) -> None:
    """Raise InputError where a role whose records belong to another role's has not one for each of them."""
    for role, other in objective.paired.items():
        if len(data[role]) != len(data[other]):
            expected = f"one record for each of the {len(data[other])} of '{other}'"
            raise InputError(f"data['{role}']", f"{len(data[role])} records", expected)


def check_judged(method: Method, rule: object | None) -> None:
    """Raise InputError where a rule would look, during the run, at a model that is only made at its end."""
    if rule is not None and not method.judged_by_rule:
        expected = "none, since this method makes its model at the end; before that a rule would judge another model"
        raise InputError("rule", type(rule).__name__, expected)


@dataclass(frozen=True)
class At:
    """A point where some of the terms are taken.

    Args:
        displacement: the point.
        terms: names of the terms taken there; None takes all.
        weight: what they are multiplied with, at least 0.

    Raises InputError for a weight out of range.
    """

    displacement: Displacement
    terms: tuple[str, ...] | None = None
    weight: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Schedule) and not 0 <= self.weight < math.inf:  # NaN is not
            raise InputError("weight", self.weight, "a finite number of at least 0")

    def weight_at(self, step: int, steps: int) -> float:
        """The weight at an update, counted from 1. Where it is 0 nothing is passed through the model."""
        return self.weight.at(step, steps) if isinstance(self.weight, Schedule) else self.weight


class Combine(Protocol):
    """Several gradients to one.

    One that adds the points of a term up before anything else says so by `sums_points = True` and is handed one
    gradient of each term, with "" for the point. One that holds gradients of its own says how many, in float32, in
    `copies`, for what is told of memory before a run.
    """

    def __call__(self, gradients: Mapping[tuple[str, str], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """(term, point) -> weight's name -> weighted gradient, which it may write over; returns weight's name ->
        gradient."""
        ...


@dataclass(frozen=True)
class UpdateView:
    """What a combination may ask of the update that it is part of.

    Args:
        step: the update, counted from 1.
        steps: of the run.
        scales: weight's name -> what the optimizer, as it is before its step, multiplies each entry of a gradient
            with; without the weights that it multiplies with nothing, all of them before its first step.
        times_hessian: term -> (weight's name -> vector); returns the sum over those terms of the Hessian of the term,
            weighted as its gradient is, times the vector. Costs for each term another forward pass and two backward
            ones, with the same dropout. Only where no point moves the weights.
    """

    step: int
    steps: int
    scales: Callable[[], Mapping[str, Tensor]]
    times_hessian: Callable[[Mapping[str, Mapping[str, Tensor]]], dict[str, Tensor]]


@runtime_checkable
class AskingCombine(Protocol):
    """A combination that is another one in each update, by what it asks of it."""

    def within(self, update: UpdateView) -> Combine:
        """The combination of one update."""
        ...

    def products(self, step: int, steps: int) -> tuple[str, ...]:
        """Terms of whose Hessians it asks a product in an update, of a run of `steps`: what it costs besides."""
        ...


@runtime_checkable
class CarryingCombine(Protocol):
    """A combination that goes from update to update with what it holds."""

    def begun(self) -> Any:
        """The same combination, which holds nothing yet."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it holds: tensors and plain data, nested in dicts and lists."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        ...


class Pull(Protocol):
    """What draws the weights back, taken once per update and at the point where the model is."""

    def add_gradient(self, weights: Weights) -> Tensor:
        """Add its gradient to `.grad` of the weights; returns its loss, detached."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a method is trained unless a user says otherwise: the defaults of its paper.

    Args:
        learning_rate: of AdamW.
        steps: updates; None: `epochs` passes over the first role's records.
        epochs: passes over the first role's records, where `steps` is None.
        batch_size: records of each role per update.
        schedule: of the learning rate.
        warmup: share of the run over which the learning rate rises.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this norm; None does not clip.
    """

    learning_rate: float = 1e-5
    steps: int | None = None
    epochs: float = 10.0
    batch_size: int = 32
    schedule: LearningRateSchedule = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("learning_rate", self.learning_rate >= 0, "a number of at least 0"),
            ("steps", self.steps is None or self.steps >= 1, "at least 1 update, or none to count epochs"),
            ("epochs", self.epochs > 0, "a number above 0"),
            ("batch_size", self.batch_size >= 1, "at least 1 record"),
            ("warmup", 0 <= self.warmup <= 1, "a share of the run, from 0 to 1"),
            ("weight_decay", self.weight_decay >= 0, "a number of at least 0"),
            ("max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "a number above 0, or none"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)


@dataclass(frozen=True)
class Method:
    """A composition. Subclasses may carry state from one episode to the next by the calls below; those that override
    `begin`, `state_dict` or `load_state_dict` call these too, where a combination carries state of its own.

    Order of one update: all micro-batches at every point, unscale, combine, pull, mask, clip, optimizer, observe,
    after_update.

    Args:
        objective: the losses.
        points: where they are taken; a bare displacement takes all terms with weight 1.
        weights: term -> what it is multiplied with; 1 where not named.
        combine: how the gradients of (term, point) become one; None adds them up without further buffers.
        pull: what draws the weights back; None nothing.
        select: which weights train.
        recipe: the paper's training defaults.
        from_base: the run starts from the base model and trains on what is to be kept: retraining.
        mask: weight's name -> bool, of its shape: entries that may move; the others stay bit for bit, whatever the
            optimizer's moments and weight decay do. A weight that is not named is not masked.
        judged_by_rule: whether a stopping rule may look at the model during the run, and pick its best step; not where
            the model is only made at the end.
        reference: the point at which `at_reference` is asked; None: where the weights are before the first update.
        narrowed: role -> the records that an episode trains on in place of its own; set by `begin`.
    """

    objective: Objective
    points: Sequence[At | Displacement] = (Here(),)
    weights: Mapping[str, float] = field(default_factory=dict)
    combine: Combine | AskingCombine | None = None
    pull: Pull | None = None
    select: Selection = EVERYTHING
    recipe: Recipe = Recipe()
    from_base: bool = False
    mask: Mapping[str, Tensor] = field(default_factory=dict)
    judged_by_rule: bool = True
    reference: Displacement | None = None
    narrowed: Mapping[str, Sequence[Encoded]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        points = tuple(point if isinstance(point, At) else At(point) for point in self.points)
        if not points:
            raise InputError("points", self.points, "at least one point")
        object.__setattr__(self, "points", points)
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise InputError(f"weights['{name}']", weight, "a finite number of at least 0")
        known = set(self.objective.terms)
        for name in [*self.weights, *(term for point in points for term in point.terms or ())]:
            if name not in known:
                raise InputError("term", name, f"a term of {type(self.objective).__name__}: {', '.join(sorted(known))}")

    @property
    def places(self) -> tuple[At, ...]:
        """The points, each with its terms and weight."""
        return tuple(point for point in self.points if isinstance(point, At))

    @property
    def roles(self) -> tuple[str, ...]:
        """The batches that it needs, in order."""
        return tuple(dict.fromkeys(role for term in self.objective.terms.values() for role in term.roles))

    def selection(self, model: nn.Module) -> Selection:
        """Which weights of a model train, as far as that is known before an episode begins."""
        return self.select

    def begin(self, model: nn.Module, episode: Episode) -> Method | None:
        """The composition for an episode; None skips it. The optimizer is built afterwards."""
        return replace(self, combine=self.combine.begun()) if isinstance(self.combine, CarryingCombine) else self

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        """How many records `begin` passes through the model, forward and backward, at most, given each role's number of
        records."""
        return 0

    def trained_on(self, episode: Episode) -> Episode:
        """The episode with the records that are left of it, of what `begin` gave for it."""
        return replace(episode, data={**episode.data, **self.narrowed})

    def observe(self, losses: Mapping[str, float], step: int, steps: int) -> None:
        """Called after each optimizer step, before `after_update`, with what the update found.

        Args:
            losses: "term@point" -> its mean over the update's batches, unweighted, the same in every process.
            step: the update, counted from 1.
            steps: of the run.
        """

    def after_update(self, model: nn.Module, step: int) -> None:
        """Called after each optimizer step, counted from 1."""

    def end(self, model: nn.Module, episode: Episode) -> None:
        """Called when an episode is over."""

    def state_dict(self) -> dict[str, Any]:
        """What it carries over: tensors and plain data, nested in dicts and lists."""
        return self.combine.state_dict() if isinstance(self.combine, CarryingCombine) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if isinstance(self.combine, CarryingCombine):
            self.combine.load_state_dict(state)
