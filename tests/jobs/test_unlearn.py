"""Methods that ask for records which no user gives: the job makes them."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
import torch
import yaml
from rich.console import Console

from remanent.core.catalogue import edits, unlearners
from remanent.data.jsonl import write_records
from remanent.data.record import Message, Record
from remanent.errors import InputError, RunConflictError
from remanent.jobs.config import TeachSettings, UnlearnSettings, read_yaml, with_threads
from remanent.jobs.data import JobData
from remanent.jobs.edit import edit_of
from remanent.jobs.price import SetSize, price_unlearning
from remanent.jobs.progress import Interface
from remanent.jobs.shape import meta_model
from remanent.jobs.unlearn import build_method, resolved, unlearn
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


pytestmark = pytest.mark.usefixtures("own_places")


def settings(folder, method):
    return UnlearnSettings.model_validate(
        {"model": folder, "data": {}, "method": method, "steps": 2, "batch_size": 4, "stop": False}
    )


@pytest.mark.parametrize("method", ["idk-dpo", "alt-po", "idk-nll"])
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
    # A third role to learn from, and to be scored by the reference: 2 steps of 4 records, and 10 records, of 8 tokens.
    weights = sum(weight.numel() for weight in meta_model(folder).parameters())
    assert dpo.operations - npo.operations == pytest.approx((2 * 4 * 8 * 6 + 10 * 8 * 2) * weights)
    trained = npo.memory["AdamW's moments"] / 2
    assert kl_min.memory["copy of the weights as they were"] == trained
    assert npo.memory["copy of the weights as they were"] == 0
    # Refusals in the forget records' place, which are not passed, and no reference to score them.
    assert price("idk-nll").operations == npo.operations - 10 * 8 * 2 * weights


def test_no_stopping_rule_looks_at_a_model_that_is_made_at_the_end(folder, tmp_path):
    said = StringIO()
    chosen = settings(folder, "task-vector").model_copy(update={"stop": True})
    records = {"forget": FORGET, "retain": RETAIN, "control": [replace(r, group=f"c{r.group}") for r in RETAIN]}
    run = unlearn(chosen, tmp_path / "run", records=records, interface=Interface(Console(file=said, width=200)))
    assert "no stopping rule looks at it" in said.getvalue()
    assert json.loads(run.manifest.read_text())["best_step"] == 2
    assert not json.loads(run.manifest.read_text())["stopped_by_rule"]


def test_the_settings_that_are_kept_say_all_of_the_run_and_run_again(folder, tmp_path):
    """Records are read from files here, as in a run that is run again from its own config.yaml."""
    files = {"forget": tmp_path / "forget.jsonl", "retain": tmp_path / "retain.jsonl"}
    for role, records in (("forget", FORGET), ("retain", RETAIN)):
        write_records(files[role], records)
    asked = {
        "model": folder,
        "data": {role: str(file) for role, file in files.items()},
        "method": "durableun-saf",
        "hyperparameters": {"alpha": 2.0},
        "epochs": 2.0,
        "batch_size": 4,
        "stop": False,
    }
    threads = torch.get_num_threads()
    first = unlearn(UnlearnSettings.model_validate(asked), tmp_path / "first")
    kept = yaml.safe_load(first.config.read_text())
    recipe = build_method(UnlearnSettings.model_validate(asked)).recipe
    assert kept["hyperparameters"] == {
        "alpha": 2.0,
        "rounding": "int4-row",
        "warmup": 1 / 3,
        "quantize_retain": False,
    }
    assert (kept["steps"], kept["epochs"], kept["batch_size"], kept["threads"]) == (3, None, 4, threads)
    for name in ("learning_rate", "schedule", "warmup", "weight_decay", "max_grad_norm"):
        assert kept[name] == getattr(recipe, name) is not None
    again = unlearn(read_yaml(first.config, UnlearnSettings), tmp_path / "second")
    assert again.config.read_bytes() == first.config.read_bytes()
    weights = [(run.model / "model.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]
    # What was asked the first time still goes on with it, and so does what it came to; anything else does not.
    for same in (asked, {**asked, "epochs": None, "steps": 3}, {**asked, "threads": threads}):
        assert unlearn(UnlearnSettings.model_validate(same), first.path).path == first.path
    for other in ({"epochs": 4.0}, {"hyperparameters": {}}, {"weight_decay": 0.5}, {"threads": threads + 1}):
        with pytest.raises(RunConflictError, match="other settings"):
            unlearn(UnlearnSettings.model_validate({**asked, **other}), first.path)


def test_the_recipe_that_is_asked_for_is_run(folder, tmp_path):
    asked = settings(folder, "npo").model_copy(update={"weight_decay": 0.0, "max_grad_norm": 0.25})
    recipe = build_method(asked).recipe
    assert (recipe.weight_decay, recipe.max_grad_norm) == (0.0, 0.25)


def test_a_run_goes_on_with_the_threads_that_it_began_with(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    asked = TeachSettings(model="m", records="r")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert with_threads(asked, config).threads == 7
    config.write_text("threads: 3\n")
    assert with_threads(asked, config).threads == 3
    assert with_threads(asked.model_copy(update={"threads": 2}), config).threads == 2


@pytest.mark.parametrize("name", sorted(unlearners()))
def test_every_methods_resolved_settings_are_settings(folder, name):
    """They are read again from YAML, and come to the same method."""
    chosen = settings(folder, name)
    if name in edits():
        chosen = chosen.model_copy(update={"steps": None, "batch_size": None})
    method = edit_of(chosen) if name in edits() else build_method(chosen)
    data = JobData(FORGET, {"train": RETAIN[:8], "select": RETAIN[8:]}, {}, [])
    kept = resolved(chosen, method, data)
    plain = yaml.safe_load(yaml.safe_dump(kept.model_dump(mode="json")))
    assert UnlearnSettings.model_validate(plain) == kept
    again = edit_of(kept) if name in edits() else build_method(kept)
    if name not in edits():
        assert again.recipe == method.recipe
        assert [str(place.displacement) for place in again.places] == [
            str(place.displacement) for place in method.places
        ]
        assert again.weights == method.weights
    assert resolved(kept, again, data) == kept
