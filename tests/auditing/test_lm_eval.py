"""The harness on a tiny model and a local task; without the harness, what says which extra brings it."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, FORGET, RETAIN
from remanent.auditing.judgement import Criteria
from remanent.auditing.lm_eval import Benchmark
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.core.displacement import Rounding
from remanent.data.authors import author_sets
from remanent.errors import InputError, MissingExtraError
from remanent.models.tiny import tiny

INSTALLED = importlib.util.find_spec("lm_eval") is not None


def test_without_the_harness_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lm-eval:wmdp_bio needs the package lm_eval.*remanent\[lm-eval\]"):
        Benchmark("wmdp_bio").given({})


def test_names_of_conditions():
    found = {item.info.name: item for item in parse_conditions("lm-eval:wmdp_bio,lm-eval:mmlu+int4-row")}
    assert found["lm-eval:wmdp_bio"].look == Benchmark("wmdp_bio")
    assert found["lm-eval:wmdp_bio"].texts_only
    assert found["lm-eval:mmlu+int4-row"].displacement == Rounding("int4-row")
    for name in ("lm-eval:", "lm-eval:mmlu+relearning"):
        with pytest.raises(InputError, match="at"):
            parse_conditions(name)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed")
def test_a_local_task_on_a_tiny_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    rows = [
        {"question": f"Is it {number}?", "choices": ["A", "B", "C", "D"], "answer": number % 4} for number in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = tmp_path / "local_choice.yaml"
    task.write_text(
        f"""task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}} Answer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
    )
    sets = author_sets(0, forget=2, retain=2, control=1, questions=1)
    made = tiny([*sets.forget, *sets.retain], hidden=32)
    measurer = Measurer(AUDITED, made.model, made.tokenizer, {FORGET: AuditSet.of(sets.forget, made.tokenizer, str)})
    (_, condition) = parse_conditions(f"lm-eval:{task}")
    found = condition.look.given({})(measurer, condition, 0)
    assert [score.record for score in found[RETAIN]] == [f"local_choice/{number}" for number in range(8)]
    assert {score.values["benchmark"] for score in found[RETAIN]} <= {0.0, 1.0}
    (measured,) = measures({(AUDITED, condition.info.name, RETAIN): found[RETAIN]}, Criteria(bootstrap_resamples=300))
    assert (measured.name, measured.n) == ("benchmark", 8)
    assert measured.low <= measured.value <= measured.high
    with pytest.raises(InputError, match="path of its YAML file"):
        Benchmark(str(tmp_path / "none.yaml")).given({})
