from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remanent.report.text import duration, interval, number, percent, visible

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
ANY_TEXT = st.text(st.characters(codec=None), max_size=300)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 日本", "plain, naïve, 日本"),
        ("a\nb\tc\r", "a ↵ b c␍"),
        ("\x1b[31mred\x07", "␛[31mred␇"),
        ("abc\u202edef", "abc⟨U+202E⟩def"),
        ("\ud800", "⟨U+D800⟩"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("e" + "\u0301" * 50, "e" + "\u0301" * 4),
        (None, "None"),
    ],
)
def test_visible(text: object, shown: str) -> None:
    assert visible(text) == shown


def test_visible_counts_what_it_leaves_off() -> None:
    assert visible("x" * 2500, 10) == "x" * 10 + " … (2,490 more characters)"


@given(ANY_TEXT)
def test_nothing_hidden_is_left(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in HIDDEN and c not in "\u200c\u200d"]
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (-0.004, "0.00"), (-1.5, "−1.50"), (float("inf"), "∞"), (float("-inf"), "−∞"), (-2.5e7, "−2.5e+07")],
)
def test_number(value: float | None, shown: str) -> None:
    assert number(value) == shown
    assert number(float("nan")) == "not a number"


def test_percent_interval_and_duration() -> None:
    assert (percent(0.5), percent(None), percent(0.0123, 1)) == ("50%", "–", "1.2%")
    assert (interval(None, None), interval(-1, None), interval(0.5, 1)) == ("", "[−1.00, ]", "[0.50, 1.00]")
    assert (duration(None), duration(59.6), duration(217), duration(7300)) == ("–", "60 s", "3 min 37 s", "2 h 01 min")
