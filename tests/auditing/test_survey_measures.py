"""The survey's measures by hand, and on a model that knows half: what was taught stands out, what was not does not."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from remanent.auditing import extraction_likelihood, reference_distance
from remanent.auditing.anamnesis import STEPS, Anamnesis, relearn_time, time_to
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, Evidence
from remanent.auditing.exposure import Exposure, exposure
from remanent.auditing.extraction_likelihood import ExtractionLikelihood, beginnings, overlap
from remanent.auditing.fluency import entropy, repetition
from remanent.auditing.judgement import FAILED, PASSED, Criteria
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.auditing.plan import AuditPlan, askable
from remanent.auditing.reference_distance import ReferenceDistance
from remanent.auditing.required_line import required_lines
from remanent.auditing.text_score import TextScore
from remanent.auditing.weight_distance import weight_distances, weight_scores
from remanent.core.activations import states_of
from remanent.core.batch import Encoded, collate
from remanent.core.displacement import Rounding
from remanent.core.divergence import js_divergence, kl_divergence
from remanent.core.files import sha256_file
from remanent.core.intervention import put_on
from remanent.core.scores import answer_scores
from remanent.data.canaries import canaries
from remanent.data.encode import encode_all
from remanent.data.named import load
from remanent.errors import InputError
from remanent.models.lora import add_lora
from remanent.models.save import save
from remanent.models.tiny import tiny
from remanent.report.attacker import layer_rows
from remanent.unlearning.guardrail import Prefix

SETS = canaries(seed=2, count=6, others=15)
NAMED = {FORGET: list(SETS.forget), CONTROL: list(SETS.control)}


@pytest.fixture(scope="module")
def blank():
    return tiny([*SETS.forget, *SETS.control], hidden=32)


@pytest.fixture(scope="module")
def taught(blank):
    """A model that knows the forget set's codes by heart."""
    model = copy.deepcopy(blank.model)
    batch = collate(encode_all(SETS.forget, blank.tokenizer), range(len(SETS.forget)), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (-answer_scores(model, batch).log_probs.mean()).backward()
        optimizer.step()
    return model.eval()


def measured(model, tokenizer, name, most=6, subject=AUDITED):
    """The figures of forget and control at a condition."""
    parts = {role: AuditSet.of(part, tokenizer, str) for role, part in NAMED.items()}
    (_, condition) = parse_conditions(name)
    look = condition.look.given(NAMED)
    return {
        (subject, name, role): scores
        for role, scores in look(Measurer(subject, model, tokenizer, parts), condition, most).items()
    }


def figures(found):
    made = measures(found, Criteria(bootstrap_resamples=200))
    return {(item.subject, item.records, item.name): item for item in made}


def test_canaries_are_alike_and_their_codes_differ():
    records = [*SETS.forget, *SETS.control]
    assert len({record.question for record in records}) == 12
    for record in records:
        codes = {record.answer, *record.wrong_answers}
        assert len(codes) == 16
        assert all(len(code.split()) == 6 for code in codes)
    assert canaries(seed=2, count=6, others=15) == SETS
    assert canaries(seed=3, count=6, others=15).forget[0].answer != SETS.forget[0].answer
    assert load("canaries:control:3", "control") == list(canaries(3).control)
    with pytest.raises(InputError, match="canaries"):
        load("canaries:retain", "retain")


@pytest.mark.parametrize("answers", [2, 6, 256])
def test_unseen_exposure_is_what_the_page_says(answers):
    """The mean over every rank."""
    ranks = [exposure(rank - 0.5, list(range(answers - 1))) for rank in range(answers)]
    unseen = sum(ranks) / answers
    assert unseen == pytest.approx(math.log2(answers) - math.lgamma(answers + 1) / math.log(2) / answers)
    row = next(
        line
        for line in (Path(__file__).parents[2] / "docs" / "measures.md").read_text("utf-8").splitlines()
        if "| `exposure` |" in line
    )
    assert f"{unseen:.2f} of {answers}" in row


def test_exposure_by_hand():
    """Third of four: log2 4 - log2 3; as likely as another: half a place behind."""
    assert exposure(3.0, [1.0, 2.0, 4.0]) == pytest.approx(math.log2(4 / 3))
    assert exposure(0.5, [1.0, 2.0, 4.0]) == 2.0
    assert exposure(1.0, [1.0, 2.0, 4.0]) == pytest.approx(math.log2(4 / 1.5))
    with pytest.raises(InputError, match="at least one other"):
        exposure(1.0, [])
    with pytest.raises(InputError, match="wrong answers"):
        Exposure().given({FORGET: [replace(SETS.forget[0], wrong_answers=())]})


def test_what_was_taught_stands_first_and_the_unseen_anywhere(blank, taught):
    found = figures(measured(taught, blank.tokenizer, "exposure"))
    assert found[AUDITED, FORGET, "exposure"].value == 4.0  # first of 16, each
    assert found[AUDITED, CONTROL, "exposure"].value < 2.5  # 1.3 where every rank is as likely


def test_runs_by_hand():
    assert overlap([1, 2, 3, 9], [0, 1, 2, 3], 2) == pytest.approx(2 / 3)  # 12 and 23 of 12, 23, 39
    assert overlap([1], [1, 2], 2) == 0.0  # no run was written
    assert beginnings(7, 5) == [0, 1]
    assert beginnings(5, 5) == []
    assert beginnings(105, 5, most=4) == [0, 25, 50, 75]


def test_extraction_likelihood_by_hand(monkeypatch, blank):
    """A model that writes the truth's first three tokens and then others: runs of two, of answers of seven tokens."""
    parts = {FORGET: AuditSet.of(SETS.forget[:1], blank.tokenizer, str)}
    [text] = parts[FORGET].encoded
    answer = list(text.input_ids[len(text.input_ids) - text.scored :])
    prompt = len(text.input_ids) - text.scored
    asked = []

    def continued(model, begun, room, fill, autocast):
        asked.extend(begun)
        return [[*answer[len(row) - prompt : len(row) - prompt + 3], 901, 902, 903, 904] for row in begun]

    monkeypatch.setattr(extraction_likelihood, "continued", continued)
    (_, condition) = parse_conditions("extraction-2")
    measurer = Measurer(AUDITED, blank.model, blank.tokenizer, parts)
    [score] = condition.look(measurer, condition, 5)[FORGET]
    count = len(answer) - 2  # beginnings of all lengths that leave more than two tokens
    assert asked == [list(text.input_ids[: prompt + given]) for given in beginnings(len(answer), 2)]
    expected = []
    for given in beginnings(len(answer), 2):
        runs = min(7, len(answer) - given) - 1  # no more is counted than there is to write
        expected.append(min(2, runs) / runs)
    assert len(expected) == min(count, 8)
    assert score.values["extraction-likelihood"] == pytest.approx(sum(expected) / len(expected))
    with pytest.raises(InputError, match="at least 1 token"):
        ExtractionLikelihood(0).given(NAMED)


def test_what_was_taught_comes_out_and_the_unseen_does_not(blank, taught):
    found = figures(measured(taught, blank.tokenizer, "extraction-3"))
    assert found[AUDITED, FORGET, "extraction-likelihood"].value > 0.9
    assert found[AUDITED, CONTROL, "extraction-likelihood"].value < 0.5
    forget, control = (found[AUDITED, role, "memorization-accuracy"].value for role in (FORGET, CONTROL))
    assert forget > control
    # By hand for one text: the likeliest token at each place, the question's too.
    [text] = encode_all(SETS.forget[:1], blank.tokenizer)
    ids = torch.tensor([text.input_ids])
    with torch.no_grad():
        hits = taught(input_ids=ids).logits[0, :-1].argmax(dim=-1) == ids[0, 1:]
    [first, *_] = measured(taught, blank.tokenizer, "extraction-3")[AUDITED, "extraction-3", FORGET]
    assert first.values["memorization-accuracy"] == pytest.approx(float(hits.double().mean()))


def test_entropy_and_repetition_by_hand():
    assert entropy(["a", "b", "a", "b"]) == pytest.approx((2 / 3 * (math.log2(3) - 2 / 3) + 4 / 3 * 1) / 2)
    assert entropy(["a"]) == 0.0
    assert repetition(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(1 - 4 / 5)
    assert repetition(["a", "b", "c"]) is None


def test_perplexity_is_of_the_mean_and_has_its_interval():
    rows = [TextScore(str(n), str(n), {"perplexity": value}) for n, value in enumerate((1.0, 2.0, 3.0))]
    found = figures({(AUDITED, "fluency", FORGET): rows})[AUDITED, FORGET, "perplexity"]
    assert found.value == pytest.approx(math.exp(2))
    assert found.low < found.value < found.high


def test_fluency_of_what_is_written(blank, taught):
    found = figures(measured(taught, blank.tokenizer, "fluency"))
    assert found[AUDITED, FORGET, "perplexity"].value < 1.5 < found[AUDITED, CONTROL, "perplexity"].value
    for role in (FORGET, CONTROL):
        assert found[AUDITED, role, "entropy"].value > 0


def test_divergences_by_hand():
    """(1/2, 1/2) and (1, 0): m = (3/4, 1/4)."""
    one, two = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    bits = (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25) + math.log2(1 / 0.75)) / 2
    assert js_divergence(one, two).item() == pytest.approx(bits)
    assert js_divergence(two, one).item() == pytest.approx(bits)
    apart = torch.tensor([[0.0, 1.0]]).log()
    assert js_divergence(two, apart).item() == pytest.approx(1.0)


def test_distance_to_a_reference_and_to_one_that_knows_nothing(blank, taught, tmp_path):
    save(blank.model, blank.tokenizer, tmp_path / "reference")
    name = f"divergence:{tmp_path / 'reference'}"
    found = figures(measured(taught, blank.tokenizer, name))
    far = found[AUDITED, FORGET, "js-divergence"].value
    assert 0 < far <= 1
    same = figures(measured(blank.model, blank.tokenizer, name))
    for measure in ("js-divergence", "kl-divergence"):
        assert same[AUDITED, FORGET, measure].value == pytest.approx(0, abs=1e-6)
    batch = collate(encode_all(SETS.forget[:1], blank.tokenizer), [0], 0)
    with torch.no_grad():
        ours, theirs = (answer_scores(model, batch).distribution for model in (taught, blank.model))
    [first, *_] = measured(taught, blank.tokenizer, name)[AUDITED, name, FORGET]
    assert first.values["kl-divergence"] == pytest.approx(kl_divergence(theirs, ours).mean().item(), rel=1e-4)
    knows, fresh = (figures(measured(model, blank.tokenizer, "zrf")) for model in (taught, blank.model))
    ours, theirs = (part[AUDITED, FORGET, "zero-retrain-forgetting"].value for part in (knows, fresh))
    assert ours < theirs <= 1  # one that knows the answers is further from one that knows nothing
    with pytest.raises(InputError, match="the folder of a saved model"):
        ReferenceDistance(str(tmp_path)).given(NAMED)
    ready = [ReferenceDistance(str(tmp_path / "reference")).given(NAMED) for _ in range(2)]
    assert ready[0] == ready[1]
    assert ready[0].digest == f"SHA-256 {sha256_file(tmp_path / 'reference' / 'model.safetensors')}"
    asked = askable(AuditPlan(parse_conditions(name)), NAMED, False).conditions[-1].info
    assert asked.name == "divergence:reference"
    assert ready[0].digest in asked.description  # which model it was stands in the certificate, and no path
    assert str(tmp_path) not in str(asked)


def test_the_other_distances_to_a_reference(blank, taught, tmp_path):
    """By hand from both models' outputs; 0 and 1 where the reference is the model itself."""
    save(blank.model, blank.tokenizer, tmp_path / "reference")
    name = f"divergence:{tmp_path / 'reference'}"
    found = measured(taught, blank.tokenizer, name)
    [first, *_] = found[AUDITED, name, FORGET]
    [text] = encode_all(SETS.forget[:1], blank.tokenizer)
    ids, scored = torch.tensor([text.input_ids]), text.scored
    chances, states = [], []
    for model in (taught, blank.model):
        with torch.no_grad():
            chances.append(model(input_ids=ids).logits[0, -scored - 1 : -1].softmax(dim=-1))
        states.append(states_of(model, [text], (2,), lambda values, batch: values[0])[2][-scored - 1 : -1])
    apart = (states[0] - states[1]).norm(dim=1) / states[1].norm(dim=1)
    assert first.values["activation-distance"] == pytest.approx(apart.mean().item(), rel=1e-4)
    far = (chances[0] - chances[1]).norm(dim=1).mean().item()
    assert 0.1 < far < math.sqrt(2)
    assert first.values["probability-distance"] == pytest.approx(far, rel=1e-4)
    same = (chances[0].argmax(dim=1) == chances[1].argmax(dim=1)).double().mean().item()
    assert first.values["agreement"] == pytest.approx(same)
    made = figures(found)
    one, two = (
        {key: value.detach().double() for key, value in model.named_parameters()} for model in (taught, blank.model)
    )
    for records, part in (("weights", ""), ("weights of layer 1", "layers.1.")):
        names = [key for key in two if part in key]
        moved, size = (
            sum(each.square().sum() for each in parts)
            for parts in ([one[key] - two[key] for key in names], [two[key] for key in names])
        )
        item = made[AUDITED, records, "weight-distance"]
        assert item.value == pytest.approx(math.sqrt(moved / size), rel=1e-5)
        assert (item.low, item.high, item.n) == (None, None, sum(two[key].numel() for key in names))
    assert {key[1] for key in made if key[2] == "weight-distance"} == {
        "weights",
        "weights of layer 0",
        "weights of layer 1",
        "weights outside layers",
    }
    itself = figures(measured(blank.model, blank.tokenizer, name))
    for measure, value in (("agreement", 1), ("probability-distance", 0), ("activation-distance", 0)):
        assert itself[AUDITED, FORGET, measure].value == pytest.approx(value, abs=1e-6)
    assert itself[AUDITED, "weights", "weight-distance"].value == 0
    asked = ["weight-distance<=0", "agreement>=0.3", "weight-distance>=0.1"]
    lines = required_lines(list(itself.values()), asked)
    assert [line.verdict for line in lines] == [PASSED, PASSED, FAILED]
    rows = layer_rows(Evidence((), (), measures=tuple(itself.values())))
    assert sorted(row.label for row in rows) == ["layer 0", "layer 1", "outside layers"]


def test_states_of_a_guarded_model_are_those_of_the_records_own_tokens(taught):
    batch = collate([Encoded((7, 8, 9, 10), (-100, -100, 9, 10)), Encoded((7, 8), (-100, 8))], range(2), 0)
    behind = collate(
        [Encoded((3, 4, 7, 8, 9, 10), (*[-100] * 4, 9, 10)), Encoded((3, 4, 7, 8), (*[-100] * 3, 8))], range(2), 0
    )
    _, expected = reference_distance._asked(taught, behind)
    guard = put_on(taught, Prefix(torch.tensor([3, 4])))
    try:
        _, found = reference_distance._asked(taught, batch)
    finally:
        guard.undo()
    torch.testing.assert_close(found, expected)


def test_weights_are_compared_merged_and_only_with_the_same_ones(blank):
    adapted = add_lora(copy.deepcopy(blank.model), rank=2, alpha=2, dropout=0.0)
    at_first = weight_distances(weight_scores(adapted, blank.model))
    assert at_first["weights"][0] == 0  # B = 0
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and "layers.0" in name:
            parameter.data.fill_(0.1)
    found = weight_distances(weight_scores(adapted, blank.model))
    assert found["weights of layer 0"][0] > 0 == found["weights of layer 1"][0]
    assert found["weights"][1] == sum(parameter.numel() for parameter in blank.model.parameters())
    other = tiny([*SETS.forget, *SETS.control], hidden=64)
    assert weight_scores(blank.model, other.model) == []


def test_time_by_hand():
    """Asked after 0, 1, 2, 3, 5 ... updates: .6 is reached half way between 3 and 5."""
    curve = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.8, 0.9, 0.9, 0.9])
    assert time_to(curve, 0.6) == pytest.approx(4.0)
    assert time_to(curve, 0.1) == 0.0
    assert time_to(curve, 0.95) == math.inf


