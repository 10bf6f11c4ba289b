from __future__ import annotations

import pytest

from remanent.unlearning.alt_po import AltPO, method
from remanent.unlearning.idk_dpo import IdkDPO


def test_it_is_idk_dpo_with_another_role(answers, taken):
    forget, other = answers([1.0, 2.0], [6.0], reference=[4.0, 2.0]), answers([3.0], [4.0], reference=[1.0, 5.0])
    ours = taken(AltPO(beta=0.5), forget=forget, alternative=other)["forget"].item()
    assert ours == pytest.approx(taken(IdkDPO(beta=0.5), forget=forget, refusal=other)["forget"].item())


def test_its_roles_are_paired_and_scored_by_the_reference():
    objective = method().objective
    assert method().roles == ("forget", "alternative", "retain")
    assert objective.paired == {"alternative": "forget"}
    assert objective.needs_reference == {"forget", "alternative"}
