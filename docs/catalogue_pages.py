"""Pages and rows made from the catalogue: a page for each system that has none written by hand, its row, the tree."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any

from griffe import Docstring, DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from remanent.core.catalogue import Entry, build, systems, unlearners
from remanent.core.method import Method, Recipe
from remanent.core.passes import learning_passes
from remanent.jobs.systems import taxonomy

# The folder of a room's pages, where it is not of the room's name.
_FOLDERS = {"unlearning": "methods", "continual": "methods", "auditing": "audits"}
_TREE = "<!-- the tree: docs/catalogue_pages.py writes it from the records -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each system that has none."""
    for name, entry in systems().items():
        room = entry.module.split(".")[1]
        path = f"{_FOLDERS.get(room, room)}/{name}.md"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, content=_page(entry)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Add the methods to their table that are not in it; put the tree in its place."""
    if page.file.src_uri == "methods.md":
        before, last, after = markdown.rpartition("\n| [")
        row, end, rest = after.partition("\n")
        missing = [_row(entry) for name, entry in unlearners().items() if f"\n| [{name}](" not in markdown]
        return before + last + "\n".join([row, *missing]) + end + rest
    return markdown.replace(_TREE, _tree()) if page.file.src_uri == "taxonomy.md" else markdown


def _page(entry: Entry) -> str:
    system = entry.system
    what, _, formula = entry.description.partition("\n\n")
    ours = "Not on arXiv" if system.card else "Ours"
    paper = f"[arXiv {system.arxiv}](https://arxiv.org/abs/{system.arxiv})" if system.arxiv else ours
    needs = ", ".join(system.needs) or "nothing besides a model"
    parts = [
        f"# {system.name}",
        what,
        f"This page is made from the file itself, `src/{entry.module.replace('.', '/')}.py`.",
        "## Formula",
        formula or what,
        "## Where it comes from",
        f"{system.title}. {paper}, {system.year}. `{system.reproduction}` tests its effect.",
        "## What it needs",
        f"Needs: {needs}. Runs on: {', '.join(system.views)}.",
    ]
    if entry.build:
        method = build(system.name)
        parts += [f"Batch passes per update: {_passes(method)}, at: {_points(method)}."]
    if entry.build or entry.edit:
        parts += ["## Defaults", _hyperparameters(entry) if entry.hyperparameters else "It has no hyper-parameters."]
    if entry.build:
        parts += [_recipe(method.recipe)]
    parts += ["## What differs from the paper", system.notes or "Its record notes nothing."]
    parts += ["## In Python", *_reference(entry.module)]
    return "\n\n".join(parts) + "\n"


def _reference(module: str) -> list[str]:
    """What mkdocstrings makes of each public class and function of a file; the file's own text stands above already."""
    named = [
        name
        for name, item in vars(import_module(module)).items()
        if getattr(item, "__module__", None) == module and not name.startswith("_")
    ]
    options = "    options:\n      heading_level: 3\n      show_root_heading: true"
    return [f"::: {module}.{name}\n{options}" for name in named]


def _hyperparameters(entry: Entry) -> str:
    sections = Docstring(inspect.getdoc(entry.build or entry.edit) or "").parse("google", warnings=False)
    meant = {
        item.name: " ".join(item.description.split())
        for section in sections
        if section.kind is DocstringSectionKind.parameters
        for item in section.value
    }
    rows = [
        f"| `{name}` | `{_spelled(item.default)}` | {meant.get(name, '')} |"
        for name, item in entry.hyperparameters.items()
    ]
    return "\n".join(["| Hyper-parameter | Default | Meaning |", "| --- | --- | --- |", *rows])


def _recipe(recipe: Recipe) -> str:
    unused = "epochs" if recipe.steps is not None else "steps"
    values = {name: value for name, value in dataclasses.asdict(recipe).items() if name != unused}
    rows = [f"| `{name}` | `{_spelled(value)}` |" for name, value in values.items()]
    return "\n".join(["| Training | Default |", "| --- | --- |", *rows])


def _spelled(value: Any) -> str:
    """As the command line takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:.6g}"


def _row(entry: Entry) -> str:
    """A row of the table of methods. No record says of what kind the forget loss is: the title stands there."""
    name, title = entry.system.name, entry.system.title
    if not entry.build:
        return f"| [{name}](methods/{name}.md) | an edit: {title} | its own | full | its own |"
    method = build(name)
    retain = "yes" if "retain" in method.roles else "none"
    return f"| [{name}](methods/{name}.md) | {title} | {retain} | {_points(method)} | {_passes(method)} |"


def _points(method: Method) -> str:
    return ", ".join(dict.fromkeys(str(place.displacement) for place in method.places))


def _passes(method: Method) -> str:
    """The mean over a run, since a point's weight may change."""
    steps = method.recipe.steps or 300
    return f"{sum(learning_passes(method, steps).values()) / steps:.3g}"


def _tree() -> str:
    parts = []
    for item in taxonomy():
        parts += [f"## {item['title']}\n", f"Removes {item['removes']}.\n"]
        parts += ["| Leaf | What its methods do | Methods here |", "| --- | --- | --- |"]
        for leaf in item["leaves"]:
            listed = ", ".join(f"[{name}](methods/{name}.md)" for name in leaf["methods"]) or "none"
            parts.append(f"| {leaf['leaf']} | {leaf['text']} | {listed} |")
        parts.append("")
    return "\n".join(parts)
