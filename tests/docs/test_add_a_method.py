"""The worked method of the tutorial is found by the catalogue, passes its own test, and trains."""

from __future__ import annotations

import inspect
import itertools
import sys

import pytest
import torch

import remanent.unlearning
from remanent.core.catalogue import build, methods
from remanent.core.update import Update

from .pages import ROOT, blocks

PAGE = ROOT / "docs" / "add-a-method.md"
FILES = {mark.removeprefix("file: "): code for mark, code in blocks(PAGE, "python") if mark.startswith("file: ")}


@pytest.fixture
def room(tmp_path, monkeypatch):
    """The page's method file, in the room where the catalogue looks for methods."""
    (tmp_path / "inverted_hinge.py").write_text(FILES["inverted_hinge.py"], encoding="utf-8")
    monkeypatch.setattr(remanent.unlearning, "__path__", [*remanent.unlearning.__path__, str(tmp_path)])
    yield
    sys.modules.pop("remanent.unlearning.inverted_hinge", None)
    vars(remanent.unlearning).pop("inverted_hinge", None)


def test_the_page_holds_two_files():
    assert set(FILES) == {"inverted_hinge.py", "test_inverted_hinge.py"}


def test_it_is_found(room):
    entry = methods()["inverted-hinge"]
    assert entry.system.arxiv == "2408.06621"
    assert {name: item.default for name, item in entry.hyperparameters.items()} == {
        "margin": 1.0,
        "forget_weight": 1.0,
        "retain_weight": 1.0,
    }
    assert build("inverted-hinge", {"margin": 2.0}).objective.margin == 2.0


def test_it_trains(room, tiny_llama, make_batch):
    model = tiny_llama()
    update = Update(model, build("inverted-hinge"), torch.optim.AdamW(model.parameters(), lr=1e-3), steps=3)
    forget, retain = make_batch(4, seed=1), make_batch(4, seed=2)
    losses = [update({"forget": forget, "retain": retain}) for _ in range(3)]
    assert losses[-1]["retain@full"] < losses[0]["retain@full"]


def test_its_own_test_passes(room, request):
    names: dict[str, object] = {"__name__": "test_inverted_hinge"}
    exec(compile(FILES["test_inverted_hinge.py"], "test_inverted_hinge.py", "exec"), names)
    tests = {name: function for name, function in names.items() if name.startswith("test_")}
    assert len(tests) == 4
    for function in tests.values():
        for arguments in parametrized(function):
            fixtures = [name for name in inspect.signature(function).parameters if name not in arguments]
            function(**arguments, **{name: request.getfixturevalue(name) for name in fixtures})


def parametrized(function):
    """The arguments of each case of a test, as pytest.mark.parametrize names them."""
    marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
    cases = [[{mark.args[0]: value} for value in mark.args[1]] for mark in marks]
    return [{name: value for part in case for name, value in part.items()} for case in itertools.product(*cases)]
