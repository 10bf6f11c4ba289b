from __future__ import annotations

import pytest

from remanent.core.catalogue import systems, unlearners
from remanent.core.taxonomy import TREE, leaves
from remanent.jobs.systems import taxonomy


@pytest.mark.parametrize("name", sorted(unlearners()))
def test_every_method_that_forgets_has_its_leaf(name):
    assert systems()[name].system.leaf in leaves(), "leaf of SYSTEM: one of core.taxonomy.TREE, as 'class/leaf'"


def test_each_class_has_a_method_and_each_method_one_place():
    placed = [name for item in taxonomy() for leaf in item["leaves"] for name in leaf["methods"]]
    assert sorted(placed) == sorted(unlearners())
    assert list(TREE) == ["global", "local", "architecture", "input-output"]
    assert all(any(leaf["methods"] for leaf in item["leaves"]) for item in taxonomy())
