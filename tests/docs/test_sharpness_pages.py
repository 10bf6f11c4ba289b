"""A page per kind of measure says what the code does, under the headings of the optimizers' pages."""

from __future__ import annotations

import inspect
import re

import pytest

from remanent.core.catalogue import systems
from remanent.core.selection import EVERYTHING
from remanent.sharpness.active_neurons import active_neurons
from remanent.sharpness.clip_interpolation import stragglers_by_criticality, stragglers_by_reset
from remanent.sharpness.correlation import correlation, study
from remanent.sharpness.eigenvalues import eigenvalues
from remanent.sharpness.fisher_trace import fisher_trace
from remanent.sharpness.gradient_norm import gradient_norm
from remanent.sharpness.interpolation import path
from remanent.sharpness.landscape import landscape
from remanent.sharpness.layerwise import layerwise
from remanent.sharpness.modern_sharpness import Definition
from remanent.sharpness.noisy_loss import noisy_loss
from remanent.sharpness.ntk import tangent_kernel, tangent_kernel_of_losses
from remanent.sharpness.sparse_update import SparseUpdate
from remanent.sharpness.spectral_density import spectral_density
from remanent.sharpness.trace import trace
from remanent.sharpness.vit_sam import geometry

from .pages import HEADINGS, ROOT, headings, text_of

FOLDER = ROOT / "docs" / "sharpness"
MEASURES = {
    "modern-sharpness": (Definition,),
    "curvature": (eigenvalues, trace, spectral_density, fisher_trace, gradient_norm),
    "landscapes": (landscape, path),
    "clip-interpolation": (layerwise, stragglers_by_reset, stragglers_by_criticality, SparseUpdate),
    "vit-sam": (geometry, noisy_loss, active_neurons, tangent_kernel, tangent_kernel_of_losses),
    "correlation": (study, correlation),
}
_ROW = re.compile(r"^\| `(\w+\.\w+)` \| `([^`]*)` \|", re.MULTILINE)


def spelled(value):
    if value is EVERYTHING:
        return "everything"
    if isinstance(value, tuple):
        return f"{value[0]:g} to {value[-1]:g} in {len(value)}"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def defaults(measure):
    """Option -> default, without what is called as a measure goes on."""
    return {
        f"{measure.__name__}.{name}": spelled(option.default)
        for name, option in inspect.signature(measure).parameters.items()
        if option.default is not inspect.Parameter.empty and not name.startswith("on_")
    }


def test_every_page_is_held():
    assert {page.stem for page in FOLDER.glob("*.md")} == set(MEASURES)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_page_says_what_the_code_does(name):
    text = text_of(FOLDER / f"{name}.md")
    assert headings(FOLDER / f"{name}.md")[: len(HEADINGS)] == HEADINGS
    formula = text.partition("## Formula\n")[2].partition("\n## ")[0]
    assert re.search(r"^    \S.*\S", formula, re.MULTILINE), "a formula is an indented block"
    assert dict(_ROW.findall(text)) == {key: value for of in MEASURES[name] for key, value in defaults(of).items()}


@pytest.mark.parametrize(
    "name", sorted(name for name, entry in systems().items() if entry.system.family == "sharpness")
)
def test_a_published_system_names_its_paper_and_its_study(name):
    system = systems()[name].system
    assert f"https://arxiv.org/abs/{system.arxiv}" in text_of(FOLDER / f"{name}.md")
    assert (ROOT / system.reproduction).is_file()
