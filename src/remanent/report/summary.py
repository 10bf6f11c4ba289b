"""From evidence and judgement to the small tables that the terminal, the plots and the page all show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    RETRAINED,
    TEXT,
    ConditionInfo,
    Evidence,
    Measurement,
)
from remanent.core.estimate import Estimate
from remanent.report.estimate import Estimator
from remanent.report.view import VERDICTS, Line, RunView

QUESTION_SETS = (FORGET, PARAPHRASED, RETAIN, CONTROL)
GAP_LINE, KEPT_LINE = "forgotten-relative", "kept"


@dataclass(frozen=True, slots=True)
class SetSummary:
    """One set of records on one model at one condition.

    Args:
        records: how many were scored, in `groups` groups.
        nll: mean answer NLL per record, in nats, with its interval over groups.
        token_accuracy: share of scored tokens that were the most likely one, teacher forced.
        whole: share of records with every token right.
        rouge_l: mean ROUGE-L F1 of the greedy answers; None where nothing was generated.
        perplexity: exp of the mean NLL per token.
    """

    records: int
    groups: int
    nll: Estimate
    token_accuracy: float
    whole: float
    rouge_l: float | None
    perplexity: float


@dataclass(frozen=True)
class ConditionSummary:
    """One condition: the audited model, the model before, and what follows from both.

    Args:
        name, kind, description: of the condition.
        seeds: over how many seeds it was repeated; the figures are those of the seed with the smallest gap.
        audited, original, retrained: set name -> its summary.
        gap: NLL of forget minus NLL of control, in nats: below 0, the forgotten is better known than the unseen.
        retention: (NLL_control - NLL_retain) over the same of the original model: 1 keeps every fact, 0 none.
        recovery: (NLL_full - NLL_p) / (NLL_full - NLL_original_p) on forget, held to [0, 1]: 0 where nothing came back
            against full precision, 1 where all did; None at full precision and where nothing had been forgotten there.
        verdict: the worst verdict of the lines of this condition; None where no line judges it.
    """

    name: str
    kind: str
    description: str
    seeds: int
    audited: Mapping[str, SetSummary]
    original: Mapping[str, SetSummary]
    retrained: Mapping[str, SetSummary]
    gap: Estimate | None
    retention: Estimate | None
    recovery: float | None
    verdict: str | None


@dataclass(frozen=True, slots=True)
class Example:
    """One forgotten record, by its keyed hash: its NLL before, after, and where it is best known after.

    Args:
        hits, tokens: tokens right of tokens scored, at `worst`, the condition at which its NLL is lowest.
    """

    record: str
    before: float | None
    after: float
    worst: str
    worst_nll: float
    hits: int
    tokens: int


@dataclass(frozen=True)
class RunSummary:
    """One run in small tables. `lines` are ordered as they are read: what failed first."""

    name: str
    verdict: str
    lines: tuple[Line, ...]
    conditions: tuple[ConditionSummary, ...]
    examples: tuple[Example, ...]

    def condition(self, name: str) -> ConditionSummary | None:
        """The condition of that name, or None."""
        return next((item for item in self.conditions if item.name == name), None)

    @property
    def smallest_gap(self) -> ConditionSummary | None:
        """The condition at which the forgotten is best known against the unseen."""
        return min(
            (c for c in self.conditions if c.gap), key=lambda c: c.gap.value if c.gap else math.inf, default=None
        )

    @property
    def smallest_retention(self) -> ConditionSummary | None:
        """The condition at which the least is kept, attacks aside: what an attacker ruins the owner did not."""
        kept = (c for c in self.conditions if c.retention and c.kind in ("full", "precision"))
        return min(kept, key=lambda c: c.retention.value if c.retention else math.inf, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; what is no finite number is None."""
        return {key: _finite(value) for key, value in asdict(self).items()}


def summarize(run: RunView, generator: np.random.Generator | None = None) -> RunSummary:
    """The small tables of one run. The judged figures are shown as judged; the rest is computed from the scores.

    Args:
        generator: draws the bootstrap; default: a fresh one of seed 0, so that a page is the same each time it is made.
    """
    evidence = run.evidence
    estimator = Estimator(generator or np.random.default_rng(0), float(run.criteria.get("alpha", 0.05)))
    full = next((item.name for item in evidence.conditions if item.kind == "full"), None)
    conditions = tuple(_condition(evidence, info, full, run.lines, estimator) for info in evidence.conditions)
    lines = tuple(sorted(run.lines, key=lambda line: VERDICTS.index(line.verdict)))
    return RunSummary(run.name, run.verdict, lines, conditions, _examples(evidence, full))


def worst_verdict(verdicts: Sequence[str]) -> str | None:
    """The one that is read first: FAILED, NOT ASSESSABLE, WARNED, PASSED; None where there is none."""
    return min(verdicts, key=VERDICTS.index, default=None)


def recovery_of(full: float, here: float, original_here: float) -> float | None:
    """What came back of the forgotten at a condition, against full precision, held to [0, 1] (see ConditionSummary)."""
    forgotten = full - original_here
    return min(1.0, max(0.0, (full - here) / forgotten)) if forgotten > 0 and math.isfinite(here) else None


