from __future__ import annotations

import copy

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments

from remanent.core.batch import Encoded, collate
from remanent.models.tiny import tiny


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps the first precision that it was asked for, for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def data():
    """Records of uneven lengths; fewer to retain than two batches hold, so that passes do not end together."""
    generator = torch.Generator().manual_seed(1)

    def records(count, role):
        found = []
        for index in range(count):
            length = int(torch.randint(4, 11, (), generator=generator))
            ids = tuple(torch.randint(5, 200, (length,), generator=generator).tolist())
            found.append(Encoded(ids, (-100,) * (length // 2) + ids[length // 2 :], key=f"{role}{index}"))
        return found

    return {"forget": records(10, "f"), "retain": records(7, "r"), "control": records(6, "c")}


@pytest.fixture(scope="session")
def _model():
    from remanent.data.record import Message, Record

    record = Record("k", "g", (Message("user", "Where was she born?"),), "In Oslo.")
    return tiny([record], hidden=32, layers=2).model


@pytest.fixture
def model(_model):
    return copy.deepcopy(_model)


@pytest.fixture
def taught(model, data):
    """A model that knows what it is to forget: no better than nothing would have to be forgotten."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = collate(data["forget"] + data["retain"], range(17), 0)
    for _ in range(40):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture
def arguments(tmp_path):
    def make(**changes):
        given = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.5,
            "per_device_train_batch_size": 4,
            "max_steps": 6,
            "seed": 3,
        }
        return TrainingArguments(**given | changes)

    return make


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def assert_equal(found, expected, tolerance=0.0):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: name + text)
