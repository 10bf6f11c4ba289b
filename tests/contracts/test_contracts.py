"""What every method must obey, whatever it computes. A new method is tested here without being named."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from remanent.core.batch import collate
from remanent.core.catalogue import methods
from remanent.core.episode import Episode
from remanent.core.loop import Outcome, Settings, run_episode, with_settings
from remanent.core.method import At
from remanent.core.packed import keep_as_packed
from remanent.core.reference import reference_nll
from remanent.core.schedule import Ramp
from remanent.core.update import Update
from remanent.core.weights import Weights

METHODS = methods()
# Forms of a method that are another composition than its default, by the name of the case.
FORMS = {
    "grad-diff, DurableUn's": ("grad-diff", {"form": "durableun-grad-diff"}),
    "salun, DurableUn's": ("salun", {"form": "durableun"}),
}
CASES = {**{name: (name, {}) for name in sorted(METHODS)}, **FORMS}
STEPS = 4


@pytest.fixture(params=CASES)
def name(request, view):
    if view not in METHODS[CASES[request.param][0]].system.views:
        pytest.skip(f"{request.param} does not run on {view}")
    return request.param


@pytest.fixture
def method(name):
    entry, form = METHODS[CASES[name][0]], CASES[name][1]
    chosen = entry.build(**form, **({"layer": 1} if "layer" in entry.hyperparameters else {}))
    # Steps few and large, no pause of a ramp, so that all of its points take part and something moves.
    points = [replace(p, weight=p.weight.stop if isinstance(p.weight, Ramp) else p.weight) for p in chosen.places]
    return with_settings(replace(chosen, points=points), steps=STEPS, batch_size=3, learning_rate=1e-2, warmup=0.0)


@pytest.fixture
def data(method, make_records):
    """Records of each role that the method asks for, more of the later ones, with answers of unequal lengths."""
    sizes = {role: 5 + 2 * number for number, role in enumerate(method.roles)}
    paired = method.objective.paired
    return {r: make_records(sizes[paired.get(r, r)], seed=number + 1) for number, r in enumerate(method.roles)}


def train(model, method, data, **options):
    settings = Settings(pad_id=0, checkpoint_every=2, **options.pop("settings", {}))
    # A method of its own for each run, since one may carry what it learned from an episode to the next.
    return run_episode(model, deepcopy(method), Episode("one", "erase", data), settings, **options)


@dataclass(frozen=True)
class Run:
    """What became of a model; nothing may change it, since several tests look at it."""

    before: dict[str, Tensor]
    model: nn.Module
    outcome: Outcome


@pytest.fixture(scope="module")
def runs():
    return {}


@pytest.fixture
def run(view, name, method, make_model, data, snapshot, runs):
    """A method's run to the end, made once."""
    if (view, name) not in runs:
        model = make_model()
        runs[view, name] = Run(snapshot(model), model, train(model, method, data))
    return runs[view, name]


def batches(model, method, data):
    found = {}
    for role, records in data.items():
        batch = collate(records, range(len(records)), 0)
        if role in method.objective.needs_reference:
            # A little off, so that what fades as a record is forgotten does not stand where it started.
            batch = batch.with_reference(reference_nll(model, records, pad_id=0) + 0.5)
        found[role] = batch
    return found


def begun(method, model, data):
    """The composition that an episode runs, for updates made without one."""
    keep_as_packed(model)
    return method.begin(model, Episode("one", "erase", data))


def update_of(model, method, **options):
    return Update(model, method, torch.optim.SGD(trained(model, method).values(), lr=0.01), steps=STEPS, **options)


def trained(model, method):
    return method.select.of(Weights.of(model).trainable())


def test_a_run_moves_the_weights_and_is_the_same_each_time(run, method, make_model, data, snapshot, same_bits):
    second = make_model()
    assert same_bits(run.before, snapshot(second))
    torch.manual_seed(4321)
    train(second, method, data)
    after = snapshot(run.model)
    assert run.outcome.steps == STEPS
    assert not same_bits(after, run.before)
    assert same_bits(after, snapshot(second))
    assert all(bool(tensor.isfinite().all()) for tensor in after.values() if tensor.is_floating_point())


