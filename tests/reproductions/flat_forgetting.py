"""Does flat forgetting resist INT4 and relearning? NPO's forget loss at, and near, the weights of SmolLM2-135M.

    python -m tests.reproductions.flat_forgetting [--seeds 0 1 2] [--out runs/smollm2]

goes on where it was cut off (rows in results/flat_forgetting.jsonl; table: flat_forgetting.md). World, taught model,
rate, batch and retain weight are smollm2_study's; each way passes at most its budget of records forward and backward,
so that NPO has more updates, and its rate falls over as many. A rule ends every run where forget is within 0.1 nats of
the control at full precision alone: all ways have then forgotten alike there, and none is asked about roundings. A
radius of 0.01 and a noise of 1e-4 are the paper's (it draws three, here two for equal passes); another noise is as
large as int4-row's rounding of the weights that train. Nothing was chosen here.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETAIN, Evidence
from remanent.core.catalogue import build
from remanent.core.files import read_json, write_atomic
from remanent.core.passes import learning_passes
from remanent.data.general_text import general_text
from remanent.jobs.audit import run_audit
from remanent.jobs.config import AuditSettings, DataSettings, UnlearnSettings
from remanent.jobs.data import fast_precision
from remanent.jobs.unlearn import unlearn

from .smollm2_report import BUDGET
from .smollm2_study import AUDIT, BATCH, OWN, SYSTEM, UPPER_HALF, records, taught, written
from .study_rows import RESULTS, Row, Rows, markdown, mean_and_range

WORLD = "authors-311"
ROUNDED_AS_FAR = 0.15  # of a row's root mean square: how far int4-row moves this model's weights
PRECISIONS, RELEARNT = ("full", "int4-row", "nf4"), "relearning-overlap-20"
AT = (*PRECISIONS, RELEARNT)
WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "npo": ("npo", {}),
    "worst point, rho 0.01": ("flat-npo", {"around": "ascent", "rho": 0.01}),
    "worst point, rho 0.1": ("flat-npo", {"around": "ascent", "rho": 0.1}),
    "noise, sigma 1e-4": ("flat-npo", {"around": "noise", "draws": 2}),
    "noise, 0.15 of a row": (
        "flat-npo",
        {"around": "noise", "draws": 2, "sigma": ROUNDED_AS_FAR, "scale": "row"},
    ),
    "roundings, forget alone": ("flat-npo", {"around": "roundings"}),
    "roundings, retain too (durable)": ("durable", {"directions": 0}),
    # Its own losses and weights, without a warm-up of alpha that would outlast a run which a rule stops.
    "DurableUn-SAF": ("durableun-saf", {"warmup": 0.0}),
}


def settings(name: str, given: Mapping[str, Any], seed: int, model: Path, files: Mapping[str, Path]) -> UnlearnSettings:
    """The run of a way, within the budget."""
    weights = {} if name == "durableun-saf" else OWN["npo"]["hyperparameters"]
    hyperparameters = {**weights, **given}
    passed = sum(learning_passes(build(name, hyperparameters), 1).values())
    return UnlearnSettings(
        model=str(model),
        data=DataSettings(**{role: str(file) for role, file in files.items() if role != "taught"}, system=SYSTEM),
        method=name,
        hyperparameters=hyperparameters,
        learning_rate=OWN["npo"]["learning_rate"],
        select=UPPER_HALF,
        steps=BUDGET // (BATCH * passed),
        batch_size=BATCH,
        schedule="linear",
        warmup=0.05,
        stop_at="full",
        stop_margin=0.1,
        evaluate_every=10,
        evaluate_records=32,
        precision=fast_precision(),
        threads=1,
        seed=seed,
    )


def row(way: str, seed: int, model: Path, files: Mapping[str, Path], folder: Path) -> Row:
    """Unlearn, audit, and keep the figures alone."""
    name, given = WAYS[way]
    asked = settings(name, given, seed, model, files)
    out = folder / "".join(letter if letter.isalnum() else "-" for letter in f"{way}-{seed}")
    run = unlearn(asked, out / "run")
    audit = AuditSettings(
        model=str(run.model),
        data=asked.data,
        reference=str(model),
        **{**AUDIT, "at": ",".join(AT)},
        precision=fast_precision(),
        threads=1,
    )
    evidence, _ = run_audit(audit, out / "audit", records=audited(), cache=folder / "audits")
    made = read_json(run.manifest)
    shutil.rmtree(out)
    return {
        **{key: made[key] for key in ("steps", "best_step", "stopped_by_rule", "seconds")},
        "nll": {place: {of: nll(evidence, AUDITED, place, of) for of in asked_of(place)} for place in AT},
        "before": {place: {of: nll(evidence, ORIGINAL, place, of) for of in asked_of(place)} for place in AT},
    }


def audited() -> dict[str, list]:
    """The records without their other wordings, which are not asked here."""
    plain = {
        role: [replace(record, paraphrased_prompt=(), paraphrased_answer="", wrong_answers=()) for record in found]
        for role, found in records(WORLD).items()
    }
    return {**plain, "text": general_text()[:1]}


def asked_of(place: str) -> tuple[str, ...]:
    return (FORGET, CONTROL) if "relearning" in place else (FORGET, CONTROL, RETAIN)


def nll(evidence: Evidence, subject: str, place: str, of: str) -> float | None:
    """Mean answer NLL, in nats; None where it was not asked."""
    seed = 0 if "relearning" in place else None
    found = evidence.find(subject, place, of, seed)
    return found.mean_nll if found else None


def came_back(found: Row, place: str) -> float:
    """The share of the NLL that forget had gained at full precision that is gone at another point."""
    full, known = found["nll"]["full"][FORGET], found["before"]["full"][FORGET]
    return (full - found["nll"][place][FORGET]) / (full - known)


def gap(found: Row, place: str) -> float:
    """Forget's NLL minus the control's."""
    return found["nll"][place][FORGET] - found["nll"][place][CONTROL]


def kept(found: Row, place: str) -> float:
    """The share that is left of what was known of the retain set beyond the control.

    The smaller of two, as in certificates: a control that got worse would make up for a retain set that did.
    """
    before, now = found["before"][place], found["nll"][place]
    return min(
        (control - now[RETAIN]) / (before[CONTROL] - before[RETAIN]) for control in (before[CONTROL], now[CONTROL])
    )


def table(rows: Rows) -> str:
    """A line for each way, over its seeds."""
    header = ["way", "seeds", "updates", "forgot by rule", "forget", "gap", "kept", "kept at int4-row"]
    header += [f"came back: {place}" for place in PRECISIONS[1:]] + [f"gap: {place}" for place in AT[1:]]
    lines = []
    for way in WAYS:
        found = [row for name, row in rows.found.items() if name.startswith(f"{way}/")]
        if found:
            lines.append(
                [
                    way,
                    str(len(found)),
                    mean_and_range([row["best_step"] for row in found], ".0f"),
                    f"{sum(row['stopped_by_rule'] for row in found)} of {len(found)}",
                    mean_and_range([row["nll"]["full"][FORGET] for row in found]),
                    mean_and_range([gap(row, "full") for row in found], "+.2f"),
                    mean_and_range([kept(row, "full") for row in found]),
                    mean_and_range([kept(row, "int4-row") for row in found]),
                    *(mean_and_range([came_back(row, place) for row in found]) for place in PRECISIONS[1:]),
                    *(mean_and_range([gap(row, place) for row in found], "+.2f") for place in AT[1:]),
                ]
            )
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    asked = parser.parse_args()
    folder = asked.out / WORLD
    files = written(WORLD, folder)
    model = taught(files, folder)
    rows = Rows(RESULTS / "flat_forgetting.jsonl")
    for seed in asked.seeds:
        for way in asked.ways:
            rows.get(f"{way}/{seed}", lambda way=way, seed=seed: row(way, seed, model, files, folder / "flat"))
    text = f"""# Flat forgetting against INT4 and relearning, on SmolLM2-135M

Made by `python -m tests.reproductions.flat_forgetting`. Mean answer NLL in nats over 20 forgotten authors and 30
unseen ones, means over seeds of unlearning with the smallest and largest; one taught model, which does not lie on a
grid. Every way is NPO but DurableUn-SAF, passes {BUDGET} records at most and ends where forget is within 0.1 nats of
the control at full precision. Gap: forget's NLL minus the control's. Came back: the share of the NLL that forget had
gained at full precision that is gone there. relearning-overlap-20: 20 updates on half of the forgotten authors, of
whom the other half is then asked. Kept: the share of what was known of retained authors beyond unseen ones, as
certificates judge it.

{table(rows)}
"""
    write_atomic(RESULTS / "flat_forgetting.md", text)
    print(text)


if __name__ == "__main__":
    main()
