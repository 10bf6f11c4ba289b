"""What an audit asks, and how: the sets of records, and a plan of conditions that fits records and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from remanent.auditing.backends.gguf_file import GivenGGUF
from remanent.auditing.blur import Pairs
from remanent.auditing.condition import Condition, parse_conditions
from remanent.auditing.evidence import (
    CONTROL,
    CONTROL_PARAPHRASED,
    FORGET,
    PARAPHRASED,
    RETAIN,
    TEXT,
)
from remanent.auditing.look import Look
from remanent.auditing.prompts import FewShot
from remanent.auditing.remind import Remind, embeddings
from remanent.core.intervention import worn
from remanent.core.weights import Weights, has_adapter
from remanent.data.record import Record
from remanent.errors import InputError
from remanent.models.load import Loaded

Loader = Callable[[], Loaded]


@dataclass(frozen=True)
class AuditData:
    """What is asked. Retain and control are their audit splits, which no method received.

    Args:
        forget: the records that were to be forgotten; () asks only what should stay.
        retain: records to be kept.
        control: records of the same kind that no model saw; () leaves the verdict without its yardstick.
        text: general text.
    """

    forget: Sequence[Record] = ()
    retain: Sequence[Record] = ()
    control: Sequence[Record] = ()
    text: Sequence[Record] = ()

    def __post_init__(self) -> None:
        if not self.forget and not self.retain:
            raise InputError("forget, retain", "neither", "records that were to be forgotten, or to be kept")

    def named(self) -> dict[str, list[Record]]:
        """Name in the evidence -> records; only those that are there."""
        sets = {
            FORGET: list(self.forget),
            PARAPHRASED: _in_other_words(self.forget),
            RETAIN: list(self.retain),
            CONTROL: list(self.control),
            CONTROL_PARAPHRASED: _in_other_words(self.control) if self.forget else [],
            TEXT: list(self.text),
        }
        return {name: records for name, records in sets.items() if records}


@dataclass(frozen=True)
class AuditPlan:
    """How it is asked.

    Args:
        conditions: full precision first.
        settings: thresholds and whatever else explains the figures; becomes `Evidence.settings`.
        batch_size: records per forward pass.
        autocast: dtype of the arithmetic; None is the weights' own.
        generate: records per set that are answered freely, at full precision and at the worst; 0 generates nothing.
        max_length: longest record, in tokens; None cuts none.
        truth_ratio: whether wrong answers are scored too, where records have them.
        notes: sentences a reader must know.
    """

    conditions: Sequence[Condition]
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    autocast: torch.dtype | None = None
    generate: int = 50
    max_length: int | None = None
    truth_ratio: bool = True
    notes: tuple[str, ...] = ()


def _in_other_words(records: Sequence[Record]) -> list[Record]:
    return [other for record in records if (other := record.paraphrased()) is not None]


def _installed(plan: AuditPlan) -> AuditPlan:
    """Without the back ends of an ensemble whose library is not installed; one asked for by name is an InputError."""
    for condition in plan.conditions:
        try:
            if condition.backend is not None:
                condition.backend.check()
        except InputError as error:
            if not condition.optional:
                raise
            plan = without(plan, condition, f"not installed: {error.expected}")
    return plan


def askable(plan: AuditPlan, named: Mapping[str, Sequence[Record]], original: bool) -> AuditPlan:
    """The plan ready for these records, before there is any model: with examples for few-shot prompts; without what an
    ensemble brings and these records, or what is installed here, do not allow.

    Args:
        plan: what is asked for.
        named: set -> records.
        original: whether the original model is asked too.

    Raises:
        InputError: where a condition that was asked for by name cannot be asked.
    """
    plan = _installed(plan)
    for condition in plan.conditions:
        try:
            if condition.answers_only and not plan.generate:
                raise InputError("generate", plan.generate, f"at least 1 record to answer, for {condition.info.name}")
            ready = condition
            if isinstance(condition.prompts, FewShot):
                ready = replace(ready, prompts=condition.prompts.given(named.get(RETAIN, ())))
            if isinstance(condition.prompts, Pairs):
                ready = replace(ready, prompts=condition.prompts.given(named))
            if condition.look is not None:
                ready = _with_look(ready, condition.look.given(named))
            if condition.attack is not None:
                condition.attack.check(condition.info.name, named, original, condition.seeds)
            plan = _with(plan, condition, ready)
        except InputError as error:
            if not condition.optional:
                raise
            plan = without(plan, condition, f"it needs {error.expected}")
    return plan


def _with_look(condition: Condition, look: Look) -> Condition:
    """With a look that is ready; what else decides its figures, a file or a model, is told by its digest."""
    digest = getattr(look, "digest", "")
    told = f"{condition.info.description} Of {digest}." if digest else condition.info.description
    return replace(condition, look=look, info=replace(condition.info, description=told))


def near_by_the_original(plan: AuditPlan, load: Loader) -> AuditPlan:
    """The plan in which every model is asked the neighbours that the original's embeddings say; the original is loaded
    where a condition asks neighbours."""
    asked = [(condition, condition.look) for condition in plan.conditions if isinstance(condition.look, Remind)]
    if not asked:
        return plan
    table = embeddings(load().model).detach().to("cpu", torch.float32, copy=True)  # alone, without the model
    for condition, look in asked:
        plan = _with(plan, condition, replace(condition, look=look.near_by(table)))
    return plan


def conditions_of(model: nn.Module, conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions that an audit asks the audited model at: those given, and one that wears an intervention is
    always asked without it too."""
    if worn(model) and not any(condition.needs_intervention for condition in conditions):
        return (*conditions, parse_conditions("intervention-off")[1])
    return tuple(conditions)


def fitting(plan: AuditPlan, model: nn.Module) -> AuditPlan:
    """What applies to the audited model, before anything is measured on it."""
    plan = replace(plan, conditions=conditions_of(model, plan.conditions))
    for condition in plan.conditions:
        if condition.needs_lora and condition.optional and not has_adapter(model):
            plan = without(plan, condition, "the model has no LoRA")
        elif condition.needs_lora or condition.needs_intervention:
            condition.displacement.moving(Weights.of(model))  # refuses a model without one
        elif isinstance(condition.backend, GivenGGUF):
            condition.backend.check_fits(model)
    return plan


def _with(plan: AuditPlan, condition: Condition, ready: Condition) -> AuditPlan:
    return replace(plan, conditions=tuple(ready if item is condition else item for item in plan.conditions))


def without(plan: AuditPlan, condition: Condition, reason: str) -> AuditPlan:
    """The plan without a condition, and with a note that says why."""
    left = tuple(item for item in plan.conditions if item is not condition)
    return replace(plan, conditions=left, notes=(*plan.notes, f"{condition.info.name} was NOT measured: {reason}."))
