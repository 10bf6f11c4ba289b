"""FIT: filter, importance and layers by hand, and what it carries from one request to the next."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.displacement import LayerOff
from remanent.core.episode import Episode
from remanent.core.layer_attribution import block_weights, layer_attribution
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.scores import AnswerScores, score_records
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.fit import LiveNPO, LiveNPOWithKL, RandomLabelsAlone, input_gradient_norm, method
from remanent.unlearning.redundancy import (
    Chunk,
    chunks_of,
    encoder_vectors,
    likeness,
    own_centre,
    own_vectors,
    redundant,
    without,
)

RECORD = Encoded((9, 8, 7, 1, 2, 3, 4, 5), (IGNORED, IGNORED, IGNORED, 1, 2, 3, 4, 5), "g", "k")


def request(forget, retain, name="one"):
    return Episode(name, "erase", {"forget": forget, "retain": retain})


def run(model, chosen, episode, **options):
    chosen = with_settings(chosen, learning_rate=1e-2, warmup=0.0)
    return run_episode(model, chosen, episode, Settings(0, **options))


# The filter.


def test_chunks_are_of_scored_tokens_and_what_is_dropped_is_gone():
    chunks = chunks_of([RECORD, RECORD], 2)
    assert chunks[:3] == [Chunk(0, 3, 5), Chunk(0, 5, 7), Chunk(0, 7, 8)]
    assert [chunk.record for chunk in chunks] == [0, 0, 0, 1, 1, 1]
    left = without(RECORD, chunks[1:2])
    assert left.input_ids == (9, 8, 7, 1, 2, 5)
    assert left.labels == (IGNORED, IGNORED, IGNORED, 1, 2, 5)
    assert without(RECORD, chunks[:3]).scored == 0
    # Chunks never reach over a token that is not scored.
    broken = Encoded((1, 2, 3, 4), (1, IGNORED, 3, 4))
    assert chunks_of([broken], 3) == [Chunk(0, 0, 1), Chunk(0, 2, 4)]


def test_likeness_by_hand():
    memory = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    found = likeness(torch.tensor([[3.0, 4.0], [-1.0, 0.0], [0.0, -1.0]]), memory)
    assert found.tolist() == pytest.approx([0.6, 0.0, 1.0])
    assert likeness(memory, torch.zeros(0, 0)).tolist() == [-1.0, -1.0]


def test_own_vectors_are_mean_states_read_in_the_record(tiny_llama, make_records):
    model, records = tiny_llama(), make_records(3, longest=5)
    chunks = chunks_of(records, 2)
    seen = []
    handle = model.model.layers[1].register_forward_hook(
        lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o)
    )
    model(input_ids=torch.tensor([records[chunks[-1].record].input_ids]))
    handle.remove()
    expected = seen[0][0, chunks[-1].start : chunks[-1].stop].mean(dim=0)
    torch.testing.assert_close(own_vectors(model, records, chunks)[-1], expected.detach(), rtol=1e-4, atol=1e-5)
    assert own_centre(model, records).shape == (32,)


def test_a_chunk_is_dropped_where_it_is_like_an_earlier_one_and_would_not_be_missed(tiny_llama):
    """By hand: the loss of the request with and without each chunk."""
    model = tiny_llama()
    records = [RECORD, replace(RECORD, input_ids=(5, 5, 5, 6, 7), labels=(IGNORED, IGNORED, IGNORED, 6, 7))]
    chunks = chunks_of(records, 2)

    def loss(given):
        scores = score_records(model, given, pad_id=0)
        return float(scores.nll.sum() / scores.tokens.sum())

    whole = loss(records)
    changes = []
    for chunk in chunks:
        left = [without(record, [chunk] if place == chunk.record else []) for place, record in enumerate(records)]
        changes.append(abs(loss([record for record in left if record.scored]) - whole))
    alike = torch.ones(len(chunks))
    middle = sorted(changes)[len(changes) // 2]
    dropped = redundant(model, records, chunks, alike, 0.9, middle + 1e-4)
    assert dropped == [chunk for chunk, change in zip(chunks, changes, strict=True) if change <= middle + 1e-4]
    assert 0 < len(dropped) < len(chunks)
    assert redundant(model, records, chunks, alike * 0.89, 0.9, 1e9) == []
    (only,) = chunks_of([records[1]], 2)
    nothing_left = loss(records[1:])  # the loss of nothing is 0
    assert redundant(model, records[1:], [only], alike[:1], 0.9, nothing_left - 1e-3) == []
    assert redundant(model, records[1:], [only], alike[:1], 0.9, nothing_left + 1e-3) == [only]


def test_a_request_that_comes_again_is_skipped_and_another_is_not(tiny_llama, make_records, snapshot, same_bits):
    model, retain = tiny_llama(), make_records(6, seed=2)
    chosen = method(epsilon=100.0, calibrate=True)
    first, other = make_records(3, seed=1), make_records(3, seed=8)
    assert run(model, chosen, request(first, retain)).steps == 3
    before = snapshot(model)
    again = run(model, chosen, request(first, retain, "again"))
    assert (again.steps, again.planned) == (0, 0)
    assert same_bits(snapshot(model), before)
    assert run(model, chosen, request(other, retain, "other")).steps == 3
    assert [item["request"] for item in chosen.carried.decisions] == ["one", "other"]
    assert run(model, method(filter=False), request(first, retain, "again")).steps == 3


def test_half_of_a_request_that_was_asked_before_is_left_out(tiny_llama, make_records):
    model, retain = tiny_llama(), make_records(6, seed=2)
    chosen = method(epsilon=100.0, calibrate=True)
    first, other = make_records(2, seed=1), make_records(2, seed=8)
    run(model, chosen, request(first, retain))
    begun = chosen.begin(model, request([*other, *first], retain, "both"))
    assert begun.narrowed["forget"] == other
    assert begun.trained_on(request([*other, *first], retain)).data["retain"] == retain


def test_vectors_come_from_the_model_as_it_was_before_the_first_request(tiny_llama, make_records):
    """Else what was asked before would look new, after a training that moved every state."""
    model, retain, first = tiny_llama(), make_records(6, seed=2), make_records(3, seed=1)
    chosen = method(calibrate=True)
    run(model, chosen, request(first, retain))
    _, vectors, _ = chosen._left(model, request(first, retain))
    assert likeness(vectors, chosen.carried.memory).min() > 0.999
    moved = own_vectors(model, first, chunks_of(first, 8)) - chosen.carried.centre
    assert likeness(moved, chosen.carried.memory).min() < 0.999


# Importance.


def test_importance_is_the_gradients_norm_at_the_input_embeddings(tiny_llama, make_records):
    """By finite differences along the gradient's own direction: the norm is the slope."""
    model, records = tiny_llama(dtype=torch.float64), make_records(3)
    batch = collate(records, range(3), 0)
    embeddings = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()

    def loss(given):
        logits = model(inputs_embeds=given, attention_mask=batch.attention_mask).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())

    (gradient,) = torch.autograd.grad(loss(embeddings), [embeddings])
    direction = gradient / gradient.norm()
    slope = (loss(embeddings + 1e-4 * direction) - loss(embeddings - 1e-4 * direction)) / 2e-4
    found = input_gradient_norm(model, records)
    assert found == pytest.approx(float(slope), rel=1e-3)
    assert found == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_importance_of_many_records_does_not_depend_on_how_they_are_batched(tiny_llama, make_records, monkeypatch):
    model, records = tiny_llama(), make_records(9)
    found = input_gradient_norm(model, records)
    monkeypatch.setattr("remanent.unlearning.fit._BATCH", 2)
    assert input_gradient_norm(model, records) == pytest.approx(found, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("weight", "chosen"), [(12.0, "npo-kl"), (11.9, "npo"), (6.0, "npo"), (5.9, "random-labels")])
