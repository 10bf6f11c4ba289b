"""The highest memory of a comparison is that of one trial, however many there are."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from remanent.data.jsonl import read_records
from remanent.models.save import save
from remanent.models.tiny import tiny

SCRIPT = """
import json, resource, sys
from pathlib import Path
from remanent.jobs.compare import compare
from remanent.jobs.compare_config import CompareFile
view = compare(CompareFile.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))
assert [row["status"] for row in view.rows] == ["done"] * len(view.settings), view.rows
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory in kilobytes")
def test_the_peak_does_not_grow_with_the_methods(sweep_world, tmp_path):
    records = [record for role, file in sweep_world.files.items() for record in read_records(file, role)]
    made = tiny(records, hidden=384, layers=4, vocabulary=400)
    save(made.model, made.tokenizer, tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size > 25e6
    peaks = []
    for methods in (["npo"], ["npo", "grad-diff", "simnpo", "ssd"]):
        data = sweep_world.data(unlearn={"model": str(tmp_path / "model"), "learning_rate": 1e-5}, audit={"at": "full"})
        del data["sweep"]
        data["compare"] = {"methods": methods, "seeds": [0], "budget": 44}
        command = [sys.executable, "-c", SCRIPT, json.dumps(data), str(tmp_path / f"of-{len(methods)}")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    assert peaks[1] - peaks[0] < size, peaks  # three more trials; one model that stayed would be as much
