from __future__ import annotations

import copy

import pytest
from transformers import Trainer

from remanent.core.batch import collate
from remanent.core.displacement import Here, Rounding
from remanent.core.episode import Episode
from remanent.core.evaluation import ForgetAtControl
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.selection import LINEARS
from remanent.core.task import Task
from remanent.errors import InputError, UnsupportedError
from remanent.hf.callback import RemanentCallback
from remanent.hf.trainer import MethodTrainer
from remanent.unlearning import grad_diff, npo, task_vector
from tests.hf.conftest import assert_equal, weights_of

ROLES = ("forget", "retain")
EPISODE = Episode("e", "erase", {})


def rule(data, margin=0.0):
    return ForgetAtControl({**data}, [Here(), Rounding("int4-row")], pad_id=0, margin=margin)


def trainer_for(model, data, args, *callbacks):
    return MethodTrainer(model, npo.method(), args, {role: data[role] for role in ROLES}, callbacks=list(callbacks))


def options(**changes):
    return {"learning_rate": 3e-3, "max_steps": 40} | changes


def test_stops_and_keeps_the_step_that_the_loop_keeps(taught, data, arguments):
    expected = copy.deepcopy(taught)
    method = with_settings(
        npo.method(), learning_rate=3e-3, steps=40, batch_size=4, schedule="constant", warmup=0.0, max_grad_norm=0.5
    )
    outcome = run_episode(
        expected,
        with_settings(method, weight_decay=0.0),
        Episode("e", "erase", {role: data[role] for role in ROLES}),
        Settings(pad_id=0, seed=3, evaluate_every=2),
        rule=rule(data),
    )
    callback = RemanentCallback(rule(data), evaluate_every=2)
    trainer = trainer_for(taught, data, arguments(**options()), callback)
    trainer.train()
    assert outcome.stopped
    assert outcome.steps < 40
    assert trainer.state.global_step == outcome.steps
    assert callback.best_step == outcome.best_step
    assert callback.evaluations == list(outcome.evaluations)
    assert_equal(weights_of(taught), weights_of(expected))
    rows = [row for row in trainer.state.log_history if "eval_reached" in row]
    assert [row["step"] for row in rows] == [evaluation.step for evaluation in outcome.evaluations]
    assert rows[-1]["eval_forget@int4-row"] > rows[0]["eval_forget@int4-row"]


def test_best_step_is_not_the_last(taught, data, arguments):
    """Gradient ascent runs past the target: the weights given back are those that knew the retain set best."""
    callback = RemanentCallback(rule(data, margin=-1e9), evaluate_every=1)  # never reached: the smallest gap is kept
    trainer = MethodTrainer(
        taught,
        grad_diff.method(retain_weight=20.0),
        arguments(**options(max_steps=12, learning_rate=3e-2)),
        {role: data[role] for role in ROLES},
        callbacks=[callback],
    )
    trainer.train()
    evaluations = callback.evaluations[1:]
    best = max(evaluations, key=lambda evaluation: evaluation.score)
    assert callback.best_step == best.step < 12
    assert len(evaluations) == 12
    again = rule(data)
    again.before = callback.evaluations[0].nll
    assert again(taught, best.step).nll == best.nll


def test_resumed_rule_goes_on_where_it_was(taught, data, arguments, tmp_path):
    start = copy.deepcopy(taught)
    saving = options(save_strategy="steps", save_steps=4, max_steps=6)
    callback = RemanentCallback(rule(data, margin=-1e9), evaluate_every=2)
    trainer_for(taught, data, arguments(**saving), callback).train()
    resumed = RemanentCallback(rule(data, margin=-1e9), evaluate_every=2)
    trainer = trainer_for(start, data, arguments(**saving), resumed)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert resumed.evaluations == callback.evaluations
    assert resumed.best_step == callback.best_step
    assert_equal(weights_of(start), weights_of(taught))


