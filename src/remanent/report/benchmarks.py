"""The benchmarks' own figures by set of records: TOFU's numbers, MUSE's memorization and utility, WMDP, MMLU."""

from __future__ import annotations

from dataclasses import dataclass

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, Evidence
from remanent.auditing.lm_eval import is_wmdp
from remanent.auditing.measure_names import (
    BENCHMARK,
    KNOWLEDGE,
    PROBABILITY,
    RECALL,
    TRUE_BETTER,
    UTILITY,
    VERBATIM,
)
from remanent.core.estimate import Estimate
from remanent.report.attacker import estimate_of

LABELS = {
    PROBABILITY: "Probability of the answer",
    RECALL: "Greedy answer, ROUGE-L recall",
    TRUE_BETTER: "True answer likelier than false ones",
    UTILITY: "Model utility",
    VERBATIM: "Text continued, ROUGE-L",
    KNOWLEDGE: "Answer after examples, ROUGE-L",
    BENCHMARK: "Benchmark, share right",
}


@dataclass(frozen=True)
class BenchmarkRow:
    """One measure of one set of records at one condition.

    Args:
        condition: name of the condition.
        records: the set.
        name: of the measure.
        label: the same for people.
        ideal: what it should be.
        audited, original, retrained: the figure on each model.
    """

    condition: str
    records: str
    name: str
    label: str
    ideal: str
    audited: Estimate
    original: Estimate | None
    retrained: Estimate | None


def benchmark_rows(evidence: Evidence) -> list[BenchmarkRow]:
    """Every benchmark's measure of the audited model that has a value, set by set."""
    rows = []
    for item in evidence.measures:
        audited = estimate_of(item)
        if item.subject != AUDITED or item.name not in LABELS or audited is None:
            continue
        original, retrained = (
            estimate_of(evidence.measure(subject, item.condition, item.records, item.name))
            for subject in (ORIGINAL, RETRAINED)
        )
        ideal = _ideal(item.records, item.name, item.condition)
        rows.append(
            BenchmarkRow(
                item.condition, item.records, item.name, LABELS[item.name], ideal, audited, original, retrained
            )
        )
    order = [info.name for info in evidence.conditions]
    sets = list(dict.fromkeys(row.records for row in rows))
    names = list(LABELS)
    return sorted(rows, key=lambda row: (order.index(row.condition), sets.index(row.records), names.index(row.name)))


def _ideal(records: str, name: str, condition: str) -> str:
    if records == CONTROL:
        return "–"
    if records != FORGET:
        return "as original"
    if name == BENCHMARK:
        return "0.25" if is_wmdp(condition) else "chance"  # four choices; far below avoids the right one, and knows it
    return "as unseen"
