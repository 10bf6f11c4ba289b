from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remanent.core.gradient_rules import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    FairGrad,
    LinearScalarization,
    NashMTL,
    PCGrad,
    UPGrad,
    conflict,
    fairgrad,
    gramian,
    weighted_sum,
)
from remanent.core.method import AskingCombine, Method, UpdateView
from remanent.core.passes import learning_passes
from remanent.core.update import Update
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.npo import NPO

RULES = [
    LinearScalarization(),
    MGDA(),
    PCGrad(),
    CAGrad(),
    IMTLG(),
    NashMTL(),
    NashMTL(normalize=True),
    FairGrad(2.0),
    FairGrad(2.0, normalize=True),
    UPGrad(),
    AlignedMTL(),
]
TWO = [[1.0, 0.0], [-1.0, 1.0]]
THREE = [[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -2.0, 1.0]]


def rows_of(values):
    return torch.tensor(values, dtype=torch.float64)


def combined(rule, rows, generator=None):
    return rule.combined([{"w": row} for row in rows], generator)["w"]


def draw(tasks, size, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = 10 ** (2 * torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 1)
    return torch.randn(tasks, size, generator=generator, dtype=torch.float64) * lengths


@pytest.mark.parametrize(
    ("rule", "rows", "weights", "gradient"),
    [
        (LinearScalarization(), TWO, (1, 1), (0, 1)),
        (MGDA(), TWO, (0.6, 0.4), (0.2, 0.4)),
        (PCGrad(), TWO, (2, 1.5), (0.5, 1.5)),
        (IMTLG(), TWO, (2 - math.sqrt(2), math.sqrt(2) - 1), (0.17157, 0.41421)),
        (CAGrad(0.4, rescale=0), TWO, (0.7, 0.5), (0.2, 0.5)),
        (CAGrad(0.4, rescale=1), TWO, None, (0.17241, 0.43103)),
        (CAGrad(0.4, rescale=2), TWO, None, (0.2 / 1.4, 0.5 / 1.4)),
        (NashMTL(), TWO, (1.84776, 1.30656), (0.54120, 1.30656)),
        (FairGrad(2.0), TWO, (2.17405, 1.49584), (0.67821, 1.49584)),
        # Each is projected off the other: (1, 0) onto (0.5, 0.5), (-1, 1) onto (0, 1), and their mean.
        (UPGrad(), TWO, (1.0, 0.75), (0.25, 0.75)),
        (MGDA(), THREE, (0.27027, 0.51351, 0.21622), None),
        (IMTLG(), THREE, (0.27090, 0.51092, 0.21818), None),
        (NashMTL(), THREE, None, (0.24801, 0.51228, 1.63586)),
        (FairGrad(2.0), THREE, None, (0.30434, 0.74742, 2.17319)),
        # A = diag(1, 4): both as long as the shorter.
        (AlignedMTL(), [[1.0, 0.0], [0.0, 2.0]], (1.0, 0.5), (1.0, 1.0)),
    ],
)
def test_by_hand(rule, rows, weights, gradient):
    rows = rows_of(rows)
    if weights is not None:
        torch.testing.assert_close(rule.weights(rows @ rows.T), rows_of(weights), rtol=0, atol=1e-5)
    if gradient is not None:
        torch.testing.assert_close(combined(rule, rows), rows_of(gradient), rtol=0, atol=1e-5)


def test_orders_of_pcgrad():
    rows, found = rows_of(THREE), set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        found.add(tuple(round(value, 5) for value in combined(PCGrad(), rows, generator).tolist()))
    assert found <= {(x, y, z) for x in (0.0, 1.0) for y, z in ((-0.6, 1.8), (0.2, 1.4))}
    assert len(found) > 1


# What defines each rule


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_the_least_norm_is_least(tasks, size, seed):
    """By the optimum's own condition: no gradient has a smaller product with the point than the point itself."""
    rows = draw(tasks, size, seed)
    if seed % 3 == 0 and tasks > 1:
        rows[1] = -rows[0]  # 0 is in the hull
    weights = MGDA().weights(rows @ rows.T)
    point = rows.T @ weights
    assert float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1)
    scale = float(rows.square().sum(dim=1).max())
    assert float((rows @ point).min()) >= float(point @ point) - 1e-9 * scale


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_cagrad_serves_the_worst_off_best(tasks, seed):
    rows = draw(tasks, 8, seed)
    mean, c = rows.mean(dim=0), 0.4
    found = combined(CAGrad(c, rescale=0), rows)
    assert float((found - mean).norm()) <= c * float(mean.norm()) * (1 + 1e-6)
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    # Directions near the one found, and any.
    others = torch.cat([others, (found - mean) + 0.05 * mean.norm() * others])
    others = mean + c * mean.norm() * others / others.norm(dim=1, keepdim=True)
    assert float((rows @ found).min()) >= float((others @ rows.T).min(dim=1).values.max()) - 1e-6 * float(rows.norm())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.sampled_from([0.5, 1.0, 2.0, 5.0]), st.integers(-4, 4), st.integers(0, 10**6))
