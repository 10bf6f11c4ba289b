from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from synthetic import ATTACK, FULL, LEARNED, UNSEEN, evidence, forgotten, original, point

from remanent.auditing.evidence import AUDITED, FORGET, ORIGINAL, RETRAINED, Evidence
from remanent.auditing.hashes import keyed_hash
from remanent.auditing.judge import judge
from remanent.auditing.statement import PREDICATE_TYPE, STATEMENT_TYPE, build_statement, canonical_json, limits
from remanent.auditing.table import comparisons, evidence_table, record_sets
from remanent.errors import InputError, IntegrityError

FILES = {"model.safetensors": "ab" * 32, "config.json": "cd" * 32}
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def audited() -> Evidence:
    subjects = {
        AUDITED: {"model.safetensors": "ab" * 32, "config.json": "cd" * 32},
        ORIGINAL: {"model.safetensors": "ef" * 32},
    }
    movement = {"int4-row": {"mean_steps": 0.5, "moved_half_step": 0.25, "code_changed": 0.125}}
    return evidence(original(), forgotten(), subjects=subjects, movement=movement, notes=("A note.",))


def statement(found: Evidence | None = None) -> dict:
    found = audited() if found is None else found
    method = {"name": "durable", "learning_rate": 1e-5}
    return build_statement(found, judge(found), FILES, method=method, created=CREATED)