def test_resumed_where_the_rule_was_met_it_stays_with_the_step_it_kept(taught, data, arguments, tmp_path):
    start = copy.deepcopy(taught)
    saving = options(save_strategy="steps", save_steps=2)
    callback = RemanentCallback(rule(data), evaluate_every=2)
    trainer = trainer_for(taught, data, arguments(**saving), callback)
    trainer.train()
    stopped = trainer.state.global_step
    assert callback.best_step == stopped < 40
    resumed = RemanentCallback(rule(data), evaluate_every=2)
    again = trainer_for(start, data, arguments(**saving), resumed)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stopped}"))
    assert again.state.global_step <= stopped + 1
    assert (resumed.best_step, resumed.evaluations) == (callback.best_step, callback.evaluations)
    assert_equal(weights_of(start), weights_of(taught))


def test_a_model_that_is_only_made_at_the_end_is_not_judged_before(model, data, arguments):
    """The negated task vector knows the records better and better until it is negated."""
    before = weights_of(model)
    trainer = MethodTrainer(
        model, task_vector.method(), arguments(), {"forget": data["forget"]}, callbacks=[RemanentCallback(rule(data))]
    )
    with pytest.raises(InputError, match=r"rule.*makes its model at the end"):
        trainer.train()
    assert_equal(weights_of(model), before)
    with pytest.raises(InputError, match=r"rule.*makes its model at the end"):
        RemanentCallback(rule(data), method=Method(Task(), judged_by_rule=False), episode=EPISODE)
    trainer.pop_callback(RemanentCallback)
    trainer.train()
    expected = copy.deepcopy(model)
    expected.load_state_dict(before, strict=False)
    recipe = {"learning_rate": 1e-2, "steps": 6, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
    method = with_settings(task_vector.method(), **recipe, max_grad_norm=0.5, weight_decay=0.0)
    run_episode(expected, method, Episode("e", "erase", {"forget": data["forget"]}), Settings(pad_id=0, seed=3))
    assert_equal(weights_of(model), weights_of(expected))


class Told(Method):
    """Writes down what it is told."""

    def __init__(self, calls):
        super().__init__(Task())
        object.__setattr__(self, "calls", calls)

    def begin(self, model, episode):
        self.calls.append(("begin", episode.name))
        return self

    def after_update(self, model, step):
        self.calls.append(("after_update", step))

    def end(self, model, episode):
        self.calls.append(("end", episode.name))


def test_any_trainer_with_a_rule_and_lifecycle_calls(model, data, arguments):
    """A plain Trainer on plain batches: the callback adds evaluation and the episode's calls."""
    calls = []
    batches = [
        {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        for batch in [collate(data["retain"], [index], 0) for index in range(7)]
    ]
    callback = RemanentCallback(rule(data), evaluate_every=0, method=Told(calls), episode=EPISODE)
    trainer = Trainer(
        model,
        arguments(max_steps=3, per_device_train_batch_size=1),
        data_collator=lambda items: items[0],
        train_dataset=batches,
        callbacks=[callback],
    )
    trainer.train()
    assert calls == [("begin", "e"), *(("after_update", step) for step in (1, 2, 3)), ("end", "e")]
    assert [evaluation.step for evaluation in callback.evaluations] == [0, 3]


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (npo.method(), "NPO"),
        (Method(Task(), points=[Here(), Rounding("int4-row")]), "int4-row"),
        (Method(Task(), combine=lambda gradients: {}), "combine"),
        (Method(Task(), pull=object()), "pull"),
        (Method(Task(), select=LINEARS), "selection"),
    ],
    ids=["objective", "points", "combine", "pull", "select"],
)
def test_refuses_what_needs_a_batch(method, named):
    with pytest.raises(UnsupportedError, match=rf"{named}.*MethodTrainer"):
        RemanentCallback(method=method, episode=EPISODE)


def test_needs_something_to_do():
    with pytest.raises(InputError, match="rule"):
        RemanentCallback()
    with pytest.raises(InputError, match="episode"):
        RemanentCallback(method=Method(Task()))