def rows(*curve, count=4):
    values = {f"relearnt-after-{steps}": value for steps, value in zip(STEPS, curve, strict=True)}
    return [TextScore(f"r{n}", f"g{n}", values) for n in range(count)]


def test_the_index_by_hand():
    """The original knows .8, so that .76 is asked: the audited model has it after 2, the retrained one after 8."""
    found = {
        (ORIGINAL, "anamnesis", FORGET): rows(*[0.8] * 9),
        (AUDITED, "anamnesis", FORGET): rows(0.0, 0.38, 0.76, *[0.9] * 6),
        (AUDITED, "anamnesis", CONTROL): rows(*[0.0] * 4, 0.76, *[0.9] * 4),
        (RETRAINED, "anamnesis", FORGET): rows(*[0.0] * 5, 0.76, *[0.9] * 3),
    }
    made = figures(found)
    assert made[AUDITED, FORGET, "relearn-time"].value == pytest.approx(2.0)
    assert made[AUDITED, CONTROL, "relearn-time"].value == pytest.approx(5.0)
    assert made[RETRAINED, FORGET, "relearn-time"].value == pytest.approx(8.0)
    assert made[AUDITED, FORGET, "anamnesis-index"].value == pytest.approx(2 / 8)
    assert made[AUDITED, FORGET, "anamnesis-against-unseen"].value == pytest.approx(2 / 5)
    assert made[ORIGINAL, FORGET, "relearn-time"].value == 0.0
    assert (RETRAINED, FORGET, "anamnesis-index") not in made
    never = {**found, (AUDITED, "anamnesis", FORGET): rows(*[0.1] * 9)}
    assert figures(never)[AUDITED, FORGET, "anamnesis-index"].value is None
    without = {key: value for key, value in found.items() if key[0] != ORIGINAL}
    assert not figures(without)  # nobody says what was known
    generator = np.random.default_rng(0)
    curve = np.tile([0.0, 0.38, 0.76, *[0.9] * 6], (4, 1))
    spread = curve + np.array([[-0.1], [-0.05], [0.05], [0.1]])
    interval = relearn_time((spread, list("abcd")), (np.full((4, 9), 0.8), list("abcd")), generator, 0.05, 200)
    assert interval.low < interval.value < interval.high


