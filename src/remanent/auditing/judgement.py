"""What an audit is judged by, and what came of it, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from remanent.auditing.requirement import Requirement
from remanent.errors import InputError

SCHEMA = "remanent/judgement/v1"

PASSED = "PASSED"
WARNED = "WARNED"
NOT_ASSESSABLE = "NOT ASSESSABLE"
FAILED = "FAILED"
VERDICTS = (PASSED, WARNED, NOT_ASSESSABLE, FAILED)  # from best to worst


@dataclass(frozen=True, slots=True)
class Criteria:
    """Thresholds, declared before the audit; each is a key of `Evidence.settings`.

    Args:
        epsilon: how far the forgotten records' mean NLL may lie below what it is compared to, in nats; above 0.
        epsilon_over: how far it may lie above the control's before forgetting counts as overdone, in nats; above 0.
        upsilon: the share of what the original knew that must be kept, in (0, 1].
        alpha: one-sided error of each bound, in (0, 0.5).
        membership_margin: how far an attack's AUC may lie from what chance gives, in (0, 0.5).
        perplexity_factor: how many times the original's general-text perplexity is allowed; at least 1.
        intact: the share of its own full-precision knowledge that the original must have left at a precision, or what
            is kept there is not assessable; in (0, 1].
        intact_perplexity: how many times its own full-precision perplexity the original may have at a precision, or
            general text is not assessable there; at least 1.
        require: limits on measures, each as `requirement.Requirement` reads it: "model-utility@tofu>=0.5".
        bootstrap_resamples: draws of groups for each interval; at least 200.
        bootstrap_seed: seed of those draws; at least 0.

    Raises:
        InputError: where a value lies outside its range.
    """

    epsilon: float = 0.25
    epsilon_over: float = 1.0
    upsilon: float = 0.9
    alpha: float = 0.05
    membership_margin: float = 0.1
    perplexity_factor: float = 1.2
    intact: float = 0.5
    intact_perplexity: float = 10.0
    require: tuple[str, ...] = ()
    bootstrap_resamples: int = 2000
    bootstrap_seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.require, list | tuple) or not all(isinstance(item, str) for item in self.require):
            raise InputError("require", self.require, "a list of limits, such as 'model-utility>=0.5'")
        # In one spelling; JSON knows lists alone.
        object.__setattr__(self, "require", tuple(str(Requirement.parse(item)) for item in self.require))
        for entry in fields(self):
            if entry.name == "require":
                continue
            value = getattr(self, entry.name)
            whole = entry.name.startswith("bootstrap")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise InputError(entry.name, value, "a whole number" if whole else "a number")
        for name, right, expected in (
            ("epsilon", 0 < self.epsilon < math.inf, "nats above 0"),
            ("epsilon_over", 0 < self.epsilon_over < math.inf, "nats above 0"),
            ("upsilon", 0 < self.upsilon <= 1, "a share above 0 and at most 1"),
            ("alpha", 0 < self.alpha < 0.5, "an error above 0 and below 0.5"),
            ("membership_margin", 0 < self.membership_margin < 0.5, "an AUC above 0 and below 0.5"),
            ("perplexity_factor", 1 <= self.perplexity_factor < math.inf, "a factor of at least 1"),
            ("intact", 0 < self.intact <= 1, "a share above 0 and at most 1"),
            ("intact_perplexity", 1 <= self.intact_perplexity < math.inf, "a factor of at least 1"),
            ("bootstrap_resamples", self.bootstrap_resamples >= 200, "at least 200"),
            ("bootstrap_seed", self.bootstrap_seed >= 0, "a seed of at least 0"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Criteria:
        """The thresholds that an audit's settings declare; the default where they name none."""
        return cls(**{entry.name: settings[entry.name] for entry in fields(cls) if entry.name in settings})


@dataclass(frozen=True, slots=True)
class Line:
    """One test, which can fail.

    Args:
        name: of the test, for example "forgotten-relative".
        condition: at which it was made; "" for the audit as a whole.
        verdict: one of VERDICTS.
        value: what was measured; None where nothing was.
        low: its lower bound; None where there is none.
        high: its upper bound; None where there is none.
        threshold: what the value or its bound is held against.
        detectable: the smallest gap that the data could have shown, in the unit of the value.
        reason: a plain sentence with the figures.
    """

    name: str
    condition: str
    verdict: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    detectable: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict of an audit.

    Args:
        verdict: the whole: FAILED if any line is, else NOT ASSESSABLE if any is, else WARNED if any is, else PASSED.
            PASSED is an intersection of tests, so it needs no correction for their number.
        lines: the tests.
        notes: sentences a reader must know.
        criteria: the thresholds that were used.
    """

    verdict: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    criteria: Criteria = field(default_factory=Criteria)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Judgement:
        """Back from plain data. Raises KeyError or TypeError where it is not a judgement."""
        if data["schema"] != SCHEMA:
            raise TypeError(f"schema is {data['schema']!r}, not {SCHEMA!r}")
        lines = tuple(Line(**line) for line in data["lines"])
        return cls(data["verdict"], lines, tuple(data["notes"]), Criteria(**data["criteria"]))


def overall(verdicts: Iterable[str]) -> str:
    """The worst of some verdicts; NOT ASSESSABLE where there is none."""
    return max(verdicts, key=VERDICTS.index, default=NOT_ASSESSABLE)
