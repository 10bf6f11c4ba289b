"""EUL: its losses and its layers by hand, the student that begins as its teacher, and fusing by least squares."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from remanent.core.activations import stream_of
from remanent.core.edit import EditSettings
from remanent.core.intervention import put_on, worn
from remanent.core.scores import score_records
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.eul import SelectiveTeacher, UnlearningLayers, _Student, edit, feed_forward_networks, fused


def layers(model, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = model.get_input_embeddings().weight.shape[1]
    shapes = {
        "down.weight": (width, hidden),
        "down.bias": (width,),
        "up.weight": (hidden, width),
        "up.bias": (hidden,),
    }
    return UnlearningLayers(
        {
            f"{place}.{name}": 0.3 * torch.randn(shape, generator=generator)
            for place in range(len(feed_forward_networks(model)))
            for name, shape in shapes.items()
        }
    )


def test_its_losses_by_hand(predicting):
    """Teacher (1/2, 1/2), student (1/4, 3/4), label 0: KL = log 2 / 2 + log(2/3) / 2, NLL = log 4."""
    batch, _, predict = predicting([[0]], [[0.0, math.log(3.0)]])
    batch = replace(batch, live=torch.tensor([[0.5, 0.5]]).log())
    found = SelectiveTeacher().losses({"forget": batch, "retain": batch}, predict)
    divergence = math.log(2) / 2 + math.log(2 / 3) / 2
    assert found["obey"].item() == pytest.approx(divergence)
    assert found["apart"].item() == pytest.approx(-divergence)
    assert found["retain"].item() == pytest.approx(math.log(4))
    assert found["forget"].item() == pytest.approx(-math.log(4))


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_gpt2"])
def test_a_layer_adds_two_matrices_behind_each_network(make, request):
    model = request.getfixturevalue(make)()
    item, seen = layers(model), {}
    for place, network in enumerate(feed_forward_networks(model)):
        network.register_forward_hook(lambda m, inputs, out, place=place: seen.setdefault(place, out))
    put_on(model, item)
    for place, network in enumerate(feed_forward_networks(model)):
        network.register_forward_hook(lambda m, inputs, out, place=place: seen.setdefault((place, "after"), out))
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 7, 5, 3]]))
    for place in range(2):
        weights = {
            name.partition(".")[2]: value for name, value in item.tensors.items() if name.startswith(f"{place}.")
        }
        inside = (seen[place] @ weights["down.weight"].T + weights["down.bias"]).clamp_min(0)
        expected = seen[place] + inside @ weights["up.weight"].T + weights["up.bias"]
        torch.testing.assert_close(seen[place, "after"], expected)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "llama4_text"])
def test_behind_a_mixture_that_gives_what_its_router_said_too(architecture, tiny_mixture, make_records):
    """And, as Llama 4's, all tokens in one row. What the layers gave is what the next ones get."""
    model, seen = tiny_mixture(architecture), []
    first, second = layers(model), layers(model, seed=1)
    network = feed_forward_networks(model)[0]
    ids = torch.tensor([[1, 7, 5, 3], [4, 6, 8, 9]])
    for item in (None, first):
        undo = None if item is None else put_on(model, item)
        handle = network.register_forward_hook(lambda m, inputs, out: seen.append(stream_of(out).view(2, 4, 32)))
        with torch.no_grad():
            model(input_ids=ids)
        handle.remove()
    undo.undo()
    down, shift, up, constant = (
        first.tensors[f"0.{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    )
    inside = (seen[0] @ down.T + shift).clamp_min(0)
    torch.testing.assert_close(seen[1], seen[0] + inside @ up.T + constant)
    records = [make_records(12, seed=3), make_records(12, seed=4)]
    assert set(fused(model, [first, second], records).tensors) == set(first.tensors)


def test_it_parts_on_forget_and_keeps_retain(tiny_llama, make_records):
    data = {"forget": make_records(6, seed=1), "retain": make_records(12, seed=2)}
    model = tiny_llama()

    def nll():
        return [float(score_records(model, data[role], pad_id=0).mean_nll.mean()) for role in ("forget", "retain")]

    before = nll()
    made = edit(learning_rate=1e-2, epochs=20.0, batch_size=6).edit(model, data, EditSettings())
    after = nll()
    assert after[0] > before[0] + 0.5
    assert after[1] < before[1]
    assert made.report["parameters"] == 2 * (64 * 32 + 64 + 32 * 64 + 32)


def test_without_weights_the_student_stays_the_teacher(tiny_llama, make_records):
    """Its second matrices begin at 0, so that no loss means no change."""
    data = {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)}
    model, ids = tiny_llama(), torch.tensor([[1, 7, 5, 3]])
    plain = model(input_ids=ids).logits
    still = edit(obey_weight=0.0, retain_weight=0.0, forget_weight=0.0, apart_weight=0.0, epochs=1.0)
    still.edit(model, data, EditSettings())
    assert torch.equal(model(input_ids=ids).logits, plain)


def test_layers_of_a_second_request_lie_behind_the_firsts_which_are_their_teacher(tiny_llama, make_records):
    """Without losses the second set changes nothing, so that the model with both answers as with the first alone."""
    data = {"forget": make_records(6, seed=1), "retain": make_records(8, seed=2)}
    model, ids = tiny_llama(), torch.tensor([[1, 7, 5, 3]])
    plain = model(input_ids=ids).logits
    edit(epochs=2.0, learning_rate=1e-2).edit(model, data, EditSettings())
    first = model(input_ids=ids).logits
    still = edit(obey_weight=0.0, retain_weight=0.0, forget_weight=0.0, apart_weight=0.0, epochs=1.0)
    still.edit(model, data, EditSettings())
    assert len(worn(model)) == 2
    assert not torch.allclose(first, plain)
    assert torch.equal(model(input_ids=ids).logits, first)


def test_fused_layers_are_the_nearest_to_all_on_what_they_met(tiny_llama, make_records):
    model = tiny_llama()
    first, second = layers(model), layers(model, seed=1)
    records = [make_records(40, seed=3), make_records(40, seed=4)]
    same = fused(model, [first, first], records)
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor, rtol=1e-4, atol=1e-4)
    made = fused(model, [first, second], records)
    # Of the first matrix, whose inputs before the first layer's own change are those of the model as it is.
    seen = []
    handle = feed_forward_networks(model)[0].register_forward_hook(lambda m, inputs, out: seen.append(out[0]))
    for part in records:
        for record in part:
            model(input_ids=torch.tensor([record.input_ids]))
    handle.remove()
    count = sum(len(record.input_ids) for record in records[0])
    rows = torch.cat(seen).detach()

    def far(item):
        total = 0.0
        for part, own in ((rows[:count], first), (rows[count:], second)):
            outputs = [part @ x.tensors["0.down.weight"].T + x.tensors["0.down.bias"] for x in (item, own)]
            total += float((outputs[0] - outputs[1]).pow(2).sum())
        return total

    mean = UnlearningLayers({name: (first.tensors[name] + second.tensors[name]) / 2 for name in first.tensors})
    assert far(made) < min(far(first), far(second), far(mean))
    nudged = {**made.tensors, "0.down.weight": made.tensors["0.down.weight"] + 1e-2}
    assert far(made) < far(UnlearningLayers(nudged))