def test_cut_off_and_resumed_it_ends_the_same_bit_for_bit(run, method, make_model, data, snapshot, same_bits, tmp_path):
    class CutOff(Exception):
        pass

    def cut(step, steps, losses):
        if step == 3:
            raise CutOff

    interrupted, resumed = make_model(), make_model()
    with pytest.raises(CutOff):
        train(interrupted, method, data, folder=tmp_path / "run", on_step=cut)
    train(resumed, method, data, folder=tmp_path / "run", on_warning=pytest.fail)
    assert same_bits(snapshot(resumed), snapshot(run.model))


def test_saved_and_loaded_it_answers_the_same(run, view, make_model, data, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = collate(next(iter(data.values())), [0, 1], 0).input_ids
    run.model.save_pretrained(tmp_path / "saved")
    if view == "full":
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    else:
        loaded = PeftModel.from_pretrained(make_model().unload(), tmp_path / "saved")
    keep_as_packed(loaded)  # as it is in the model that was trained
    with torch.no_grad():
        assert torch.equal(loaded.eval()(input_ids=ids).logits, run.model(input_ids=ids).logits)


def test_a_learning_rate_of_0_changes_nothing(method, make_model, data, snapshot, same_bits):
    model = make_model()
    before = snapshot(model)
    train(model, with_settings(method, learning_rate=0.0), data)
    assert same_bits(snapshot(model), before)


def test_a_strength_of_0_changes_nothing(method, make_model, data, snapshot, same_bits):
    without_decay = with_settings(method, weight_decay=0.0)
    no_terms = replace(without_decay, weights=dict.fromkeys(method.objective.terms, 0.0))
    no_points = replace(without_decay, points=[At(p.displacement, p.terms, 0.0) for p in method.places])
    for still in (no_terms, no_points):
        model = make_model()
        before = snapshot(model)
        train(model, still, data)
        assert same_bits(snapshot(model), before)


def test_gradients_are_finite_and_reach_every_weight_that_trains(method, make_model, data):
    model = make_model(dropout=0.0)
    method = begun(method, model, data)
    losses = update_of(model, method).gradients(batches(model, method, data))
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    for name, weight in trained(model, method).items():
        assert bool(weight.grad.isfinite().all()), name
        held = name in method.mask and not bool(method.mask[name].any())
        assert bool(weight.grad.any()) != held, name


def test_frozen_parameters_stay(request, view, method, make_model, data, snapshot, same_bits):
    def frozen(model):
        return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    model = make_model()
    if view == "full":
        model.model.layers[0].requires_grad_(False)
    still, before = frozen(model), snapshot(model)
    assert still
    if view == "full":
        train(model, method, data)
    else:
        model = request.getfixturevalue("run").model  # an adapter's base is frozen in every run
    after = snapshot(model)
    assert same_bits({n: after[n] for n in after if n in still}, {n: before[n] for n in before if n in still})
    assert frozen(model) == still


def test_how_a_batch_is_split_changes_nothing(method, make_model, data):
    model = make_model(dropout=0.0)
    method = begun(method, model, data)
    given = batches(model, method, data)

    def gradients(micro_batch):
        model.zero_grad()
        update = update_of(model, method, micro_batch=micro_batch)
        losses = update.gradients(given)
        return {name: weight.grad.clone() for name, weight in trained(model, method).items()}, losses

    whole, losses = gradients(None)
    for micro_batch in (1, 2):
        parts, same = gradients(micro_batch)
        assert same == pytest.approx(losses, rel=1e-4)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=2e-6)


def test_the_optimizer_steps_once_per_update_and_after_update_follows_once(method, make_model, data, monkeypatch):
    model, seen = make_model(), []
    method = begun(method, model, data)
    given = batches(model, method, data)
    update = update_of(model, method, micro_batch=3, max_grad_norm=1.0)
    step = update.optimizer.step
    after_update = method.after_update
    monkeypatch.setattr(update.optimizer, "step", lambda: (seen.append("step"), step())[1])
    object.__setattr__(
        method, "after_update", lambda *arguments: (seen.append(arguments[1]), after_update(*arguments))[1]
    )
    update(given)
    update(given)
    assert seen == ["step", 1, "step", 2]


def test_a_point_is_left_as_it_was_found(method, make_model, data, snapshot, same_bits):
    """All of an update but its optimizer's step leaves weights, buffers and modes alone."""
    model = make_model().train()
    method = begun(method, model, data)
    before, modes = snapshot(model), [module.training for module in model.modules()]
    update = update_of(model, method)
    given = batches(model, method, data)
    for _ in range(3):
        update.gradients(given)
    assert same_bits(snapshot(model), before)
    assert [module.training for module in model.modules()] == modes
