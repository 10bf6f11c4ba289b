"""One trial: unlearn, audit, and a row of plain data about both, or the reason why there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remanent.auditing.evidence import CONTROL, FORGET, ORIGINAL, RETAIN
from remanent.core.estimate import Estimate
from remanent.core.files import read_json, write_json
from remanent.core.run_folder import RunFolder
from remanent.errors import DivergedError
from remanent.jobs.audit import run_audit
from remanent.jobs.progress import Interface
from remanent.jobs.report import view
from remanent.jobs.sweep_config import Trial
from remanent.jobs.unlearn import unlearn
from remanent.report.estimate import Estimator
from remanent.report.summary import ConditionSummary, summarize
from remanent.report.view import RunView

DONE, DIVERGED, FAILED = "done", "diverged", "failed"
PRECISIONS = ("full", "precision")
_OF_THE_RUN = ("steps", "planned_steps", "stopped_by_rule", "best_step", "seconds", "peak_memory")
AUDITS = "audits"
# The paper's figures, arXiv 2605.02196: teacher-forced token accuracy, micro-averaged -> (conditions, records). Both of
# two conditions are one format by two names. CA, ours, is the same on unseen records, beside each of forgotten ones.
PUBLISHED = {
    "FA": (("full",), FORGET),
    "CA": (("full",), CONTROL),
    "RA": (("full",), RETAIN),
    "Q-INT8": (("int8", "int8-row"), FORGET),
    "CA-INT8": (("int8", "int8-row"), CONTROL),
    "Q-INT4": (("int4-row", "int4"), FORGET),
    "CA-INT4": (("int4-row", "int4"), CONTROL),
    "RA-INT8": (("int8", "int8-row"), RETAIN),
    "RA-INT4": (("int4-row", "int4"), RETAIN),
}


def run_trial(
    trial: Trial, out: Path, *, keep_model: bool = False, interface: Interface | None = None
) -> dict[str, Any]:
    """Run a trial, or go on with one that was cut off; whatever goes wrong in it becomes its row's reason.

    Args:
        trial: complete.
        out: the sweep's folder, which holds the runs, their rows and the measurements that they share.
        keep_model: else the model and the checkpoints are deleted once the row is written.
        interface: where progress goes; None is silent.
    """
    run = RunFolder(out / "trials" / trial.name)
    try:
        row = finished(trial, out) or _run(trial, run, out, interface)
    except DivergedError as error:
        row = failure(trial, DIVERGED, error)
    except Exception as error:  # of this trial alone: the others go on
        return failure(trial, FAILED, error)
    write_json(_row_file(trial, out), row)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    if not keep_model:
        shutil.rmtree(run.model, ignore_errors=True)
    return row


def finished(trial: Trial, out: Path) -> dict[str, Any] | None:
    """The row of a trial that has ended; None where it has not. One that failed, rather than diverged, has none."""
    file = _row_file(trial, out)
    if not file.is_file():
        return None
    found: dict[str, Any] = read_json(file)
    return {**found, "fresh": trial.fresh}


def failure(trial: Trial, status: str, error: BaseException | str) -> dict[str, Any]:
    """The row of a trial that came to nothing."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return {**described(trial), "status": status, "reason": " ".join(text.split())[:500]}


def described(trial: Trial) -> dict[str, Any]:
    """What a row says before anything was run."""
    unlearn = trial.unlearn
    return {
        "name": trial.name,
        "setting": trial.setting,
        "method": unlearn.method,
        "learning_rate": unlearn.learning_rate,
        "hyperparameters": dict(unlearn.hyperparameters),
        "batch_size": unlearn.batch_size,
        "steps": unlearn.steps,
        "seed": unlearn.seed,
        "fresh": trial.fresh,
        "reference": trial.reference,
        "passes": trial.passes,
    }


def _run(trial: Trial, run: RunFolder, out: Path, interface: Interface | None) -> dict[str, Any]:
    if not (run.audit.is_file() and run.judgement.is_file()):
        unlearn(trial.unlearn, run.path, interface=interface)
        audit = trial.audit.model_copy(update={"model": str(run.model)})
        run_audit(audit, run.path, interface=interface, cache=out / AUDITS)
    made = read_json(run.manifest)
    of_the_run = {key: made.get(key) for key in _OF_THE_RUN}
    return {**described(trial), "status": DONE, "reason": "", **of_the_run, **judged(run.path)}


