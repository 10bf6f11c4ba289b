from __future__ import annotations

import pytest

from remanent.core.catalogue import build, build_edit, unlearners
from remanent.errors import InputError
from remanent.jobs.hyperparameters import typed


@pytest.mark.parametrize(
    ("method", "pair", "value"),
    [
        ("npo", "beta=1", 1.0),
        ("npo", "beta=1e-2", 0.01),
        ("durable", "roundings=int8", "int8"),
        ("durableun-saf", "quantize_retain=TRUE", True),
        ("durable", "roundings=int4-row,nf4", "int4-row,nf4"),
    ],
)
def test_a_value_has_the_type_of_its_default(method, pair, value):
    (found,) = typed(method, [pair]).values()
    assert (found, type(found)) == (value, type(value))


def test_the_last_of_two_counts():
    assert typed("npo", ["beta=1", "beta=2"]) == {"beta": 2.0}


def test_those_of_the_method_that_one_is_put_round_are_its_own_whichever_comes_first():
    assert typed("gu", ["host.skip=2", "objective=ce-u"]) == {"host.skip": 2, "objective": "ce-u"}
    assert typed("gu", ["host.beta=2"]) == {"host.beta": 2.0}  # of SimNPO, its default
    with pytest.raises(InputError, match=r"host\.skip"):
        typed("gu", ["host.skip=2"])
    with pytest.raises(InputError, match="a whole number"):
        typed("gu", ["objective=ce-u", "host.skip=2.5"])


@pytest.mark.parametrize("name", unlearners())
def test_every_default_read_back_builds_the_method(name):
    pairs = [f"{key}={parameter.default}" for key, parameter in unlearners()[name].hyperparameters.items()]
    found = typed(name, pairs)
    assert found == {key: parameter.default for key, parameter in unlearners()[name].hyperparameters.items()}
    (build if unlearners()[name].build else build_edit)(name, found)


@pytest.mark.parametrize(
    ("method", "pair", "says"),
    [
        ("npoo", "beta=1", "did you mean 'npo'"),
        ("npo", "btea=1", "did you mean 'beta'"),
        ("npo", "beta", "name=value"),
        ("npo", "beta=high", "a number, as its default 0.1 is"),
        ("grad-ascent", "beta=1", "no hyper-parameters"),
        ("durableun-saf", "quantize_retain=1", "true or false"),
    ],
)
def test_what_is_wrong_is_named(method, pair, says):
    with pytest.raises(InputError, match=says):
        typed(method, [pair])


def test_two_in_one_are_told_apart_from_a_value_with_commas():
    with pytest.raises(InputError, match="give the option again for each other one"):
        typed("npo", ["beta=0.2, retain_weight=3"])
    assert typed("durable", ["roundings=int4-row,nf4"]) == {"roundings": "int4-row,nf4"}
