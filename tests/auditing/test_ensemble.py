"""The audit at real back ends, on a LoRA folder, and at conditions that do not apply."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.auditing.audit import audit
from remanent.auditing.backends import base
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETAIN
from remanent.auditing.judge import judge
from remanent.auditing.plan import AuditData, AuditPlan, askable
from remanent.core.scores import score_records
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.data.general_text import general_text
from remanent.errors import InputError
from remanent.models.gguf_write import write_gguf
from remanent.models.load import load
from remanent.models.lora import add_lora
from remanent.models.save import save
from remanent.models.tiny import tiny


def hashed(text: str) -> str:
    return f"{abs(hash(text)):016x}"[:16]


@pytest.fixture(scope="module")
def data() -> AuditData:
    sets = author_sets(3, forget=4, retain=3, control=4, questions=1)
    return AuditData(sets.forget, sets.retain, sets.control, general_text()[:2])


@pytest.fixture(scope="module")
def place(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("audited", "original")):
        made = tiny([*data.forget, *data.retain, *data.control], hidden=32, seed=seed)
        save(made.model, made.tokenizer, folder / name)
    loaded = load(folder / "original")
    adapted = add_lora(loaded.model, rank=2)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    save(adapted, loaded.tokenizer, folder / "adapter")
    save(adapted, loaded.tokenizer, folder / "merged", merged=True)
    return folder


def run(place, data, at, audited="audited", **options):
    subjects = {AUDITED: lambda: load(place / audited), ORIGINAL: lambda: load(place / "original")}
    return audit(subjects, data, AuditPlan(parse_conditions(at, seeds=(0,)), generate=0), hashed, **options)


def nll(evidence, condition, records=FORGET, subject=AUDITED):
    found = evidence.find(subject, condition, records)
    assert found is not None
    return [score.nll for score in found.scores]


def test_what_is_scored_at_a_back_end_is_what_comes_back_from_its_file(place, data, tmp_path):
    evidence = run(place, data, "gguf-q4_0", folder=tmp_path / "kept")
    loaded = load(write_gguf(place / "audited", tmp_path / "a.gguf", "q4_0"))
    expected = score_records(
        loaded.model, encode_all(data.forget, loaded.tokenizer), pad_id=pad_id(loaded.tokenizer), batch_size=16
    )
    assert nll(evidence, "gguf-q4_0") == pytest.approx(expected.mean_nll.tolist(), rel=1e-5)
    assert nll(evidence, "gguf-q4_0") != nll(evidence, "full")
    names = {line.name for line in judge(evidence).lines if line.condition == "gguf-q4_0"}
    assert {"forgotten-relative", "forgotten-absolute", "kept"} <= names  # judged as a precision
    assert run(place, data, "gguf-q4_0", folder=tmp_path / "kept") == evidence  # from what was kept


def test_a_given_file_stands_for_the_audited_model_only(place, data, tmp_path):
    file = write_gguf(place / "audited", tmp_path / "mine.gguf", "q4_1")
    evidence = run(place, data, f"gguf:{file}")
    name = "gguf:mine.gguf"
    assert nll(evidence, name) != nll(evidence, "full")
    assert nll(evidence, name, CONTROL, ORIGINAL) == nll(evidence, "full", CONTROL, ORIGINAL)
    assert str(tmp_path) not in str(evidence.to_dict())
    with pytest.raises(InputError, match="different names"):
        parse_conditions(f"gguf:{file},gguf:{file}")


def test_a_back_end_that_cannot_run_is_left_out_and_said(place, data, monkeypatch):
    pytest.importorskip("torchao", reason="pip install 'remanent[torchao]'")
    if torch.cuda.is_available():
        pytest.skip("torchao's INT4 may run here")
    evidence = run(place, data, "torchao-int4,int8")
    assert [item.name for item in evidence.conditions] == ["full", "int8"]
    assert any("torchao-int4 was NOT measured: cannot run here" in note for note in judge(evidence).notes)


def test_an_ensemble_leaves_out_what_does_not_apply(place, data, monkeypatch):
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda package: None)
    asked = [item for item in parse_conditions("thorough") if item.attack is None]
    plan = AuditPlan([item for item in asked if not item.info.name.startswith("gguf")], generate=0)
    evidence = audit({AUDITED: lambda: load(place / "audited")}, data, plan, hashed)
    names = {item.name for item in evidence.conditions}
    assert {"int4-g128", "prune-0.3", "prune-0.3-global", "noise-0.05"} <= names
    left_out = {"adapter-off", "int4-row-adapter", "bnb-nf4", "torchao-int8"}
    assert not left_out & names
    for name in left_out:
        assert any(note.startswith(f"{name} was NOT measured") for note in evidence.notes), name
    with pytest.raises(InputError, match="adapter"):
        run(place, data, "int4-row-adapter")


def test_the_scale_per_tensor_is_in_the_thorough_list_and_measured(place, data):
    assert "int8-tensor" in [item.info.name for item in parse_conditions("thorough")]
    evidence = run(place, data, "int8,int8-tensor")
    assert nll(evidence, "int8-tensor") not in (nll(evidence, "int8"), nll(evidence, "full"))
    assert evidence.movement["int8-tensor"] != evidence.movement["int8"]


def test_attacks_of_an_ensemble_that_the_records_do_not_allow_are_left_out_and_said(data):
    plan = AuditPlan(parse_conditions("thorough", seeds=(0,)), generate=1)
    ready = askable(plan, data.named(), True)  # one record of each author: none to relearn beside one to ask
    names = {item.info.name for item in ready.conditions}
    assert "blur-relearning-hi-50" not in names
    assert {"blur-relearning-mid-50", "blur-relearning-lo-50", "relearning-overlap-500"} <= names
    (said,) = [note for note in ready.notes if note.startswith("blur-relearning-hi-50 was NOT measured")]
    assert "at least 2 records" in said
    few = askable(plan, AuditData(data.forget[:1], data.retain, data.control).named(), True)
    assert not [item for item in few.conditions if item.attack is not None and item.attack.source != "mid"]
    for at, said in (("blur-relearning-hi", "at least 2 records"), ("blur-relearning-lo", "general text")):
        with pytest.raises(InputError, match=said):
            askable(AuditPlan(parse_conditions(at)), AuditData(data.forget, data.retain).named(), False)
    with pytest.raises(InputError, match="a forget set"):
        askable(AuditPlan(parse_conditions("blur-relearning-mid")), AuditData(retain=data.retain).named(), False)


def test_a_set_of_which_nothing_is_left_is_known_before_any_work(data):
    """Every retained record holds what is asked."""
    retain = [replace(item, answer=f"{item.answer} {data.forget[0].answer}") for item in data.retain]
    leaking = AuditData(data.forget, retain, data.control, data.text)
    assert len(data.forget[0].answer.split()) >= 5
    with pytest.raises(InputError, match="5 words in a row"):
        askable(AuditPlan(parse_conditions("blur-relearning-mid")), leaking.named(), False)
    ready = askable(AuditPlan(parse_conditions("thorough", seeds=(0,)), generate=1), leaking.named(), False)
    assert "blur-relearning-mid-50" not in {item.info.name for item in ready.conditions}
    assert any(note.startswith("blur-relearning-mid-50 was NOT measured") for note in ready.notes)


def test_a_lora_folder_is_audited_merged_by_default_and_by_its_factors_where_asked(place, data):
    evidence = run(place, data, "int4-row,int4-row-adapter,adapter-off,prune-0.3,gguf-q8_0", audited="adapter")
    # Another base at the same place is another model.
    assert {"adapter_model.safetensors", "base/model.safetensors"} < set(evidence.subjects[AUDITED])
    whole = run(place, data, "int4-row,prune-0.3,gguf-q8_0", audited="merged")
    for name in ("full", "int4-row", "prune-0.3", "gguf-q8_0"):
        assert nll(evidence, name) == pytest.approx(nll(whole, name), rel=1e-3), name
    assert nll(evidence, "adapter-off", RETAIN) == pytest.approx(nll(evidence, "full", RETAIN, ORIGINAL), rel=1e-5)
    assert nll(evidence, "int4-row-adapter") != nll(evidence, "int4-row")
    assert nll(evidence, "int4-row-adapter") != nll(evidence, "full")
    # The original has no adapter: nothing of it is rounded.
    assert nll(evidence, "int4-row-adapter", RETAIN, ORIGINAL) == nll(evidence, "full", RETAIN, ORIGINAL)


def test_the_ladder_relearns_more_with_more_steps(place, data):
    conditions = [item for item in parse_conditions("thorough", seeds=(0,)) if item.attack is not None]
    rungs = {(item.attack.source, item.attack.steps) for item in conditions}
    ladder = {(source, count) for source in ("unrelated", "overlap") for count in (10, 50, 100, 500)}
    assert rungs == ladder | {(source, 50) for source in ("hi", "mid", "lo")}
    steps = [item.attack.steps for item in conditions]
    assert steps == sorted(steps)  # cheap to expensive
    chosen = [item for item in conditions if item.attack.overlap and item.attack.steps in (10, 100)]
    plan = AuditPlan([*parse_conditions("full"), *chosen[:2]], generate=0)
    evidence = audit({AUDITED: lambda: load(place / "audited")}, data, plan, hashed)
    means = [
        sum(item.nll for item in found.scores) / len(found.scores)
        for name in ("relearning-overlap-10", "relearning-overlap-100")
        if (found := evidence.find(AUDITED, name, FORGET, 0)) is not None
    ]
    assert means[1] < means[0]
