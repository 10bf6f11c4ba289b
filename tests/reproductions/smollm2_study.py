"""A deletion request to SmolLM2-135M: plain NPO against as-stranger at equal passes, audited alike, as a sweep.

    python -m tests.reproductions.smollm2_study [--authors 301] [--seeds 0] [--out runs/smollm2]

Every part is a job that goes on where it was cut off. Settings were chosen on authors 300. Budget: 1920 records passed
forward and backward in each trial, at every point together; the rule may end a trial before. The rows are copied to
results/smollm2.jsonl, and the table is made of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from remanent.core.files import write_atomic
from remanent.data.authors import author_sets
from remanent.data.jsonl import write_records
from remanent.jobs.config import DataSettings, TeachSettings, UnlearnSettings
from remanent.jobs.data import fast_precision
from remanent.jobs.sweep import sweep
from remanent.jobs.sweep_config import SweepFile, SweepSettings
from remanent.jobs.teach import teach

from .study_rows import RESULTS, markdown

MODEL, UPPER_HALF = "smollm2-135m", "*.layers.1[5-9].*,*.layers.2?.*"
SYSTEM = ""  # an empty turn takes a third of the tokens of the chat template's own
METHODS = ("npo", "as-stranger")
BUDGET, BATCH = 1920, 8
# Relearning of one seed each, at which the certificate is WARNED at best: the audit would take three times as long.
AUDIT = {
    "at": "full,int8,int4-row,int4-g32,nf4,relearning-overlap-50",
    "attack_seeds": 1,
    # From the size of the data: authors differ by 0.35 nats, 24 are forgotten and 36 of the 48 unseen are audited.
    "epsilon": 0.35,
    "upsilon": 0.95,
    "generate": 0,
    "truth_ratio": False,
}


def study(authors: int, seeds: Sequence[int], out: Path) -> Path:
    """Teach, unlearn and audit; returns the sweep's file of rows."""
    folder = out / f"authors-{authors}"
    folder.mkdir(parents=True, exist_ok=True)
    sets = author_sets(authors, 24, 96, 48, 4)
    named = {"forget": sets.forget, "retain": sets.retain, "control": sets.control}
    files = {name: folder / f"{name}.jsonl" for name in (*named, "taught")}
    for name, records in {**named, "taught": (*sets.forget, *sets.retain)}.items():
        if not files[name].is_file():
            write_records(files[name], list(records))
    taught = teach(
        TeachSettings(
            model=MODEL,
            records=str(files["taught"]),
            system=SYSTEM,
            epochs=5,
            learning_rate=2e-4,
            batch_size=8,
            select=UPPER_HALF,
            threads=1,
        ),
        folder / "taught",
    )
    settings = SweepFile(
        sweep=SweepSettings(
            method=METHODS, learning_rate=(5e-5,), retain_weight=(8.0,), seeds=tuple(seeds), budget=BUDGET
        ),
        unlearn=UnlearnSettings(
            model=str(taught.model),
            data=DataSettings(**{name: str(files[name]) for name in named}, system=SYSTEM),
            select=UPPER_HALF,
            batch_size=BATCH,
            schedule="linear",
            warmup=0.05,
            stop_margin=0.1,
            evaluate_every=10,
            evaluate_records=24,
            precision=fast_precision(),
            threads=1,
        ),
        audit={**AUDIT, "precision": fast_precision(), "threads": 1},
    )
    sweep(settings, folder / "sweep")
    return folder / "sweep" / "sweep.json"


def table(rows: Sequence[dict]) -> str:
    """A line for each trial and condition."""
    header = ["authors", "method", "seed", "updates", "at", "forget", "control", "gap", "retain", "kept", "verdict"]
    header.insert(9, "retain before")
    lines = []
    for row in rows:
        for item in row["conditions"]:
            nll, before = item["nll"], item["nll_before"]
            gap, kept = item["forget_gap"], item["retention"]
            lines.append(
                [
                    str(row["authors"]),
                    row["method"],
                    str(row["seed"]),
                    str(row["best_step"]),
                    item["name"],
                    *(f"{nll[name]:.2f}" if name in nll else "" for name in ("forget", "control")),
                    "" if gap is None else f"{-gap['value']:+.2f} ({-gap['high']:+.2f} to {-gap['low']:+.2f})",
                    f"{nll['retain']:.2f}" if "retain" in nll else "",
                    f"{before['retain']:.2f}" if "retain" in before else "",
                    "" if kept is None else f"{kept['value']:.2f} (at least {kept['low']:.2f})",
                    item["verdict"],
                ]
            )
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--authors", type=int, default=301)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    arguments = parser.parse_args()
    found = json.loads(study(arguments.authors, arguments.seeds, arguments.out).read_text())["trials"]
    file = RESULTS / "smollm2.jsonl"
    kept = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    rows = {(row["authors"], row["name"]): row for row in kept}
    for row in found:
        if row["status"] == "done":
            rows[arguments.authors, row["name"]] = {"authors": arguments.authors, **row}
    write_atomic(file, "".join(json.dumps(row) + "\n" for _, row in sorted(rows.items())))
    seeds = " ".join(map(str, arguments.seeds))
    text = f"""# A deletion request to SmolLM2-135M

Made by `python -m tests.reproductions.smollm2_study --authors {arguments.authors} --seeds {seeds}`. Mean answer NLL in
nats; 24 authors to forget, 96 to keep, of whom the methods get 48 and the audit 34 others, 48 never seen; gaps are
forget's NLL minus the control's, with 90% intervals over authors. Both methods pass {BUDGET} records at most, and a
rule ends them where forget is within 0.1 nats of the control, at full precision and at int4-row.

{table([row for _, row in sorted(rows.items())])}
"""
    write_atomic(RESULTS / "smollm2.md", text)
    print(text)


if __name__ == "__main__":
    main()
