"""Every page of an optimizer says what the code does."""

from __future__ import annotations

import inspect
import re

import pytest

import remanent.optim
from remanent.core.catalogue import systems

from .pages import HEADINGS, ROOT, headings, text_of

OPTIMIZERS = {
    name: entry.system for name, entry in systems().items() if entry.module.startswith(remanent.optim.__name__)
}
_ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \|", re.MULTILINE)
_SPELLED = {None: "none", True: "true", False: "false"}
WRITTEN = sorted(name for name in OPTIMIZERS if (ROOT / "docs" / "optim" / f"{name}.md").is_file())
_CLASSES = {name.lower(): value for name, value in vars(remanent.optim).items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_says_what_the_code_does(name):
    page = ROOT / "docs" / "optim" / f"{name}.md"
    text = text_of(page)
    assert headings(page)[: len(HEADINGS)] == HEADINGS
    options = inspect.signature(_CLASSES[name.replace("-", "")]).parameters.values()
    defaults = {
        option.name: option.default
        for option in options
        if option.kind is inspect.Parameter.KEYWORD_ONLY and option.default is not inspect.Parameter.empty
    }
    spelled = {
        key: _SPELLED[value]
        if value is None or isinstance(value, bool)
        else value
        if isinstance(value, str)
        else f"{value:g}"
        for key, value in defaults.items()
    }
    assert dict(_ROW.findall(text)) == spelled
    assert f"https://arxiv.org/abs/{OPTIMIZERS[name].arxiv}" in text


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_its_effect_is_tested(name):
    assert (ROOT / OPTIMIZERS[name].reproduction).is_file()