def test_it_is_an_in_toto_statement_with_one_subject_a_file() -> None:
    found = statement()
    assert set(found) == {"_type", "subject", "predicateType", "predicate"}
    assert (found["_type"], found["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert found["subject"] == [
        {"name": "config.json", "digest": {"sha256": "cd" * 32}},
        {"name": "model.safetensors", "digest": {"sha256": "ab" * 32}},
    ]
    predicate = found["predicate"]
    assert predicate["created"] == "2026-01-02T03:04:05+00:00"
    assert predicate["method"]["name"] == "durable"
    assert predicate["verdict"] == judge(audited()).verdict
    assert len(predicate["lines"]) == len(judge(audited()).lines)
    assert predicate["lineage"] == {ORIGINAL: {"model.safetensors": "ef" * 32}}
    assert predicate["tool"]["versions"]["remanent"]
    assert "A note." in predicate["notes"]
    assert predicate["movement"]["int4-row"]["mean_steps"] == 0.5


def test_the_thresholds_used_are_in_it_even_where_the_settings_named_none() -> None:
    settings = statement()["predicate"]["settings"]
    assert (settings["epsilon"], settings["upsilon"], settings["bootstrap_resamples"]) == (0.25, 0.9, 400)


def test_two_builds_are_the_same_bytes() -> None:
    assert canonical_json(statement()) == canonical_json(statement())


def test_the_row_of_a_measurement() -> None:
    found = audited()
    rows = evidence_table(found, judge(found).criteria)
    (row,) = [row for row in rows if (row["subject"], row["records"]) == (ORIGINAL, FORGET)]
    assert (row["count"], row["groups"], row["seed"]) == (60, 30, None)
    assert row["mean_nll"]["low"] < row["mean_nll"]["value"] < row["mean_nll"]["high"]
    assert row["mean_nll"]["value"] == pytest.approx(LEARNED, abs=0.02)
    scores = found.find(ORIGINAL, "full", FORGET).scores
    assert row["token_accuracy"] == pytest.approx(sum(score.hits for score in scores) / 600)
    assert row["whole_answers"]["count"] == sum(score.hits == 10 for score in scores)
    assert row["rouge_l"] is None


def test_rouge_is_the_mean_of_the_answers_that_were_generated() -> None:
    found = audited()
    item = found.measurements[0]
    scores = (replace(item.scores[0], rouge_l=0.5), replace(item.scores[1], rouge_l=1.0), *item.scores[2:])
    found = replace(found, measurements=(replace(item, scores=scores), *found.measurements[1:]))
    assert evidence_table(found, judge(found).criteria)[0]["rouge_l"] == 0.75


def test_scores_that_are_not_finite_have_no_mean() -> None:
    found = audited()
    item = found.measurements[0]
    broken = replace(item, scores=(replace(item.scores[0], nll=float("inf")), *item.scores[1:]))
    found = replace(found, measurements=(broken, *found.measurements[1:]))
    assert evidence_table(found, judge(found).criteria)[0]["mean_nll"] is None
    statement(found)


def test_forget_and_control_are_compared_by_rank() -> None:
    found = audited()
    (row,) = comparisons(found, judge(found).criteria)
    assert (row["condition"], row["records"]) == ("full", FORGET)
    assert row["auc"]["low"] < 0.5 < row["auc"]["high"]
    assert row["whole_answers_difference"]["value"] == 0


def test_the_forgotten_records_are_listed_by_keyed_hash_and_the_others_only_counted() -> None:
    rows = {row["records"]: row for row in record_sets(audited())}
    assert rows[FORGET]["count"] == len(rows[FORGET]["hashes"]) == 60
    assert rows["retain"]["groups"] == 40
    assert "hashes" not in rows["retain"]


def test_no_canary_reaches_the_statement() -> None:
    """Records are planted with texts that are then looked for; only their keyed hashes may be there."""
    secret, canaries = b"s" * 32, [f"canary-{index}-Ysolde Marbrane" for index in range(60)]
    sets = []
    for item in original() + forgotten():
        scores = tuple(
            replace(
                score,
                record=keyed_hash(secret, canaries[index % 60] + str(index)),
                group=keyed_hash(secret, canaries[index // 2 % 60]),
            )
            for index, score in enumerate(item.scores)
        )
        sets.append(replace(item, scores=scores))
    raw = canonical_json(statement(evidence(sets, subjects={AUDITED: FILES}))).decode()
    assert keyed_hash(secret, canaries[0] + "0") in raw
    assert "canary" not in raw
    assert "Ysolde" not in raw


def test_a_record_named_by_its_text_is_refused() -> None:
    found = audited()
    item = found.measurements[0]
    named = replace(item, scores=(replace(item.scores[0], record="Ysolde Marbrane"), *item.scores[1:]))
    found = replace(found, measurements=(named, *found.measurements[1:]))
    with pytest.raises(InputError) as caught:
        statement(found)
    assert "Ysolde" not in str(caught.value)


def test_files_that_were_not_audited_are_refused() -> None:
    found = audited()
    for files in ({"model.safetensors": "00" * 32}, {"other.safetensors": "ab" * 32}):
        with pytest.raises(IntegrityError, match="audited"):
            build_statement(found, judge(found), files)
    with pytest.raises(InputError, match="files"):
        build_statement(found, judge(found), {})
    with pytest.raises(IntegrityError, match="names no file of the audited model"):
        build_statement(replace(found, subjects={}), judge(found), FILES)
    hidden = replace(found, subjects={AUDITED: {**FILES, ".gitattributes": "00" * 32}})
    assert len(build_statement(hidden, judge(hidden), FILES)["subject"]) == 2


def test_a_figure_that_is_not_finite_is_refused() -> None:
    found = audited()
    with pytest.raises(InputError, match="statement"):
        build_statement(found, judge(found), FILES, method={"learning_rate": float("nan")})


def test_limits_say_what_was_not_tested() -> None:
    plain = " ".join(limits(audited()))
    assert "No attack" in plain
    assert "retrained" in plain
    assert "other words" in plain
    assert "does not prove that it is true" in plain
    attack = point("relearning", AUDITED, 0, forget=UNSEEN) + point("full", RETRAINED, forget=UNSEEN)
    more = " ".join(limits(evidence(forgotten(paraphrased=UNSEEN), attack, conditions=(FULL, ATTACK))))
    assert "Attacks tried: relearning." in more
    assert "No model retrained" not in more
    assert "other words" not in more


def test_it_never_promises_erasure_or_law() -> None:
    text = canonical_json(statement()).decode().lower()
    assert "deleted" not in text
    assert "compliant" not in text


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "ö"}) == '{"a":"ö","b":[1,2.5]}'.encode()
    assert json.loads(canonical_json(statement())) == statement()
    for bad in (float("inf"), {"x": object()}, "\ud800"):
        with pytest.raises(InputError):
            canonical_json(bad)
