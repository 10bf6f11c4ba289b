"""What the pages say of the long studies, held against the rows that are committed: rows made anew may say otherwise.

The studies themselves take hours on SmolLM2; their commands stand on the pages.
"""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from .smollm2_report import RELEARNING, THRESHOLDS, figures, grouped
from .study_rows import RESULTS

AT_CONTROL = "retain NLL at control's"
FIT_DEGREES = ("forget_degree", "retain_utility")


def rows(name):
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def claim(name):
    """A row for each seed, at least three."""
    found = [row for row in rows("smollm2_claims.jsonl") if row["name"].startswith(f"{name}/")]
    assert len(found) >= 3
    return found


@pytest.fixture(scope="module")
def authors():
    """Way -> seed -> its figures, of the authors on SmolLM2."""
    found = {way: members for (world, way), members in grouped(rows("smollm2.jsonl")).items() if world == "authors-311"}
    return {way: {row.get("seed"): figures(row) for row in members} for way, members in found.items()}


def test_gu_keeps_a_little_more_than_random_directions_at_equal_forgetting_with_each_seed():
    for row in claim("combined"):
        assert 0 < row["gu, random directions"][AT_CONTROL] - row["gu"][AT_CONTROL] < 0.05


def test_ofmu_forgets_no_more_and_keeps_no_more_than_a_weighted_sum():
    found = claim("combined")
    ofmu, summed = (
        {key: fmean(row[way][f"{key} NLL"] for row in found) for key in ("forget", "retain")}
        for way in ("ofmu", "weighted sum, forget 0.3")
    )
    assert not any(row["ofmu"]["reached"] for row in found)
    assert abs(ofmu["forget"] - summed["forget"]) < 0.1
    assert abs(ofmu["retain"] - summed["retain"]) < 0.05


def test_remind_gains_on_loss_but_no_more_than_any_tokens_do():
    near, far = ([row[model]["forget|control-audit"] for row in claim("remind")] for model in ("npo", "npo random"))
    assert all(found["remind"] > found["loss"] for found in near)
    assert fmean(found["remind"] for found in far) >= fmean(found["remind"] for found in near)


def test_relearning_brings_back_more_of_what_is_alike_and_nothing_in_a_retrained_model():
    for row in claim("blur"):
        back, never = ({name: value for name, (value, _) in row[model].items()} for model in ("unlearned", "retrained"))
        assert min(back["hi"], back["mid"]) > 0.1 > 0.02 > back["lo"]
        assert max(never.values()) < 0.03


def test_a_guardrail_withholds_no_more_of_those_it_names():
    for row in claim("guardrail"):
        cost = {name: row["guardrail"][name] - row["taught"][name] for name in ("named", "not named", "retain")}
        assert 0 < min(cost.values()) < max(cost.values()) < 0.25
        assert cost["named"] - cost["not named"] < 0.1
        assert abs(row["guardrail"]["named"] - row["strangers"]["named"]) < 0.1


def test_ssd_is_selective_and_no_alpha_forgets_and_keeps():
    for row in claim("ssd"):
        for name, found in row.items():
            if not name.startswith("alpha") or name.endswith("random weights"):
                continue
            forgotten = found["forget"] >= found["control"] - THRESHOLDS["epsilon"]
            # In nats: beside unseen records, of which everything was destroyed as well, a share kept says nothing.
            kept = found["retain"] <= row["taught"]["retain"] + THRESHOLDS["epsilon"]
            assert not (forgotten and kept), name
        # What is damped at alpha 10 takes more from the forgotten than from the kept; random weights do not.
        chosen, drawn = (row[f"alpha 10{end}"] for end in ("", ", random weights"))
        assert chosen["forget"] - chosen["retain"] > drawn["forget"] - drawn["retain"]


def test_one_direction_hides_codes_from_the_probe_and_nothing_from_recall():
    for row in claim("pga"):
        taught, hooks, drawn = row["taught"], row["hooks, half"], row["hooks, half, random"]
        assert hooks["seen by the eraser"] < drawn["seen by the eraser"] - 0.2
        assert hooks["nll"] < taught["nll"] + 0.1
        assert row["trained, half, none"]["nll"] > taught["nll"] + 1  # the training itself forgets


def test_learning_gains_nothing_by_forgetting_and_loses_what_it_unlearns():
    found = rows("graceful_smollm2.jsonl")
    assert len(found) >= 3
    for way in ("top", "random", "bottom"):
        assert abs(fmean(row[way]["accuracy"] - row["plain"]["accuracy"] for row in found)) < 0.5
        assert all(row[way]["own"] > row["plain"]["own"] + 1 for row in found)


def test_no_way_passes_the_trilemma_and_a_retrained_model_does():
    found = {row["name"]: row["failed"] for row in rows("trilemma.jsonl") if "failed" in row}
    passed = {name for name, failed in found.items() if not failed}
    assert len(found) > 30
    assert {name.rsplit("/", 1)[0] for name in passed} == {"retrained"}


