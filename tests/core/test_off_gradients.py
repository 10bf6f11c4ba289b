"""The projection in the optimizer's metric: by hand, what it promises, and what it does where nothing is there."""

from __future__ import annotations

import pytest
import torch

from remanent.core import off_gradients
from remanent.core.method import CarryingCombine, UpdateView
from remanent.core.off_gradients import OffGradients, Recent, project
from remanent.errors import InputError, RunConflictError


def within(combine, **scales):
    """One update's combination, which here leaves what it is given as it was."""
    inner = combine.within(UpdateView(1, 4, lambda: scales, lambda vectors: {}))
    return lambda gradients: inner(
        {key: {name: part.clone() for name, part in parts.items()} for key, parts in gradients.items()}
    )


def given(forget, retain=None):
    found = {("forget", "full"): {"w": torch.as_tensor(forget)}}
    return found if retain is None else {**found, ("retain", "full"): {"w": torch.as_tensor(retain)}}


def drawn(*shapes, seed=0):
    """Gradients that bfloat16 holds as they are."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {f"w{n}": torch.randn(*shape, generator=generator).bfloat16().float() for n, shape in enumerate(shapes)}
        for _ in range(9)
    ]


def dot(left, right, scales):
    return sum(
        (left[n].double().flatten() * scales[n].double().flatten() * right[n].double().flatten()).sum() for n in left
    )


def projected(gradient, *arguments):
    """What is left, without a change to what was given."""
    left = dict(gradient)
    for name, part in left.items():
        left[name] = part.clone() if part.is_contiguous() else part
    project(left, *arguments)
    return left


def stacked(gradients):
    return {name: torch.stack([part[name].flatten() for part in gradients]) for name in gradients[0]}


def test_by_hand():
    # P = diag(1, 4), r = (1, 1), g = (1, 0): R^T P R = 5, R^T P g = 1, so that a fifth of r is taken away.
    combine = within(OffGradients(), w=torch.tensor([1.0, 4.0]))
    found = combine(given([1.0, 0.0], [1.0, 1.0]))["w"]
    torch.testing.assert_close(found, torch.tensor([0.8, -0.2]) + torch.tensor([1.0, 1.0]))


def test_without_the_optimizers_metric_it_is_the_plain_one():
    for combine in (within(OffGradients(metric=False), w=torch.tensor([1.0, 4.0])), within(OffGradients())):
        torch.testing.assert_close(combine(given([1.0, 0.0], [1.0, 1.0]))["w"], torch.tensor([1.5, 0.5]))


@pytest.mark.parametrize("count", [1, 4])
def test_what_is_left_stands_off_all_directions_at_once_and_projected_twice_is_projected_once(count):
    forget, *others = drawn((5, 7), (11,))
    rows, order = stacked(others[:count]), list(range(count))
    scales = {
        name: 10 ** (4 * torch.rand(part.shape, generator=torch.Generator().manual_seed(3)) - 2)
        for name, part in forget.items()
    }
    left = projected(forget, rows, order, scales)
    for other in others[:count]:
        cosine = dot(left, other, scales) / (dot(left, left, scales) * dot(other, other, scales)).sqrt()
        assert abs(float(cosine)) < 1e-6
    # Not matrix by matrix: off the sum over all weights alone, so that more of the gradient is left.
    assert abs(float((left["w0"] * scales["w0"] * others[0]["w0"]).sum())) > 1e-3
    again = projected(left, rows, order, scales)
    for name in left:
        torch.testing.assert_close(again[name], left[name], rtol=1e-5, atol=1e-6)


def test_it_is_the_nearest_that_stands_off_in_the_metric_of_the_steps():
    """Of all directions off R, what is left loses least: g - g' is orthogonal to it in the metric."""
    forget, *others = drawn((6,), (3, 3))
    scales = {"w0": torch.linspace(0.1, 9, 6), "w1": torch.linspace(5, 0.2, 9).reshape(3, 3)}
    left = projected(forget, stacked(others[:3]), [0, 1, 2], scales)
    lost = {name: forget[name] - left[name] for name in forget}
    assert abs(float(dot(lost, left, scales))) < 1e-4


def test_no_retain_gradient_or_one_of_0_leaves_the_forget_gradient():
    forget = torch.tensor([1.0, 2.0])
    for combination in (given(forget), given(forget, [0.0, 0.0])):
        combine = OffGradients()
        assert torch.equal(within(combine)(combination)["w"], forget)
        assert not combine.recent.order
    assert within(OffGradients())({}) == {}


