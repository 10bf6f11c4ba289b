"""The highest memory of a trial does not grow with the trials before it."""

from __future__ import annotations

import sys

import pytest
import torch

from remanent.data.jsonl import read_records
from remanent.jobs.compare import compare
from remanent.jobs.compare_config import CompareFile
from remanent.models.save import save
from remanent.models.tiny import tiny


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="sets a process's mark back")
def test_the_peak_does_not_grow_with_the_trials(sweep_world, tmp_path):
    records = [record for role, file in sweep_world.files.items() for record in read_records(file, role)]
    made = tiny(records, hidden=384, layers=4, vocabulary=400)
    save(made.model, made.tokenizer, tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size > 25e6
    del made
    data = sweep_world.data(unlearn={"model": str(tmp_path / "model"), "learning_rate": 1e-5}, audit={"at": "full"})
    del data["sweep"]
    # Pairs that cost alike, in turns; the first trial of all loads libraries.
    data["compare"] = {"methods": ["grad-diff", "npo", "simnpo"], "seeds": [0, 1], "budget": 32}
    view = compare(CompareFile.model_validate(data), tmp_path / "out")
    peaks = [row["peak_memory"] for row in view.rows]
    assert len(peaks) == 6
    assert peaks[-1] - peaks[1] < size, peaks  # four more trials; each model that stayed would be as much
