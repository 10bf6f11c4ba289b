"""A sweep's plain data, made up: what its view, its plot and its page are tested on."""

from __future__ import annotations

from typing import Any


def end(value: float, condition: str = "int4-row") -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "condition": condition}


def row(setting: str, seed: int, gap: float, kept: float, *, fresh: bool = False, **more: Any) -> dict[str, Any]:
    method = setting.rpartition("-")[0]
    accuracies = {"FA": 0.1, "CA": 0.3, "RA": 0.9, "Q-INT8": None, "Q-INT4": 0.3, "RA-INT8": None, "RA-INT4": 0.8}
    return {
        "name": f"{setting}-seed{seed}",
        "setting": setting,
        "method": method,
        "learning_rate": 1e-5,
        "hyperparameters": {"beta": float(len(setting))},
        "seed": seed,
        "fresh": fresh,
        "reference": method == "retrain",
        "passes": 160,
        "status": "done",
        "reason": "",
        "verdict": "FAILED",
        "best_step": 3,
        "planned_steps": 5,
        "forget_gap": end(gap),
        "forget_gap_before": end(2.0),
        "attacked_gap": None,
        "retention": end(kept),
        "seconds": 3.0 + seed,
        "peak_memory": 200_000_000 + seed,
        "conditions": [condition("full", 1.0), condition("int4-row", gap)],
        "published": accuracies,
        "before": {**accuracies, "FA": 1.0},
        **more,
    }


def condition(name: str, gap: float) -> dict[str, Any]:
    return {
        "name": name,
        "nll": {"forget": 3.0 - gap, "control": 3.0, "retain": 1.0},
        "nll_before": {"forget": 0.5, "control": 2.5, "retain": 0.5},
    }


def broken(setting: str, seed: int) -> dict[str, Any]:
    kept = ("name", "setting", "method", "learning_rate", "hyperparameters", "seed", "fresh", "passes")
    whole = row(setting, seed, 0, 0)
    return {**{key: whole[key] for key in kept}, "status": "diverged", "reason": "step 3: the loss is inf"}


def data(rows: list[dict[str, Any]], seeds: int = 2, kind: str = "sweep") -> dict[str, Any]:
    return {
        "schema": "remanent/sweep/v1",
        "kind": kind,
        "settings": {
            kind: {"seeds": list(range(seeds)), "fresh_seeds": [], "budget": 160},
            "unlearn": {"model": "m"},
        },
        "criteria": {"epsilon": 0.25, "upsilon": 0.9, "alpha": 0.05},
        "seeds": list(range(seeds)),
        "planned": len(rows),
        "trials": rows,
    }


ROWS = [
    *(row("npo-a", seed, gap, kept) for seed, gap, kept in ((0, 0.5, 0.95), (1, 0.7, 0.97))),
    *(row("npo-bb", seed, gap, kept) for seed, gap, kept in ((0, 0.1, 0.70), (1, 0.3, 0.72))),  # one seed above epsilon
    *(row("durable-ccc", seed, gap, kept) for seed, gap, kept in ((0, -0.1, 0.80), (1, 0.0, 0.84))),
    *(row("durable-dddd", seed, gap, kept) for seed, gap, kept in ((0, -0.9, 0.60), (1, -0.8, 0.61))),
    row("simnpo-eeeee", 0, -0.2, 0.99),
    broken("simnpo-eeeee", 1),
    row("durable-ccc", 9, 0.05, 0.79, fresh=True),
]
