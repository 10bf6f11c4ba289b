"""Names of conditions, and what they stand for."""

from __future__ import annotations

import math

import pytest

from remanent.auditing.condition import parse_conditions
from remanent.auditing.ensembles import ENSEMBLES
from remanent.auditing.evidence import Measurement, RecordScore
from remanent.auditing.relearning import RelearningAttack
from remanent.auditing.store import Store
from remanent.core.displacement import AdapterOff, Here, Noise, Rounding
from remanent.errors import InputError
from remanent.jobs.config import AuditSettings, DataSettings, parse


def test_full_comes_first_and_each_once_cheap_to_expensive():
    names = [item.info.name for item in parse_conditions("int4-row, full ,int8,int8")]
    assert names == ["full", "int8", "int4-row"]


def test_the_order_is_fixed_however_they_are_asked_for():
    names = "relearning-overlap-50+int4-row,relearning,noise-0.01,adapter-off,nf4,int8,bf16"
    expected = ["full", "bf16", "int8", "nf4", "adapter-off", "noise-0.01", "relearning-unrelated-50"]
    expected += ["relearning-overlap-50", "relearning-overlap-50+int4-row"]
    assert [item.info.name for item in parse_conditions(names)] == expected
    backwards = ",".join(reversed(names.split(",")))
    assert [item.info.name for item in parse_conditions(backwards)] == expected


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_is_its_list_in_its_order(name):
    conditions = parse_conditions(name)
    assert tuple(item.info.name for item in conditions) == ENSEMBLES[name]
    assert all(item.optional for item in conditions[1:])
    again = {item.info.name: item for item in parse_conditions(f"{name},nf4")}
    assert not again["nf4"].optional  # asked for by name as well


def test_standard_is_what_an_audit_asks_by_default():
    spelled = "full,bf16,int8,int4-row,int4-g32,nf4,relearning"
    by_name = parse_conditions(AuditSettings(model="m", data=DataSettings()).at)
    assert [item.info for item in by_name] == [item.info for item in parse_conditions(spelled)]


def test_attacks_are_measured_by_their_steps_and_then_by_what_follows():
    names = "relearning-overlap-9+int4-row,relearning-unrelated-80,relearning-overlap-9,blur-relearning-lo-30"
    expected = ["full", "relearning-overlap-9", "relearning-overlap-9+int4-row", "blur-relearning-lo-30"]
    assert [item.info.name for item in parse_conditions(names)] == [*expected, "relearning-unrelated-80"]


def test_kinds_and_displacements():
    found = {item.info.name: item for item in parse_conditions("bf16,nf4,noise-0.01,adapter-off")}
    assert found["full"].displacement == Here()
    assert found["nf4"].displacement == Rounding("nf4")
    assert found["noise-0.01"].displacement == Noise(0.01)
    assert found["adapter-off"].displacement == AdapterOff()
    kinds = {name: item.info.kind for name, item in found.items()}
    assert kinds == {"full": "full", "bf16": "precision", "nf4": "precision", "noise-0.01": "attack"} | {
        "adapter-off": "attack"
    }
    assert all(item.seeds == (None,) for item in found.values())


def test_relearning_is_both_kinds_over_seeds():
    _, unrelated, overlap = parse_conditions("relearning", seeds=(4, 5))
    assert unrelated.info.name == "relearning-unrelated-50"
    assert overlap.info.name == "relearning-overlap-50"
    assert overlap.attack is not None
    assert overlap.attack.overlap
    assert unrelated.attack is not None
    assert not unrelated.attack.overlap
    assert overlap.seeds == (4, 5)
    assert overlap.info.random


def test_relearned_then_rounded():
    _, both = parse_conditions("relearning-overlap-7+int4-row")
    assert both.info.name == "relearning-overlap-7+int4-row"
    assert both.attack is not None
    assert both.attack.steps == 7
    assert both.displacement == Rounding("int4-row")


def test_the_rate_of_an_attack_is_part_of_it_and_of_its_published_description():
    names = "relearning-overlap,blur-relearning-mid-10,relearning-unrelated-7+int4-row"
    for rate in (2e-5, 1e-3):
        attacks = [item for item in parse_conditions(names, learning_rate=rate) if item.attack is not None]
        assert [item.attack.learning_rate for item in attacks] == [rate] * 3
        assert all(f"(AdamW, {rate:g})" in item.info.description for item in attacks)
    as_ever = parse_conditions(names, learning_rate=2e-5)
    assert as_ever == parse_conditions(names)
    assert AuditSettings(model="m", data=DataSettings()).attack_learning_rate == RelearningAttack.learning_rate == 2e-5
    standard = [item for item in parse_conditions("standard", learning_rate=0.5) if item.attack is not None]
    assert {item.attack.learning_rate for item in standard} == {0.5}


@pytest.mark.parametrize("rate", [0.0, -1e-3, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(InputError, match=r"attack_learning_rate.*above 0"):
        parse_conditions("full", learning_rate=rate)
    with pytest.raises(InputError, match="attack_learning_rate"):
        parse(AuditSettings, {"model": "m", "data": {}, "attack_learning_rate": rate}, "audit")


def test_what_was_measured_at_another_rate_is_not_taken_for_this_one(tmp_path):
    store = Store(tmp_path, "audited", {"model.safetensors": "00"}, {}, [], lambda text: "0" * 16)
    gentle, harsh = (parse_conditions("relearning-overlap-5", learning_rate=rate)[1] for rate in (2e-5, 1e-3))
    found = [Measurement("audited", gentle.info.name, "forget", (RecordScore("a", "b", 1.0, 2, 1),), 0)]
    store.keep(gentle, 0, found)
    assert store.kept(gentle, 0, lambda records: None) == found
    assert store.kept(harsh, 0, lambda records: None) is None


def test_a_rate_as_ever_leaves_written_settings_as_they_were():
    """The names of a sweep's trials are made of them."""
    plain = AuditSettings(model="m", data=DataSettings())
    assert "attack_learning_rate" not in plain.model_dump(mode="json")
    asked = AuditSettings(model="m", data=DataSettings(), attack_learning_rate=1e-3).model_dump(mode="json")
    assert asked["attack_learning_rate"] == 1e-3
    assert parse(AuditSettings, asked, "audit").attack_learning_rate == 1e-3


@pytest.mark.parametrize("backend", ["bnb-nf4", "gguf-q4_0"])
@pytest.mark.parametrize("attack", ["relearning-overlap", "blur-relearning-hi-5"])
def test_a_back_end_after_an_attack_is_named_as_the_reason(attack, backend):
    with pytest.raises(InputError, match=rf"{backend} loads the saved files, not the weights that were relearned"):
        parse_conditions(f"{attack}+{backend}")
    with pytest.raises(InputError, match="a point near the weights") as refused:
        parse_conditions(f"{attack}+remind")
    assert "saved files" not in str(refused.value)


@pytest.mark.parametrize("name", ["int5", "relearning-0", "nf4+int8", "relearn", "noise-", "noise-0"])
def test_unknown_names_are_said(name):
    with pytest.raises(InputError, match=name.split("+")[0]):
        parse_conditions(name)
