"""The command: its options and its file say the same, and what it prints."""

from __future__ import annotations

import json

import pytest
import yaml

from remanent.cli.sweep_options import SweepOptions, file_of
from remanent.errors import InputError
from remanent.jobs.config import AuditSettings, UnlearnSettings
from remanent.jobs.sweep_config import SweepSettings

SMALL = ("--steps", 1, "--batch-size", 4, "--at", "full", "--generate", 0, "--evaluate-every", 0, "--threads", 1)
WAYS = ("--method", "grad-diff,grad-ascent", "--set", "retain_weight=1,4", "--learning-rate", "1e-3", "--seeds", "0,1")


def asked(**options):
    return file_of(SweepOptions.model_validate(options), None)


def test_options_and_file_say_the_same(tmp_path):
    config = tmp_path / "sweep.yaml"
    plain = {
        "sweep": {"method": ["npo", "durable"], "learning_rate": [1e-5, 3e-5], "retain_weight": [1, 8]}
        | {"hyperparameters": {"beta": [0.1, 0.2]}, "seeds": [0, 1], "budget": 100, "search": 5},
        "unlearn": {"model": "m", "data": {"forget": "f", "control": "c"}, "precision": "bf16", "stop": False},
        "audit": {"at": "full", "upsilon": 0.95, "precision": "bf16"},
    }
    config.write_text(yaml.safe_dump(plain))
    given = asked(
        method=["npo", "durable"], learning_rate="1e-5,3e-5", retain_weight="1,8", set=["beta=0.1,0.2"], seeds="0,1",
        budget=100, search=5, model="m", data={"forget": "f", "control": "c"}, precision="bf16", stop=False, at="full",
        upsilon=0.95,
    )  # fmt: skip
    assert given == file_of(None, config)
    assert given.sweep.hyperparameters == {"beta": (0.1, 0.2)}
    assert given.unlearn.stop is False


def test_options_go_before_the_file(tmp_path):
    config = tmp_path / "sweep.yaml"
    config.write_text("sweep: {method: npo, seeds: [0, 1]}\nunlearn: {model: m, data: {forget: f}}\n")
    options = SweepOptions.model_validate({"seeds": "5", "processes": 2, "data": {"control": "c"}})
    file = file_of(options, config)
    assert (file.sweep.method, file.sweep.seeds, file.sweep.processes) == (("npo",), (5,), 2)
    assert (file.unlearn.data.forget, file.unlearn.data.control) == ("f", "c")


def test_what_varies_of_a_method_that_another_is_put_round():
    file = asked(model="m", data={}, method=["gu"], set=["objective=ce-u", "objective=npo", "host.skip=1,2"])
    assert file.sweep.hyperparameters == {"objective": ("ce-u", "npo"), "host.skip": (1, 2)}
    file = asked(model="m", data={}, method=["npo,gu"], set=["gu.host.beta=1,2"])
    assert file.sweep.hyperparameters == {"gu.host.beta": (1.0, 2.0)}
    with pytest.raises(InputError, match=r"host\.skip"):
        asked(model="m", data={}, method=["gu"], set=["host.skip=1,2"])


def test_text_is_one_value_and_more_by_saying_it_again():
    file = asked(
        model="m", data={}, method=["durable"], set=["roundings=int4-row,nf4", "roundings=int8", "beta=0.1,0.2"]
    )
    assert file.sweep.hyperparameters == {"roundings": ("int4-row,nf4", "int8"), "beta": (0.1, 0.2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ["beta"]}, "name=value"),
        ({"method": ["npo"], "set": ["betta=1"]}, "did you mean 'beta'"),
        ({"method": ["npo"], "set": ["beta=x"]}, "a number"),
        ({"learning_rate": "1e-5,-1"}, "greater than 0"),
        ({"seeds": "one"}, "seeds"),
        ({"budget": 0}, "--budget"),
        ({"model": None}, "--model"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        asked(**{"model": "m", "data": {}, **options})


@pytest.mark.parametrize(
    ("text", "message"),
    [("sweep: {sedes: [1]}\nunlearn: {model: m, data: {}}\n", "did you mean 'seeds'"), ("[1]\n", "mapping"),
     ("sweep: {}\nunlearn: {model: m, data: {}}\nsweeep: {}\n", "sweeep"), ("sweep: [\n", "YAML"),
     ("sweep: {}\nunlearn: {model: m, data: {}}\naudit: full\n", "audit: got 'full'; expected a mapping"),
     ("sweep: [npo]\nunlearn: {model: m, data: {}}\n", r"sweep: got \['npo'\]; expected a mapping")],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, text, message):
    config = tmp_path / "sweep.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match=message):
        file_of(None, config)


def test_an_option_is_typed_by_the_methods_of_a_file(tmp_path):
    config = tmp_path / "sweep.yaml"
    config.write_text("sweep: {method: 'npo,simnpo'}\nunlearn: {model: m, data: {}}\n")
    file = file_of(SweepOptions.model_validate({"set": ["beta=1,2"]}), config)
    assert file.sweep.hyperparameters == {"beta": (1.0, 2.0)}


def test_init_writes_a_sweeps_file_with_every_setting(call, tmp_path):
    config = tmp_path / "sweep.yaml"
    assert call("init", "--sweep", "--out", config).exit_code == 0
    data = yaml.safe_load(config.read_text())
    assert list(data) == ["sweep", "unlearn", "audit"]
    for part, kind in (("sweep", SweepSettings), ("unlearn", UnlearnSettings), ("audit", AuditSettings)):
        assert list(data[part]) == list(kind.model_fields)
    data["unlearn"]["model"] = "m"
    config.write_text(yaml.safe_dump(data))
    assert file_of(None, config).sweep == SweepSettings()


@pytest.fixture(scope="module")
def swept(call, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("swept") / "s1"
    return out, call("sweep", "--model", world.model, *world.records, *WAYS, *SMALL, "--out", out)


def test_it_prints_a_table_the_page_and_its_cost(swept):
    out, result = swept
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(str(out / "sweep.html").replace("\n", ""))
    assert "grad-diff" in result.stdout
    flat = " ".join(result.stderr.split())
    assert "3 settings x 2 seeds; records passed per trial at most: grad-diff 8, grad-ascent 4" in flat
    assert "equal passes" in result.stderr
    assert "6/6" in result.stderr  # the bar


def test_run_takes_its_file_and_finds_what_is_there(call, swept):
    out, _ = swept
    result = call("run", out / "sweep.yaml", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["status"] for row in found["trials"]] == ["done"] * 6
    assert {row["published"]["FA"] is None for row in found["trials"]} == {False}
    assert {row["published"]["Q-INT4"] for row in found["trials"]} == {None}  # not audited


def test_without_one_good_trial_the_exit_code_says_so(call, world, tmp_path):
    bad = ("--method", "grad-diff", "--learning-rate", "1e30", "--seeds", 0, *SMALL, "--steps", 3)
    result = call("sweep", "--model", world.model, *world.records, *bad, "--out", tmp_path / "bad")
    assert result.exit_code == 1
    assert "diverged" in result.stderr
