"""A limit on any measure, declared before the audit: "model-utility>=0.5", "knowledge@muse/retain>=0.4"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from remanent.auditing.evidence import CONTROL, FORGET, RETAIN, WEIGHTS
from remanent.auditing.measure_names import (
    ANAMNESIS,
    ANAMNESIS_UNSEEN,
    BENCHMARK,
    NAMES,
    RELEARN_TIME,
    UTILITY,
    WEIGHT_DISTANCE,
)
from remanent.errors import InputError, did_you_mean

SETS = (FORGET, RETAIN, CONTROL, "real-authors", "world-facts")  # those that measures are made on
# Infinite, and without a value in the evidence, just where most is forgotten: a limit would not be met by the best.
ENDLESS = (RELEARN_TIME, ANAMNESIS, ANAMNESIS_UNSEEN)
_FORM = re.compile(r"(?P<what>.+?)\s*(?P<sign>[<>]=)\s*(?P<limit>[^<>=]+)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a measure of the audited model must reach, or may reach at most.

    Args:
        measure: its name in the evidence.
        condition: where; "" at every condition at which it was made.
        records: of which set; "" of the one that it is about: what is kept for model utility, whichever a benchmark
            asked, all weights for their distance, else what was forgotten.
        at_least: whether the limit lies below; else above.
        limit: in the unit of the measure.
    """

    measure: str
    condition: str
    records: str
    at_least: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """From MEASURE, @CONDITION and /RECORDS where named, ">=" or "<=", and a number.

        Raises:
            InputError: where it has not that form, a name is not known, or the measure may be infinite.
        """
        found = _FORM.fullmatch(text.strip())
        try:
            limit = float(found["limit"]) if found else math.nan
        except ValueError:
            limit = math.nan
        if found is None or not math.isfinite(limit):
            expected = "MEASURE[@CONDITION][/RECORDS], then >= or <= and a number, as in 'model-utility@tofu>=0.5'"
            raise InputError("require", text, expected)
        what, slash, records = found["what"].rpartition("/")
        if records not in SETS or not slash:  # a condition may be a path
            what, records = found["what"], ""
        name, at, condition = what.partition("@")
        if at and not condition:
            raise InputError("require", text, "a condition behind the '@'")
        if name not in NAMES:
            measure, slash, other = name.partition("/")
            if slash and measure in NAMES:
                raise InputError("require", text, f"behind the '/' a set of records, {did_you_mean(other, SETS)}")
            raise InputError("require", text, f"a measure, {did_you_mean(name, NAMES)}")
        if name in ENDLESS:
            expected = "another measure: what is not regained within the updates asked has no number to judge"
            raise InputError("require", text, expected)
        return cls(name, without_place(condition), records, found["sign"] == ">=", limit)

    def __str__(self) -> str:
        at = f"@{self.condition}" if self.condition else ""
        return f"{self.measure}{at}{'/' if self.records else ''}{self.records}{self.sign}{self.limit_text}"

    @property
    def line(self) -> str:
        """The name of its lines, without the condition, which a line has anyhow."""
        return f"{self.measure}{'/' if self.records else ''}{self.records}{self.sign}{self.limit_text}"

    @property
    def limit_text(self) -> str:
        """The limit as the shortest text that reads back as the same number, whole ones without ".0"."""
        return repr(self.limit).removesuffix(".0")

    @property
    def sign(self) -> str:
        """ ">=" or "<="."""
        return ">=" if self.at_least else "<="

    def is_about(self, records: str) -> bool:
        """Whether it is about the measure on that set."""
        if self.records:
            return records == self.records
        about = {UTILITY: (RETAIN,), BENCHMARK: (FORGET, RETAIN), WEIGHT_DISTANCE: (WEIGHTS,)}
        return records in about.get(self.measure, (FORGET,))


def without_place(condition: str) -> str:
    """The name of a condition that names a file or a folder, without where that lies: a path may tell whose it is."""
    kind, colon, rest = condition.partition(":")
    path, plus, point = rest.partition("+")
    return f"{kind}{colon}{PurePath(path).name}{plus}{point}"


def check_conditions(required: Iterable[str], conditions: Iterable[str]) -> None:
    """Raises InputError where a requirement names a condition that is not among those of the audit."""
    names = list(conditions)
    for text in required:
        condition = Requirement.parse(text).condition
        if condition and condition not in names:
            raise InputError("require", text, f"a condition of the audit, {did_you_mean(condition, names)}")
