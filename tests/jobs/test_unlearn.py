"""Methods that ask for records which no user gives: the job makes them."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from remanent.data.record import Message, Record
from remanent.errors import InputError
from remanent.jobs.config import UnlearnSettings
from remanent.jobs.price import SetSize, price_unlearning
from remanent.jobs.progress import Interface
from remanent.jobs.shape import meta_model
from remanent.jobs.unlearn import build_method, unlearn
from remanent.models.save import is_saved, save
from remanent.models.tiny import tiny

FORGET = [
    Record(str(n), str(n), (Message("user", f"Where is {n}?"),), f"In town {n}.", wrong_answers=(f"In wood {n}.",))
    for n in range(6)
]
RETAIN = [Record(f"k{n}", f"k{n}", (Message("user", f"Who is {n}?"),), f"A king {n}.") for n in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny([*FORGET, *RETAIN], hidden=32, layers=1, vocabulary=300)
    return str(save(made.model, made.tokenizer, tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(autouse=True)
def secret(tmp_path, monkeypatch):
    monkeypatch.setenv("REMANENT_SECRET", str(tmp_path / "secret"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(folder, method):
    return UnlearnSettings.model_validate(
        {"model": folder, "data": {}, "method": method, "steps": 2, "batch_size": 4, "stop": False}
    )


@pytest.mark.parametrize("method", ["idk-dpo", "alt-po"])
def test_the_answers_to_prefer_are_made_from_the_forget_records(method, folder, tmp_path):
    run = unlearn(settings(folder, method), tmp_path / "run", records={"forget": FORGET, "retain": RETAIN})
    assert is_saved(run.model)


def test_records_that_cannot_be_so_answered_are_refused_before_any_work(folder, tmp_path):
    plain = [Record("t", "t", (), "Once upon a time there was a town.")]
    for method, forget, said in (("idk-dpo", plain, "plain text"), ("alt-po", RETAIN[:2], "wrong_answers")):
        with pytest.raises(InputError, match=said):
            unlearn(settings(folder, method), tmp_path / "run", records={"forget": forget, "retain": RETAIN})
    assert not (tmp_path / "run").exists()


def test_the_estimate_counts_the_answers_to_prefer_and_the_copy_at_the_reference(folder):
    sizes = {"forget": SetSize(10, 8.0), "retain": SetSize(20, 8.0)}

    def price(method):
        chosen = settings(folder, method)
        return price_unlearning(chosen, build_method(chosen), meta_model(folder), sizes, rate=1e9)[0]

    npo, dpo, kl_min = price("npo"), price("idk-dpo"), price("kl-min")
    assert dpo.operations == pytest.approx(1.5 * npo.operations)
    trained = npo.memory["AdamW's moments"] / 2
    assert kl_min.memory["copy of the weights as they were"] == trained
    assert npo.memory["copy of the weights as they were"] == 0


def test_no_stopping_rule_looks_at_a_model_that_is_made_at_the_end(folder, tmp_path):
    said = StringIO()
    chosen = settings(folder, "task-vector").model_copy(update={"stop": True})
    records = {"forget": FORGET, "retain": RETAIN, "control": [replace(r, group=f"c{r.group}") for r in RETAIN]}
    run = unlearn(chosen, tmp_path / "run", records=records, interface=Interface(Console(file=said, width=200)))
    assert "no stopping rule looks at it" in said.getvalue()
    assert json.loads(run.manifest.read_text())["best_step"] == 2
    assert not json.loads(run.manifest.read_text())["stopped_by_rule"]
