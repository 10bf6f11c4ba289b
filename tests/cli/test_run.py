from __future__ import annotations

import importlib.util
import json

import pytest
import yaml

from remanent.errors import InputError
from remanent.jobs.config import AuditSettings, JobSettings, UnlearnSettings
from remanent.jobs.run import read_job


@pytest.fixture
def written(call, tmp_path):
    path = tmp_path / "config.yaml"
    result = call("init", "--out", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    return path


def filled(path, world, **audit):
    data = yaml.safe_load(path.read_text())
    data["unlearn"] |= {"model": str(world.model), "method": "grad-diff", "steps": 1, "batch_size": 4}
    data["unlearn"]["data"] |= {role: str(file) for role, file in world.sets.items()}
    data["audit"] |= {"at": "full", "generate": 0, **audit}
    path.write_text(yaml.safe_dump(data))
    return data


def test_init_holds_every_setting_with_its_description_and_default(written):
    text = " ".join(written.read_text().replace("#", " ").split())
    data = yaml.safe_load(written.read_text())
    for kind, part in ((UnlearnSettings, data["unlearn"]), (AuditSettings, data["audit"])):
        assert list(part) == list(kind.model_fields)
        for name, field in kind.model_fields.items():
            assert (field.description or "") in text
            if not field.is_required():
                assert part[name] == field.get_default(call_default_factory=True)
    assert "(REQUIRED)" in text
    assert "One of full, lora, lora-nf4." in text


def test_init_never_overwrites(call, written):
    written.write_text("mine")
    result = call("init", "--out", written)
    assert result.exit_code == 2
    assert written.read_text() == "mine"


def test_a_file_that_was_not_filled_in_says_what_is_missing(call, written, tmp_path):
    result = call("run", written, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "unlearn.model" in result.stderr
    assert not (tmp_path / "run").exists()


def test_run_unlearns_and_audits(call, world, written, tmp_path):
    filled(written, world)
    result = call("run", written, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 1  # a model that knew nothing cannot have kept it
    assert json.loads(result.stdout)["runs"][0]["name"] == "run"
    audited = yaml.safe_load((tmp_path / "run" / "audit.yaml").read_text())
    assert (audited["model"], audited["reference"]) == (str(tmp_path / "run" / "model"), str(world.model))
    assert audited["data"]["forget"] == str(world.sets["forget"])


def test_what_the_audit_names_itself_counts(world, written, tmp_path):
    filled(written, world, reference="another", data={"retain": "authors:retain"})
    job = read_job(written, tmp_path)
    assert job.audit is not None
    assert (job.audit.reference, job.audit.data.retain, job.audit.data.forget) == ("another", "authors:retain", None)


def test_no_audit_where_the_file_says_so_and_the_default_one_where_it_says_nothing(world, written, tmp_path):
    data = filled(written, world)
    written.write_text(yaml.safe_dump({**data, "audit": None}))
    assert read_job(written, tmp_path).audit is None
    written.write_text(yaml.safe_dump({"unlearn": data["unlearn"]}))
    job = read_job(written, tmp_path)
    assert isinstance(job, JobSettings)
    assert job.audit is not None
    assert job.audit.at == AuditSettings.model_fields["at"].default


@pytest.mark.parametrize(
    ("part", "key", "meant"), [("unlearn", "learning_rat", "learning_rate"), ("audit", "epsilonn", "epsilon")]
)
def test_an_unknown_key_says_which_is_near(world, written, tmp_path, part, key, meant):
    data = filled(written, world)
    data[part][key] = 1
    written.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=f"{key}.*did you mean '{meant}'"):
        read_job(written, tmp_path)


@pytest.mark.parametrize(
    ("limit", "meant"), [("model-utlity>=0.5", "model-utility"), ("exposure@ful<=2", "full"), ("exposure<2", None)]
)
def test_a_limit_that_cannot_be_judged_is_refused_before_the_unlearning(world, written, tmp_path, limit, meant):
    data = filled(written, world)
    data["audit"]["require"] = ["exposure@full<=2", limit]
    written.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="require: .*" + (f"did you mean '{meant}'" if meant else ">= or <=")):
        read_job(written, tmp_path)


def test_yaml_that_is_broken_names_the_line(written, tmp_path):
    written.write_text("unlearn:\n  model: [\n")
    with pytest.raises(InputError, match=r"config\.yaml \(line 3\)"):
        read_job(written, tmp_path)


def test_what_a_run_wrote_of_itself_runs_again(call, world, written, tmp_path):
    data = filled(written, world) | {"audit": None}
    written.write_text(yaml.safe_dump(data))
    assert call("run", written, "--out", tmp_path / "first").exit_code == 0
    assert call("run", tmp_path / "first" / "config.yaml", "--out", tmp_path / "second").exit_code in (0, 1)
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("first", "second")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("utility", "at: got 'utility'; expected a retain set with questions"),
        ("lm-eval:none.yaml", "at: got 'lm-eval:none.yaml'; expected a task's name, or the path of its YAML file"),
        ("divergence:nowhere", "expected the folder of a saved model"),
    ],
)
def test_a_condition_that_cannot_be_asked_is_refused_before_the_unlearning(
    call, world, written, tmp_path, monkeypatch, at, says
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: name == "lm_eval" or find_spec(name, *more))
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(json.dumps({"text": f"A page of the book of number {n}.", "group": n}) + "\n" for n in range(20))
    )
    data = filled(written, world, at=at)
    data["unlearn"]["data"]["retain"] = str(texts)
    written.write_text(yaml.safe_dump(data))
    result = call("run", written, "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("audit", "says"),
    [
        ({"reference": "./typo"}, "reference: got './typo'"),
        ({"retrained": "./typo"}, "retrained: got './typo'"),
        ({"model": "./typo"}, "model: got './typo'"),
        ({"data": {"split_seed": 7}}, "split_seed: got 7; expected 0, as in the unlearning"),
    ],
)
def test_an_audit_that_cannot_follow_is_refused_before_the_unlearning(call, world, written, tmp_path, audit, says):
    data = filled(written, world, **audit)
    if "data" in audit:
        data["audit"]["data"] = {**data["unlearn"]["data"], **audit["data"]}
        written.write_text(yaml.safe_dump(data))
    result = call("run", written, "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_there_is_called_what_the_file_calls_it(call, world, written, tmp_path):
    data = filled(written, world)
    data["unlearn"]["model"] = "./typo"
    written.write_text(yaml.safe_dump(data))
    result = call("run", written, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "model: got './typo'" in " ".join(result.stderr.split()).replace("Error: ", "")
    assert "reference" not in result.stderr
    assert not (tmp_path / "run").exists()
