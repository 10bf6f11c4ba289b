"""The pages of the documentation, and what the tests read from them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "docs" / "methods"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
_BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Those with which a page of a method, of an optimizer, or of a kind of measure begins.
HEADINGS = [
    "Formula",
    "Where it comes from",
    "Cost",
    "When not to use it",
    "Defaults",
    "What differs from the paper",
]
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_of(page):
    return page.read_text(encoding="utf-8")


def headings(page):
    """The titles of a page's sections, in order."""
    return re.findall(r"^## (.+)$", text_of(page), re.MULTILINE)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """The code blocks of a language: (mark in the comment above or "", code)."""
    return [(mark, code) for mark, kind, code in _BLOCK.findall(text_of(page)) if kind == language]


def prose(page):
    """The page without its code blocks."""
    return _BLOCK.sub("", text_of(page))


def anchors(page):
    """The anchors that a page's headings give, as GitHub makes them."""
    titles = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in _HEADING.findall(prose(page))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tutorial_files():
    """The files that the tutorial has its reader write: path -> text."""
    found = blocks(ROOT / "docs" / "add-a-method.md", "python")
    return {mark.removeprefix("file: "): code for mark, code in found if mark.startswith("file: ")}


def with_the_tutorials_method(folder):
    """A copy of the repository to which nothing is added but the files of the tutorial."""
    for name in ("src", "tests", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "mkdocs.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for path, text in tutorial_files().items():
        (folder / path).write_text(text, encoding="utf-8")
    return folder