def test_a_gradient_in_the_span_is_left_exactly_0():
    found = within(OffGradients(), w=torch.tensor([1e-4, 3e3, 1.0]))(given([0.3, 0.6, 0.9], [1.0, 2.0, 3.0]))["w"]
    assert torch.equal(found, torch.tensor([1.0, 2.0, 3.0]))


def test_one_that_is_not_finite_is_no_direction():
    combine = OffGradients()
    within(combine)(given([1.0, 2.0], [float("inf"), 0.0]))
    assert not combine.recent.order


def test_the_newest_are_kept_and_the_oldest_goes():
    combine, (forget, *others) = OffGradients(count=2), drawn((2, 4))
    for other in others[:3]:
        found = within(combine)({("forget", "full"): forget, ("retain", "full"): other})
    left = found["w0"] - others[2]["w0"]
    for other, off in ((others[2], True), (others[1], True), (others[0], False)):
        assert (abs(float((left * other["w0"]).sum())) < 1e-5) is off
    # Without one of its own, an update is taken off the earlier ones.
    left = within(combine)({("forget", "full"): forget})["w0"]
    assert abs(float((left * others[2]["w0"]).sum())) < 1e-5


def test_the_same_direction_again_adds_none():
    forget, other, *_ = drawn((30,))
    once, twice = OffGradients(), OffGradients()
    pair = {("forget", "full"): forget, ("retain", "full"): other}
    expected = within(once)(pair)["w0"]
    nearly = {"w0": other["w0"] * (1 + 1e-6 * torch.randn(30, generator=torch.Generator().manual_seed(1)))}
    within(twice)({**pair, ("retain", "full"): nearly})
    torch.testing.assert_close(within(twice)(pair)["w0"], expected, rtol=1e-5, atol=1e-6)


def test_the_same_large_gradient_again_and_again_is_one_direction():
    """Sums of many entries in float32 are off by more than those of few."""
    forget, other, *_ = drawn((300, 700))
    combine = OffGradients(count=4)
    for _ in range(6):
        found = within(combine)({("forget", "full"): forget, ("retain", "full"): other})
    torch.testing.assert_close(
        found["w0"],
        within(OffGradients())({("forget", "full"): forget, ("retain", "full"): other})["w0"],
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_tangent_is_kept_only_where_it_lowers_the_retain_loss_and_no_longer_than_asked():
    left = torch.tensor([0.0, 1.0])
    for strength, first in ((0.0, 0.0), (0.5, 0.5), (10.0, 3.0)):
        found = within(OffGradients(tangent=strength))(given([3.0, 1.0], [2.0, 0.0]))["w"]
        torch.testing.assert_close(found - torch.tensor([2.0, 0.0]), left + torch.tensor([first, 0.0]))
        against = within(OffGradients(tangent=strength))(given([-3.0, 1.0], [2.0, 0.0]))["w"]
        torch.testing.assert_close(against - torch.tensor([2.0, 0.0]), left)
    scaled = within(OffGradients(tangent=10.0), w=torch.tensor([9.0, 4.0]))(given([3.0, 1.0], [2.0, 0.0]))["w"]
    torch.testing.assert_close(scaled, torch.tensor([5.0, 1.0]))


def test_a_step_changes_the_retain_loss_to_second_order_only():
    """Halving the step quarters the change, where along the forget gradient it is halved."""
    torch.manual_seed(0)
    weight, scales = torch.randn(12, dtype=torch.float64), torch.rand(12, dtype=torch.float64) * 5 + 0.1
    forget, retain = (lambda w: (w.sin() * torch.arange(12)).sum()), (lambda w: (w.cos() * w.square()).sum())
    gradients = [torch.func.grad(loss)(weight).float() for loss in (forget, retain)]
    left = projected({"w": gradients[0]}, {"w": gradients[1][None]}, [0], {"w": scales.float()})["w"].double()

    def changed(direction, size):
        return float(retain(weight - size * scales * direction) - retain(weight))

    plain = gradients[0].double()
    assert changed(plain, 1e-4) / changed(plain, 5e-5) == pytest.approx(2, rel=0.05)
    assert changed(left, 1e-4) / changed(left, 5e-5) == pytest.approx(4, rel=0.05)
    assert abs(changed(left, 1e-4)) < 0.05 * abs(changed(plain, 1e-4))


def test_its_state_is_what_it_goes_on_with():
    first, second, (forget, *others) = OffGradients(count=2), OffGradients(count=2), drawn((3, 3))
    for other in others[:3]:
        within(first)({("forget", "full"): forget, ("retain", "full"): other})
    second.load_state_dict(first.state_dict())
    pair = {("forget", "full"): forget, ("retain", "full"): others[4]}
    assert torch.equal(within(first)(pair)["w0"], within(second)(pair)["w0"])


def test_points_of_a_term_are_added_up_and_other_terms_pass():
    gradients = {("forget", place): {"w": torch.tensor([1.0, 0.5])} for place in ("full", "int8")}
    gradients |= {
        ("retain", "full"): {"w": torch.tensor([1.0, 0.0])},
        ("other", "full"): {"w": torch.tensor([7.0, 7.0])},
    }
    torch.testing.assert_close(within(OffGradients())(gradients)["w"], torch.tensor([8.0, 8.0]))


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("tangent", -1.0), ("tangent", float("nan"))])
def test_bad_values_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        OffGradients(**{name: value})


