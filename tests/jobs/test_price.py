"""The estimate against what really happens, on models small enough to count."""

from __future__ import annotations

import pytest
import torch

from remanent.core.weights import Weights
from remanent.data.record import Message, Record
from remanent.jobs.config import AuditSettings, UnlearnSettings
from remanent.jobs.price import FLOAT, SetSize, price_audit, price_unlearning, set_size
from remanent.jobs.shape import kept_for_backward, meta_model
from remanent.jobs.unlearn import build_method
from remanent.models.lora import add_lora
from remanent.models.save import save
from remanent.models.tiny import tiny

RECORDS = [Record(str(n), str(n), (Message("user", "Where?"),), f"In town {n}.") for n in range(8)]
SIZES = {"forget": SetSize(10, 8.0), "retain": SetSize(20, 6.0), "control": SetSize(10, 5.0)}


@pytest.fixture(scope="module")
def loaded():
    return tiny(RECORDS, hidden=64, layers=2, vocabulary=300)


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    return str(save(loaded.model, loaded.tokenizer, tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture
def meta(folder):
    return meta_model(folder)


def settings(folder, **more):
    fields = {"model": folder, "data": {}, "method": "grad-diff", "steps": 5, "batch_size": 4, "stop": False, **more}
    return UnlearnSettings.model_validate(fields)


def price(asked, model, rate=1e9):
    return price_unlearning(asked, build_method(asked), model, SIZES, rate)


def test_a_model_without_weights_has_the_shapes_of_the_real_one(loaded, meta):
    assert all(weight.is_meta for weight in meta.parameters())
    shapes = {name: weight.shape for name, weight in loaded.model.named_parameters()}
    assert {name: weight.shape for name, weight in meta.named_parameters()} == shapes


def test_what_a_pass_keeps_is_what_autograd_saves(loaded, meta):
    rows, tokens = 4, 32
    known = {weight.untyped_storage().data_ptr() for weight in loaded.model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = loaded.model(input_ids=torch.zeros(rows, tokens, dtype=torch.long), use_cache=False).logits
        logits.log_softmax(-1)
    real = sum(storage.nbytes() for storage in kept.values()) + logits.nbytes
    assert kept_for_backward(meta, rows, tokens) == pytest.approx(real, rel=0.15)


def test_operations_of_a_run_counted_by_hand(folder, meta):
    # Forget and retain: 4 records of 8 and of 6 tokens a step, 6 operations a weight; the embedding is the head too.
    parameters = sum(weight.numel() for weight in meta.parameters())
    found, steps = price(settings(folder), meta)
    assert steps == 5
    assert found.operations == 5 * (4 * 8 + 4 * 6) * 6 * parameters
    assert found.seconds == pytest.approx(found.operations / 0.5e9)
    assert found.peak == sum(found.memory.values())


def test_a_second_point_doubles_the_work_and_costs_a_copy(folder, meta):
    here, _ = price(settings(folder), meta)
    twice, _ = price(settings(folder, method="durableun-saf", hyperparameters={"quantize_retain": True}), meta)
    assert twice.operations == 2 * here.operations
    linears = sum(w.numel() for n, w in Weights.of(meta).items() if Weights.of(meta).kind(n) == "linear")
    copy = "copy of what the displaced points move"
    assert (here.memory[copy], twice.memory[copy]) == (0, linears * FLOAT)


def test_watching_costs_looks_and_the_best_steps_weights(folder, meta):
    plain, _ = price(settings(folder), meta)
    watched, _ = price(settings(folder, stop=True, stop_at="full,int8", evaluate_every=5), meta)
    parameters = sum(weight.numel() for weight in meta.parameters())
    # Before the first step and after the fifth, at two points, every record of the three sets.
    assert watched.operations - plain.operations == 2 * 2 * (10 * 8 + 20 * 6 + 10 * 5) * 2 * parameters
    assert watched.memory["the best step's weights"] == parameters * FLOAT


def test_a_lora_trains_little_and_costs_two_thirds(folder, meta):
    full, _ = price(settings(folder), meta)
    asked = settings(folder, adapter="lora", lora_rank=2)
    adapted = add_lora(meta_model(folder), 2, 4)
    lora, _ = price(asked, adapted)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert lora.memory["gradients"] == trained * FLOAT
    assert lora.memory["AdamW's moments"] == 2 * trained * FLOAT
    assert 0.6 < lora.operations / full.operations < 0.75


def test_an_audit_counts_subjects_conditions_and_seeds(folder, meta):
    def cost(**more):
        fields = {"model": folder, "data": {}, "at": "full", "generate": 0, **more}
        return price_audit(AuditSettings.model_validate(fields), meta, SIZES, 1e9)

    one = cost()
    assert cost(at="full,int8,nf4").operations == 3 * one.operations
    assert cost(reference=folder).operations == 2 * one.operations
    attacked = [cost(at="relearning-overlap-5", attack_seeds=seeds) for seeds in (1, 3)]
    first, third = (item.operations - one.operations for item in attacked)
    assert third == pytest.approx(3 * first)
    assert attacked[0].peak > 4 * one.memory["weights"]


def test_a_sets_tokens_come_from_its_characters():
    size = set_size([Record("a", "a", (Message("user", "x" * 30),), "y" * 10)])
    assert (size.records, size.tokens) == (1, 40 / 4 + 20)


def test_the_whole_ladder_has_a_price_and_a_back_end_costs_a_second_model(folder, meta):
    plain = price_audit(AuditSettings(model=folder, data={}, at="int8"), meta, SIZES, 1e9)
    ladder = price_audit(AuditSettings(model=folder, data={}, at="thorough"), meta, SIZES, 1e9)
    assert plain.memory["a real back end's own model"] == 0
    assert ladder.memory["a real back end's own model"] == ladder.memory["weights"]
    assert ladder.seconds > plain.seconds
