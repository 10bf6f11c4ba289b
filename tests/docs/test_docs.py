"""What the pages say holds: links lead somewhere, snippets run, command lines parse, defaults are the code's."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
from importlib import import_module

import pytest
import typer

from remanent.auditing.condition import parse_conditions
from remanent.auditing.judgement import Criteria
from remanent.cli.main import COMMANDS
from remanent.core.catalogue import build, edits, methods, unlearners
from remanent.core.method import Recipe
from remanent.data.jsonl import write_records
from remanent.data.rows import RowReader
from remanent.jobs.hyperparameters import typed

from .pages import HEADINGS, METHODS, PAGES, ROOT, anchors, blocks, headings, name_of, prose, text_of

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \|", re.MULTILINE)
_TESTED = [page for page in PAGES if any(mark == "test" for mark, _ in blocks(page, "python"))]


def command_lines():
    """Every line of a shell block: (page, words)."""
    for page in PAGES:
        for _, code in blocks(page, "bash"):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield name_of(page), words


COMMAND_LINES = list(command_lines())


def parsed(words):
    """The values that the real command line parser gives a command, which is not run."""
    module, _ = COMMANDS[words[1]]
    command = typer.main.get_command(import_module(f"remanent.cli.{module}").app)
    return command.make_context(words[1], words[2:]).params


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(prose(page)):
        if re.match(r"\w+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_linked():
    linked = set(PAGES[:3])
    for page in PAGES:
        links = [link.partition("#")[0] for link in _LINK.findall(prose(page)) if "://" not in link]
        linked |= {(page.parent / link).resolve() for link in links if link}
    assert not [name_of(page) for page in PAGES if page not in linked]


@pytest.mark.parametrize("page", _TESTED, ids=name_of)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REMANENT_SECRET", str(tmp_path / "secret"))
    names = {"__name__": "page"}
    for mark, code in blocks(page, "python"):
        if mark == "test":
            exec(compile(code, name_of(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_snippets_import_what_there_is(page):
    """Of snippets that need files or a model of the reader's own, at least the imports are right."""
    for mark, code in blocks(page, "python"):
        tree = ast.parse(code)
        if mark.startswith("file:"):
            continue  # tests/docs/test_add_a_method.py runs them
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), name_of(page), "exec"), {})


def test_snippets_that_start_processes_may_be_imported_by_them():
    started = [code for page in PAGES for _, code in blocks(page, "python") if "processes=" in code]
    assert started
    assert all('if __name__ == "__main__":' in code for code in started)


@pytest.mark.parametrize(
    ("page", "words"), COMMAND_LINES, ids=lambda value: value if isinstance(value, str) else value[1]
)
def test_command_lines_parse(page, words):
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert set(words[1:]) <= targets
        return
    assert words[0] == "remanent", "a shell block holds make and remanent only"
    values = parsed(words)
    if values.get("at"):
        parse_conditions(values["at"])
    named = values.get("method") or []
    for name in named if isinstance(named, list) else [named]:  # a sweep takes several, with values of its own form
        assert name in (methods() if words[1] == "teach" else unlearners())
        if not isinstance(named, list):
            typed(name, values["hyperparameters"])


def test_the_parser_is_the_real_one():
    with pytest.raises(Exception, match="No such option"):
        parsed(["remanent", "audit", "--model", "m", "--no-such-option", "1"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_in_prose_exist(page):
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        words = span.split()
        if words[0] == "remanent" and len(words) > 1 and words[1].islower() and words[1].isalpha():
            assert words[1] in COMMANDS, span
        if words[0].startswith("--"):
            assert words[0].split("=")[0] in _options(), span


def _options():
    found = {"--debug", "--version"}
    for module, _ in COMMANDS.values():
        command = typer.main.get_command(import_module(f"remanent.cli.{module}").app)
        found |= {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)}
    return found


WRITTEN = sorted(page.stem for page in METHODS.glob("*.md"))  # the site makes the others: tests/docs/test_site.py


def test_every_page_belongs_to_a_method_and_is_in_the_overview():
    assert set(WRITTEN) <= {*methods(), *edits()}
    overview = text_of(ROOT / "docs" / "methods.md")
    assert all(f"methods/{name}.md" in overview for name in WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_method_page_says_what_the_code_does(name):
    page = METHODS / f"{name}.md"
    assert headings(page)[: len(HEADINGS)] == HEADINGS
    defaults = text_of(page).split("## Defaults")[1].split("\n## ")[0]
    own, _, training = defaults.partition("| Training |")
    entry = {**methods(), **edits()}[name]
    assert dict(_ROW.findall(own)) == {key: _spelled(item.default) for key, item in entry.hyperparameters.items()}
    recipe = build(name).recipe if entry.build else None  # an edit trains nothing
    left_out = "epochs" if recipe and recipe.steps is not None else "steps"
    fields = [field.name for field in dataclasses.fields(Recipe) if field.name != left_out] if recipe else []
    assert dict(_ROW.findall(training)) == {field: _spelled(getattr(recipe, field)) for field in fields}
    arxiv = entry.system.arxiv
    assert not arxiv or f"https://arxiv.org/abs/{arxiv}" in text_of(page)


def _spelled(value):
    """As the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return (value or '""') if isinstance(value, str) else f"{value:.6g}"


def test_the_certificate_page_has_the_thresholds_and_lines_of_the_code():
    text = text_of(ROOT / "docs" / "certificate.md")
    found = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+)(?: nats)? \| `--", text, re.MULTILINE))
    criteria = Criteria()
    assert set(found) == {"epsilon", "epsilon_over", "upsilon", "alpha", "membership_margin", "perplexity_factor"}
    assert {name: float(value) for name, value in found.items()} == {name: getattr(criteria, name) for name in found}
    from remanent.report.words import WORDS

    named = set(
        re.findall(
            r"^\| `([\w.-]+)` \| (?:whole audit|audits in|random attacks|every condition|full and )", text, re.MULTILINE
        )
    )
    assert named == {name for name in WORDS if not name.endswith("-paraphrased")} | {"...-paraphrased"}


def test_the_data_page_has_the_shares_of_the_code():
    from remanent.data.general_text import PASSAGES
    from remanent.data.splits import CONTROL_SHARES, RETAIN_SHARES

    text = text_of(ROOT / "docs" / "data.md")
    shares = {"retain": RETAIN_SHARES, "control": {"train": 0, **CONTROL_SHARES}}
    for role, parts in shares.items():
        row = [f"{share:.0%}" if share else "0" for share in parts.values()]
        assert f"| {role} | {' | '.join(row)} |" in text
    assert f"{len(PASSAGES)} short passages" in text


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")], ids=name_of)
def test_records_in_the_pages_are_records(page, tmp_path):
    reader = RowReader(name_of(page), "forget")
    lines = [json.loads(line) for _, code in blocks(page, "json") for line in code.splitlines()]
    rows = [row for row in lines if "step" not in row]
    records = [reader.read(row, number) for number, row in enumerate(rows, start=1)]
    if records:
        write_records(tmp_path / "records.jsonl", records)


def test_no_page_names_a_path_of_somebodys_machine():
    for page in PAGES:
        assert not re.search(r"/(work|tmp|root|home|Users)/", text_of(page)), name_of(page)
