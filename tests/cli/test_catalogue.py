from __future__ import annotations

import json

from remanent.core.catalogue import systems, unlearners


def test_methods_with_hyperparameters_and_defaults(call):
    found = {item["name"]: item for item in json.loads(call("methods", "--json").stdout)}
    assert set(found) == set(unlearners())
    npo = {"beta": 0.1, "forget_weight": 1.0, "retain_weight": 1.0, "retain_loss": "nll"}
    assert found["npo"]["hyperparameters"] == npo
    assert found["npo"]["paper"] == "arXiv:2404.05868"
    shown = call("methods").stdout
    assert all(name in shown for name in found)
    assert "beta=0.1" in shown


def test_systems_by_family(call):
    found = json.loads(call("systems", "--family", "unlearning", "--json").stdout)
    assert {item["name"] for item in found} == {n for n, e in systems().items() if e.system.family == "unlearning"}
    result = call("systems", "--family", "unlerning")
    assert result.exit_code == 2
    assert "did you mean 'unlearning'" in result.stderr
    assert "durableun-saf" in call("systems").stdout
