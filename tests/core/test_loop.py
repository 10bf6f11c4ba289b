"""The loop: resumed bit for bit, whatever cut it off; otherwise a plain training loop."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from resumable_run import STEPS, make_model, make_records, run

from remanent.core import loop
from remanent.core.batch import collate
from remanent.core.displacement import Here
from remanent.core.episode import Episode
from remanent.core.evaluation import Evaluation
from remanent.core.loop import Settings, planned_steps, run_episode, with_settings
from remanent.core.method import Method, Recipe
from remanent.core.own_accelerator import own_accelerator
from remanent.core.sampling import Sampler
from remanent.core.schedule import learning_rate_factor
from remanent.core.scores import answer_scores
from remanent.core.selection import Selection
from remanent.core.task import Task
from remanent.errors import DivergedError, InputError, IntegrityError
from remanent.unlearning.grad_diff import GradDiff

SETTINGS = Settings(pad_id=0, checkpoint_every=2)
TASK = Method(Task(), recipe=Recipe(learning_rate=1e-2, steps=6, batch_size=3))


def episode(records=7):
    return Episode("teach", "teach", {"task": make_records(records, 1)})


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


class CutOff(Exception):
    pass


def cut_off_at(stop):
    def on_step(step, steps, losses):
        if step == stop:
            raise CutOff

    return on_step


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder and the hash of a run that nothing cut off."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(folder)


# Checkpoints are written at every second step, an epoch of the forget set ends within the second.
@pytest.mark.parametrize("stop", [1, 2, 5, 10, 23, 24])
def test_a_run_cut_off_at_any_step_ends_the_same_bit_for_bit(stop, alone, tmp_path):
    expected, digest = alone
    with pytest.raises(CutOff):
        run(tmp_path, on_step=cut_off_at(stop))
    assert run(tmp_path, on_warning=pytest.fail) == digest
    assert rows(tmp_path) == rows(expected)


def test_a_finished_run_started_again_ends_the_same(alone):
    folder, digest = alone
    before = rows(folder)
    assert run(folder) == digest
    assert rows(folder) == before


@pytest.mark.parametrize("file", ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_serves(file, damage, alone, tmp_path):
    expected, digest = alone
    with pytest.raises(CutOff):
        run(tmp_path, on_step=cut_off_at(9))
    target = tmp_path / "checkpoints" / "step-00000008" / file
    content = bytearray(target.read_bytes())
    if damage == "truncated":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
        target.write_bytes(content)
    else:
        target.unlink()
    warnings, steps = [], []
    assert run(tmp_path, on_warning=warnings.append, on_step=lambda step, *_: steps.append(step)) == digest
    assert steps[0] == 7  # from the checkpoint of step 6
    assert len(warnings) == 1
    # A flipped manifest may still be JSON, and then another file seems not to be the one that was saved.
    assert str(target if file != "manifest.json" else target.parent) in warnings[0]
    assert rows(tmp_path) == rows(expected)


def test_where_every_checkpoint_is_broken_the_run_starts_again(alone, tmp_path):
    with pytest.raises(CutOff):
        run(tmp_path, on_step=cut_off_at(9))
    for file in (tmp_path / "checkpoints").glob("*/weights.safetensors"):
        file.write_bytes(b"")
    warnings = []
    assert run(tmp_path, on_warning=warnings.append) == alone[1]
    assert len(warnings) == 2


def test_killed_at_random_moments_it_ends_the_same(tmp_path):
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "20", "7"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == 20
    assert len({*found["alone"], *found["ends"]}) == 1
    assert len(set(found["steps"])) > 3  # the kills fell on different parts of the run


def test_checkpoints_are_whole_folders_the_newest_two_and_no_pickle(alone):
    saved = sorted((alone[0] / "checkpoints").iterdir())
    assert [item.name for item in saved] == ["step-00000020", "step-00000022"]
    suffixes = {file.suffix for file in alone[0].rglob("*") if file.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl"}


def test_metrics_tell_each_step_and_each_evaluation(alone):
    found = rows(alone[0])
    assert [row["step"] for row in found if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in found if row["kind"] == "evaluation"] == [0, 5, 10, 15, 20, 24]
    first = next(row for row in found if row["kind"] == "train")
    assert set(first["loss"]) == {"forget@full", "retain@full", "forget@int8-row", "retain@int8-row", "gradient_norm"}


def test_it_is_a_plain_training_loop_bit_for_bit(snapshot, same_bits):
    """Dropout and clipping apart: the same batches, AdamW and schedule, written out."""
    data = episode().data["task"]
    by_hand = make_model()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.01, fused=True)
    sampler = Sampler(7, 3, 5, "task")
    for step in range(1, 7):
        optimizer.param_groups[0]["lr"] = 1e-2 * learning_rate_factor("linear", step, 6, 0.1)
        optimizer.zero_grad()
        batch = collate(data, sampler.batch(step), 0)
        (-answer_scores(by_hand, batch).log_probs.sum() * (1 / batch.units("token"))).backward()
        optimizer.step()
    model = make_model()
    method = replace(TASK, recipe=replace(TASK.recipe, max_grad_norm=None))
    outcome = run_episode(model, method, episode(), replace(SETTINGS, seed=5, dropout=False))
    assert (outcome.steps, outcome.planned, outcome.stopped, outcome.best_step) == (6, 6, False, 6)
    assert same_bits(snapshot(model), snapshot(by_hand))


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(snapshot, same_bits):
    def trained(seed, around=0, **options):
        model = make_model()
        torch.manual_seed(around)
        run_episode(model, TASK, episode(), replace(SETTINGS, seed=seed, **options))
        return snapshot(model)

    first = trained(0)
    assert same_bits(trained(0, around=1234), first)
    assert not same_bits(trained(1), first)
    assert not same_bits(trained(0, dropout=False), first)


def test_a_run_leaves_the_generator_flags_and_gradients_as_they_were():
    model = make_model()
    frozen = model.transformer.wpe.weight.requires_grad_(False)
    generator = torch.get_rng_state()
    run_episode(model, replace(TASK, select=Selection(("*.mlp.*",))), episode(), SETTINGS)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [p for p in model.parameters() if not p.requires_grad] == [frozen]
    assert all(p.grad is None for p in model.parameters())


def test_a_learning_rate_of_0_changes_nothing(snapshot, same_bits):
    model = make_model()
    before = snapshot(model)
    run_episode(model, with_settings(TASK, learning_rate=0.0), episode(), SETTINGS)
    assert same_bits(snapshot(model), before)


def test_only_what_is_selected_trains(snapshot):
    model = make_model()
    before = snapshot(model)
    run_episode(model, replace(TASK, select=Selection(("*.mlp.*",))), episode(), SETTINGS)
    changed = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".mlp." in name}


def test_half_precision_arithmetic_keeps_the_weights_in_float32():
    low, full = make_model(), make_model()
    run_episode(low, TASK, episode(), replace(SETTINGS, precision="bf16"))
    run_episode(full, TASK, episode(), SETTINGS)
    name = "transformer.h.0.mlp.c_fc.weight"
    assert low.get_parameter(name).dtype == torch.float32
    assert not torch.equal(low.get_parameter(name), full.get_parameter(name))
    torch.testing.assert_close(low.get_parameter(name), full.get_parameter(name), rtol=0.2, atol=0.03)


def test_runs_of_any_precision_follow_one_another_in_one_process(monkeypatch):
    """And beside an accelerator of the program's, which keeps what it was asked for."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as accelerate's launcher says it
    found = {}
    with own_accelerator(torch.device("cpu"), loss_scaling=True) as programs:
        for precision in ("fp32", "fp16", "bf16", "fp32"):
            model = make_model()
            run_episode(model, TASK, episode(), replace(SETTINGS, precision=precision))
            weight = model.get_parameter("transformer.h.0.mlp.c_fc.weight").detach()
            assert torch.equal(found.setdefault(precision, weight), weight)
            assert programs.state.mixed_precision == "fp16"
            assert Accelerator().mixed_precision == "fp16"
    assert not torch.equal(found["fp32"], found["fp16"])
    with own_accelerator(torch.device("cpu"), loss_scaling=False) as another:
        assert another.mixed_precision == "no"


