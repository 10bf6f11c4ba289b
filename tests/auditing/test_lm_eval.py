"""The harness on a tiny model and a local task; without the harness, what says which extra brings it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, FORGET, RETAIN
from remanent.auditing.judgement import Criteria
from remanent.auditing.lm_eval import Benchmark, _scores
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.core.displacement import Rounding
from remanent.core.files import sha256_file
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
    assert found["lm-eval:wmdp_bio"].look == Benchmark("wmdp_bio", FORGET)
    assert found["lm-eval:mmlu+int4-row"].look == Benchmark("mmlu", RETAIN)
    assert found["lm-eval:wmdp_bio"].texts_only
    assert found["lm-eval:mmlu+int4-row"].displacement == Rounding("int4-row")
    for name in ("lm-eval:", "lm-eval:mmlu+relearning"):
        with pytest.raises(InputError, match="at"):
            parse_conditions(name)


@pytest.mark.parametrize(
    ("text", "task", "records"),
    [
        ("wmdp", "wmdp", FORGET),
        ("my/wmdp_like.yaml", "my/wmdp_like.yaml", FORGET),
        ("wmdp_chem:retain", "wmdp_chem", RETAIN),
        ("gsm8k", "gsm8k", RETAIN),
        ("mmlu_virology:forget", "mmlu_virology", FORGET),
    ],
)
def test_what_a_task_is_about(text, task, records):
    assert Benchmark.parse(text) == Benchmark(task, records)
    (_, condition) = parse_conditions(f"lm-eval:{text}")
    assert condition.look == Benchmark(task, records)
    assert ("forgotten" in condition.info.description) == (records == FORGET)


def test_a_task_without_answers_that_are_right_is_refused_before_work(monkeypatch, tmp_path):
    """A stand-in for the harness: a group of a task with acc and one of perplexity alone."""
    metrics = {"choices": ["acc", "acc_norm"], "sums": ["exact_match"], "pages": ["word_perplexity", "bits_per_byte"]}
    tasks = {
        name: SimpleNamespace(aggregation=lambda found=found: dict.fromkeys(found)) for name, found in metrics.items()
    }
    module = ModuleType("lm_eval.tasks")
    module.TaskManager = lambda **_: SimpleNamespace(all_tasks=[*tasks, "group"])
    module.get_task_dict = lambda names, _: {"group": tasks} if names == ["group"] else {names[0]: tasks[names[0]]}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "lm_eval", ModuleType("lm_eval"))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", module)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0")
    for name in ("choices", "sums"):
        assert Benchmark(name).given({}) == Benchmark(name, digest="lm-eval 0.0")
    file = tmp_path / "own.yaml"
    tasks[str(file)] = tasks["choices"]
    digests = []
    for text in ("task: own", "task: other"):
        file.write_text(text)
        digests.append(Benchmark(str(file)).given({}).digest)
        assert sha256_file(file) in digests[-1]
    assert digests[0] != digests[1]  # a figure of the file as it was is not taken up
    for name in ("pages", "group"):
        with pytest.raises(InputError, match=r"acc, exact_match, acc_norm; pages has word_perplexity, bits_per_byte"):
            Benchmark(name).given({})
    with pytest.raises(InputError, match=r"did you mean choices"):
        Benchmark("choice").given({})


def test_the_first_metric_and_the_first_reading_count():
    rows = [
        {"doc_id": 0, "filter": "strict-match", "exact_match": 0.0},
        {"doc_id": 1, "filter": "strict-match", "exact_match": 1.0},
        {"doc_id": 0, "filter": "flexible-extract", "exact_match": 1.0},
    ]
    found = _scores({"sums": rows, "choices": [{"doc_id": 5, "acc_norm": 1.0, "acc": 0.0}]})
    assert [(score.record, score.values["benchmark"]) for score in found] == [
        ("choices/5", 0.0),
        ("sums/0", 0.0),
        ("sums/1", 1.0),
    ]
    with pytest.raises(InputError, match="metrics"):
        _scores({"pages": [{"doc_id": 0, "word_perplexity": 3.0}]})


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
    (_, condition) = parse_conditions(f"lm-eval:{task}:forget")
    assert list(condition.look.given({})(measurer, condition, 0)) == [FORGET]
    with pytest.raises(InputError, match="path of its YAML file"):
        Benchmark(str(tmp_path / "none.yaml")).given({})
    task.write_text(task.read_text().replace("metric: acc", "metric: brier_score").replace("mean", "brier_score"))
    with pytest.raises(InputError, match="local_choice has brier_score"):
        Benchmark(str(task)).given({})
    with pytest.raises(InputError, match="did you mean wmdp_bio"):
        Benchmark("wmdp_boi").given({})
