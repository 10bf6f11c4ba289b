"""The exponents of the scaling table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scaling_report import Cell, Line, exponent, plot, table

PLACES = [1, 2, 4, 8, 16]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_power_law_gives_its_exponent(power):
    found = exponent(PLACES, [3.0 * x**power for x in PLACES])
    assert (found.value, found.low, found.high, found.last) == pytest.approx((power,) * 4, abs=1e-9)


def test_a_fixed_part_lowers_it_least_at_the_end():
    found = exponent(PLACES, [5.0 + x for x in PLACES])
    assert found.low < found.value < found.last < 1


def test_the_interval_holds_the_exponent_as_often_as_it_says():
    generator = np.random.default_rng(0)
    holds = 0
    for _ in range(400):
        noise = np.exp(0.1 * generator.standard_normal(len(PLACES)))
        found = exponent(PLACES, noise * np.array(PLACES))
        holds += found.low <= 1 <= found.high
    assert holds / 400 == pytest.approx(0.95, abs=0.03)


def test_table_and_plot(tmp_path):
    cells = tuple(Cell(x, (x * 0.1, x * 0.2, x * 0.3), 1000 * x * x) for x in PLACES)
    text = table([Line("tokens", "NPO update", cells)], "How.")
    assert "| tokens | NPO update | 1.00 (1.00 to 1.00); 1.00 | 2.00 (2.00 to 2.00); 2.00 |" in text
    plot([Line("tokens", "NPO update", cells)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0
