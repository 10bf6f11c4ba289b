"""Gradient checkpointing with a LoRA: every matrix of every adapter moves, in each way of training that there is.

Elsewhere adapters stay silently as they were: open-unlearning issue 178.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Trainer

from remanent.core.batch import collate
from remanent.core.displacement import Here, Rounding
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.update import Update
from remanent.errors import UnsupportedError
from remanent.hf.trainer import MethodTrainer
from remanent.hf.two_pass import TwoPassTrainer
from remanent.models.lora import add_lora
from remanent.optim import SAM
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.npo import NPO

from .conftest import weights_of

UPDATES = 3
METHOD = Method(NPO(), points=[Here(), Rounding("int4-row")])
# The two ways in which torch checkpoints; only the first needs inputs that require gradients.
ways = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "without-reentry"])


def in_our_loop(model, data, arguments):
    # Weight decay would move a matrix that has no gradient.
    changes = {"steps": UPDATES, "batch_size": 4, "learning_rate": 1e-2, "schedule": "constant"}
    method = with_settings(METHOD, warmup=0.0, weight_decay=0.0, **changes)
    seen = []
    run_episode(
        model,
        method,
        Episode("e", "erase", {role: data[role] for role in method.roles}),
        Settings(pad_id=0),
        on_step=lambda step, steps, losses: seen.append(adapters(model)),
    )
    return seen


def in_method_trainer(model, data, arguments):
    MethodTrainer(model, METHOD, arguments(max_steps=UPDATES), {role: data[role] for role in METHOD.roles}).train()
    return []


def in_two_pass_trainer(model, data, arguments):
    records = [{"input_ids": list(item.input_ids), "labels": list(item.labels)} for item in data["retain"]]

    def collated(items):
        batch = collate(data["retain"], [records.index(item) for item in items], 0)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = SAM(trained, torch.optim.AdamW, lr=1e-2, rho=0.05, weight_decay=0.0)
    trainer: Trainer = TwoPassTrainer(
        model,
        arguments(max_steps=UPDATES, remove_unused_columns=False),
        train_dataset=records,
        data_collator=collated,
        optimizers=(optimizer, None),
    )
    trainer.train()
    return []


def adapters(model):
    return {name: value for name, value in weights_of(model).items() if "lora_" in name}


def adapted(model, reentrant=None):
    """With a LoRA; checkpointed unless `reentrant` is None."""
    model = add_lora(copy.deepcopy(model), rank=2, alpha=4, dropout=0.0).train()
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return model


@ways
@pytest.mark.parametrize("train", [in_our_loop, in_method_trainer, in_two_pass_trainer])
def test_every_matrix_moves(model, data, arguments, train, reentrant):
    model = adapted(model, reentrant)
    before = adapters(model)
    assert any("lora_A" in name for name in before)
    seen = train(model, data, arguments)
    assert [name for name, value in adapters(model).items() if torch.equal(value, before[name])] == []
    for first in seen[:1]:  # B is 0 at the start, so that A has no gradient in the first update
        assert all(torch.equal(value, before[name]) == ("lora_A" in name) for name, value in first.items())


@ways
def test_gradients_are_those_without_checkpointing(model, data, reentrant):
    found = {}
    for name, changed in {"plain": None, "checkpointed": reentrant}.items():
        there = adapted(model, changed)
        with torch.no_grad():
            for parameter, weight in there.named_parameters():
                if "lora_B" in parameter:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
        batches = {
            role: collate(data[role], range(4), 0).with_reference(torch.linspace(5.0, 9.0, 10)) for role in METHOD.roles
        }
        optimizer = torch.optim.SGD([weight for weight in there.parameters() if weight.requires_grad], lr=0.0)
        Update(there, METHOD, optimizer, steps=1).gradients(batches)
        found[name] = {name: weight.grad for name, weight in there.named_parameters() if weight.grad is not None}
    assert found["checkpointed"].keys() == found["plain"].keys() == adapters(there).keys()
    for name, gradient in found["plain"].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found["checkpointed"][name], gradient, rtol=1e-5, atol=1e-7)


def test_a_loss_that_reaches_no_weight_is_an_error(model, data):
    model = adapted(model, reentrant=True)
    model.get_input_embeddings()._forward_hooks.clear()  # as where a LoRA was put on without `add_lora`
    method = with_settings(Method(GradDiff()), steps=1, batch_size=4)
    episode = Episode("e", "erase", {role: data[role] for role in method.roles})
    with pytest.raises(UnsupportedError, match="reaches no weight"):
        run_episode(model, method, episode, Settings(pad_id=0))