def test_a_student_leaves_the_global_generator_alone(tiny_llama):
    model = tiny_llama()
    before = torch.get_rng_state()
    student = _Student(model, 3, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(bool(torch.isfinite(weight).all()) for weight in student.parameters())


def test_fusing_is_in_eval_mode_and_leaves_no_hooks_where_it_fails(tiny_llama, make_records):
    model = tiny_llama().train()
    made, networks = layers(model), feed_forward_networks(model)
    modes = []
    handle = networks[0].register_forward_pre_hook(lambda module, inputs: modes.append(model.training))
    fused(model, [made], [make_records(2, seed=1)])
    handle.remove()
    assert modes == [False]
    short = UnlearningLayers({name: value for name, value in made.tensors.items() if name.startswith("0.")})
    with pytest.raises(InputError, match="a model of 2"):
        fused(model, [short], [make_records(2, seed=1)])
    assert all(part.training for part in model.modules())
    assert not any(network._forward_hooks for network in networks)


def test_a_missing_role_leaves_the_model_as_it_was(tiny_llama, make_records):
    model = tiny_llama().train()
    with pytest.raises(KeyError):
        edit().edit(model, {"forget": make_records(4, seed=1)}, EditSettings())
    assert all(part.training for part in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())


def test_what_does_not_fit_is_named(tiny_llama, make_records):
    model = tiny_llama()
    made = layers(model)
    short = UnlearningLayers({name: value for name, value in made.tensors.items() if name.startswith("0.")})
    with pytest.raises(InputError, match="a model of 2"):
        put_on(model, short)
    with pytest.raises(InputError, match="one set of layers for each request"):
        fused(model, [made], [])
    with pytest.raises(InputError, match="width"):
        edit(width=0)
    with pytest.raises(InputError, match="forget"):
        edit(forget_weight=-1.0)
    for layer in model.model.layers:
        layer.mlp, layer.other = nn.Identity(), layer.mlp
        del layer.mlp
    with pytest.raises(UnsupportedError, match="no part called mlp"):
        feed_forward_networks(model)
