from __future__ import annotations

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ConditionInfo, Evidence, Measurement, RecordScore
from remanent.report.view import Line, RunView
from remanent.report.words import WORDS, figure, headline, listed, problems, untested

EVIDENCE = Evidence((ConditionInfo("full", "full", ""), ConditionInfo("int4", "precision", "")), ())


def run(verdict: str, *lines: Line) -> RunView:
    return RunView("r", EVIDENCE, verdict, lines=lines)


def test_a_failure_says_what_and_where() -> None:
    view = run(
        "FAILED",
        Line("forgotten-relative", "full", "FAILED", -0.3),
        Line("forgotten-relative", "int4", "FAILED", -0.9),
        Line("kept", "int4", "PASSED", 1.0),
        Line("overlap", None, "WARNED", 2.0),
    )
    assert headline(view) == "2 of 4 lines failed: the forgotten is better known than the unseen at full and int4."
    first, second = problems(view)
    assert (first.conditions, first.worst.condition) == (("full", "int4"), "int4")
    assert (second.verdict, second.conditions) == ("WARNED", ())


def test_a_warning_of_an_open_interval_is_not_called_a_failure() -> None:
    view = run("WARNED", Line("forgotten-absolute", "int4", "WARNED", -0.2))
    assert "do not decide whether the forgotten is better known" in headline(view)


def test_the_other_verdicts() -> None:
    assert headline(run("PASSED", Line("kept", "full", "PASSED", 1.0))).startswith("Each of the 1 lines held")
    assert "could not be judged" in headline(run("NOT ASSESSABLE", Line("kept", "int4", "NOT ASSESSABLE")))
    assert "novel does not hold at full" in headline(run("FAILED", Line("novel", "full", "FAILED")))


def test_the_worst_of_an_upper_bound_is_the_largest() -> None:
    view = run("FAILED", Line("general-text", "full", "FAILED", 1.3), Line("general-text", "int4", "FAILED", 2.0))
    assert problems(view)[0].worst.value == 2.0


def test_what_was_not_tested_follows_from_the_evidence() -> None:
    score = RecordScore("r", "g", 1.0, 2, 1)
    only_forget = Evidence((EVIDENCE.conditions[0],), (Measurement(AUDITED, "full", FORGET, (score,)),))
    said = " ".join(untested(RunView("r", only_forget, "WARNED")))
    for missing in ("retrained", "control", "precision", "attack", "generated", "backups"):
        assert missing in said
    more = Evidence(
        (*EVIDENCE.conditions, ConditionInfo("a", "attack", "")),
        tuple(
            Measurement(subject, "full", name, (RecordScore("r", "g", 1.0, 2, 1, 0.5),))
            for subject in (AUDITED, "retrained")
            for name in (FORGET, CONTROL)
        ),
    )
    assert len(untested(RunView("r", more, "PASSED"))) == 2  # what no audit covers


def test_units_and_lists() -> None:
    assert (figure("general-text", 1.04), figure("kept", 0.5), figure("power", None)) == ("× 1.04", "0.50", "")
    assert (listed(()), listed(["a"]), listed(["a", "b", "c"])) == ("", "a", "a, b and c")
    assert all(words.failed and words.asks for words in WORDS.values())