def test_what_was_only_hidden_is_known_again_and_the_unseen_is_not(blank, taught, snapshot, same_bits):
    before = snapshot(taught)
    found = measured(taught, blank.tokenizer, "anamnesis-0.01", subject=ORIGINAL)
    assert same_bits(snapshot(taught), before)
    hidden = copy.deepcopy(taught)
    batch = collate(encode_all(SETS.forget, blank.tokenizer), range(len(SETS.forget)), 0)
    optimizer = torch.optim.AdamW(hidden.parameters(), lr=5e-3)
    for _ in range(6):
        optimizer.zero_grad()
        answer_scores(hidden, batch).log_probs.mean().backward()
        optimizer.step()
    found |= measured(hidden, blank.tokenizer, "anamnesis-0.01")
    made = figures(found)
    assert made[ORIGINAL, FORGET, "relearn-time"].value == 0.0
    assert 0 < made[AUDITED, FORGET, "relearn-time"].value < 34
    unseen = made[AUDITED, CONTROL, "relearn-time"].value
    assert unseen is None or unseen > made[AUDITED, FORGET, "relearn-time"].value
    with pytest.raises(InputError, match="a forget set"):
        Anamnesis().given({})


def test_names_of_conditions():
    text = "exposure,extraction,extraction-10,fluency,anamnesis,anamnesis-0.001+int4-row,zrf,divergence:runs/x/model"
    found = {item.info.name: item for item in parse_conditions(text)}
    assert set(found) == {"full", "divergence:model", *text.split(",")[:-1]}
    assert found["extraction-10"].look == ExtractionLikelihood(10)
    assert found["anamnesis-0.001+int4-row"].look == Anamnesis(0.001)
    assert found["anamnesis-0.001+int4-row"].displacement == Rounding("int4-row")
    assert found["divergence:model"].look == ReferenceDistance("runs/x/model")
    assert parse_conditions(text + ",divergence:runs/x/model") == list(found.values())
    with pytest.raises(InputError, match="of different names"):
        parse_conditions(text + ",divergence:runs/y/model")
    assert all(item.texts_only for name, item in found.items() if name != "full")
    for name in ("extraction-x", "anamnesis-", "fluency+remind", "zrf+relearning"):
        with pytest.raises(InputError, match="at"):
            parse_conditions(name)


def test_a_tied_weight_counts_once_and_packed_models_are_not_compared(blank, monkeypatch):
    one, two = (add_lora(copy.deepcopy(blank.model), rank=2, alpha=2, dropout=0.0) for _ in range(2))
    for name, parameter in one.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    found = weight_distances(weight_scores(one, two))["weights"]
    assert found == pytest.approx(weight_distances(weight_scores(one, blank.model))["weights"])
    assert found[1] == sum(parameter.numel() for parameter in blank.model.parameters())
    monkeypatch.setattr("remanent.auditing.weight_distance.is_packed", lambda model: model is two)
    assert weight_scores(one, two) == []
