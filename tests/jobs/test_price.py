"""The estimate against what really happens, on models small enough to count."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from remanent.core.displacement import Ascent, Here, OneOf, Relearning, Rounding, Then
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode
from remanent.core.method import At, Method, Objective, Recipe
from remanent.core.passes import learning_passes, reference_passes
from remanent.core.weights import Weights
from remanent.data.record import Message, Record
from remanent.jobs.config import AuditSettings, UnlearnSettings
from remanent.jobs.edit import edit_of
from remanent.jobs.price import FLOAT, PACKED, SetSize, price_audit, price_edit, price_unlearning, set_size
from remanent.jobs.shape import kept_for_backward, meta_model
from remanent.jobs.unlearn import build_method
from remanent.models.lora import add_lora
from remanent.models.save import save
from remanent.models.tiny import tiny
from remanent.unlearning import as_stranger, kl_min, scrub
from remanent.unlearning.grad_diff import GradDiff

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
    twice, _ = price(
        settings(folder, method="durableun-saf", hyperparameters={"quantize_retain": True, "warmup": 0.0}), meta
    )
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


def test_what_the_stopping_rule_looks_at_costs_a_copy_unless_it_is_packed(folder, meta):
    copy = "copy of what the displaced points move"
    weights = Weights.of(meta)
    linears = sum(weight.numel() for name, weight in weights.items() if weights.kind(name) == "linear")
    for stop_at, copied in (("full", 0), ("full,int4-row", linears)):
        assert price(settings(folder, stop=True, stop_at=stop_at), meta)[0].memory[copy] == copied * FLOAT
    learnt = settings(folder, stop=True, stop_at="full,int4-row", method="durableun-saf")
    assert price(learnt, meta)[0].memory[copy] == linears * FLOAT  # one point after the other
    adapted = add_lora(meta_model(folder), 2, 4)
    asked = settings(folder, stop=True, adapter="lora-nf4", method="durableun-saf")
    assert price(asked, adapted)[0].memory[copy] == 0


def test_a_lora_trains_little_and_costs_two_thirds(folder, meta):
    full, _ = price(settings(folder), meta)
    asked = settings(folder, adapter="lora", lora_rank=2)
    adapted = add_lora(meta_model(folder), 2, 4)
    lora, _ = price(asked, adapted)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert lora.memory["gradients"] == trained * FLOAT
    assert lora.memory["AdamW's moments"] == 2 * trained * FLOAT
    assert 0.6 < lora.operations / full.operations < 0.75


def test_gradients_that_are_held_are_priced(folder, meta):
    """Of a method of two points two terms' gradients, not four, and the newest of retain, which are half as large."""
    given = {"objective": "durable", "modules": "*", "directions": 5, "forget_weight": 1.0, "host.directions": 0}
    found = price(settings(folder, method="gu", hyperparameters=given), meta)[0].memory
    assert found["gradients kept apart"] == (2 + 2.5) * found["gradients"]
    found = price(settings(folder, method="durable"), meta)[0].memory
    assert found["gradients kept apart"] == (2 + 2) * found["gradients"]
    plain = settings(folder, method="durable", hyperparameters={"directions": 0})
    assert price(plain, meta)[0].memory["gradients kept apart"] == 0


def test_what_is_held_while_a_point_is_sought_is_priced(folder, meta):
    """The gradient that is climbed, beside the update's own; the gradient and moments of a fine-tuning."""
    held = "what a point holds while it is sought"
    found = price(settings(folder, method="flat-durable"), meta)[0].memory
    assert found[held] == found["gradients"]
    alone = price(settings(folder, method="flat-durable", hyperparameters={"rho": 0.0}), meta)[0].memory
    assert alone[held] == 0
    once = Relearning([object()], steps=1)
    assert Then(Rounding("int8"), once).held == OneOf(Rounding("int8"), once).held == once.held == 3


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


