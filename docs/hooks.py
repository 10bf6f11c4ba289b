"""What the site needs beside the pages: navigation by pattern, and the files outside this folder that pages link to."""

from __future__ import annotations

import ast
import posixpath
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_PROJECT = ("CHANGELOG.md", "CONTRIBUTING.md")
# Where a page of the site comes from, for those that are not in docs/: page -> file of the repository.
_SOURCES = {
    **{name.lower(): name for name in _PROJECT},
    **{f"examples/{path.stem}.md": f"examples/{path.name}" for path in sorted(_ROOT.glob("examples/*.py"))},
}
_PAGES = {source: page for page, source in _SOURCES.items()}
_LINK = re.compile(r"(?<=\]\()([\w./-]+\.(?:md|py))(?=[)#])")
_MARK = re.compile(r"^<!-- (?:file: ([\w./]+)|[^\n]*) -->\n```(\w+)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made of files outside docs/, and put pages in the place of the navigation's patterns."""
    for page, source in _SOURCES.items():
        text = (_ROOT / source).read_text(encoding="utf-8")
        content = _example(source, text) if source.endswith(".py") else text
        files.append(File.generated(config, page, content=content))
    pages = sorted(file.src_uri for file in files.documentation_pages())
    named = set(_named(config.nav))
    config.nav = _expanded(config.nav, [page for page in pages if page not in named])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links as they work in the repository to pages of the site; show or drop the tests' marks of code blocks."""
    here = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(here, f"docs/{here}"))

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        found = _PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return posixpath.relpath(found, posixpath.dirname(here) or ".") if found else match[1]

    return _LINK.sub(led, _MARK.sub(_fence, markdown))


def _fence(match: re.Match[str]) -> str:
    return f'```{match[2]} title="{match[1]}"' if match[1] else f"```{match[2]}"


def _example(source: str, text: str) -> str:
    title = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return f"# {posixpath.basename(source)}\n\n{title}\n\n```python\n{text}```\n"


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in _named(item)]


def _expanded(nav: Any, others: list[str]) -> Any:
    """The navigation with each pattern replaced by the pages of `others` in its folder that match it."""
    if isinstance(nav, dict):
        return {title: _expanded(part, others) for title, part in nav.items()}
    if isinstance(nav, str):
        return nav
    found: list[Any] = []
    for item in nav:
        if isinstance(item, str) and "*" in item:
            folder = posixpath.dirname(item)
            found += [page for page in others if posixpath.dirname(page) == folder and fnmatchcase(page, item)]
        else:
            found.append(_expanded(item, others))
    return found
