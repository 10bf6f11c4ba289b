from __future__ import annotations

import json
from dataclasses import replace

import pytest

from remanent.jobs import doctor
from remanent.jobs.doctor import too_much
from remanent.jobs.machine import machine
from remanent.jobs.price import Price


def test_the_machine(call):
    found = json.loads(call("doctor", "--json").stdout)
    assert found["estimate"] is None
    machine = found["machine"]
    assert {"python", "torch", "transformers"} <= set(machine["versions"])
    assert machine["rates"]["fp32"] > 0
    assert set(machine["extras"]) == {"data", "quant"}
    assert machine["default_model"].startswith("smollm2-135m: ")


def test_a_job_by_options_and_by_file(call, world, tmp_path):
    options = ["--model", world.model, *world.records, "--method", "grad-diff", "--steps", 3]
    shown = call("doctor", *options)
    assert shown.exit_code == 0
    assert "unlearn: peak memory" in shown.stdout
    assert "Assumed: " in shown.stdout
    config = tmp_path / "config.yaml"
    config.write_text(
        f"unlearn: {{model: {world.model}, method: grad-diff, steps: 3, data: {{forget: {world.sets['forget']}}}}}\n"
    )
    refused = call("doctor", config, *options)
    assert refused.exit_code == 2
    found = json.loads(call("doctor", config, "--json").stdout)["estimate"]
    assert [item["stage"] for item in found["prices"]] == ["unlearn", "audit"]
    assert found["steps"] == 3


def test_a_model_that_is_not_there(call):
    result = call("doctor", "--model", "no-such-folder/")
    assert result.exit_code == 2
    assert "no-such-folder" in result.stderr


GIB = 2.0**30
HELD = {"weights": 10 * GIB, "gradients": 10 * GIB, "gradients kept apart": 40 * GIB, "activations": 30 * GIB}


@pytest.mark.parametrize(
    ("method", "adapted", "expected"),
    [
        (
            "durable",
            False,
            "--adapter lora (of 50.0 GiB), --set directions=1 (of 40.0 GiB), a smaller --micro-batch (of 30.0 GiB)",
        ),
        ("npo", False, "--adapter lora (of 50.0 GiB), a smaller --micro-batch (of 30.0 GiB)"),
        ("npo", True, "a smaller --micro-batch (of 30.0 GiB)"),
        ("ssd", False, "a smaller --micro-batch (of 30.0 GiB)"),
    ],
)
def test_what_lowers_a_peak_is_named_the_most_first(method, adapted, expected):
    stages = [Price("unlearn", HELD, 1.0, 1.0), Price("audit", {"weights": 20 * GIB}, 1.0, 1.0)]
    (sentence,) = too_much(stages, round(80 * GIB), adapted=adapted, method=method)
    assert sentence == f"unlearn needs 90.0 GiB of memory, and there are 80.0 here. Lower it by {expected}."
    assert too_much(stages, round(90 * GIB), adapted=adapted, method=method) == ()
    assert too_much(stages, None, adapted=adapted, method=method) == ()
    assert "audit needs 20.0 GiB" in too_much(stages, round(15 * GIB), adapted=adapted, method=method)[1]


def test_what_does_not_fit_is_said(call, world, monkeypatch):
    """A model of a few thousand weights, on an accelerator of a few kilobytes."""

    def with_accelerators(*sizes):
        return lambda width: replace(machine(width), accelerators=tuple(("made up", size) for size in sizes))

    options = ["--model", world.model, *world.records, "--steps", 3]
    monkeypatch.setattr(doctor, "machine", with_accelerators(2**10, 2**14))
    assert doctor.machine(8).room == 2**14
    assert "Too much: unlearn needs" in call("doctor", *options).stdout
    monkeypatch.setattr(doctor, "machine", with_accelerators(2**40))
    assert json.loads(call("doctor", *options, "--json").stdout)["estimate"]["short"] == []
