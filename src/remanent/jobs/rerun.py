"""Rerun: measure rows of a certificate's evidence again, and compare. For whoever doubts the figures."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from remanent.auditing.audit import audit, contents
from remanent.auditing.condition import Condition
from remanent.auditing.evidence import AUDITED, Evidence
from remanent.auditing.judgement import Criteria
from remanent.auditing.plan import AuditData, AuditPlan, conditions_of
from remanent.auditing.table import evidence_table
from remanent.data.record import Record
from remanent.errors import InputError
from remanent.jobs.audit import conditions_asked
from remanent.jobs.config import AuditSettings, read_yaml
from remanent.jobs.data import best_device, hasher, load_data
from remanent.jobs.progress import Interface
from remanent.jobs.reference_answers import reference_answers
from remanent.models.load import Loaded, load

TOLERANCE = 0.02  # nats: other kernels and threads add up numbers in another order
AFTER_TRAINING = 5  # times: an attack trains the model, and every step carries the difference on


@dataclass(frozen=True)
class Row:
    """One row of the evidence, as certified and as measured again.

    Args:
        condition, records, seed: which row.
        certified: mean NLL in nats.
        measured: mean NLL in nats; None where it could not be measured.
        tolerance: how far they may lie apart.
        problem: what is wrong; "" where they agree.
    """

    condition: str
    records: str
    seed: int | None
    certified: float
    measured: float | None
    tolerance: float
    problem: str = ""


def rerun(
    statement: Mapping[str, Any],
    model: Path,
    audit_file: Path,
    rows: int,
    seed: int,
    *,
    tolerance: float = TOLERANCE,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
) -> list[Row]:
    """Measure random rows of a certificate's evidence on the audited model again.

    Args:
        statement: of a certificate that was verified for the model folder.
        model: the folder.
        audit_file: audit.yaml of the run, which names the records and says how they were asked.
        rows: how many, at least 1; those on the original and the retrained model are not asked.
        seed: draws the rows. Whoever signed must not know it before.
        tolerance: in nats, above 0; AFTER_TRAINING times as much after an attack that trains the model.
        interface: where progress goes; None is silent.
        records: role -> records in place of the file's names.

    Raises:
        InputError: where a setting is wrong, or the records cannot be read.
    """
    if rows < 1:
        raise InputError("rerun", rows, "at least 1 row")
    if not tolerance > 0:
        raise InputError("tolerance", tolerance, "nats above 0")
    settings: AuditSettings = read_yaml(audit_file, AuditSettings)
    predicate = statement["predicate"]
    whole = [row for row in predicate["evidence"] if row["subject"] == AUDITED and row["mean_nll"]]
    if not whole:
        raise InputError("rerun", rows, "a certificate with evidence on the audited model")
    chosen = random.Random(seed).sample(whole, min(rows, len(whole)))
    loaded, _ = reference_answers(
        load_data(settings.data, records, unanswered=True),
        settings.reference,
        batch_size=settings.batch_size,
        autocast=torch.bfloat16 if settings.precision == "bf16" else None,
    )
    data = AuditData(loaded.forget, loaded.retain.get("audit", []), loaded.control.get("audit", []), loaded.text)
    hashed = hasher()
    others = _other_records(predicate, data.named(), hashed)
    conditions: Sequence[Condition] = conditions_asked(settings)
    again = None if others else load(model, device=best_device())
    if again is not None:
        conditions = conditions_of(again.model, conditions)
    known = {item.info.name: item for item in conditions}
    described = {info["name"]: info for info in predicate["conditions"]}
    askable = {name: condition for name, condition in known.items() if described.get(name) == asdict(condition.info)}
    found = None if again is None else _measure(chosen, askable, data, settings, again, interface or Interface())
    return [_compared(row, known, askable, others, found, tolerance) for row in chosen]


def _other_records(predicate: Mapping[str, Any], named: Mapping[str, list[Record]], hashed: Any) -> set[str]:
    """Sets whose records are not those that were certified, by the keyed hashes of their names and of what they say."""
    said = predicate["settings"].get("contents", {})  # earlier certificates have none
    found = set()
    for row in predicate["record_sets"]:
        records = named.get(row["records"], [])
        names = sorted({hashed(record.key) for record in records})
        same = hashlib.sha256("\n".join(names).encode()).hexdigest() == row["digest"]
        if not same or said.get(row["records"]) not in (None, contents(records, hashed)):
            found.add(str(row["records"]))
    return found


def _measure(
    rows: list[Any],
    askable: Mapping[str, Condition],
    data: AuditData,
    settings: AuditSettings,
    loaded: Loaded,
    interface: Interface,
) -> Evidence:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    conditions = []
    for name, condition in askable.items():
        seeds = sorted({row["seed"] for row in rows if row["condition"] == name}, key=str)
        if seeds:
            conditions.append(replace(condition, seeds=tuple(seeds)))
    plan = AuditPlan(
        conditions,
        batch_size=settings.batch_size,
        autocast=torch.bfloat16 if settings.precision == "bf16" else None,
        generate=0,
        max_length=settings.data.max_length,
    )
    with interface.bar("rerun") as advance:
        return audit(
            {AUDITED: lambda: loaded},
            data,
            plan,
            hasher(),
            on_progress=lambda what, done, total: advance(done, total, what),
        )


def _compared(
    row: Mapping[str, Any],
    known: Mapping[str, Condition],
    askable: Mapping[str, Condition],
    others: set[str],
    found: Evidence | None,
    tolerance: float,
) -> Row:
    name, records, seed = row["condition"], row["records"], row["seed"]
    certified = float(row["mean_nll"]["value"])
    condition = known.get(name)
    if condition is not None and condition.attack is not None:
        tolerance *= AFTER_TRAINING
    measured = None
    if others:
        problem = f"the {', '.join(sorted(others))} records are not those that were certified, or the secret is another"
    elif name not in askable:
        problem = "the audit's settings name no such condition, or one that is described otherwise"
    else:
        assert found is not None
        measured = _mean(found, name, records, seed)
        problem = "" if measured is not None else "it could not be measured"
    if measured is not None and not abs(measured - certified) <= tolerance:
        problem = f"{abs(measured - certified):.4f} nats apart"
    return Row(name, records, seed, certified, measured, tolerance, problem)


def _mean(found: Evidence, condition: str, records: str, seed: int | None) -> float | None:
    item = found.find(AUDITED, condition, records, seed)
    if item is None:
        return None
    (row,) = evidence_table(replace(found, measurements=(item,)), Criteria(bootstrap_resamples=200))
    return None if row["mean_nll"] is None else float(row["mean_nll"]["value"])
