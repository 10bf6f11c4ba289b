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
        f"unlearn: {{model: {world.model}, method: grad-diff, steps: 3, "
        f"data: {{forget: {world.sets['forget']}, retain: {world.sets['retain']}}}}}\n"
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


def price_of(size, stage="unlearn"):
    return Price(stage, {"weights": GIB, "activations": (size - 1) * GIB}, 1.0, 1.0)


def test_what_a_peak_would_be_with_other_settings_the_least_first():
    lighter = {"--a": price_of(70), "--b": price_of(50), "--little": price_of(89)}
    (sentence,) = too_much(price_of(90), lighter, round(80 * GIB))
    start = "unlearn needs 90.0 GiB of memory, and there are 80.0 here."
    assert sentence == f"{start} It would need 50.0 with --b, 70.0 with --a; all but --micro-batch change the result."
    assert too_much(price_of(90), {}, round(80 * GIB)) == (start,)
    assert too_much(price_of(90), lighter, round(90 * GIB)) == ()
    assert too_much(price_of(90), lighter, None) == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--method", "durable"], {"--micro-batch 1", "--adapter lora", "--set directions=0"}),
        (["--method", "npo"], {"--micro-batch 1", "--adapter lora"}),
        (["--method", "npo", "--adapter", "lora"], {"--micro-batch 1"}),
        (["--method", "ssd"], set()),
    ],
)
def test_what_does_not_fit_is_said_with_what_each_setting_would_need(options, named, call, world, monkeypatch):
    """A model of a few thousand weights, on an accelerator of a kilobyte; each way is priced as a job of its own."""

    def with_accelerators(*sizes):
        return lambda width: replace(machine(width), accelerators=tuple(("made up", size) for size in sizes))

    def lighter(asked, others, room):
        seen[asked.stage] = (asked, others)
        return too_much(asked, others, room)

    seen = {}
    given = ["--model", world.model, *world.records, *options]
    given += [] if "ssd" in options else ["--steps", 3]
    monkeypatch.setattr(doctor, "machine", with_accelerators(2**10, 2**40))
    monkeypatch.setattr(doctor, "too_much", lighter)
    assert "Too much: unlearn needs" in call("doctor", *given).stdout
    asked, others = seen["unlearn"]
    assert set(others) == named
    for way, other in others.items():
        alone = json.loads(call("doctor", *given, *way.split(), "--json").stdout)["estimate"]["prices"][0]
        assert alone["peak"] == other.peak
        assert way != "--micro-batch 1" or other.peak < asked.peak
    monkeypatch.setattr(doctor, "machine", with_accelerators(2**40))
    assert json.loads(call("doctor", *given, "--json").stdout)["estimate"]["short"] == []


def test_a_way_that_cannot_be_taken_is_not_offered(call, world, monkeypatch):
    """A LoRA lies on linear layers: where norms alone train there is none."""
    monkeypatch.setattr(doctor, "machine", lambda width: replace(machine(width), accelerators=(("made up", 1),)))
    given = ["--model", world.model, *world.records, "--method", "npo", "--steps", 3, "--select", "*norm*"]
    (sentence,) = json.loads(call("doctor", *given, "--json").stdout)["estimate"]["short"]
    assert "--micro-batch 1" in sentence
    assert "lora" not in sentence


def test_what_the_job_would_refuse_is_refused(call, world):
    for given, named in (
        (["--method", "retrain", *world.records], "base"),
        (["--method", "npo", "--retain", world.sets["retain"]], "data.forget"),
        (["--requests", world.sets["forget"], "--retain", world.sets["retain"]], "requests"),
    ):
        result = call("doctor", "--model", world.model, *given)
        assert result.exit_code == 2, result.output
        assert named in result.stderr


def test_an_edit_beside_packed_weights_is_priced_on_packed_weights(call, world):
    def memory(*options):
        given = ["--model", world.model, *world.records, "--method", "eul", *options]
        return json.loads(call("doctor", *given, "--json").stdout)["estimate"]["prices"][0]["memory"]

    whole, packed = memory(), memory("--adapter", "lora-nf4")
    assert packed["weights"] < whole["weights"]
    assert whole["gradients"] == packed["gradients"] == 0
