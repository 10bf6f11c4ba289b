"""The command: its options and its file say the same, and what it prints."""

from __future__ import annotations

import json

import pytest
import yaml

from remanent.cli.compare_options import CompareOptions, file_of
from remanent.errors import InputError
from remanent.jobs.compare_config import CompareSettings
from remanent.jobs.config import AuditSettings, UnlearnSettings

SMALL = ("--batch-size", 4, "--at", "full", "--generate", 0, "--evaluate-every", 0, "--threads", 1, "--budget", 24)


def asked(**options):
    return file_of(CompareOptions.model_validate({"model": "m", "data": {}, **options}), None)


def test_options_and_file_say_the_same(tmp_path):
    config = tmp_path / "compare.yaml"
    plain = {
        "compare": {
            "methods": {"npo": {"learning_rate": 1e-5, "hyperparameters": {"beta": 0.2}}, "ssd": None},
            "seeds": [0, 1],
            "budget": 100,
        },
        "unlearn": {"model": "m", "data": {"forget": "f"}, "learning_rate": 3e-5, "precision": "bf16"},
        "audit": {"at": "full", "precision": "bf16"},
    }
    config.write_text(yaml.safe_dump(plain))
    given = asked(
        method=["npo,ssd"], set=["npo.learning_rate=1e-5", "npo.beta=0.2"], seeds="0,1", budget=100, precision="bf16",
        learning_rate=3e-5, data={"forget": "f"}, at="full",
    )  # fmt: skip
    assert given == file_of(None, config)
    assert given.as_sweep().sweep.method == ("npo", "ssd")


def test_options_go_before_the_file_which_keeps_what_is_a_methods_own(tmp_path):
    config = tmp_path / "compare.yaml"
    config.write_text(
        "compare: {methods: {npo: {hyperparameters: {beta: 0.2}}, ssd: }, budget: 9}\nunlearn: {model: m, data: {}}\n"
    )
    options = {"method": ["npo", "durable"], "set": ["retain_weight=4"], "budget": 50}
    found = file_of(CompareOptions.model_validate(options), config).compare
    assert found.budget == 50
    assert {name: dict(own.hyperparameters) for name, own in found.methods.items()} == {
        "npo": {"beta": 0.2, "retain_weight": 4.0},
        "durable": {"retain_weight": 4.0},
    }


def test_what_is_said_of_a_method_that_another_is_put_round():
    pairs = ["gu.host.beta=0.5", "host.reference_free=1", "gu.objective=npo"]
    found = asked(method=["gu,npo"], set=pairs[::2], budget=10).compare.methods
    assert found["gu"].hyperparameters == {"objective": "npo", "host.beta": 0.5}
    assert found["npo"].hyperparameters == {}
    assert asked(method=["npo,gu"], set=["host.delta=1"], budget=10).compare.methods["gu"].hyperparameters == {
        "host.delta": 1.0
    }
    with pytest.raises(InputError, match=r"host\.reference_free"):
        asked(method=["gu,npo"], set=pairs, budget=10)


def test_a_rate_is_for_all_that_have_one_where_they_have_it():
    methods = ["npo,durable,simnpo,eul,ssd"]
    found = asked(method=methods, set=["learning_rate=2e-5", "eul.learning_rate=1e-3"], budget=10).compare.methods
    assert {name: own.learning_rate for name, own in found.items()} == {
        "npo": 2e-5, "durable": 2e-5, "simnpo": 2e-5, "eul": None, "ssd": None,
    }  # fmt: skip
    assert found["eul"].hyperparameters == {"learning_rate": 1e-3}
    assert found["ssd"].hyperparameters == {}
    both = asked(method=methods, set=["learning_rate=2e-5"], budget=10).compare.methods
    assert both["eul"].hyperparameters == {"learning_rate": 2e-5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ["beta"]}, "VALUE"),
        ({"set": ["ssd.alpha=1"]}, "npo"),
        ({"set": ["betta=1"]}, "did you mean 'beta'"),
        ({"set": ["npo.learning_rate=x"]}, "a number"),
        ({"budget": 0}, "--budget"),
        ({"budget": None}, "--budget"),
        ({"method": []}, "--methods"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        asked(**{"method": ["npo"], "budget": 10, **options})


@pytest.mark.parametrize(
    ("methods", "field"),
    [
        ("{npo: 2e-5}", r"compare\.methods\.npo: got '2e-5'"),
        ("npo", r"compare\.methods: got 'npo'"),
        ("[npo: {learning_rate: 2e-5}]", r"compare\.methods: got"),
        ("{npo: {hyperparameters: [1]}}", r"compare\.methods\.npo\.hyperparameters: got \[1\]"),
    ],
)
def test_methods_that_are_no_mapping_of_settings_are_named(tmp_path, methods, field):
    config = tmp_path / "compare.yaml"
    config.write_text(f"compare: {{methods: {methods}, budget: 9}}\nunlearn: {{model: m, data: {{}}}}\n")
    with pytest.raises(InputError, match=f"{field}.*a mapping of settings"):
        file_of(CompareOptions.model_validate({"set": ["retain_weight=4"]}), config)


def test_init_writes_a_comparisons_file_with_every_setting(call, tmp_path):
    config = tmp_path / "compare.yaml"
    assert call("init", "--compare", "--out", config).exit_code == 0
    data = yaml.safe_load(config.read_text())
    assert list(data) == ["compare", "unlearn", "audit"]
    for part, kind in (("compare", CompareSettings), ("unlearn", UnlearnSettings), ("audit", AuditSettings)):
        assert list(data[part]) == list(kind.model_fields)
    data["unlearn"]["model"] = "m"
    data["compare"] |= {"methods": ["npo"], "budget": 10}
    config.write_text(yaml.safe_dump(data))
    assert list(file_of(None, config).compare.methods) == ["npo"]
    assert call("init", "--compare", "--sweep", "--out", tmp_path / "both.yaml").exit_code == 2


def test_it_prints_a_table_and_the_page_and_run_takes_its_file(call, world, tmp_path):
    out = tmp_path / "c1"
    ways = ("--method", "grad-diff,guardrail", "--set", "grad-diff.learning_rate=1e-3", "--seeds", 0)
    result = call("compare", "--model", world.model, *world.records, *ways, *SMALL, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith("compare.html")
    assert "original" in result.stdout
    flat = " ".join(result.stderr.split())
    assert "2 settings x 1 seeds; records passed per trial at most: grad-diff 24, guardrail 0" in flat
    again = call("run", out / "compare.yaml", "--out", out, "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found["kind"] == "compare"
    assert [row["status"] for row in found["trials"]] == ["done"] * 2
