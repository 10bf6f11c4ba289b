from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from remanent.report.frontier import _look, frontier_chart
from remanent.report.svg import ROLES
from remanent.report.sweep_view import view_of

from .sweep_rows import ROWS, broken, data, row


def drawn(rows, seeds=2):
    svg = frontier_chart(view_of(data(rows, seeds)), "f")
    assert svg is not None
    return svg, ElementTree.fromstring(svg)


def place(root, gid):
    """Where a mark stands: (x, y) in points from the upper left corner."""
    (group,) = (element for element in root.iter("g") if element.attrib.get("id") == f"f-{gid}")
    (use,) = group.iter("use")
    return float(use.attrib["x"]), float(use.attrib["y"])


def test_a_mark_for_each_setting_and_colours_of_the_page_only():
    svg, root = drawn(ROWS)
    for number in range(1, 6):
        place(root, f"setting-{number}")
    place(root, "chosen")
    place(root, "fresh")
    assert not [colour for colour in ROLES.values() if colour in svg]
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()
    description = root.find("desc").text
    assert "3 durable: gap −0.05 nats, retention 0.82" in description
    assert description.count("chosen") == 1


def test_marks_stand_where_the_figures_are():
    """On linear axes, the mark halfway between two settings in both figures stands halfway between their marks."""
    _, root = drawn([row("a-1", 0, -0.2, 0.4), row("a-22", 0, 0.6, 0.8), row("a-333", 0, 0.2, 0.6)], 1)
    (x1, y1), (x2, y2), (x3, y3) = (place(root, f"setting-{number}") for number in (1, 2, 3))
    assert x1 < x3 < x2
    assert y1 > y3 > y2  # upwards is more kept
    assert (x3, y3) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=0.01)


def test_the_chosen_ring_stands_on_its_mark():
    _, root = drawn(ROWS)
    assert place(root, "chosen") == pytest.approx(place(root, "setting-3"))


def test_the_frontier_goes_through_its_settings():
    _, root = drawn(ROWS)
    (group,) = (element for element in root.iter("g") if element.attrib.get("id") == "f-frontier")
    path = next(group.iter("path")).attrib["d"]
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
    assert points[0] == pytest.approx(place(root, "setting-3"), abs=0.01)  # durable-ccc
    assert points[-1] == pytest.approx(place(root, "setting-1"), abs=0.01)  # npo-a


def test_of_many_settings_only_those_on_the_frontier_are_numbered():
    many = [row(f"npo-{'x' * number}", 0, 0.5 - 0.01 * number, 0.5 - 0.01 * number) for number in range(1, 25)]
    many += [row("npo-best", 0, 0.0, 0.9)]
    _, root = drawn(many, 1)
    texts = {element.text for element in root.iter("text")}
    assert "25" in texts
    assert not texts & {"7", "13", "24"}


def test_nothing_to_draw():
    assert frontier_chart(view_of(data([broken("npo-a", 0)])), "f") is None


def test_names_are_text():
    hostile = row("x-1", 0, 0.0, 0.9) | {"method": "</svg><script>alert(1)</script> $\\frac{"}
    _, root = drawn([hostile], 1)
    assert not root.findall(".//script")


def test_references_are_open_marks_and_many_methods_look_unlike():
    _, root = drawn([*ROWS, row("retrain-f", 0, 0.0, 1.5), row("retrain-f", 1, 0.0, 1.5)])
    place(root, "reference-original")
    place(root, "reference-retrain-f")
    assert "reference retrain: gap 0.00 nats, retention 1.50" in root.find("desc").text
    assert len({_look(place) for place in range(36)}) == 36


def test_what_lies_far_beyond_stands_at_the_edge_and_squeezes_nothing():
    near = [row("a-1", 0, 0.0, 0.9), row("a-22", 0, 0.5, 0.5)]
    _, root = drawn([*near, row("grad-ascent-333", 0, -30.0, -20.0)], 1)
    (x1, y1), (x2, y2) = place(root, "setting-1"), place(root, "setting-2")
    assert abs(x1 - x2) > 25
    assert abs(y1 - y2) > 25
    x3, y3 = place(root, "setting-3")
    assert x3 < x1
    assert y3 > y2