def test_which_lines_the_trilemma_fails():
    """What is kept in every world but one; what was forgotten after relearning, but for the ways with a worst point and
    directions or a divergence, and one that relearns in training."""
    found = {row["name"]: row["failed"] for row in rows("trilemma.jsonl") if "failed" in row}
    ways = {name: failed for name, failed in found.items() if name.split("/")[0] not in ("original", "retrained")}
    kept = {
        name for name, failed in ways.items() if any(line.startswith("kept") and "FAILED" in line for line in failed)
    }
    assert set(ways) - kept == {"as-stranger, one way, small steps/200"}
    back = {
        name.split("/")[0]
        for name, failed in ways.items()
        if any(line.startswith("forgotten") and "relearning" in line and "FAILED" in line for line in failed)
    }
    assert {name.split("/")[0] for name in ways} - back == {
        "as-stranger, one way, relearning too",
        "flat-durable",
        "flat-durable, divergence x 32",
        "npo at the worst point, divergence x 32",
        "npo at the worst point, four directions",
        "npo at the worst point, four directions, retain rounded too",
        "npo at the worst point, four directions, retain rounded too, forget x 2",
    }


def test_flat_durable_keeps_more_than_durable_and_gives_less_back_in_each_fresh_world():
    found = {row["name"]: row for row in rows("trilemma.jsonl")}
    worlds = [name.removeprefix("flat-durable/") for name in found if name.startswith("flat-durable/")]
    assert len(worlds) >= 3
    for world in worlds:
        ways = ("flat-durable", "flat-durable, divergence x 32", "durable")
        ours, heavier, durable = (found[f"{name}/{world}"] for name in ways)
        assert ours["kept"] > durable["kept"] + 0.01
        assert heavier["kept"] > durable["kept"] + 0.05
        for one in (ours, heavier):
            assert one["gap_relearnt"] > durable["gap_relearnt"] + 0.2  # both below 0
            assert not any(line.startswith("forgotten") and "FAILED" in line for line in one["failed"])


def test_directions_keep_more_in_each_world_and_the_worst_point_gives_least_back():
    found = {row["name"]: row for row in rows("trilemma.jsonl")}
    for world in (200, 201, 202):
        npo, off, flat, durable = (
            found[f"{way}/{world}"]
            for way in (
                "npo, retain x 8",
                "npo, retain x 8, four directions",
                "npo at the worst point, four directions",
                "durable",
            )
        )
        assert off["kept"] > npo["kept"]
        assert flat["gap_relearnt"] > durable["gap_relearnt"] + 0.1
        assert flat["kept"] > durable["kept"] - 0.02


def test_durable_keeps_more_than_npo_and_withstands_relearning_with_each_seed(authors):
    assert set(authors["durable"]) == set(authors["npo"]) == {0, 1, 2}
    for seed, found in authors["durable"].items():
        assert found["gap"] >= -THRESHOLDS["epsilon"]
        assert found["kept"] > authors["npo"][seed]["kept"]
        assert found["relearnt"] > authors["npo"][seed]["relearnt"]


def test_on_real_weights_durable_is_ahead_of_flat_forgetting_and_a_retrained_model_of_both(authors):
    for seed, found in authors["durable"].items():
        flat = authors["flat-npo, four directions"][seed]
        assert found["kept"] > flat["kept"]
        assert found["relearnt"] > flat["relearnt"]
    (retrained,) = authors["retrained"].values()
    assert retrained["kept"] > THRESHOLDS["upsilon"]
    assert max(abs(retrained["gap"]), abs(retrained["relearnt"])) < 0.05


def test_nothing_that_unlearns_smollm2_keeps_what_is_asked(authors):
    for way, seeds in authors.items():
        if way != "retrained":
            assert all(found["kept"] < THRESHOLDS["upsilon"] for found in seeds.values()), way


def test_every_row_was_asked_at_the_same_conditions():
    for row in rows("smollm2.jsonl"):
        names = [item["name"] for item in row["conditions"]]
        if "real back ends" not in row["world"]:
            assert names == ["full", "int8", "int4-row", "int4-g32", "nf4", RELEARNING], row["name"]


def test_fit_forgets_nearer_to_what_is_asked_than_others_and_keeps_less_than_npo_with_each_seed():
    for row in claim("fit"):
        degree, kept = ({way: row[way][name] for way in row if way != "name"} for name in FIT_DEGREES)
        assert degree["fit"] > max(degree["npo"], degree["grad-diff"], degree["fit in all layers"])
        assert degree["fit"] > degree["fit in drawn layers"]
        assert kept["grad-diff"] < kept["fit"] < kept["npo"]
        assert kept["fit in all layers"] < kept["fit"] - 0.1


def test_flat_durable_on_smollm2_keeps_more_than_three_others_and_gives_more_back_than_durable_with_each_seed(authors):
    assert len(authors["flat-durable"]) >= 3
    for seed, found in authors["flat-durable"].items():
        durable, stranger, npo = (authors[way][seed] for way in ("durable", "as-stranger", "npo"))
        assert found["kept"] > max(durable["kept"], stranger["kept"], npo["kept"]) + 0.03
        assert abs(found["gap"]) < 0.05
        assert npo["relearnt"] < found["relearnt"] < durable["relearnt"]
