from __future__ import annotations

import pytest
import torch

from remanent.core.combine import MaskedTerm, OffSubspace, project_off, right_singular_vectors
from remanent.errors import InputError


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def test_by_hand():
    # The retain gradient's rows all lie along (3, 4) / 5, so that only the part along (-4, 3) / 5 is left.
    left = project_off(torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]]), 128)
    torch.testing.assert_close(left, torch.tensor([[0.64, -0.48], [-2.4, 1.8]]))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_the_vectors_are_those_of_a_full_decomposition(shape, draw):
    matrix = draw(*shape)
    expected = torch.linalg.svd(matrix)[2][:3]
    found = right_singular_vectors(matrix, 3).T
    torch.testing.assert_close((found * expected).sum(dim=1).abs(), torch.ones(3))


def test_projected_twice_is_projected_once_and_what_is_left_stands_off_the_subspace(draw):
    gradient, other = draw(7, 12), draw(7, 12)
    once = project_off(gradient, other, 4)
    torch.testing.assert_close(project_off(once, other, 4), once)
    assert float((once @ right_singular_vectors(other, 4)).abs().max()) < 1e-5
    assert 0 < float(once.norm()) < float(gradient.norm())
    # What was off the subspace before stays.
    torch.testing.assert_close(project_off(once + gradient - once, other, 4), once)


def test_where_the_subspace_is_everything_nothing_at_all_is_left(draw):
    """Not rounding error either, which an optimizer that divides by a gradient's size would blow up."""
    assert not project_off(draw(20, 6), draw(20, 6), 128).any()
    assert not project_off(draw(6, 1) @ torch.ones(1, 9), draw(6, 1) @ torch.ones(1, 9), 128).any()


@pytest.mark.parametrize("broken", ["gradient", "other"])
@pytest.mark.parametrize("rank", [2, 128])  # 128: the subspace is everything
def test_what_is_not_finite_is_not_hidden(broken, rank, draw):
    given = {"gradient": draw(9, 6), "other": draw(9, 6)}
    given[broken][0, 0] = torch.inf
    assert project_off(**given, rank=rank).isnan().all()


def test_no_retain_gradient_takes_nothing_away(draw):
    gradient = draw(4, 6)
    assert torch.equal(project_off(gradient, torch.zeros(4, 6), 128), gradient)


def test_vectors_pass_unchanged_and_points_are_added_up(draw):
    matrix, vector, other, kept = draw(4, 6), draw(6), draw(4, 6), draw(6)
    gradients = {
        ("forget", "full"): {"w": matrix, "norm": vector},
        ("forget", "int4-row"): {"w": matrix},
        ("retain", "full"): {"w": other, "norm": kept},
    }
    alone = OffSubspace(rank=2, add=False)(gradients)
    assert torch.equal(alone["norm"], vector)
    torch.testing.assert_close(alone["w"], project_off(2 * matrix, other, 2))
    both = OffSubspace(rank=2)(gradients)
    torch.testing.assert_close(both["norm"], vector + kept)
    torch.testing.assert_close(both["w"], alone["w"] + other)


def test_a_term_whose_turn_it_is_not():
    gradients = {("forget", "full"): {"w": torch.ones(2, 3)}}
    assert torch.equal(OffSubspace()(gradients)["w"], torch.ones(2, 3))
    assert OffSubspace()({}) == {}


def test_no_vectors_are_refused():
    with pytest.raises(InputError, match="rank"):
        OffSubspace(rank=0)


def test_a_masked_term_by_hand():
    """Its points are added up before the mask; other terms, and weights without a mask, pass as they are."""
    row, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
    gradients = {
        ("forget", "full"): {"w": row, "b": row},
        ("forget", "int4-row"): {"w": row},
        ("retain", "full"): {"w": other},
    }
    found = MaskedTerm("forget", {"w": torch.tensor([True, False, True])})(gradients)
    assert found["w"].tolist() == [12.0, 20.0, 36.0]
    assert found["b"].tolist() == [1.0, 2.0, 3.0]
    assert row.tolist() == [1.0, 2.0, 3.0]
    assert MaskedTerm("forget", {"w": torch.tensor([False] * 3)})({("retain", "full"): {"w": other}})["w"] is other
