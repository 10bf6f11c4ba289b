"""The certificate on models that are really trained: what must fail fails, and only what forgot and kept passes.

Every model is saved, loaded as saved, audited and judged by the library's own path.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, ORIGINAL, RETRAINED
from remanent.auditing.judgement import FAILED, NOT_ASSESSABLE, PASSED, WARNED
from remanent.auditing.plan import AuditData
from remanent.core.displacement import Noise
from remanent.unlearning import grad_ascent, npo

from .auditor import PRECISIONS, Auditor, lines, verdicts
from .world import State, World

CONDITIONS = set(PRECISIONS.split(","))
FORGOTTEN = ("forgotten-relative", "forgotten-absolute", "forgotten-relative-paraphrased")

# Declared before any verdict, from the size of the data alone. Between authors the mean NLL of unseen answers differs
# by about 0.45 nats, so that the difference of 24 forgotten and 60 control authors has a standard error of 0.11, and
# that of the 12 which an overlapping attack leaves one of 0.14. A model that knows neither set passes 19 times in 20
# where epsilon is 2 x 1.645 standard errors: 0.47. The untouched model lies 1.3 nats below the control.
CRITERIA = {"epsilon": 0.5, "epsilon_over": 1.0, "upsilon": 0.9, "alpha": 0.05}


@pytest.fixture(scope="module")
def auditor(world: World, tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    return Auditor(world, CRITERIA, tmp_path_factory.mktemp("audits"))


def test_the_untouched_model_fails_at_every_condition(auditor, taught):
    judgement = auditor({AUDITED: taught, ORIGINAL: taught})
    assert judgement.verdict == FAILED
    for name in FORGOTTEN[:2]:
        assert verdicts(judgement, name) == dict.fromkeys(CONDITIONS, FAILED)
    assert verdicts(judgement, "kept") == dict.fromkeys(CONDITIONS, PASSED)


def test_a_model_of_noise_fails_to_keep(auditor, world, taught):
    destroyed = world.moved(taught, Noise(3.0))
    judgement = auditor({AUDITED: destroyed, ORIGINAL: taught})
    assert judgement.verdict == FAILED
    assert verdicts(judgement, "kept") == dict.fromkeys(CONDITIONS, FAILED)


def test_ascent_that_ran_on_passes_the_published_certificate_and_fails_ours(auditor, world, taught):
    destroyed, _ = world.unlearn(taught, grad_ascent.method(), learning_rate=1e-3, steps=40)
    # DurableUn's certificate asks for a forget accuracy of at most 0.05 and nothing else.
    assert world.accuracy(destroyed, "forget") <= 0.05
    judgement = auditor({AUDITED: destroyed, ORIGINAL: taught})
    assert judgement.verdict == FAILED
    assert set(verdicts(judgement, "forgotten-absolute").values()) == {PASSED}
    assert verdicts(judgement, "kept") == dict.fromkeys(CONDITIONS, FAILED)


def test_a_model_that_kept_the_form_and_lost_every_fact_fails_to_keep(auditor, world, base, taught):
    lost = world.teach(base, "elsewhere")
    judgement = auditor({AUDITED: lost, ORIGINAL: taught})
    assert judgement.verdict == FAILED
    for name in FORGOTTEN:
        assert verdicts(judgement, name) == dict.fromkeys(CONDITIONS, PASSED)
    assert verdicts(judgement, "kept") == dict.fromkeys(CONDITIONS, FAILED)
    # It answers in form: two tokens of three are right, and no fact beyond what it knows of strangers.
    assert world.accuracy(lost, "retain-audit") > 0.6
    assert all(abs(line.value) < 0.2 for line in lines(judgement, "kept"))


def fragile(state: State, scale: float = 200.0) -> State:
    """The same function with one channel of each norm scaled down, and up again in the columns that read it.

    Full precision hardly notices. Rounding by row takes its scale from the large column, and loses the others.
    """
    found = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in found.items():
        layer, _, last = name.rpartition(".")
        if name.endswith("layernorm.weight"):
            tensor[0] /= scale
        elif last == "weight" and layer.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
            tensor[:, 0] *= scale
    return found


def test_what_a_precision_itself_destroyed_is_not_assessable_there(auditor, world, taught):
    """Nothing was unlearned: the original is judged against itself, and rounding by row ruins both alike."""
    broken = fragile(taught)
    assert world.nll(broken, "retain-audit") == pytest.approx(world.nll(taught, "retain-audit"), abs=1e-3)
    judgement = auditor({AUDITED: broken, ORIGINAL: broken}, "full,int4-row,nf4")
    ruined = {"int4-row": NOT_ASSESSABLE, "nf4": NOT_ASSESSABLE}  # a block of nf4 is as long as a row here
    assert verdicts(judgement, "kept") == {"full": PASSED, **ruined}
    (line,) = lines(judgement, "kept", "int4-row")
    assert "itself is broken" in line.reason  # the two still differ by 0.28 nats, by chance or by ruin


def test_forgetting_far_past_the_control_is_warned(auditor, world, taught):
    overdone, _ = world.unlearn(taught, npo.method(), learning_rate=1e-3, steps=120)
    judgement = auditor({AUDITED: overdone, ORIGINAL: taught})
    assert verdicts(judgement, "not-overdone") == dict.fromkeys(CONDITIONS, WARNED)
    assert set(verdicts(judgement, "forgotten-relative").values()) == {PASSED}
    assert judgement.verdict != PASSED


def test_too_few_records_are_warned(auditor, world, taught, retrained):
    records = world.records
    few = AuditData(records["forget"][:12], records["retain-audit"], records["control-audit"][:16])
    judgement = auditor({AUDITED: retrained, ORIGINAL: taught}, "full", few)
    (power,) = lines(judgement, "power")
    assert (power.verdict, power.detectable > CRITERIA["epsilon"]) == (WARNED, True)
    assert judgement.verdict != PASSED


def test_a_retrained_model_passes_at_every_precision(auditor, taught, retrained, retrained_again):
    judgement = auditor({AUDITED: retrained_again, ORIGINAL: taught, RETRAINED: retrained})
    assert {(line.name, line.condition): line.reason for line in judgement.lines if line.verdict != PASSED} == {}
    assert judgement.verdict == PASSED


def test_a_retrained_model_passes_under_relearning(auditor, world, taught, retrained, retrained_again):
    data = replace(auditor.data, text=world.records["text"])
    at = parse_conditions("relearning-unrelated-10,relearning-overlap-10", learning_rate=1e-3)
    judgement = auditor({AUDITED: retrained_again, ORIGINAL: taught, RETRAINED: retrained}, at, data)
    # General text is there to relearn from: a model that was taught 300 authors and no English has none to lose.
    judged = [line for line in judgement.lines if line.name != "general-text"]
    assert {line.condition for line in judged} >= {"relearning-unrelated-10", "relearning-overlap-10"}
    assert {(line.name, line.condition): line.reason for line in judged if line.verdict != PASSED} == {}