class Scores:
    """A rule with scores given beforehand, which keeps the embeddings that it saw."""

    def __init__(self, scores, stop=None):
        self.scores, self.stop, self.seen = scores, stop, {}

    def __call__(self, model, step):
        self.seen[step] = model.transformer.wte.weight.detach().clone()
        return Evaluation(step, {}, {}, (self.scores[step],), step == self.stop)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_the_best_step_is_kept_and_never_the_one_before_the_first():
    model, rule = make_model(), Scores({0: 99.0, 1: 0.0, 2: 3.0, 3: 1.0, 4: 3.0, 5: 2.0, 6: 0.0})
    outcome = run_episode(model, TASK, episode(), replace(SETTINGS, evaluate_every=1), rule=rule)
    assert (outcome.best_step, outcome.steps, outcome.stopped) == (2, 6, False)
    assert torch.equal(model.transformer.wte.weight, rule.seen[2])
    assert not torch.equal(rule.seen[2], rule.seen[6])


def test_a_better_step_takes_the_place_of_the_best_one_in_memory(tmp_path, monkeypatch):
    saved = []

    def save(folder, checkpoint):
        best = checkpoint.state["best"]["transformer.wte.weight"]
        saved.append((best.data_ptr(), best.clone()))

    monkeypatch.setattr(loop, "save_checkpoint", save)
    model, rule = make_model(), Scores(dict(enumerate([0.0, 1.0, 2.0, 3.0, 1.0, 1.0, 4.0])))
    settings = replace(SETTINGS, evaluate_every=1, checkpoint_every=1)
    outcome = run_episode(model, TASK, episode(), settings, rule=rule, folder=tmp_path)
    assert outcome.best_step == 6
    assert torch.equal(model.transformer.wte.weight, rule.seen[6])
    assert len({place for place, _ in saved}) == 1
    for (_, best), step in zip(saved, (1, 2, 3, 3, 3), strict=True):
        assert torch.equal(best, rule.seen[step])


