from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from remanent.core.displacement import Here, Noise, Rounding
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import At, Method, Recipe
from remanent.core.schedule import Ramp
from remanent.core.selection import Selection
from remanent.core.task import Task
from remanent.errors import DivergedError, InputError, RunConflictError, UnsupportedError
from remanent.hf.trainer import MethodTrainer
from remanent.models.lora import add_lora
from remanent.unlearning import durable, grad_diff, npo
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.npo import NPO
from tests.hf.conftest import assert_equal, weights_of

RECIPE = Recipe(
    learning_rate=1e-2, steps=6, batch_size=4, schedule="constant", warmup=0.0, weight_decay=0.0, max_grad_norm=0.5
)
SAF = Method(
    GradDiff(),
    points=[Here(), At(Rounding("int4-row"), terms=("forget",), weight=Ramp(0, 2, after=0.3))],
    weights={"retain": 3.0},
)
ROLES = ("forget", "retain")


def looped(model, method, data, **changes):
    """The same run in the loop."""
    changes = dict(changes)
    settings = Settings(
        pad_id=0, seed=3, precision=changes.pop("precision", "fp32"), micro_batch=changes.pop("micro_batch", None)
    )
    recipe = {name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__} | changes
    model = copy.deepcopy(model)
    rows = []
    run_episode(
        model,
        with_settings(method, **recipe),
        Episode("e", "erase", {role: data[role] for role in method.roles}),
        settings,
        on_step=lambda step, steps, losses: rows.append(losses),
    )
    return weights_of(model), rows