def test_the_passes_of_a_run_are_those_that_it_makes(make_records, tiny_llama):
    """Counted by the batches that methods of every kind really ask for."""
    roles = ("forget", "retain", "stranger", "unseen")
    data = {role: make_records(4, seed=number) for number, role in enumerate(roles)}
    chosen = [
        kl_min.method(),
        as_stranger.method(),
        scrub.method(max_share=0.6),
        Method(GradDiff(), points=[At(Ascent(0.1), ("forget",)), At(Here(), ("retain",))]),
        Method(GradDiff(), combine=lambda apart: next(iter(apart.values()))),
    ]
    for method in chosen:
        objective, learned, referred = counting(type(method.objective))
        counted = replace(method, objective=objective, recipe=Recipe(steps=5, batch_size=4))
        run_episode(
            tiny_llama(),
            counted,
            Episode("e", "erase", {role: data[role] for role in method.roles}),
            Settings(pad_id=0),
        )
        assert learned == learning_passes(method, 5)
        assert referred == reference_passes(method, 5)


def counting(kind):
    """An objective of that kind, and by role how often the model in training and its reference were asked."""
    learned, referred = Counter(), Counter()

    class Counted(kind):
        def losses(self, batches, predict):
            asked = set()

            def predicting(batch):
                asked.update(role for role, known in batches.items() if known is batch)
                return predict(batch)

            found = super().losses(batches, predicting)
            learned.update(asked)
            return found

        def at_reference(self, batches, predict):
            referred.update(list(batches))
            return super().at_reference(batches, predict)

    if kind.at_reference is Objective.at_reference:
        Counted.at_reference = Objective.at_reference
    return Counted(), learned, referred


def test_the_reference_costs_a_look_at_each_record_and_at_each_batch_that_asks_it(folder, meta):
    parameters = sum(weight.numel() for weight in meta.parameters())
    learned = 5 * (4 * 8 + 4 * 6) * 6 * parameters
    assert price(settings(folder), meta)[0].operations == learned
    # NPO's forget records once; KL-min's batches at every step, here at most.
    assert price(settings(folder, method="npo"), meta)[0].operations == learned + 10 * 8 * 2 * parameters
    assert (
        price(settings(folder, method="kl-min"), meta)[0].operations == learned + 5 * (4 * 8 + 4 * 6) * 2 * parameters
    )


def test_what_the_reference_said_of_a_batch_is_held_whole(folder, meta):
    """KL-min's distributions over 300 tokens of 4 retain records of 6: of all micro-batches at once."""
    row = "what the reference said of the batch"
    assert price(settings(folder), meta)[0].memory[row] == 0
    for micro_batch in (None, 1):
        asked = settings(folder, method="kl-min", micro_batch=micro_batch)
        assert price(asked, meta)[0].memory[row] == 4 * 6 * meta.config.vocab_size * FLOAT


def test_what_a_method_passes_before_its_first_update_costs(folder, meta):
    parameters = sum(weight.numel() for weight in meta.parameters())
    # The mask of salun: the forget set once. The reinforced model of whp: 3 epochs of 10 records in batches of 4.
    masked = price(settings(folder, method="salun", hyperparameters={"loss": "grad-ascent"}), meta)[0]
    assert masked.operations == (10 * 8 + 5 * (4 * 8 + 4 * 6)) * 6 * parameters
    assert price(settings(folder, method="whp"), meta)[0].operations == (8 * 4 + 5 * 4) * 8 * 6 * parameters


def test_turns_are_not_counted_where_they_are_not_taken(folder, meta):
    """SCRUB's 5 steps: min, max, min, then min steps only; each at the reference too."""
    parameters = sum(weight.numel() for weight in meta.parameters())
    found = price(settings(folder, method="scrub"), meta)[0]
    assert found.operations == (4 * 4 * 6 + 1 * 4 * 8) * (6 + 2) * parameters


def test_an_audit_counts_free_answers_and_the_answers_of_a_truth_ratio(folder, meta):
    parameters = sum(weight.numel() for weight in meta.parameters())

    def cost(sizes=SIZES, **more):
        fields = {"model": folder, "data": {}, "at": "full", "generate": 0, **more}
        return price_audit(AuditSettings.model_validate(fields), meta, sizes, 1e9).operations / (2 * parameters)

    answered = 3 * (8 + 48) + 3 * (6 + 48) + 3 * (5 + 48)
    assert cost(generate=3) - cost() == pytest.approx(answered)
    # At full precision and at the worst of the others, however many there are.
    for at in ("full,int8", "full,int8,nf4"):
        assert cost(generate=3, at=at) - cost(at=at) == pytest.approx(2 * answered)
    texts = {**SIZES, "text": SetSize(5, 100.0)}
    assert cost(texts, generate=3) - cost(texts) == pytest.approx(answered)
    # Drawn answers are no scores, and each is an answer of its own; there is none where nothing is answered.
    sampled = cost(generate=3, at="full,sampled-0.8-4") - cost(generate=3)
    assert sampled == pytest.approx(4 * answered)
    assert cost(at="full,few-shot-3") - cost() == pytest.approx(4 * cost())
    wrong = {**SIZES, "forget": SetSize(10, 8.0, others=24.0)}
    assert cost(wrong) - cost() == pytest.approx(10 * 24.0)
    assert cost(wrong, truth_ratio=False) == cost()


