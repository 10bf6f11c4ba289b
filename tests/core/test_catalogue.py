from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import remanent.continual
import remanent.unlearning
from remanent.core.catalogue import build, build_edit, edits, methods, systems, unlearners
from remanent.core.displacement import Here, OneOf, Rounding
from remanent.core.method import Method
from remanent.core.schedule import Ramp
from remanent.errors import InputError

FAMILY = {"durable", "durableun-saf", "grad-ascent", "grad-diff", "npo", "retrain", "simnpo"}


def test_every_file_with_a_method_or_an_edit_declares_its_system():
    found = {"method": set(), "edit": set()}
    for room in (remanent.unlearning, remanent.continual):
        for item in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            module = importlib.import_module(item.name)
            for kind, names in found.items():
                if hasattr(module, kind):
                    assert module.SYSTEM.name == item.name.rsplit(".", 1)[1].replace("_", "-")
                    names.add(module.SYSTEM.name)
    assert found["method"] >= FAMILY
    assert found["edit"] >= {"ssd"}
    assert (set(methods()), set(edits())) == (found["method"], found["edit"])
    assert set(unlearners()) == {n for n in [*methods(), *edits()] if systems()[n].system.family == "unlearning"}
    assert list(systems()) == sorted(systems())


@pytest.mark.parametrize("name", sorted([*methods(), *edits()]))
def test_a_record_is_complete(name):
    entry = systems()[name]
    system = entry.system
    assert system.title
    assert 2000 < system.year < 2100
    assert re.fullmatch(r"(\d{4}\.\d{5})?", system.arxiv)
    assert system.family == entry.module.split(".")[1]
    assert system.reproduction.startswith("tests/reproductions/test_")
    assert (Path(__file__).parents[2] / system.reproduction).is_file()
    assert set(system.views) <= {"full", "lora", "lora-nf4"}
    assert len(entry.description) > 60
    for parameter in entry.hyperparameters.values():
        assert parameter.default is not inspect.Parameter.empty
        assert f"{parameter.name}:" in (inspect.getdoc(entry.build or entry.edit) or "")
    assert isinstance(build(name), Method) if entry.build else build_edit(name).roles


def test_defaults_are_those_of_the_cards():
    """llm-unlearning-baselines, `Defaults (shared)` and the table; durableun, `Defaults`."""
    for name in ("grad-ascent", "grad-diff", "npo", "simnpo"):
        recipe = build(name).recipe
        assert (recipe.learning_rate, recipe.epochs, recipe.batch_size) == (1e-5, 10, 32)
        assert (recipe.schedule, recipe.warmup, recipe.weight_decay) == ("linear", 0.1, 0.01)
        assert build(name).places[0].displacement == Here()
    assert build("npo").objective.beta == 0.1
    assert build("npo").weights == {"forget": 1.0, "retain": 1.0}
    assert build("grad-diff").weights == {"forget": 1.0, "retain": 1.0}
    simnpo = build("simnpo")
    assert (simnpo.objective.beta, simnpo.objective.delta) == (4.5, 0.0)
    assert simnpo.weights == {"forget": 0.125, "retain": 1.0}

    saf = build("durableun-saf")
    assert (saf.recipe.learning_rate, saf.recipe.steps, saf.recipe.batch_size) == (5e-5, 300, 4)
    assert (saf.recipe.schedule, saf.recipe.warmup, saf.recipe.max_grad_norm) == ("cosine", 0.0, 1.0)
    here, rounded = saf.places
    assert (here.displacement, here.terms, here.weight) == (Here(), None, 1.0)
    assert (rounded.displacement, rounded.terms) == (Rounding("int4-row"), ("forget",))
    assert rounded.weight == Ramp(0.0, 3.0, after=1 / 3)
    assert saf.weights == {"retain": 4.0}

    here, rounded = build("durable").places
    assert here.terms is None
    assert rounded.terms is None
    assert isinstance(rounded.displacement, OneOf)
    assert list(map(str, rounded.displacement.displacements)) == ["int4-row", "int4-g32", "nf4"]
    assert build("retrain").from_base
    assert not build("npo").from_base


def test_hyperparameters_reach_the_method():
    method = build("npo", {"beta": 0.5, "forget_weight": 2, "retain_weight": 0.0})
    assert method.objective.beta == 0.5
    assert method.weights == {"forget": 2, "retain": 0.0}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("nop", {}, "did you mean 'npo'"),
        ("npo", {"bata": 1.0}, "hyperparameters of npo: got 'bata'; expected one of .*did you mean 'beta'"),
        ("grad-ascent", {"beta": 1.0}, "no hyper-parameters"),
        ("npo", {"beta": "0.1"}, r"npo\.beta: got '0\.1'; expected a value like its default, 0\.1"),
        ("npo", {"beta": True}, r"npo\.beta"),
        ("npo", {"beta": None}, r"npo\.beta"),
        ("durableun-saf", {"quantize_retain": 1}, "quantize_retain"),
        ("durableun-saf", {"rounding": 4}, "rounding"),
        ("durableun-saf", {"rounding": "int44"}, "did you mean"),
        ("durableun-saf", {"warmup": 1.0}, "warmup"),
        ("durable", {"roundings": "int4-row,int5"}, "int5"),
        ("durable", {"roundings": ","}, "format"),
        ("npo", {"beta": 0.0}, "above 0"),
        ("npo", {"beta": float("nan")}, "above 0"),
        ("simnpo", {"beta": -1.0}, "above 0"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(name, given, message):
    with pytest.raises(InputError, match=message):
        build(name, given)


def test_an_edit_is_built_as_a_method_is():
    made = build_edit("ssd", {"alpha": 5.0, "label_free": True})
    assert (made.alpha, made.strength, made.batch_size, made.label_free) == (5.0, 1.0, 64, True)
    with pytest.raises(InputError, match="did you mean 'alpha'"):
        build_edit("ssd", {"alfa": 1.0})
    with pytest.raises(InputError, match="above 0"):
        build_edit("ssd", {"alpha": 0.0})
    with pytest.raises(InputError, match="method: got 'ssd'"):
        build("ssd")