def test_a_best_step_after_the_cut_replaces_the_one_before_it(tmp_path, snapshot, same_bits):
    scores, settings = dict(enumerate([0.0, 0.0, 3.0, 1.0, 1.0, 5.0, 0.0])), replace(SETTINGS, evaluate_every=1)
    alone, resumed = make_model(), make_model()
    run_episode(alone, TASK, episode(), settings, rule=Scores(scores))
    with pytest.raises(CutOff):
        run_episode(
            make_model(), TASK, episode(), settings, rule=Scores(scores), folder=tmp_path, on_step=cut_off_at(4)
        )
    assert run_episode(resumed, TASK, episode(), settings, rule=Scores(scores), folder=tmp_path).best_step == 5
    assert same_bits(snapshot(resumed), snapshot(alone))


def test_a_best_step_before_the_cut_is_still_the_best_after_it(tmp_path, snapshot, same_bits):
    scores, settings = {0: 0.0, 1: 0.0, 2: 3.0, 3: 1.0, 4: 1.0, 5: 2.0, 6: 0.0}, replace(SETTINGS, evaluate_every=1)
    alone, resumed = make_model(), make_model()
    run_episode(alone, TASK, episode(), settings, rule=Scores(scores))
    with pytest.raises(CutOff):
        run_episode(
            make_model(), TASK, episode(), settings, rule=Scores(scores), folder=tmp_path, on_step=cut_off_at(5)
        )
    outcome = run_episode(resumed, TASK, episode(), settings, rule=Scores(scores), folder=tmp_path)
    assert outcome.best_step == 2
    assert [item.step for item in outcome.evaluations] == list(range(7))
    assert same_bits(snapshot(resumed), snapshot(alone))


def test_a_model_that_is_only_made_at_the_end_is_not_judged_before(snapshot, same_bits):
    model, rule = make_model(), Scores(dict.fromkeys(range(7), 0.0))
    before = snapshot(model)
    with pytest.raises(InputError, match=r"rule.*makes its model at the end"):
        run_episode(model, replace(TASK, judged_by_rule=False), episode(), SETTINGS, rule=rule)
    assert rule.seen == {}
    assert same_bits(snapshot(model), before)


@pytest.mark.parametrize("stop", [0, 4])
def test_the_rule_stops_the_run_after_a_step_but_not_before_the_first(stop):
    rule = Scores(dict.fromkeys(range(7), 0.0), stop=stop)
    outcome = run_episode(make_model(), TASK, episode(), replace(SETTINGS, evaluate_every=2), rule=rule)
    assert (outcome.steps, outcome.stopped) == ((4, True) if stop else (6, False))
    assert [item.step for item in outcome.evaluations] == ([0, 2, 4] if stop else [0, 2, 4, 6])


