"""What can go wrong, said so that a person can mend it: the field, the value, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RemanentError(Exception):
    """Base of every error that Remanent raises on purpose."""


class InputError(RemanentError):
    """A setting is wrong. Raised before any work starts.

    Args:
        field: the name of the setting, as the user wrote or would write it.
        value: what was given.
        expected: what would be right, as the end of the sentence "expected ...".
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field}: got {_shown(value)}; expected {expected}")


class DataError(RemanentError):
    """A line of a data file is wrong.

    Args:
        file: the file's path.
        line: its line, counted from 1; 0 for the file as a whole.
        field: the field of that line; "" for the line as a whole.
        problem: what is wrong and what would be right.
    """

    def __init__(self, file: object, line: int, field: str, problem: str) -> None:
        self.file, self.line, self.field, self.problem = str(file), line, field, problem
        place = str(file) + (f", line {line}" if line else "") + (f", field '{field}'" if field else "")
        super().__init__(f"{place}: {problem}")


class IntegrityError(RemanentError):
    """A saved file is missing, cut off or not the one that was saved."""


class RunConflictError(RemanentError):
    """A run folder belongs to another configuration, or an input has changed since the run began."""


class UnsupportedError(RemanentError):
    """What was asked for cannot be done on this model, and why."""


class DivergedError(RemanentError):
    """Training produced a loss or a gradient that is not finite."""


class NotFiniteError(RemanentError):
    """A model's logits are not finite numbers, so that what it would write means nothing."""


class MissingExtraError(RemanentError):
    """A package that an optional part needs is not installed.

    Args:
        package: the package that is missing.
        extra: the extra of Remanent that brings it.
        purpose: what needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'remanent[{extra}]'")


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """The end of an error's sentence for a name that is not known: the nearest known name and the whole list."""
    options = sorted(options)
    near = difflib.get_close_matches(value, options, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"one of {', '.join(options)}{hint}"


def _shown(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
