"""One update: its order, and what its result must not depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from two_processes import added_up, gradients, read_batches

from remanent.core.displacement import Ascent, Here, Noise, OneOf, Relearning, Rounding
from remanent.core.method import At, Method, Objective, Term
from remanent.core.schedule import Ramp
from remanent.core.scores import answer_scores
from remanent.core.task import Task
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import DivergedError, InputError
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.npo import NPO
from remanent.unlearning.simnpo import SimNPO


@pytest.fixture
def batches(make_batch):
    """Answers of unequal lengths, and sets of unequal sizes."""
    return {
        "forget": replace(make_batch(5, seed=1, longest=9), reference=torch.tensor([3.0, 9.0, 20.0, 1.0, 40.0])),
        "retain": make_batch(7, seed=2, longest=9),
    }


def gradient(model, method, batches, *, step=0, steps=10, **options):
    update = Update(model, method, torch.optim.SGD(model.parameters(), lr=0.0), steps=steps, **options)
    update.step = step
    losses = update.gradients(batches)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found, losses


def assert_close(left, right, tolerance=1e-6):
    assert set(left) == set(right)
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-5, atol=tolerance, msg=lambda t, n=name: f"{n}: {t}"
        )


class RecordingSGD(torch.optim.SGD):
    """Says when it steps and how long the gradient is then."""

    def __init__(self, parameters, seen):
        super().__init__(parameters, lr=0.1)
        self.seen = seen

    def step(self, closure=None):
        norm = math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"]))
        self.seen.append(("optimizer", round(norm, 4)))
        return super().step(closure)


class RecordingPull:
    def __init__(self, seen):
        self.seen = seen

    def add_gradient(self, weights):
        self.seen.append("pull")
        for tensor in weights.values():
            tensor.grad.add_(100.0)  # so long that it must be clipped, and is only if the clip comes after
        return torch.tensor(0.25)


@dataclass(frozen=True)
class RecordingMethod(Method):
    seen: list = field(default_factory=list)
    observed: list = field(default_factory=list)

    def observe(self, losses, step, steps):
        self.observed.append((step, steps, dict(losses)))

    def after_update(self, model, step):
        assert [item[0] for item in self.observed] == list(range(1, step + 1))
        self.seen.append(("after_update", step))


def test_the_order_of_one_update(tiny_llama, batches):
    seen = []

    def combine(found):
        seen.append(("combine", sorted(found)))
        return added_up(found)

    model = tiny_llama()
    method = RecordingMethod(
        GradDiff(),
        points=[Here(), At(Rounding("int4"), terms=("forget",))],
        combine=combine,
        pull=RecordingPull(seen),
        seen=seen,
    )
    losses = Update(model, method, RecordingSGD(model.parameters(), seen), steps=3, max_grad_norm=0.5)(batches)
    assert seen == [
        ("combine", [("forget", "full"), ("forget", "int4-row"), ("retain", "full")]),
        "pull",
        ("optimizer", 0.5),
        ("after_update", 1),
    ]
    assert set(losses) == {"forget@full", "retain@full", "forget@int4-row", "pull", "gradient_norm"}
    assert losses["pull"] == 0.25
    assert losses["gradient_norm"] > 1000  # as it was before the clip
    assert method.observed == [(1, 3, {name: losses[name] for name in losses if name != "gradient_norm"})]


@dataclass(frozen=True)
class OverBoth(GradDiff):
    """Gradient difference whose terms are divided by the tokens of both roles."""

    def counted(self, term, batches):
        return sum(batch.units("token") for batch in batches.values())


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_an_objective_says_what_its_terms_are_a_mean_over(micro_batch, tiny_llama, batches):
    _, own = gradient(tiny_llama(), Method(GradDiff()), batches, micro_batch=micro_batch)
    _, both = gradient(tiny_llama(), Method(OverBoth()), batches, micro_batch=micro_batch)
    tokens = {role: batch.units("token") for role, batch in batches.items()}
    for role, count in tokens.items():
        assert both[f"{role}@full"] == pytest.approx(own[f"{role}@full"] * count / sum(tokens.values()), rel=1e-4)


def test_each_call_is_one_step_of_the_optimizer_and_one_after_update(tiny_llama, batches):
    seen, model = [], tiny_llama()
    update = Update(
        model, RecordingMethod(NPO(), seen=seen), RecordingSGD(model.parameters(), seen), steps=3, micro_batch=1
    )
    for _ in range(3):
        update(batches)
    assert [item[0] for item in seen] == ["optimizer", "after_update"] * 3
    assert [item[1] for item in seen if item[0] == "after_update"] == [1, 2, 3]


def test_the_gradient_is_that_of_the_formula(tiny_llama, batches, mean_loss):
    model = tiny_llama()
    method = Method(
        GradDiff(),
        points=[Here(), At(Noise(0.1), terms=("retain",), weight=0.5)],
        weights={"retain": 3.0, "forget": 2.0},
    )
    found, losses = gradient(model, method, batches)
    forget, retain = mean_loss(model, batches["forget"]), mean_loss(model, batches["retain"])
    (-2 * forget + 3 * retain).backward()
    forget, retain = forget.detach(), retain.detach()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with Noise(0.1).at(model):
        noisy = mean_loss(model, batches["retain"])
        for name, gradient_there in zip(
            plain, torch.autograd.grad(0.5 * 3 * noisy, list(model.parameters())), strict=True
        ):
            plain[name] += gradient_there
    assert_close(found, plain, 1e-5)
    assert losses["forget@full"] == pytest.approx(-float(forget), rel=1e-5)
    assert losses["retain@full"] == pytest.approx(float(retain), rel=1e-5)
    assert losses["retain@noise-0.1"] == pytest.approx(float(noisy.detach()), rel=1e-5)
    norm = math.sqrt(sum(float(g.square().sum()) for g in plain.values()))
    assert losses["gradient_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("objective", [NPO(), GradDiff(), SimNPO()], ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("point", [Here(), Rounding("int4"), Ascent(0.05)], ids=str)
def test_splitting_a_batch_changes_nothing(objective, point, tiny_llama, batches):
    model = tiny_llama()
    whole, losses = gradient(model, Method(objective, points=[point]), batches)
    for micro_batch in (1, 2):
        parts, same = gradient(model, Method(objective, points=[point]), batches, micro_batch=micro_batch)
        # A climb carries its own rounding errors into the gradient there.
        assert_close(parts, whole, 1e-5 if isinstance(point, Ascent) else 1e-6)
        assert same == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("point", [Here(), Rounding("int4-row-p95"), Ascent(0.1), Ascent(0.1, of="forget")], ids=str)
def test_a_combination_that_adds_up_is_the_sum(point, tiny_llama, batches):
    model, points = tiny_llama(), [At(point, weight=0.5), Here(), Here()]
    weights = {"forget": 0.5, "retain": 2.0}
    plain, losses = gradient(model, Method(NPO(), points=points, weights=weights), batches, micro_batch=3)
    method = Method(NPO(), points=points, weights=weights, combine=added_up)
    combined, same = gradient(model, method, batches, micro_batch=3)
    assert_close(combined, plain)
    assert same == pytest.approx(losses, rel=1e-5)


def test_a_combination_that_sums_points_holds_one_gradient_of_each_term(tiny_llama, batches):
    seen = []

    class OfTerms:
        sums_points = True

        def __call__(self, gradients):
            seen.append(set(gradients))
            return added_up(gradients)

    model, points = tiny_llama(), [Here(), At(Rounding("int4"), weight=0.5), Rounding("nf4")]
    combined, _ = gradient(model, Method(NPO(), points=points, combine=OfTerms()), batches, micro_batch=3)
    apart, _ = gradient(model, Method(NPO(), points=points, combine=added_up), batches, micro_batch=3)
    assert seen == [{("forget", ""), ("retain", "")}]
    assert_close(combined, apart)


def test_a_point_that_is_named_twice_counts_twice_and_its_loss_is_told_once(tiny_llama, batches):
    model = tiny_llama()
    once, losses = gradient(model, Method(GradDiff()), batches)
    twice, same = gradient(model, Method(GradDiff(), points=[Here(), Here()]), batches)
    assert_close(twice, {name: 2 * value for name, value in once.items()}, 1e-5)
    assert same["forget@full"] == pytest.approx(losses["forget@full"])


def test_terms_are_taken_at_their_points_only(tiny_llama, batches):
    calls = []

    @dataclass(frozen=True)
    class Spy(GradDiff):
        def losses(self, batches, predict):
            calls.append(sorted(batches))
            return super().losses(batches, predict)

    points = [At(Here(), terms=("retain",)), At(Rounding("int4"), terms=("forget",))]
    _, losses = gradient(tiny_llama(), Method(Spy(), points=points), batches)
    assert calls == [["retain"], ["forget"]]
    assert set(losses) == {"retain@full", "forget@int4-row", "gradient_norm"}


def test_ramp_weights_and_zero_weight_skips_the_point(tiny_llama, batches):
    model = tiny_llama()
    ramped = Method(GradDiff(), points=[Here(), At(Noise(0.2), weight=Ramp(0.0, 2.0, after=0.2))])
    here, _ = gradient(model, Method(GradDiff()), batches)
    for step, weight in ((1, 0.0), (2, 0.0), (4, 1.0), (6, 2.0), (10, 2.0)):
        found, losses = gradient(model, ramped, batches, step=step - 1)
        assert ("forget@noise-0.2" in losses) == (weight > 0)
        fixed = Method(GradDiff(), points=[Here(), At(Noise(0.2), weight=weight)])
        expected = here if weight == 0 else gradient(model, fixed, batches)[0]
        assert_close(found, expected)


def test_one_of_takes_another_point_at_each_update(tiny_llama, batches):
    model = tiny_llama()
    update = Update(
        model,
        Method(NPO(), points=[At(OneOf(Rounding("int4"), Rounding("int8")), terms=("retain",))]),
        torch.optim.SGD(model.parameters(), lr=0.1),
        steps=4,
    )
    seen = [next(name for name in update(batches) if "@" in name) for _ in range(4)]
    assert seen == ["retain@int8-row", "retain@int4-row"] * 2


def test_frozen_weights_stay_and_get_no_gradient(tiny_llama, batches, snapshot):
    model = tiny_llama(tied=False)
    model.model.layers[0].requires_grad_(False)
    before = snapshot(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    method = Method(NPO(), points=[Here(), Rounding("int4")])
    Update(model, method, optimizer, steps=2)(batches)
    for name, parameter in model.named_parameters():
        frozen = ".layers.0." in name
        assert torch.equal(parameter, before[name]) == frozen, name
        assert (parameter.grad is None) == frozen, name


@pytest.mark.parametrize("bad", ["weight", "pull"])
def test_a_loss_that_is_not_finite_names_step_and_records_before_anything_moves(
    bad, tiny_llama, batches, snapshot, same_bits
):
    model = tiny_llama()
    pull = None
    if bad == "weight":
        with torch.no_grad():
            model.model.norm.weight[0] = math.nan
    else:
        pull = RecordingPull([])
        pull.add_gradient = lambda weights: torch.tensor(math.inf)
    before = snapshot(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    update = Update(model, Method(GradDiff(), pull=pull), optimizer, steps=9)
    update.step = 6
    match = r"step 7: .* is (nan|inf); records of the batch: \{'forget': \[0, 1, 2, 3, 4\]"
    with pytest.raises(DivergedError, match=match):
        update(batches)
    assert same_bits(snapshot(model), before)
    assert not optimizer.state


def test_records_without_a_scored_token_are_harmless(tiny_llama, batches):
    model = tiny_llama()
    labels = batches["forget"].labels.clone()
    labels[1] = -100
    odd = batches | {"forget": replace(batches["forget"], labels=labels)}
    for objective in (NPO(), GradDiff(), SimNPO()):
        whole, _ = gradient(model, Method(objective), odd)
        parts, losses = gradient(model, Method(objective), odd, micro_batch=1)
        assert_close(parts, whole)
        assert all(math.isfinite(value) for value in losses.values())


def test_dropout_differs_from_update_to_update_in_a_loop_of_ones_own(tiny_gpt2, batches):
    model = tiny_gpt2(dropout=0.3).train()
    for points in ([Here()], [Rounding("int8")], [Here(), Noise(0.01)]):
        torch.manual_seed(0)
        update = Update(model, Method(NPO(), points=points), torch.optim.SGD(model.parameters(), lr=0.0), steps=9)
        first, second = update(batches), update(batches)
        assert all(first[name] != second[name] for name in first)


def test_autocast_computes_in_low_precision_and_leaves_weights_and_gradients_alone(tiny_llama, batches):
    model = tiny_llama()
    plain, _ = gradient(model, Method(NPO(), points=[Here(), Rounding("int4")]), batches)
    low, _ = gradient(model, Method(NPO(), points=[Here(), Rounding("int4")]), batches, autocast=torch.bfloat16)
    assert all(value.dtype == torch.float32 for value in low.values())
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(low[name], plain[name])
    assert float(torch.cosine_similarity(low[name].flatten(), plain[name].flatten(), dim=0)) > 0.99


def test_relearning_inside_an_update_computes_as_the_update_does(tiny_llama, batches):
    """The point where somebody fine-tuned is made in the update's arithmetic unless it names its own."""
    learnt = [batches["retain"]]

    def found(**options):
        point = Relearning(learnt, 3, 1e-2, **options)
        return gradient(tiny_llama(), Method(NPO(), points=[Here(), point]), batches, autocast=torch.bfloat16)[0]

    unsaid, low = found(), found(autocast=torch.bfloat16)
    assert all(torch.equal(unsaid[name], low[name]) for name in low)