def test_the_thresholds_are_the_papers(weight, chosen):
    assert method()._route(weight) == chosen
    assert method(algorithm="npo")._route(weight) == "npo"


def test_calibrated_thresholds_are_the_thirds_of_what_was_seen():
    chosen = method(calibrate=True)
    assert chosen._route(0.1) == "npo-kl"  # the first: nothing to compare with, so what keeps most
    chosen.carried.importances.extend([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert [chosen._route(weight) for weight in (0.5, 3.5, 7.0)] == ["random-labels", "npo", "npo-kl"]


@pytest.mark.parametrize(
    ("algorithm", "objective"),
    [("npo-kl", LiveNPOWithKL), ("npo", LiveNPO), ("random-labels", RandomLabelsAlone)],
)
def test_an_algorithm_trains_on_what_it_needs(algorithm, objective, tiny_llama, make_records):
    model, forget = tiny_llama(), make_records(3)
    begun = method(algorithm=algorithm).begin(model, request(forget, make_records(6, seed=2)))
    assert type(begun.objective) is objective
    assert begun.roles == (("forget", "retain") if algorithm == "npo-kl" else ("forget",))


def test_npo_by_hand_and_random_labels_too(answers):
    batch, known = answers([1.0, 2.0], [6.0])
    given = replace(batch, live=torch.tensor([4.0, 2.0]))  # D = 1 and -4
    loss = LiveNPO(0.5).losses({"forget": given}, lambda asked: known.scores)["forget"]
    expected = -(2 / 0.5) * sum(math.log(1 / (1 + math.exp(0.5 * d))) for d in (1, -4))
    assert loss.item() == pytest.approx(expected)
    distribution = torch.tensor([[0.5, 0.25, 0.25]]).log()
    scores = AnswerScores(distribution[:, 0], torch.tensor([0]), torch.tensor([True]), distribution, 1)
    found = RandomLabelsAlone().losses({"forget": batch}, lambda asked: scores)["forget"]
    assert found.item() == pytest.approx((math.log(2) + 2 * math.log(4)) / 3)


# Layers.


def test_attribution_is_the_change_of_the_loss_without_a_layer(tiny_llama, make_records):
    model, records = tiny_llama(), make_records(5)

    def loss():
        scores = score_records(model, records, pad_id=0)
        return float(scores.nll.sum() / scores.tokens.sum())

    whole, found = loss(), layer_attribution(model, records, [1, 0])
    assert list(found) == [1, 0]
    for layer, value in found.items():
        with LayerOff(layer).at(model):
            assert value == pytest.approx(abs(loss() - whole))


def test_the_weights_of_a_layer_are_its_blocks_and_no_norm(tiny_llama, tiny_gpt2, lora):
    found = block_weights(model := tiny_llama(), Weights.of(model))
    assert set(found) == {0, 1}
    assert {name.split(".")[3] for name in found[1]} == {"self_attn", "mlp"}
    assert len(found[0]) == 7
    gpt = block_weights(model := tiny_gpt2(), Weights.of(model))
    assert {name.split(".")[3] for name in gpt[0]} == {"attn", "mlp"}  # their biases too
    adapted = block_weights(model := lora(tiny_llama()), Weights.of(model).trainable())
    assert len(adapted[0]) == 14
    assert all("lora_" in name for name in adapted[0])


def test_only_the_layer_that_matters_most_moves_and_only_its_weights_are_kept(tiny_llama, make_records, snapshot):
    model, forget, retain = tiny_llama(), make_records(3, seed=1), make_records(6, seed=2)
    scores = layer_attribution(model, forget, [0, 1])
    best = max(scores, key=scores.get)
    before = snapshot(model)
    chosen = method(layers=1, calibrate=True)
    run(model, chosen, request(forget, retain))
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert moved == set(block_weights(model, Weights.of(model))[best])
    assert set(chosen.carried.original) == moved
    assert all(torch.equal(value, before[name]) for name, value in chosen.carried.original.items())
    assert chosen.carried.decisions[0]["layers"] == [best]


def test_a_selection_and_frozen_weights_are_respected(tiny_llama, make_records):
    model, forget, retain = tiny_llama(), make_records(3), make_records(6, seed=2)
    model.model.layers[0].requires_grad_(False)
    begun = with_settings(method(layers=1), names="*.mlp.*").begin(model, request(forget, retain))
    assert begun.pending["decision"]["layers"] == [1]
    assert {name.split(".")[3] for name in begun.select.names} == {"mlp"}
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    with pytest.raises(UnsupportedError, match="no weight of a decoder layer"):
        method().begin(model, request(forget, retain))


# What it carries along.


def test_the_reference_stays_the_model_before_the_first_request(tiny_llama, make_records):
    """At the second request's first update the divergence on retain is what the first request left behind."""
    model, retain = tiny_llama(), make_records(6, seed=2)
    chosen = method(algorithm="npo-kl")
    run(model, chosen, request(make_records(3, seed=1), retain))
    found = []
    run_episode(
        model,
        with_settings(chosen, learning_rate=0.0),
        request(make_records(3, seed=8), retain, "two"),
        Settings(0),
        on_step=lambda step, steps, losses: found.append(losses),
    )
    assert found[0]["retain@full"] > 1e-3
    fresh = []
    run_episode(
        model,
        with_settings(method(algorithm="npo-kl"), learning_rate=0.0),
        request(make_records(3, seed=8), retain, "two"),
        Settings(0),
        on_step=lambda step, steps, losses: fresh.append(losses),
    )
    assert abs(fresh[0]["retain@full"]) < 1e-6


def test_what_it_carries_survives_being_saved(tiny_llama, make_records, snapshot, same_bits):
    retain, requests = make_records(6, seed=2), [make_records(3, seed=seed) for seed in (1, 8, 9)]
    whole, halted = tiny_llama(), tiny_llama()
    one = method(layers=1, calibrate=True)
    for place, records in enumerate(requests):
        run(whole, one, request(records, retain, str(place)))
    before, after = method(layers=1, calibrate=True), method(layers=1, calibrate=True)
    run(halted, before, request(requests[0], retain, "0"))
    after.load_state_dict(before.state_dict())
    for place, records in enumerate(requests[1:], start=1):
        run(halted, after, request(records, retain, str(place)))
    assert same_bits(snapshot(whole), snapshot(halted))
    assert after.carried.decisions == one.carried.decisions
    assert torch.equal(after.carried.memory, one.carried.memory)


# An encoder of one's own.


def test_an_encoder_reads_each_chunk_as_text(tmp_path, tiny_llama, make_records):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, **{f"w{n}": n + 2 for n in range(60)}}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for folder in ("encoder", "model"):
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(tmp_path / folder)
    config = BertConfig(vocab_size=62, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    model, records = tiny_llama(), make_records(3)
    model.config._name_or_path = str(tmp_path / "model")
    chunks = chunks_of(records, 2)
    vectors = encoder_vectors(model, records, chunks, str(tmp_path / "encoder"))
    assert vectors.shape == (len(chunks), 16)
    # The same words in another record are the same vector: nothing around them is read.
    moved = [replace(record, input_ids=(3, 4, 5, *record.input_ids[3:])) for record in records]
    torch.testing.assert_close(encoder_vectors(model, moved, chunks, str(tmp_path / "encoder")), vectors)
    retain = make_records(6, seed=2)
    chosen = method(encoder=str(tmp_path / "encoder"), epsilon=100.0, calibrate=True)
    assert run(model, chosen, request(records, retain)).steps == 3
    assert run(model, chosen, request(records, retain, "again")).planned == 0
    model.config._name_or_path = str(tmp_path / "nowhere")
    with pytest.raises(UnsupportedError, match="tokenizer"):
        chosen.begin(model, request(records, retain))
    model.config._name_or_path = str(tmp_path / "model")
    with pytest.raises(InputError, match="sentence encoder"):
        method(encoder=str(tmp_path / "none")).begin(model, request(records, retain))


@pytest.mark.parametrize(
    "bad",
    [
        {"similarity": 1.5},
        {"epsilon": -0.1},
        {"chunk": 0},
        {"layers": 0},
        {"low": 13.0},
        {"algorithm": "ascent"},
        {"beta": 0.0},
    ],
)
def test_bad_values_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        method(**bad)
