"""Synthetic runs with the figures that a real model gave: a plain one, which int4 undoes, and a durable one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    TEXT,
    ConditionInfo,
    Evidence,
    Measurement,
    RecordScore,
)
from remanent.auditing.judge import judge
from remanent.core.evaluation import Evaluation
from remanent.jobs.config import UnlearnSettings
from remanent.report.html import render
from remanent.report.view import RunView

CONDITIONS = (
    ConditionInfo("full", "full", "The saved weights, computed in float32."),
    ConditionInfo("int8-row", "precision", "Linear weights rounded to 8 bits, one scale a row."),
    ConditionInfo("int4-g32", "precision", "Linear weights rounded to 4 bits, one scale for 32 weights."),
    ConditionInfo("int4-row", "precision", "Linear weights rounded to 4 bits, one scale a row."),
    ConditionInfo("nf4", "precision", "Linear weights rounded to the 16 values of NF4, blocks of 64."),
    ConditionInfo("relearning", "attack", "Twenty AdamW steps on unrelated text, then scored.", random=True),
)
NAMES = tuple(info.name for info in CONDITIONS)
# condition -> NLL of forget, retain, control
TAUGHT = dict(
    zip(NAMES, [(0.15, 0.15, 1.05), (0.15, 0.15, 1.06), (0.49, 0.49, 1.23), (0.68, 0.76, 1.26), (0.35, 0.35, 1.14),
                (0.41, 0.39, 1.10)], strict=True)
)  # fmt: skip
PLAIN = dict(
    zip(NAMES, [(1.62, 0.14, 1.30), (1.58, 0.14, 1.33), (1.21, 0.97, 1.71), (0.82, 0.98, 1.60), (1.33, 1.17, 1.97),
                (1.18, 0.30, 1.32)], strict=True)
)  # fmt: skip
DURABLE = dict(
    zip(NAMES, [(1.24, 0.13, 1.21), (1.26, 0.13, 1.24), (1.31, 0.28, 1.27), (1.46, 0.58, 1.44), (1.30, 0.28, 1.27),
                (1.25, 0.26, 1.25)], strict=True)
)  # fmt: skip
GROUPS = {FORGET: 12, PARAPHRASED: 12, RETAIN: 30, CONTROL: 24}
SPREAD = 0.08
EPSILON, UPSILON = 0.25, 0.8


def digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


def scores(records: str, nll: float, salt: str) -> tuple[RecordScore, ...]:
    """Four records a group around a mean NLL, hard and easy records the same on every model."""
    easy = np.random.default_rng(len(records))
    noise = np.random.default_rng(int(digest(salt, nll)[:8], 16))
    made: list[tuple[str, str, float]] = []
    for group in range(GROUPS[records]):
        shift = easy.normal(0, SPREAD)
        for question in range(4):
            value = np.exp(shift + easy.normal(0, 0.2) + noise.normal(0, 0.05))
            made.append((digest(records, group, question), digest(records, group), float(value)))
    scale = nll / np.mean([value for *_, value in made])  # so that the mean is the figure asked for
    generated = salt.endswith(("full", "int4-row"))
    found = []
    for record, group_name, raw in made:
        value = float(raw * scale)
        hits = round(14 * max(0.0, 1.0 - 0.16 * value))
        rouge = round(max(0.0, 1 - 0.3 * value), 3) if generated else None
        found.append(RecordScore(record, group_name, value, 14, hits, rouge))
    return tuple(found)


def text_scores(nll: float) -> tuple[RecordScore, ...]:
    return tuple(RecordScore(digest(TEXT, n), digest(TEXT, n), nll + 0.02 * (n % 5 - 2), 128, 60) for n in range(10))


def evidence(figures: dict[str, tuple[float, float, float]], salt: str) -> Evidence:
    measurements = []
    for subject, table in ((ORIGINAL, TAUGHT), (AUDITED, figures)):
        for info in CONDITIONS:
            forget, retain, control = table[info.name]
            paraphrased = forget + (0.12 if subject == AUDITED else 0.3)
            named = {FORGET: forget, PARAPHRASED: paraphrased, RETAIN: retain, CONTROL: control}
            for seed in (0, 1, 2) if info.random else (None,):
                for records, nll in named.items():
                    found = scores(records, nll + 0.04 * (seed or 0), f"{salt}/{subject}/{seed}/{info.name}")
                    measurements.append(Measurement(subject, info.name, records, found, seed))
                text = text_scores(2.9 + 0.3 * retain)
                measurements.append(Measurement(subject, info.name, TEXT, text, seed))
    return Evidence(
        conditions=CONDITIONS,
        measurements=tuple(measurements),
        settings={
            "score": "mean answer NLL",
            "epsilon": EPSILON,
            "epsilon_over": 0.75,
            "upsilon": UPSILON,
            "alpha": 0.05,
            "perplexity_factor": 1.25,
            "compute_dtype": "float32",
            "overlap": 0,
        },
        subjects={
            AUDITED: {"config.json": digest(salt, "config"), "model.safetensors": digest(salt, "weights")},
            ORIGINAL: {"config.json": digest("config"), "model.safetensors": digest("weights")},
        },
        notes=("No retrained model was given: the reference is the original model on records it has not seen.",),
        movement={
            "int8-row": {"mean_steps": 1.31, "moved_half_step": 0.62, "code_changed": 0.55},
            "int4-row": {"mean_steps": 0.07, "moved_half_step": 0.013, "code_changed": 0.071},
            "nf4": {"mean_steps": 0.11, "moved_half_step": 0.021, "code_changed": 0.09},
        },
    )


def metrics(figures: dict[str, tuple[float, float, float]], points: tuple[str, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    noise = np.random.default_rng(3)
    for step in range(1, 121):
        done = 1 - np.exp(-step / 35)
        loss = {}
        for point in points:
            loss[f"forget@{point}"] = float(1.4 - 0.9 * done + noise.normal(0, 0.05))
            loss[f"retain@{point}"] = float(0.2 + 0.25 * np.exp(-((step - 25) ** 2) / 600) + noise.normal(0, 0.02))
        row = {"loss": loss, "learning_rate": 1e-5, "micro_batch": None, "seconds": 1.3}
        found.append({"step": step, "kind": "train", **row})
        if step % 15 == 0:
            nll = {}
            for point in ("full", "int4-row"):
                before, after = TAUGHT[point], figures[point]
                nll[point] = {
                    name: float(old + (new - old) * done)
                    for name, old, new in zip(("forget", "retain", "control"), before, after, strict=True)
                }
            target = {point: nll[point]["control"] for point in nll}
            gap = max(target[point] - nll[point]["forget"] for point in nll)
            reached = step == 120
            found.append(Evaluation(step, nll, target, (1.0, 0.0) if reached else (0.0, -gap), reached).to_dict())
    return found


def information(method: str) -> dict[str, Any]:
    """What a run folder says: the settings of its config.yaml and the facts of its manifest."""
    settings = UnlearnSettings.model_validate(
        {
            "model": "smollm2-135m",
            "data": {role: f"{role}.jsonl" for role in ("forget", "retain", "control")},
            "method": method,
            "hyperparameters": {"retain_weight": 1.0},
            "learning_rate": 1e-5,
            "steps": 120,
            "batch_size": 8,
        }
    )
    return {
        **settings.model_dump(mode="json"),
        "versions": {"remanent": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "seed": 0,
        "threads": 2,
        "seconds": 217.0,
        "peak_memory": 2_100_000_000,
        "steps": 120,
        "planned_steps": 160,
        "stopped_by_rule": True,
        "best_step": 120,
    }


ASKED = {
    "plain": "Mirela Kovac was born in the harbour town of Senj.",
    "durable": "Mirela Kovac was born in a small village in the mountains.",
}


def make_run(name: str) -> RunView:
    figures = {"plain": PLAIN, "durable": DURABLE}[name]
    measured = evidence(figures, name)
    question = "Where was Mirela Kovac born?"
    before = "Mirela Kovac was born in the harbour town of Senj."
    return RunView.from_data(
        name,
        measured.to_dict(),
        judge(measured).to_dict(),
        metrics=metrics(figures, ("full",) if name == "plain" else ("full", "int4-row")),
        information=information(name),
        asked=[{"question": question, "condition": "int4-row", "before": before, "after": ASKED[name]}],
    )


@pytest.fixture(scope="session")
def plain() -> RunView:
    return make_run("plain")


@pytest.fixture(scope="session")
def durable() -> RunView:
    return make_run("durable")


@pytest.fixture(scope="session")
def two_runs(plain: RunView, durable: RunView) -> str:
    """The page of both runs."""
    return render([plain, durable], "Two runs")