def test_the_other_answers_of_a_record_are_measured():
    told = Record("a", "a", (Message("user", "x" * 40),), "y" * 40, wrong_answers=("z" * 40, "z" * 80))
    assert set_size([told]) == SetSize(1, 40.0, 40.0 + 50.0)
    assert set_size([replace(told, paraphrased_answer="y" * 40), told]).others == (40 + 50 + 40 + 40 + 50) / 2


def test_a_sets_tokens_come_from_its_characters():
    size = set_size([Record("a", "a", (Message("user", "x" * 30),), "y" * 10)])
    assert (size.records, size.tokens) == (1, 40 / 4 + 20)


def test_the_whole_ladder_has_a_price_and_a_back_end_costs_a_second_model(folder, meta):
    plain = price_audit(AuditSettings(model=folder, data={}, at="int8"), meta, SIZES, 1e9)
    ladder = price_audit(AuditSettings(model=folder, data={}, at="thorough"), meta, SIZES, 1e9)
    assert plain.memory["a real back end's own model"] == 0
    assert ladder.memory["a real back end's own model"] == ladder.memory["weights"]
    longest = AuditSettings(model=folder, data={}, at="relearning-unrelated-500,relearning-overlap-500")
    assert ladder.operations > 1.5 * price_audit(longest, meta, SIZES, 1e9).operations > plain.operations


def test_an_edit_that_moves_no_weight_holds_nothing_of_them_and_may_stand_on_packed_ones(folder, meta):
    def edited(model, **more):
        asked = settings(folder, steps=None, batch_size=None, **more)
        return price_edit(asked, edit_of(asked), model, SIZES, 1e9)

    parameters = sum(weight.numel() for weight in meta.parameters())
    damped = edited(meta, method="ssd")
    assert damped.memory["weights"] == damped.memory["gradients"] == parameters * FLOAT
    assert damped.memory["importances of both sets"] == 2 * parameters * FLOAT
    beside = edited(meta, method="eul")
    assert {name for name, held in beside.memory.items() if held} == {"weights", "activations"}
    assert edited(meta, method="guardrail").peak == parameters * FLOAT  # it passes nothing
    adapted = add_lora(meta_model(folder), 2, 4)
    weights = Weights.of(adapted)
    linears = sum(weight.numel() for name, weight in weights.items() if weights.kind(name) == "linear")
    packed, plain = (
        edited(adapted, method="eul", adapter=adapter).memory["weights"] for adapter in ("lora-nf4", "lora")
    )
    assert plain - packed == linears * (FLOAT - PACKED) > 0.5 * plain


def test_gu_is_priced_in_the_layers_that_it_trains(folder, meta):
    one, both = (price(settings(folder, method="gu", hyperparameters={"layers": n}), meta)[0].memory for n in (1, 2))
    assert one["gradients"] * 2 == both["gradients"] > 0


def test_retraining_takes_all_that_is_retained(folder, meta):
    asked = settings(folder, method="retrain", base=folder, steps=None, epochs=2.0)
    sizes = {**SIZES, "task": SetSize(40, 6.0)}
    _, steps = price_unlearning(asked, build_method(asked), meta, sizes, 1e9)
    assert steps == 2 * 40 / 4
    assert price(asked, meta)[1] == 2 * 20 / 4


def test_what_is_combined_holds_one_terms_activations_at_a_time(folder, meta):
    summed, apart = (
        price(settings(folder, method="durable", hyperparameters={"directions": count}), meta)[0].memory["activations"]
        for count in (0, 4)
    )
    assert summed == pytest.approx(2 * apart, rel=0.01)


def test_a_method_that_no_rule_may_judge_holds_no_best_step(folder, meta):
    for method, held in (("grad-diff", True), ("task-vector", False)):
        found = price(settings(folder, method=method, stop=True, stop_at="full"), meta)[0].memory
        assert bool(found["the best step's weights"]) is held
