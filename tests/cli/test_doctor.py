from __future__ import annotations

import json


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
