"""Text that others wrote, made safe to show: nothing in it can move, hide or reorder what stands around it."""

from __future__ import annotations

import math
import unicodedata

LIMIT = 2000
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them
_MARKS_IN_A_ROW = 4
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: object, limit: int = LIMIT) -> str:
    """Text with every control, direction and unassigned character made visible, on one line, and cut to a limit.

    It does not escape markup: that is the work of the template or the terminal that shows it.

    Args:
        text: anything; `str` of it is shown.
        limit: characters that are kept; what was left off is counted at the end.
    """
    whole = str(text)
    shown: list[str] = []
    marks = 0
    for character in whole[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > _MARKS_IN_A_ROW:  # a stack of accents would grow over the lines above
            continue
        shown.append(_visible_character(character, category))
    left = len(whole) - limit
    return "".join(shown) + (f" … ({left:,} more characters)" if left > 0 else "")


def _visible_character(character: str, category: str) -> str:
    if category not in _HIDDEN or character in _JOINERS:
        return character
    if character in "\n\t":
        return {"\n": " ↵ ", "\t": " "}[character]
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    return f"⟨U+{ord(character):04X}⟩"


def number(value: float | None, digits: int = 2) -> str:
    """A number as tables show it: fixed digits, a real minus sign, and words for what is no number."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value != 0 and abs(value) >= 1e6:
        return f"{value:.1e}".replace("-", "−")
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(share: float | None, digits: int = 0) -> str:
    """A share in [0, 1] as a percentage."""
    return number(share, digits) if share is None or not math.isfinite(share) else f"{number(100 * share, digits)}%"


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval in square brackets; an open end is left blank; empty where there is none."""
    if low is None and high is None:
        return ""
    return f"[{'' if low is None else number(low, digits)}, {'' if high is None else number(high, digits)}]"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