@dataclass(frozen=True)
class Stateful(Method):
    """Counts its updates, and carries a tensor."""

    calls: list = field(default_factory=list)

    def begin(self, model, episode):
        self.calls.append("begin")
        return None if episode.name == "skipped" else self

    def after_update(self, model, step):
        self.calls.append(step)

    def end(self, model, episode):
        self.calls.append("end")

    def state_dict(self):
        return {"calls": list(self.calls), "memory": {"w": torch.tensor([1.5])}}

    def load_state_dict(self, state):
        assert state["memory"]["w"].tolist() == [1.5]
        self.calls[:] = state["calls"]


def test_the_lifecycle_calls_and_their_state(tmp_path):
    method = Stateful(Task(), recipe=TASK.recipe)
    with pytest.raises(CutOff):
        run_episode(make_model(), method, episode(), SETTINGS, folder=tmp_path, on_step=cut_off_at(5))
    again = Stateful(Task(), recipe=TASK.recipe)
    run_episode(make_model(), again, episode(), SETTINGS, folder=tmp_path)
    assert again.calls == ["begin", 1, 2, 3, 4, 5, 6, "end"]


def test_an_episode_that_the_method_skips_changes_nothing(snapshot, same_bits):
    model, method = make_model(), Stateful(Task())
    before = snapshot(model)
    outcome = run_episode(model, method, replace(episode(), name="skipped"), SETTINGS)
    assert outcome.steps == 0
    assert method.calls == ["begin"]
    assert same_bits(snapshot(model), before)


def test_divergence_names_step_records_and_the_last_good_checkpoint(tmp_path):
    method = with_settings(TASK, learning_rate=1.0, steps=6)

    def poison(step, steps, losses):
        if step == 3:
            with torch.no_grad():
                model.transformer.ln_f.bias[0] = math.nan

    model = make_model()
    with pytest.raises(DivergedError, match=r"step 4: .* is nan; records of the batch: .*; last good .*step-00000002"):
        run_episode(model, method, episode(), SETTINGS, folder=tmp_path, on_step=poison)
    model = make_model()
    with pytest.raises(DivergedError, match="none was saved"):
        run_episode(model, method, episode(), replace(SETTINGS, checkpoint_every=0), on_step=poison)


def test_bad_input_is_refused_before_any_work(tmp_path, snapshot, same_bits):
    model = make_model()
    before = snapshot(model)
    with pytest.raises(InputError, match="records for 'retain'"):
        run_episode(model, Method(GradDiff()), Episode("e", "erase", {"forget": make_records(2, 0)}), SETTINGS)
    with pytest.raises(InputError, match="selection"):
        run_episode(model, replace(TASK, select=Selection(("nothing",))), episode(), SETTINGS, folder=tmp_path)
    with pytest.raises(InputError, match="no records"):
        Episode("e", "erase", {"forget": []})
    with pytest.raises(InputError, match="names files"):
        Episode("../e", "erase", {})
    assert same_bits(snapshot(model), before)
    assert all(p.requires_grad for p in model.parameters())
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_another_selection_are_refused(tmp_path):
    run_episode(make_model(), TASK, episode(), SETTINGS, folder=tmp_path)
    with pytest.raises(IntegrityError, match="holds other tensors"):
        run_episode(make_model(), replace(TASK, select=Selection(("*mlp*",))), episode(), SETTINGS, folder=tmp_path)


def test_planned_steps():
    assert planned_steps(Recipe(steps=3), 100) == 3
    assert planned_steps(Recipe(epochs=10, batch_size=32), 40) == 13
    assert planned_steps(Recipe(epochs=2, batch_size=32), 8) == 2
    assert planned_steps(Recipe(epochs=0.01, batch_size=32), 8) == 1


def test_with_settings_changes_what_is_given():
    changed = with_settings(TASK, steps=9, learning_rate=None)
    assert (changed.recipe.steps, changed.recipe.learning_rate) == (9, TASK.recipe.learning_rate)
    assert changed.places == TASK.places == Method(Task(), points=[Here()]).places


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1e-5),
        ("learning_rate", math.nan),
        ("steps", 0),
        ("epochs", 0.0),
        ("batch_size", 0),
        ("warmup", 1.5),
        ("weight_decay", -0.1),
        ("max_grad_norm", 0.0),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        Recipe(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("evaluate_every", -1), ("checkpoint_every", -1), ("keep_checkpoints", 1)])
def test_settings_that_cannot_be_run_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        Settings(pad_id=0, **{name: value})