def judged(folder: Path) -> dict[str, Any]:
    """What an audit found, as a row says it: verdict, gaps, retention and accuracies, and each condition's own.

    Args:
        folder: of the audit.
    """
    audited = view(folder)
    seen = summarize(audited)
    return {
        "verdict": seen.verdict,
        "forget_gap": _worst_gap([item for item in seen.conditions if item.kind in PRECISIONS]),
        "attacked_gap": _worst_gap([item for item in seen.conditions if item.kind not in PRECISIONS]),
        "retention": _least_kept(seen.conditions),
        "forget_gap_before": _gap_before(audited, seen.conditions),
        "published": {name: _accuracy(seen.conditions, *place) for name, place in PUBLISHED.items()},
        "before": {name: _accuracy(seen.conditions, *place, before=True) for name, place in PUBLISHED.items()},
        "conditions": [_condition(item) for item in seen.conditions],
    }


def _condition(item: ConditionSummary) -> dict[str, Any]:
    """Ours, in nats and shares, and token accuracies, at one condition; "before" is the model before unlearning."""
    sets = (FORGET, RETAIN, CONTROL)
    return {
        "name": item.name,
        "kind": item.kind,
        "forget_gap": _gap(item.gap),
        "retention": _plain(item.retention),
        "verdict": item.verdict,
        "nll": {name: _finite(item.audited[name].nll.value) for name in sets if name in item.audited},
        "accuracy": {name: _finite(item.audited[name].token_accuracy) for name in sets if name in item.audited},
        "nll_before": {name: _finite(item.original[name].nll.value) for name in sets if name in item.original},
        "accuracy_before": {
            name: _finite(item.original[name].token_accuracy) for name in sets if name in item.original
        },
    }


def _worst_gap(conditions: Sequence[ConditionSummary]) -> dict[str, Any] | None:
    """Where the forgotten is best known against the unseen."""
    return _largest({item.name: item.gap for item in conditions})


def _largest(gaps: Mapping[str, Estimate | None]) -> dict[str, Any] | None:
    found = [(gap, name) for name, estimate in gaps.items() if (gap := _gap(estimate)) is not None]
    if not found:
        return None
    gap, name = max(found, key=lambda pair: pair[0]["value"])
    return {**gap, "condition": name}


def _gap_before(run: RunView, conditions: Sequence[ConditionSummary]) -> dict[str, Any] | None:
    """The same of the model before unlearning."""
    estimator = Estimator(np.random.default_rng(0), float(run.criteria.get("alpha", 0.05)))
    found: dict[str, Estimate | None] = {}
    for item in conditions:
        forget, control = (run.evidence.find(ORIGINAL, item.name, name, None) for name in (FORGET, CONTROL))
        if item.kind in PRECISIONS and forget and control and forget.scores and control.scores:
            found[item.name] = estimator.difference(forget.scores, control.scores)
    return _largest(found)


def _least_kept(conditions: Sequence[ConditionSummary]) -> dict[str, Any] | None:
    kept = [(item.retention, item.name) for item in conditions if item.kind in PRECISIONS and item.retention]
    if not kept:
        return None
    least, name = min(kept, key=lambda pair: pair[0].value)
    return {**(_plain(least) or {}), "condition": name}


def _gap(gap: Estimate | None) -> dict[str, Any] | None:
    """In nats below the control: the report's gap, forget minus control, the other way round."""
    plain = _plain(gap)
    if plain is None:
        return None
    turned = {"value": plain["value"], "low": plain["high"], "high": plain["low"]}
    return {name: None if value is None else -value for name, value in turned.items()}


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None or _finite(estimate.value) is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _accuracy(
    conditions: Sequence[ConditionSummary], names: Sequence[str], records: str, before: bool = False
) -> float | None:
    for item in conditions:
        sets = item.original if before else item.audited
        if item.name in names and records in sets:
            return _finite(sets[records].token_accuracy)
    return None


def _row_file(trial: Trial, out: Path) -> Path:
    folder = out / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{trial.name}.json"


def in_folder(trial: Trial, out: Path, keep_model: bool, folder: str) -> dict[str, Any]:
    """A trial on another machine of a cluster, where the names of files mean the same once we stand in `folder`."""
    os.chdir(folder)
    return run_trial(trial, out, keep_model=keep_model)
