"""One run, as a report sees it: what was measured, what was judged, how it was trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remanent.auditing.evidence import Evidence
from remanent.errors import InputError
from remanent.report.muse import MuseTable

PASSED, WARNED, FAILED, NOT_ASSESSABLE = "PASSED", "WARNED", "FAILED", "NOT ASSESSABLE"
MARKS = {PASSED: "✓", WARNED: "!", FAILED: "✕", NOT_ASSESSABLE: "?"}
VERDICTS = (FAILED, NOT_ASSESSABLE, WARNED, PASSED)  # as they are read: what went wrong first


@dataclass(frozen=True, slots=True)
class Line:
    """One judged line.

    Args:
        name: "forgotten-relative", "kept" and so on.
        condition: name of the condition; None where the line is about the whole audit.
        verdict: PASSED, WARNED, FAILED or NOT ASSESSABLE.
        value: the judged figure, with `low` and `high` of its interval.
        threshold: what it was held against.
        detectable: the smallest gap that the audit could have seen, in the unit of the value.
        reason: a sentence.
    """

    name: str
    condition: str | None
    verdict: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    detectable: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class RunView:
    """One run's results.

    Args:
        name: what the report calls the run, for example "durable".
        evidence: what the audit measured.
        verdict: PASSED, WARNED, FAILED or NOT ASSESSABLE.
        criteria: the thresholds: "epsilon", "upsilon", "alpha" ...
        lines: every judged line.
        notes: what the judge wants the reader to know.
        metrics: the lines of metrics.jsonl.
        information: the run's settings, and of its manifest versions, seconds, steps ...
        asked: {"question", "condition", "before", "after"}: only what the user asked to be shown.
        curve: what a run with requests writes as curve.json; {} of another run.
        requests: the lines of its requests.jsonl; () of another run.
        muse: MUSE's figures of its audits in turn; () where they hold none, and of another run.
    """

    name: str
    evidence: Evidence
    verdict: str
    criteria: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    metrics: tuple[Mapping[str, Any], ...] = ()
    information: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[Mapping[str, Any], ...] = ()
    curve: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[Mapping[str, Any], ...] = ()
    muse: tuple[MuseTable, ...] = ()

    @classmethod
    def from_data(
        cls,
        name: str,
        evidence: Mapping[str, Any],
        judgement: Mapping[str, Any],
        *,
        metrics: Iterable[Mapping[str, Any]] = (),
        information: Mapping[str, Any] | None = None,
        asked: Sequence[Mapping[str, Any]] = (),
        curve: Mapping[str, Any] | None = None,
        requests: Iterable[Mapping[str, Any]] = (),
        muse: Iterable[MuseTable] = (),
    ) -> RunView:
        """From the plain data of a run folder (see RunView).

        Args:
            evidence: audit.json.
            judgement: judgement.json: {"verdict", "lines", "notes", "criteria"}.

        Raises:
            InputError: where the evidence or the judgement is not what it should be.
        """
        try:
            measured = Evidence.from_dict(evidence)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError("evidence", error, "the plain data of an audit (audit.json)") from error
        if judgement.get("verdict") not in VERDICTS:
            raise InputError("judgement.verdict", judgement.get("verdict"), f"one of {', '.join(VERDICTS)}")
        return cls(
            name=name,
            evidence=measured,
            verdict=judgement["verdict"],
            criteria={**measured.settings, **judgement.get("criteria", {})},
            lines=tuple(_line(item) for item in judgement.get("lines", ())),
            notes=tuple(judgement.get("notes", ())),
            metrics=tuple(metrics),
            information=dict(information or {}),
            asked=tuple(asked),
            curve=dict(curve or {}),
            requests=tuple(requests),
            muse=tuple(muse),
        )


def _line(item: Mapping[str, Any]) -> Line:
    if item.get("verdict") not in VERDICTS or "name" not in item:
        raise InputError("judgement.lines", dict(item), f"a name and a verdict of {', '.join(VERDICTS)}")
    figures = {key: item.get(key) for key in ("value", "low", "high", "threshold", "detectable")}
    return Line(
        item["name"], item.get("condition") or None, item["verdict"], **figures, reason=item.get("reason") or ""
    )
