from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    ORIGINAL,
    RETAIN,
    ConditionInfo,
    Evidence,
    Measurement,
    RecordScore,
)
from remanent.auditing.judge import judge
from remanent.errors import InputError
from remanent.report.html import render
from remanent.report.view import Line, RunView

VOID = {"meta", "link", "br"}
DRAWN = {"svg", "g", "path", "text", "tspan", "defs", "clippath", "rect", "use", "title", "desc"}
HOSTILE = st.one_of(
    st.text(st.characters(codec=None), min_size=1, max_size=80),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</style></title></svg><img src=x onerror=alert(1)>",
            "{{ 7 * 7 }}{% raw %}",
            '" onmouseover="alert(1)" x="',
            "'><iframe src=//evil.example>",
            "]]><!-- --><![CDATA[",
            "\u202e\u2066evil\u2069",
            "&lt;b&gt;&#x3c;script",
            "\x00\x1b[2J\x07\x7f",
            "x" * 100_000,
            "a" + "\u0335" * 500,
            "$\\frac{1}{$",
        ]
    ),
)


class Skeleton(HTMLParser):
    """Tags with the names of their attributes, in order, and what plots are drawn with; nesting must be right."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.drawn: set[str] = set()
        self.names: set[str] = set()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}
        self.attributes += attrs
        if "svg" in self.open:
            self.drawn.add(tag)
        else:
            self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def small(text: str) -> RunView:
    """A run in which every text that comes from outside is the given one."""
    infos = (ConditionInfo(text, "full", text), ConditionInfo("int4-row", "precision", text))
    measured = tuple(
        Measurement(subject, info.name, name, tuple(RecordScore(f"{name}{n}", f"g{n}", 1 + n, 4, 2) for n in range(3)))
        for subject in (AUDITED, ORIGINAL)
        for info in infos
        for name in ("forget", RETAIN, CONTROL)
    )  # fmt: skip
    evidence = Evidence(
        infos,
        measured,
        settings={"note": text, "nested": {"list": [text]}},
        subjects={AUDITED: {text: text}},
        notes=(text,),
        movement={text: {"mean_steps": 0.1}},
    )
    return RunView(
        text,
        evidence,
        "FAILED",
        lines=(Line("kept", text, "FAILED", 0.1, reason=text), Line("overlap", None, "WARNED", reason=text)),
        notes=(text,),
        information={"method": text, "model": text, "seed": 0, "versions": {"torch": text}},
        asked=({"question": text, "condition": text, "before": text, "after": text},),
    )


@pytest.fixture(scope="module")
def benign() -> Skeleton:
    return Skeleton(render([small("benign")], "benign"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE)
def test_no_text_changes_the_page(benign: Skeleton, text: str) -> None:
    page = render([small(text)], text)
    page.encode("utf-8")
    found = Skeleton(page)
    assert found.tags == benign.tags
    assert found.drawn <= DRAWN  # how many glyphs a name takes may differ
    assert found.names == benign.names
    assert len(page) < 600_000
    assert not set(page) & set("\u202e\u2066\u2069\x00\x1b\x07\x7f")


def test_the_page_holds_everything_it_needs(two_runs: str) -> None:
    page = two_runs
    found = Skeleton(page)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img", "iframe", "object", "embed", "form", "base"})
    for name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value is not None
            assert value.startswith(("#", "data:,"))
    assert "://" not in page
    assert "@import" not in page
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = {part for name, value in found.attributes if name == "aria-labelledby" for part in str(value).split()}
    assert named <= set(ids)


def test_the_verdict_comes_first_and_the_figures_are_there(plain: RunView) -> None:
    page = render([plain], "One run")
    words = " ".join(" ".join(Skeleton(page).text).split())
    assert words.index("FAILED") < words.index("What was judged") < words.index("By condition")
    for expected in ("−0.78", "85%", "0.82", "Not tested", "remanent verify", "Seed 0", "Took 3 min 37 s"):
        assert expected in words
    assert plain.evidence.subjects[AUDITED]["model.safetensors"] in words


def test_a_limit_is_drawn_where_every_run_was_held_to_it(plain: RunView, durable: RunView, two_runs: str) -> None:
    asked = f"asked for: {plain.criteria['upsilon']:.2f}"
    assert asked in two_runs
    stricter = replace(durable, criteria={**durable.criteria, "upsilon": 0.95, "epsilon": 0.1})
    page = render([plain, stricter], "Two runs")
    assert "asked for:" not in page
    assert "limits: both hold" not in page


def test_the_same_runs_make_the_same_page(plain: RunView, durable: RunView, two_runs: str) -> None:
    assert render([plain, durable], "Two runs") == two_runs


def test_an_audit_of_what_is_kept_alone(plain: RunView) -> None:
    kept = tuple(item for item in plain.evidence.measurements if item.records in (RETAIN, CONTROL))
    evidence = replace(plain.evidence, measurements=kept)
    verdict = judge(evidence).to_dict()
    page = render([RunView.from_data("kept", evidence.to_dict(), verdict)], "What survives")
    words = " ".join(Skeleton(page).text)
    assert "Came back" not in words
    assert "Gap to control" not in words
    assert "Retention" in words


def test_a_run_without_anything_says_so() -> None:
    page = render([RunView("empty", Evidence((), ()), "NOT ASSESSABLE")], "Nothing")
    assert "NOT ASSESSABLE" in page


@pytest.mark.parametrize("count", [0, 2])
def test_runs_have_names_of_their_own(plain: RunView, count: int) -> None:
    with pytest.raises(InputError, match="runs"):
        render([plain] * count, "t")


def test_the_curve_of_requests_has_a_part_of_its_own(plain: RunView) -> None:
    curve = {
        "requests": 4,
        "by": "retrained",
        "before": {"forget": {"score": 90.0}},
        "after": {"forget": {"score": 30.0}},
        "rows": [
            {"requests": 2, "forget": {"score": 61.5, "rouge_l": 0.5}, "forget_line": 60.0, "forget_degree": 0.975},
            {"requests": 4, "forget": {"score": 12.25, "rouge_l": 0.1}},
        ],
    }
    page = render([replace(plain, curve=curve)], "Queue")
    assert "run-1-requests" in page
    assert "a retrained model" in page
    assert "61.50" in page
    assert "0.97" in page
    assert "12.25" in page
    assert "ROUGE-L" in page
    assert "requests obeyed" not in render([plain], "Plain")