def test_fair_weights_solve_their_equation_at_any_scale(tasks, alpha, power, seed):
    rows = draw(tasks, 10, seed) * 10.0**power
    products = rows @ rows.T
    weights = FairGrad(alpha).weights(products)
    assert float(weights.min()) > 0
    torch.testing.assert_close(
        products @ weights * weights ** (1 / alpha), torch.ones(tasks).double(), rtol=1e-8, atol=0
    )
    if alpha == 1:
        assert float(combined(NashMTL(), rows).norm()) == pytest.approx(math.sqrt(tasks))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_projections(tasks, seed):
    rows = draw(tasks, 8, seed)
    equal = rows @ combined(IMTLG(), rows) / rows.norm(dim=1)
    torch.testing.assert_close(equal, equal.mean().expand(tasks), rtol=1e-6, atol=1e-9)
    assert float((rows @ combined(UPGrad(), rows)).min()) >= -1e-9 * float(rows.square().sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_upgrad_projects_onto_the_nearest(tasks, seed):
    """Each projection by trying every set of constraints that may hold with equality."""
    rows = draw(tasks, 6, seed)
    total = torch.zeros(6, dtype=torch.float64)
    for row in rows:
        best = None
        for size in range(tasks + 1):
            for chosen in itertools.combinations(range(tasks), size):
                left = row.clone()
                if chosen:
                    some = rows[list(chosen)]
                    left = row - some.T @ torch.linalg.solve(some @ some.T, some @ row)
                inside = float((rows @ left).min()) >= -1e-9 * float(rows.square().sum())
                if inside and (best is None or (left - row).norm() < (best - row).norm()):
                    best = left
        total += best / tasks
    torch.testing.assert_close(combined(UPGrad(), rows), total, rtol=1e-6, atol=1e-8 * float(rows.norm()))


# Scale, zeros, what is not finite


@pytest.mark.parametrize(
    ("rule", "degree"),
    [
        *((rule, 1.0) for rule in RULES if rule not in (NashMTL(), FairGrad(2.0))),
        (NashMTL(), 0.0),
        (FairGrad(2.0), -1 / 3),
    ],
)
def test_homogeneity(rule, degree):
    rows = rows_of(THREE)
    torch.testing.assert_close(combined(rule, 1e-3 * rows), 1e-3**degree * combined(rule, rows), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_gradients_stay_finite(rule):
    row = [1.0, 2.0]
    for rows in ([[0.0, 0.0]] * 2, [row, row], [row, [-1.0, -2.0]], [row, [0.0, 0.0]], [row], [row, row, [1.0, 0.0]]):
        assert torch.isfinite(combined(rule, rows_of(rows))).all(), rows
    assert not combined(rule, rows_of([[0.0, 0.0]] * 3)).any()


@pytest.mark.parametrize("rule", [MGDA(), NashMTL(), FairGrad(2.0), CAGrad()])
def test_opposite_gradients_leave_nothing(rule):
    assert float(combined(rule, rows_of([[1.0, 2.0], [-1.0, -2.0]])).norm()) < 1e-12


@pytest.mark.parametrize(
    ("rule", "share"),
    [(NashMTL(), 0.0), (NashMTL(normalize=True), 0.0), (FairGrad(2.0), 0.0), (CAGrad(rescale=0), 0.175)],
)
def test_gradients_opposite_but_for_float32s_rounding_are_opposite(rule, share):
    """g and -0.3 g: of CAGrad's ball round 0.35 g the nearest point to 0 harms the second least."""
    for seed in range(12):
        row = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(combined(rule, [row, -0.3 * row]), share * row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [NashMTL(), FairGrad(2.0), CAGrad()])
def test_a_task_with_small_gradients_is_no_cancellation(rule):
    assert float(combined(rule, rows_of([[1.0, 0.0], [0.0, 1e-6]])).norm()) > 1e-7


@pytest.mark.parametrize("alpha", [0.1, 1.0, 2.0, 10.0])
def test_fair_weights_are_found_where_gradients_nearly_cancel(alpha):
    rows = draw(6, 10, 0)
    rows[1] = -0.9 * rows[0] + 1e-2 * rows[5]
    products = rows @ rows.T
    weights = FairGrad(alpha).weights(products)
    assert float(weights.min()) > 0
    torch.testing.assert_close(products @ weights * weights ** (1 / alpha), torch.ones(6).double(), rtol=1e-5, atol=0)


def test_fair_weights_that_are_not_found_are_not_given_out(monkeypatch):
    monkeypatch.setattr(fairgrad, "_STEPS", 1)
    with pytest.raises(UnsupportedError, match="alpha"):
        FairGrad(2.0).weights(rows_of(THREE) @ rows_of(THREE).T)


@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_finite_is_seen(rule):
    assert not torch.isfinite(combined(rule, rows_of([[1.0, math.inf], [0.0, 1.0]]))).all()


@pytest.mark.parametrize(
    ("make", "field"),
    [(lambda: CAGrad(1.0), "c"), (lambda: CAGrad(rescale=3), "rescale"), (lambda: FairGrad(0.0), "alpha")],
)
def test_values_out_of_range(make, field):
    with pytest.raises(InputError, match=field):
        make()


# The Gramian


def test_the_gramian_streams_over_tensors_of_any_dtype_and_blocks():
    generator = torch.Generator().manual_seed(0)
    big = torch.randn(3, 300_000, generator=generator)
    parts = [{"big": row.reshape(1000, 300), "half": row[:50].bfloat16()} for row in big]
    parts[1]["own"] = torch.full((2, 2), 3.0)
    del parts[2]["half"]
    whole = torch.stack(
        [
            torch.cat(
                [
                    part["big"].flatten().double(),
                    part.get("half", torch.zeros(50)).double(),
                    part.get("own", torch.zeros(4)).flatten().double(),
                ]
            )
            for part in parts
        ]
    )
    found = gramian(parts)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, whole @ whole.T, rtol=1e-6, atol=2e-2)
    total = weighted_sum(parts, rows_of([1.0, 2.0, -1.0]))
    assert total["half"].dtype == torch.bfloat16
    torch.testing.assert_close(total["own"], torch.full((2, 2), 6.0))
    torch.testing.assert_close(total["big"], (big[0] + 2 * big[1] - big[2]).reshape(1000, 300))


def test_autocast_leaves_inner_products_alone():
    row = torch.randn(70_000, generator=torch.Generator().manual_seed(0))
    parts = [{"a": row, "b": row}, {"a": row, "b": -1.002 * row}]
    outside = gramian(parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gramian(parts), outside)
    a, b = (torch.cat([part["a"], part["b"]]).double() for part in parts)
    assert float(outside[0, 1]) == pytest.approx(float(a @ b), rel=1e-9)


def test_conflict_is_the_share_of_pairs():
    assert conflict(rows_of(THREE) @ rows_of(THREE).T) == pytest.approx(2 / 3)
    assert conflict(torch.eye(2)) == 0


# In a method


@pytest.mark.parametrize("rule", RULES)
def test_rules_combine_forget_and_retain(rule, tiny_llama, make_batch):
    """`combine` of an unlearning method: the gradient is w of the two terms' own."""
    model, batches = tiny_llama(), {"forget": make_batch(4, seed=1), "retain": make_batch(4, seed=2)}

    def gradient(method):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        Update(model, method, optimizer, steps=4).gradients(batches)
        found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        optimizer.zero_grad()
        return found

    objective = GradDiff()
    terms = [gradient(Method(objective, weights={other: 0.0})) for other in ("retain", "forget")]
    expected = weighted_sum(terms, rule.weights(gramian(terms)))
    found = gradient(Method(objective, combine=rule))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6, msg=name)


def test_npo_with_pcgrad(tiny_llama, make_batch):
    model = tiny_llama()
    forget = replace(make_batch(4, seed=1), reference=torch.linspace(1.0, 4.0, 4))
    batches = {"forget": forget, "retain": make_batch(4, seed=2)}
    method = Method(NPO(), combine=PCGrad())
    assert isinstance(method.combine, AskingCombine)
    assert learning_passes(method, 2) == learning_passes(Method(NPO(), combine=MGDA()), 2)
    update = Update(model, method, torch.optim.AdamW(model.parameters(), lr=1e-3), steps=2)
    before = model.lm_head.weight.detach().clone()
    assert all(math.isfinite(value) for value in update(batches).values())
    assert not torch.equal(before, model.lm_head.weight)


def test_orders_follow_from_the_update():
    view = [UpdateView(step, 9, dict, lambda vectors: {}) for step in range(1, 12)]
    gradients = {(name, "full"): {"w": row} for name, row in zip("abc", rows_of(THREE), strict=True)}
    found = [tuple(PCGrad().within(one)(gradients)["w"].tolist()) for one in view]
    assert found == [tuple(PCGrad().within(one)(gradients)["w"].tolist()) for one in view]
    assert len(set(found)) > 1