def test_recent_takes_no_copy_that_a_later_update_would_change():
    recent, gradient = Recent(), {"w": torch.ones(2)}
    recent.add(gradient, 2)
    gradient["w"].zero_()
    assert recent.slots["w"].tolist() == [[1.0, 1.0]]


def test_directions_are_held_in_half_the_memory_and_turned_by_next_to_nothing():
    combine, generator = OffGradients(count=2), torch.Generator().manual_seed(0)
    forget, retain = (torch.randn(5000, generator=generator) for _ in range(2))
    left = within(combine)(given(forget, retain))["w"] - retain
    (held,) = combine.recent.slots["w"]
    assert held.dtype == torch.bfloat16
    assert combine.copies == 1.0
    for off in (held.float(), retain):
        assert abs(float(torch.cosine_similarity(left, off, dim=0))) < 1e-4
    assert abs(float(torch.cosine_similarity(forget, retain, dim=0))) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_same_in_pieces_in_other_dtypes_and_of_a_gradient_that_is_not_in_one_piece(dtype, monkeypatch):
    forget, *others = drawn((5, 7), (11,))
    rows, scales = stacked(others[:2]), {name: part.abs() + 0.1 for name, part in others[2].items()}
    expected = projected(forget, rows, [0, 1], scales)
    monkeypatch.setattr(off_gradients, "_PIECE", 4)
    strided = {name: torch.stack([part, part], dim=-1).to(dtype)[..., 0] for name, part in forget.items()}
    found = projected(strided, rows, [0, 1], scales)
    for name, part in expected.items():
        assert found[name].dtype == dtype
        tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found[name].float(), part, rtol=tolerance, atol=tolerance)


def test_a_weight_without_a_gradient_in_an_update_is_0_in_its_direction():
    """As one of an expert that no record of the batch reached: by hand, beside the same with a gradient of 0."""
    forget, *others = drawn((3,), (4,))
    missing = [{"w0"}, {"w1"}, {"w0", "w1"}, {"w1"}, {"w0"}]
    partly, wholly = OffGradients(count=2), OffGradients(count=2)
    for names, other in zip(missing, others, strict=False):
        part = {name: value for name, value in other.items() if name in names}
        zero = {name: value if name in names else torch.zeros_like(value) for name, value in other.items()}
        found = within(partly)({("forget", "full"): forget, ("retain", "full"): part})
        expected = within(wholly)({("forget", "full"): forget, ("retain", "full"): zero})
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_what_was_taken_up_goes_on_alone():
    first, (forget, *others) = OffGradients(count=2), drawn((3, 3))
    within(first)({("forget", "full"): forget, ("retain", "full"): others[0]})
    second = first.begun()
    assert not second.recent.order
    second.load_state_dict(first.state_dict())
    assert isinstance(first, CarryingCombine)
    for number in (1, 2, 3):
        within(first)({("forget", "full"): forget, ("retain", "full"): others[number]})
    assert torch.equal(second.recent.slots["w0"][0].float(), others[0]["w0"].flatten())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_checkpoints_directions_go_where_the_gradients_are():
    for count in (1, 2):  # full, and with room
        recent = Recent({"w": torch.zeros(1, 2, dtype=torch.bfloat16)}, [0])
        assert recent.add({"w": torch.ones(2, device="cuda")}, count)
        assert recent.slots["w"].is_cuda


def test_the_state_of_a_run_without_directions_is_refused():
    with pytest.raises(RunConflictError, match="directions=0"):
        OffGradients().load_state_dict({})


def test_what_is_left_is_projected_again_where_float32_left_a_part_of_a_direction():
    """Of 2 million entries, a gradient that is a direction and as much else: after one pass the cosine is 1e-4."""
    generator = torch.Generator().manual_seed(0)
    direction, other = (torch.randn(2_000_000, generator=generator) for _ in range(2))
    left = projected({"w": other + direction}, {"w": direction[None]}, [0], {})["w"].double()
    assert abs(float(torch.cosine_similarity(left, direction.double(), dim=0))) < 1e-6
