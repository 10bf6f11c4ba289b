"""The audit on a small real model: what is asked of whom, what is kept for a second call, and what is never written."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from remanent.auditing.audit import audit
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    CONTROL_PARAPHRASED,
    FORGET,
    ORIGINAL,
    PARAPHRASED,
    RETAIN,
    TEXT,
    Evidence,
)
from remanent.auditing.generation import generate
from remanent.auditing.judge import judge
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.plan import AuditData, AuditPlan
from remanent.core.displacement import Rounding
from remanent.core.scores import score_records
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id, prompt_ids
from remanent.data.general_text import general_text
from remanent.errors import InputError
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny


def hashed(text: str) -> str:
    """Stands for the keyed hash: hexadecimal, and holds nothing of the text."""
    return f"{abs(hash(text)):016x}"[:16]


@pytest.fixture(scope="module")
def data() -> AuditData:
    sets = author_sets(3, forget=4, retain=3, control=4, questions=2)
    return AuditData(sets.forget, sets.retain, sets.control, general_text()[:2])


@pytest.fixture(scope="module")
def folders(data, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("audited", "original")):
        made = tiny([*data.forget, *data.retain, *data.control], hidden=32, seed=seed)
        save(made.model, made.tokenizer, place / name)
    return place


def subjects(folders):
    return {AUDITED: lambda: load(folders / "audited"), ORIGINAL: lambda: load(folders / "original")}


def test_scores_are_the_models_own_at_each_precision(data, folders):
    plan = AuditPlan(parse_conditions("int4-row"), generate=0)
    evidence = audit(subjects(folders), data, plan, hashed)
    loaded = load(folders / "audited")
    encoded = encode_all(data.forget, loaded.tokenizer)
    for name, context in (("full", None), ("int4-row", Rounding("int4-row"))):
        found = evidence.find(AUDITED, name, FORGET)
        assert found is not None
        with context.at(loaded.model) if context else torch.no_grad():
            expected = score_records(loaded.model, encoded, pad_id=pad_id(loaded.tokenizer))
        assert [score.nll for score in found.scores] == pytest.approx(expected.mean_nll.tolist(), rel=1e-6)
        assert [score.tokens for score in found.scores] == [item.scored for item in encoded]
    assert evidence.find(AUDITED, "full", PARAPHRASED) is not None
    assert evidence.find(ORIGINAL, "full", PARAPHRASED) is None
    assert set(evidence.movement["int4-row"]) == {"mean_steps", "moved_half_step", "code_changed"}
    assert evidence.movement["int4-row"]["moved_half_step"] > 0.1  # two models of different seeds lie far apart
    assert evidence.subjects[AUDITED]["model.safetensors"] != evidence.subjects[ORIGINAL]["model.safetensors"]
    assert Evidence.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence


def test_an_attack_never_asks_what_it_trained_on(data, folders):
    loaded = load(folders / "audited")
    sets = {name: AuditSet.of(records, loaded.tokenizer, hashed) for name, records in data.named().items()}
    _, overlap = parse_conditions("relearning-overlap-2", seeds=(0, 1))
    by_group = {}
    for seed in (0, 1):
        measured = Measurer(AUDITED, loaded.model, loaded.tokenizer, sets).measure(overlap, seed)
        asked = {item.records: {score.group for score in item.scores} for item in measured}
        assert set(asked) == {FORGET, PARAPHRASED, CONTROL, CONTROL_PARAPHRASED}
        assert len(asked[FORGET]) == 2  # half of the four forgotten authors
        assert asked[PARAPHRASED] == asked[FORGET]
        assert len(asked[CONTROL]) == 4
        by_group[seed] = asked[FORGET]
    assert by_group[0] != by_group[1]
    # The original relearns as many unseen authors, and is asked the others.
    of_original = Measurer(ORIGINAL, loaded.model, loaded.tokenizer, sets).measure(overlap, 0)
    assert {item.records for item in of_original} == {CONTROL, CONTROL_PARAPHRASED}
    assert all(len({score.group for score in item.scores}) == 2 for item in of_original)


def test_relearning_makes_the_rest_better_known_and_gives_the_weights_back(data, folders):
    loaded = load(folders / "audited")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    sets = {name: AuditSet.of(records, loaded.tokenizer, hashed) for name, records in data.named().items()}
    condition = parse_conditions("relearning-overlap-30", seeds=(0,))[1]
    condition = dataclasses.replace(condition, attack=dataclasses.replace(condition.attack, learning_rate=3e-3))
    measurer = Measurer(AUDITED, loaded.model, loaded.tokenizer, sets)
    plain = {item.records: item for item in measurer.measure(parse_conditions("full")[0], None)}
    attacked = {item.records: item for item in measurer.measure(condition, 0)}
    asked = {score.record for score in attacked[FORGET].scores}
    rest = [score for score in plain[FORGET].scores if score.record in asked]
    assert mean(attacked[FORGET].scores) < mean(rest) - 0.5
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_a_second_call_takes_what_the_first_measured(data, folders, tmp_path, monkeypatch):
    plan = AuditPlan(parse_conditions("int8"), generate=2)
    first = audit(subjects(folders), data, plan, hashed, folder=tmp_path)

    def refuse(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(Measurer, "measure", refuse)
    monkeypatch.setattr(Measurer, "generate", refuse)
    assert audit(subjects(folders), data, plan, hashed, folder=tmp_path) == first
    # Other records are another audit: nothing of the first may be taken for it.
    fewer = AuditData(data.forget[:4], data.retain, data.control, data.text)
    with pytest.raises(AssertionError, match="measured again"):
        audit(subjects(folders), fewer, plan, hashed, folder=tmp_path)


def test_generated_answers_are_the_models_own(data, folders):
    loaded = load(folders / "audited")
    prompts = [prompt_ids(record, loaded.tokenizer) for record in data.forget[:3]]
    together = generate(loaded.model, loaded.tokenizer, prompts, 6)
    alone = [generate(loaded.model, loaded.tokenizer, [prompt], 6)[0] for prompt in prompts]
    assert together == alone  # padding on the left changes nothing
    first = loaded.model(torch.tensor([prompts[0]])).logits[0, -1].argmax()
    assert together[0].startswith(loaded.tokenizer.decode([int(first)], skip_special_tokens=True))


def test_what_should_stay_can_be_asked_alone(data, folders):
    evidence = audit(
        subjects(folders), AuditData(retain=data.retain), AuditPlan(parse_conditions("int8"), generate=0), hashed
    )
    assert {item.records for item in evidence.measurements} == {RETAIN}


def test_missing_data_is_said_before_any_model_is_loaded(data):
    def never():
        raise AssertionError("loaded")

    with pytest.raises(InputError, match="forget set"):
        audit(
            {AUDITED: never}, AuditData(retain=data.retain), AuditPlan(parse_conditions("relearning-overlap")), hashed
        )
    with pytest.raises(InputError, match="general text"):
        audit({AUDITED: never}, AuditData(data.forget), AuditPlan(parse_conditions("relearning-unrelated")), hashed)
    with pytest.raises(InputError, match="audited"):
        audit({ORIGINAL: never}, data, AuditPlan(parse_conditions("full")), hashed)
    with pytest.raises(InputError, match="to be forgotten, or to be kept"):
        AuditData(text=data.text)


def test_text_is_scored_whole(data, folders):
    evidence = audit(subjects(folders), data, AuditPlan(parse_conditions("full"), generate=0), hashed)
    found = evidence.find(AUDITED, "full", TEXT)
    assert found is not None
    assert all(score.tokens > 50 for score in found.scores)


def test_paraphrases_are_held_against_paraphrases(data, folders):
    """Another wording costs NLL of its own, which must not pass for forgetting."""
    evidence = audit(subjects(folders), data, AuditPlan(parse_conditions("full"), generate=0), hashed)
    unseen = evidence.find(AUDITED, "full", CONTROL_PARAPHRASED)
    assert unseen is not None
    forget = evidence.find(AUDITED, "full", PARAPHRASED)
    assert forget is not None
    line = next(line for line in judge(evidence).lines if line.name == "forgotten-relative-paraphrased")
    assert line.value == pytest.approx(mean(forget.scores) - mean(unseen.scores), abs=1e-6)
    assert "control-paraphrased" in line.reason


def test_a_model_that_answers_with_nothing_finite_is_written_down_and_not_assessed(data, folders, tmp_path):
    loaded = load(folders / "audited")
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.fill_(torch.nan)
    found = audit(
        {AUDITED: lambda: loaded}, data, AuditPlan(parse_conditions("full"), generate=0), hashed, folder=tmp_path
    )
    again = Evidence.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert all(math.isnan(score.nll) for item in again.measurements for score in item.scores)
    assert judge(again).verdict == "NOT ASSESSABLE"


def test_adapter_off_is_no_attack_on_a_model_without_adapter(data, folders):
    with pytest.raises(InputError, match="LoRA"):
        audit(subjects(folders), data, AuditPlan(parse_conditions("adapter-off"), generate=0), hashed)


def test_one_group_cannot_be_relearned_and_asked(data):
    def never():
        raise AssertionError("loaded")

    alone = AuditData(data.forget[:2], data.retain, data.control, data.text)
    with pytest.raises(InputError, match="at least 2 groups"):
        audit({AUDITED: never}, alone, AuditPlan(parse_conditions("relearning-overlap")), hashed)


def mean(scores) -> float:
    return sum(score.nll for score in scores) / len(scores)