def test_an_update_sees_moved_weights_inside_an_outer_autocast(tiny_llama, batches):
    model, method = tiny_llama(), Method(NPO(), points=[Here(), Rounding("int2")])
    expected, losses = gradient(model, method, batches, autocast=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, same = gradient(model, method, batches, autocast=torch.bfloat16)
    norm = losses.pop("gradient_norm")
    # The outer autocast shares one cast between both batches, whose gradients are then added up in bfloat16.
    assert same.pop("gradient_norm") == pytest.approx(norm, rel=1e-2)
    assert same == losses
    assert losses["retain@full"] != losses["retain@int2-row"]
    for name in expected:
        assert float(torch.cosine_similarity(found[name].flatten(), expected[name].flatten(), dim=0)) > 0.999


def test_terms_of_several_roles_see_matching_micro_batches(tiny_llama, batches):
    seen = []

    @dataclass(frozen=True)
    class Pair(Objective):
        terms: ClassVar = {"pair": Term("record", ("forget", "retain"))}

        def losses(self, batches, predict):
            seen.append({role: batch.records.tolist() for role, batch in batches.items()})
            return {"pair": sum(predict(batch).nll.sum() for batch in batches.values())}

    gradient(tiny_llama(), Method(Pair()), batches, micro_batch=4)
    assert seen == [{"forget": [0, 1, 2, 3], "retain": [0, 1, 2, 3]}, {"forget": [4], "retain": [4, 5, 6]}]


def test_two_processes_find_the_gradient_of_one(two_processes):
    from transformers import AutoModelForCausalLM

    folder, results = two_processes
    batches = read_batches(folder / "batches.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    expected, losses = gradients(model, batches, None)
    for label in ("sum", "combine"):
        for rank in results:
            assert_close({name: rank[f"{label}.{name}"] for name in expected}, expected)
            for name, value in losses.items():
                assert float(rank[f"{label}:{name}"]) == pytest.approx(value, rel=1e-5)


class Normed(nn.Module):
    """Logits of a token from its own embedding, normed by the batch."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(48, 8), nn.BatchNorm1d(8), nn.Linear(8, 48)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.norm(self.embedding(input_ids).transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize(
    ("points", "of"),
    [
        ([At(Ascent(0.5))], [Ascent(0.5)]),
        ([At(Rounding("int2-tensor")), At(Ascent(0.5))], [Ascent(0.5)]),
        ([At(Ascent(0.5)), At(Here())], [Here()]),
        ([At(Here()), At(Ascent(0.5))], [Here()]),
        ([At(Here(), weight=0.0), At(Ascent(0.5))], [Ascent(0.5)]),
        ([At(Noise(0.3)), At(Ascent(0.5), weight=0.0)], [Noise(0.3)]),
    ],
    ids=["ascent", "last", "here-last", "here-first", "here-unused", "last-used"],
)
def test_running_statistics_are_taken_once_an_update_here_else_at_the_last_point(make_batch, points, of):
    """A model that never learned where it is would be asked, in eval mode, with statistics from before training."""

    def fresh():
        torch.manual_seed(0)
        return Normed().train()

    batch = make_batch(5, seed=1, longest=9)
    model, by_hand = fresh(), fresh()
    gradient(model, Method(Task(), points=points), {"task": batch})
    with of[0].at(by_hand, loss=lambda: -answer_scores(by_hand, batch).log_probs.mean()):
        # What the climb's own pass made of them does not count.
        by_hand.norm.reset_running_stats()
        by_hand(batch.input_ids)
        expected = {name: buffer.clone() for name, buffer in by_hand.named_buffers()}
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name])
    assert int(model.norm.num_batches_tracked) == 1


def test_bad_settings(tiny_llama, batches):
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="micro_batch"):
        Update(model, Method(NPO()), optimizer, steps=1, micro_batch=0)
    update = Update(model, Method(NPO()), optimizer, steps=1)
    with pytest.raises(InputError, match="a batch named 'retain'"):
        update({"forget": batches["forget"]})
    with pytest.raises(InputError, match="reference"):
        update(batches | {"forget": replace(batches["forget"], reference=None)})
    with pytest.raises(InputError, match="a term of NPO: forget, retain"):
        Method(NPO(), weights={"forgot": 1.0})
    with pytest.raises(InputError, match="term"):
        Method(NPO(), points=[At(Here(), terms=("forgot",))])
    with pytest.raises(InputError, match="points"):
        Method(NPO(), points=[])
    for weight in (float("nan"), -1.0, float("inf")):
        with pytest.raises(InputError, match=r"weight.*at least 0"):
            At(Here(), weight=weight)
    assert len(Weights.of(model)) == len(list(model.parameters()))