def trained(model, method, args, data, **options):
    trainer = MethodTrainer(model, method, args, {role: data[role] for role in method.roles}, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize("method", [npo.method(), durable.method(), SAF], ids=["npo", "durable", "saf"])
def test_makes_the_loops_updates_bit_for_bit(model, data, arguments, method):
    expected, rows = looped(model, method, data)
    before = weights_of(model)
    trainer = trained(model, method, arguments(), data)
    assert any(not torch.equal(before[name], tensor) for name, tensor in expected.items())
    assert_equal(weights_of(model), expected)
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == len(rows) == 6
    for row, losses in zip(logged, rows, strict=True):
        assert {name: row["grad_norm" if name == "gradient_norm" else name] for name in losses} == losses


def test_train_takes_trainers_arguments_by_position(model, data, arguments):
    trainer = MethodTrainer(model, npo.method(), arguments(max_steps=1), {role: data[role] for role in ROLES})
    trainer.train(None, None, ["logits"])
    assert trainer.state.global_step == 1


def test_logs_the_weighted_loss(model, data, arguments):
    trainer = trained(model, SAF, arguments(max_steps=6), data)
    last = [row for row in trainer.state.log_history if "loss" in row][-1]
    weight = Ramp(0, 2, after=0.3).at(6, 6)
    expected = last["forget@full"] + 3 * last["retain@full"] + weight * last["forget@int4-row"]
    assert weight == 2
    assert last["loss"] == pytest.approx(expected, abs=1e-5)


def test_accumulation_is_the_whole_batch(model, data, arguments):
    expected, _ = looped(model, npo.method(), data)
    in_pieces, _ = looped(model, npo.method(), data, micro_batch=1)
    trained(model, npo.method(), arguments(per_device_train_batch_size=1, gradient_accumulation_steps=4), data)
    assert_equal(weights_of(model), in_pieces)
    # Adam divides by the gradient's size, so that its rounding shows where the gradient is near 0.
    assert_equal(weights_of(model), expected, tolerance=1e-4)


def test_two_passes_by_epochs(model, data, arguments):
    # 8 of 10 forget records to an update, all 7 retain records: 2 updates a pass.
    expected, _ = looped(model, npo.method(), data, steps=4, batch_size=8)
    trainer = trained(
        model, npo.method(), arguments(max_steps=-1, num_train_epochs=2, per_device_train_batch_size=8), data
    )
    assert trainer.state.global_step == 4
    assert_equal(weights_of(model), expected)


def test_bfloat16_is_the_loops(model, data, arguments):
    expected, _ = looped(model, durable.method(), data, precision="bf16", steps=3)
    trained(model, durable.method(), arguments(bf16=True, max_steps=3), data)
    assert_equal(weights_of(model), expected)


class Clean(nn.Module):
    """A causal model with dropout, for seeds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.drop, self.head = nn.Embedding(200, 16), nn.Dropout(0.5), nn.Linear(16, 200)

    def forward(self, input_ids, attention_mask):
        return self.head(self.drop(self.embed(input_ids)))


def test_dropout_is_the_loops_and_differs_from_update_to_update(data, arguments):
    model = Clean()
    expected, _ = looped(model, npo.method(), data)
    masks = []
    model.drop.register_forward_hook(
        lambda module, inputs, output: masks.append(output[0, 0] == 0) if module.training else None
    )
    trained(model, npo.method(), arguments(), data)
    assert_equal(weights_of(model), expected)
    per_update = masks[:: len(masks) // 6]
    assert not any(torch.equal(per_update[0], mask) for mask in per_update[1:])


@pytest.mark.parametrize("step", [3, 5])
def test_resumed_run_ends_with_the_same_weights(model, data, arguments, step, tmp_path):
    """At the end of a pass, and inside the second."""
    args = arguments(
        max_steps=-1, num_train_epochs=2, save_strategy="steps", save_steps=step, lr_scheduler_type="linear"
    )
    start = copy.deepcopy(model)
    assert trained(model, durable.method(), args, data).state.max_steps == 6
    resumed = MethodTrainer(start, durable.method(), args, {role: data[role] for role in ROLES})
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
    assert_equal(weights_of(start), weights_of(model))


def test_resumed_run_keeps_its_reference_even_from_trained_weights(model, data, arguments):
    options = {"save_strategy": "steps", "save_steps": 3}
    first = trained(model, npo.method(), arguments(**options), data)
    again = MethodTrainer(model, npo.method(), arguments(**options), {role: data[role] for role in ROLES})
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(again._reference["forget"], first._reference["forget"], rtol=0, atol=0)


def test_resume_refuses_other_records(model, data, arguments):
    options = {"save_strategy": "steps", "save_steps": 3}
    trained(model, npo.method(), arguments(**options), data)
    other = MethodTrainer(
        model, npo.method(), arguments(**options), {"forget": data["forget"][1:], "retain": data["retain"]}
    )
    with pytest.raises(RunConflictError, match="other records"):
        other.train(resume_from_checkpoint=True)


class Counting(Method):
    """A method with state: how many updates it was told of, and a sum that every one of them moves."""

    def begin(self, model, episode):
        object.__setattr__(self, "told", [])
        object.__setattr__(self, "ended", False)
        object.__setattr__(self, "sum", torch.zeros(()))
        return self

    def after_update(self, model, step):
        self.told.append(step)
        self.sum.add_(next(iter(model.parameters())).detach().double().sum().float())

    def end(self, model, episode):
        object.__setattr__(self, "ended", True)

    def state_dict(self):
        return {"told": list(self.told), "sum": self.sum}

    def load_state_dict(self, state):
        object.__setattr__(self, "told", list(state["told"]))
        object.__setattr__(self, "sum", state["sum"].clone())


def test_lifecycle_calls_and_their_state_on_resume(model, data, arguments, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    start, whole, resumed = copy.deepcopy(model), Counting(NPO()), Counting(NPO())
    trained(model, whole, arguments(**options, gradient_accumulation_steps=2), data)
    assert whole.told == [1, 2, 3, 4, 5, 6]
    assert whole.ended
    trainer = MethodTrainer(
        start, resumed, arguments(**options, gradient_accumulation_steps=2), {role: data[role] for role in ROLES}
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert resumed.told == whole.told
    assert torch.equal(resumed.sum, whole.sum)


class Skipping(Method):
    def begin(self, model, episode):
        return None


def test_begin_can_skip(model, data, arguments):
    before = weights_of(model)
    assert trained(model, Skipping(NPO()), arguments(), data).state.global_step == 0
    assert_equal(weights_of(model), before)


class Pull:
    def add_gradient(self, weights):
        loss = torch.zeros(())
        for tensor in weights.trainable().values():
            loss = loss + 0.5 * tensor.detach().square().sum()
            tensor.grad = tensor.detach().clone() if tensor.grad is None else tensor.grad + tensor.detach()
        return loss


def off_retain(gradients):
    """Forget's gradient less its part along retain's, plus retain's."""
    forget, retain = gradients["forget", "full"], gradients["retain", "full"]
    along = sum((forget[n] * retain[n]).sum() for n in forget) / sum((g * g).sum() for g in retain.values())
    return {name: forget[name] + (1 - along) * retain[name] for name in forget}


def test_combine_and_pull_are_the_loops(model, data, arguments):
    method = Method(NPO(), combine=off_retain, pull=Pull())
    expected, _ = looped(model, method, data, micro_batch=2)
    trainer = trained(
        model, method, arguments(per_device_train_batch_size=2, gradient_accumulation_steps=2, logging_steps=6), data
    )
    assert_equal(weights_of(model), expected)
    assert "pull" in trainer.state.log_history[0]


def test_only_the_selected_weights_move(model, data, arguments):
    before = weights_of(model)
    trained(model, Method(NPO(), select=Selection(names=("*.layers.1.mlp.*",))), arguments(), data)
    moved = {name for name, tensor in weights_of(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if ".layers.1.mlp." in name}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora(model, data, arguments, checkpointing):
    adapted = add_lora(model, rank=2, alpha=4, dropout=0.0, targets=["q_proj", "up_proj"])
    expected, _ = looped(adapted, durable.method(), data, steps=3)
    before = weights_of(adapted)
    trained(adapted, durable.method(), arguments(max_steps=3, activation_checkpointing=checkpointing), data)
    after = weights_of(adapted)
    assert_equal(after, expected)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if "lora_" in name
    }


def test_lora_resumes(model, data, arguments, tmp_path):
    adapted = add_lora(model, rank=2, alpha=4, dropout=0.1)
    start = copy.deepcopy(adapted)
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trained(adapted, npo.method(), arguments(**options), data)
    resumed = MethodTrainer(start, npo.method(), arguments(**options), {role: data[role] for role in ROLES})
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert_equal(weights_of(start), weights_of(adapted))


def test_gradient_checkpointing_at_rounded_points(model, data, arguments):
    other = copy.deepcopy(model)
    trained(model, SAF, arguments(max_steps=3), data)
    trained(other, SAF, arguments(max_steps=3, activation_checkpointing=True), data)
    assert_equal(weights_of(other), weights_of(model), tolerance=1e-6)


def test_zero_learning_rate_changes_nothing(model, data, arguments):
    before = weights_of(model)
    trained(model, Method(NPO(), points=[Here(), At(Noise(0.01))]), arguments(learning_rate=0.0), data)
    assert_equal(weights_of(model), before)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(model, data, arguments):
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    before = weights_of(model)["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(DivergedError, match="step 1"):
        trained(model, grad_diff.method(), arguments(), data)
    assert torch.equal(weights_of(model)["model.layers.0.mlp.up_proj.weight"], before)


def test_missing_role(model, data, arguments):
    with pytest.raises(InputError, match="'retain'"):
        MethodTrainer(model, npo.method(), arguments(), {"forget": data["forget"]})


@pytest.mark.parametrize(("name", "value"), [("label_smoothing_factor", 0.1), ("auto_find_batch_size", True)])
def test_arguments_that_would_change_the_method(model, data, arguments, name, value):
    with pytest.raises(InputError, match=name):
        MethodTrainer(model, Method(Task()), arguments(**{name: value}), {"task": data["forget"]})


@pytest.mark.parametrize("stage", [1, 3])
def test_refuses_deepspeed_by_name(model, data, arguments, stage):
    args = arguments()
    args.deepspeed_plugin = SimpleNamespace(zero_stage=stage)
    with pytest.raises(UnsupportedError, match=f"ZeRO-{stage}"):
        MethodTrainer(model, Method(Task()), args, {"task": data["forget"]})


@pytest.mark.parametrize("version", [1, 2])
def test_refuses_fsdp_by_name(model, data, arguments, version):
    args = arguments(fsdp="full_shard", fsdp_config={"version": version})
    with pytest.raises(UnsupportedError, match=f"FSDP{version}"):
        MethodTrainer(model, Method(Task()), args, {"task": data["forget"]})