def _condition(
    evidence: Evidence, info: ConditionInfo, full: str | None, lines: Sequence[Line], estimator: Estimator
) -> ConditionSummary:
    name = info.name
    seeds = evidence.seeds(name)
    seed = min(seeds, key=lambda s: _raw_gap(evidence, name, s), default=None)
    found = {
        subject: _measured(evidence, subject, name, _nearest_seed(evidence, subject, name, seed))
        for subject in (AUDITED, ORIGINAL, RETRAINED)
    }
    sets = {
        subject: {records: _set(item, estimator) for records, item in measured.items()}
        for subject, measured in found.items()
    }
    return ConditionSummary(
        name=name,
        kind=info.kind,
        description=info.description,
        seeds=len(seeds),
        audited=sets[AUDITED],
        original=sets[ORIGINAL],
        retrained=sets[RETRAINED],
        gap=_judged(lines, GAP_LINE, name) or _gap(found[AUDITED], estimator),
        retention=_judged(lines, KEPT_LINE, name) or _retention(found[AUDITED], found[ORIGINAL], estimator),
        recovery=_recovery(evidence, full, name, found[AUDITED], found[ORIGINAL]),
        verdict=worst_verdict([line.verdict for line in lines if line.condition == name]),
    )


def _raw_gap(evidence: Evidence, condition: str, seed: int | None) -> float:
    forget, control = (evidence.find(AUDITED, condition, name, seed) for name in (FORGET, CONTROL))
    if forget is None or not forget.scores:
        return math.inf
    return forget.mean_nll - (control.mean_nll if control and control.scores else 0.0)


def _nearest_seed(evidence: Evidence, subject: str, condition: str, seed: int | None) -> int | None:
    """The same seed where that model was measured with it, else the first that it was measured with."""
    made = [item.seed for item in evidence.measurements if (item.subject, item.condition) == (subject, condition)]
    return seed if seed in made or not made else made[0]


def _measured(evidence: Evidence, subject: str, condition: str, seed: int | None) -> dict[str, Measurement]:
    found = {name: evidence.find(subject, condition, name, seed) for name in (*QUESTION_SETS, TEXT)}
    return {name: item for name, item in found.items() if item is not None and item.scores}


def _set(measurement: Measurement, estimator: Estimator) -> SetSummary:
    scores = measurement.scores
    tokens = sum(score.tokens for score in scores)
    rouge = [score.rouge_l for score in scores if score.rouge_l is not None]
    per_token = sum(score.nll * score.tokens for score in scores) / tokens if tokens else math.nan
    return SetSummary(
        records=len(scores),
        groups=len({score.group for score in scores}),
        nll=estimator.mean(scores),
        token_accuracy=sum(score.hits for score in scores) / tokens if tokens else math.nan,
        whole=sum(score.whole for score in scores) / len(scores),
        rouge_l=sum(rouge) / len(rouge) if rouge else None,
        perplexity=math.exp(per_token) if per_token < 700 else math.inf,  # exp overflows above
    )


def _judged(lines: Sequence[Line], name: str, condition: str) -> Estimate | None:
    for line in lines:
        if (line.name, line.condition) == (name, condition) and line.value is not None:
            return Estimate(line.value, line.low, line.high)
    return None


def _gap(audited: Mapping[str, Measurement], estimator: Estimator) -> Estimate | None:
    if FORGET not in audited or CONTROL not in audited:
        return None
    return estimator.difference(audited[FORGET].scores, audited[CONTROL].scores)


def _retention(
    audited: Mapping[str, Measurement], original: Mapping[str, Measurement], estimator: Estimator
) -> Estimate | None:
    if not all(name in sets for sets in (audited, original) for name in (RETAIN, CONTROL)):
        return None
    return estimator.retention(*(sets[name].scores for name in (RETAIN, CONTROL) for sets in (audited, original)))


def _recovery(
    evidence: Evidence,
    full: str | None,
    condition: str,
    audited: Mapping[str, Measurement],
    original: Mapping[str, Measurement],
) -> float | None:
    at_full = evidence.find(AUDITED, full, FORGET) if full else None
    if condition == full or at_full is None or not all(FORGET in sets for sets in (audited, original)):
        return None
    here, before = ({score.record: score.nll for score in sets[FORGET].scores} for sets in (audited, original))
    # An attack scores only the records that it did not use: both sides are those.
    shared = [score for score in at_full.scores if score.record in here and score.record in before]
    if not shared:
        return None
    pairs = [(score.nll, here[score.record], before[score.record]) for score in shared]
    return recovery_of(*(sum(column) / len(pairs) for column in zip(*pairs, strict=True)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _examples(evidence: Evidence, full: str | None, limit: int = 12) -> tuple[Example, ...]:
    """The forgotten records that the audited model still knows best anywhere, best known first."""
    measured = [m for m in evidence.measurements if m.subject == AUDITED and m.records == FORGET]
    before = evidence.find(ORIGINAL, full, FORGET) if full else None
    after = evidence.find(AUDITED, full, FORGET) if full else None
    if after is None:
        return ()
    known_before = {score.record: score.nll for score in before.scores} if before else {}
    found = []
    for score in after.scores:
        everywhere = [(other, m.condition) for m in measured for other in m.scores if other.record == score.record]
        if not all(math.isfinite(other.nll) for other, _ in everywhere):
            continue
        worst, condition = min(everywhere, key=lambda pair: pair[0].nll)
        found.append(
            Example(
                score.record,
                known_before.get(score.record),
                score.nll,
                condition,
                worst.nll,
                worst.hits,
                worst.tokens,
            )
        )
    return tuple(sorted(found, key=lambda example: example.worst_nll)[:limit])
