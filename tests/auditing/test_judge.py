from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from synthetic import (
    ATTACK,
    FULL,
    INT4,
    LEARNED,
    PLAIN,
    UNSEEN,
    evidence,
    forgotten,
    measured,
    original,
    point,
)

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, PARAPHRASED, RETAIN, RETRAINED, TEXT
from remanent.auditing.judge import judge
from remanent.auditing.judgement import (
    FAILED,
    NOT_ASSESSABLE,
    PASSED,
    VERDICTS,
    WARNED,
    Criteria,
    Judgement,
    Line,
    overall,
)
from remanent.errors import InputError


def line(judgement: Judgement, name: str, condition: str = "full") -> Line:
    (found,) = [item for item in judgement.lines if (item.name, item.condition) == (name, condition)]
    return found


def names(judgement: Judgement) -> set[str]:
    return {item.name for item in judgement.lines}


def test_the_aim_passes_every_line() -> None:
    found = judge(
        evidence(
            original(),
            original("int4-row"),
            forgotten(paraphrased=UNSEEN),
            forgotten("int4-row", paraphrased=UNSEEN),
            conditions=(FULL, INT4),
            settings={"overlap": 0},
        )
    )
    assert found.verdict == PASSED
    assert {item.verdict for item in found.lines} == {PASSED}
    expected = {"forgotten-relative", "forgotten-absolute", "not-overdone", "power", "kept", "general-text"}
    assert names(found) == expected | {
        "control",
        "overlap",
        "forgotten-relative-paraphrased",
        "forgotten-absolute-paraphrased",
    }
    for condition in ("full", "int4-row"):
        assert expected <= {item.name for item in found.lines if item.condition == condition}


def test_the_untouched_model_fails() -> None:
    found = judge(evidence(original(), forgotten(forget=LEARNED)))
    relative = line(found, "forgotten-relative")
    assert (found.verdict, relative.verdict) == (FAILED, FAILED)
    assert relative.value == pytest.approx(LEARNED - UNSEEN, abs=0.02)
    assert relative.threshold == -0.25
    assert relative.high < -0.25
    assert line(found, "forgotten-absolute").verdict == FAILED
    assert line(found, "kept").verdict == PASSED


def test_forgotten_at_full_and_back_at_int4_fails_there() -> None:
    found = judge(
        evidence(
            original(),
            original("int4-row"),
            forgotten(),
            forgotten("int4-row", forget=0.3),
            conditions=(FULL, INT4),
        )
    )
    assert found.verdict == FAILED
    assert line(found, "forgotten-relative").verdict == PASSED
    assert line(found, "forgotten-relative", "int4-row").verdict == FAILED


def test_a_gap_at_the_threshold_is_undecided() -> None:
    found = line(judge(evidence(original(), forgotten(forget=UNSEEN - 0.25))), "forgotten-relative")
    assert found.verdict == WARNED
    assert found.low < -0.25 < found.high
    assert "do not decide" in found.reason


def test_a_model_that_knows_everything_unseen_fails_the_absolute_line_alone() -> None:
    """Forget is level with the control because the control is known too: the relative line alone would pass."""
    found = judge(evidence(original(), forgotten(forget=0.3, control=0.3)))
    assert line(found, "forgotten-relative").verdict == PASSED
    assert line(found, "forgotten-absolute").verdict == FAILED


def test_the_absolute_line_takes_the_retrained_model_on_the_same_records_first() -> None:
    """The retrained model knows these records at 0.6: 0.5 is within 0.25 of it, though far below the control."""
    sets = [original(), forgotten(forget=0.5), point("full", RETRAINED, forget=0.6)]
    found = line(judge(evidence(*sets)), "forgotten-absolute")
    assert found.verdict == PASSED
    assert "retrained" in found.reason
    assert found.value == pytest.approx(0.5 - 0.6, abs=0.02)
    assert found.high - found.low < 0.05  # paired: the records' difficulty cancels
    without = line(judge(evidence(*sets[:2])), "forgotten-absolute")
    assert without.verdict == FAILED
    assert "original model on the control" in without.reason


def test_a_retrained_reference_on_other_records_is_not_assessable() -> None:
    other = replace(measured(RETRAINED, "full", FORGET, UNSEEN, groups=29))
    found = line(judge(evidence(original(), forgotten(), [other])), "forgotten-absolute")
    assert (found.verdict, found.value) == (NOT_ASSESSABLE, None)
    assert "same records" in found.reason


def test_paraphrases_are_judged_where_they_were_measured() -> None:
    found = judge(
        evidence(
            original(),
            original("int4-row"),
            forgotten(paraphrased=LEARNED),
            forgotten("int4-row"),
            conditions=(FULL, INT4),
        )
    )
    assert line(found, "forgotten-relative").verdict == PASSED
    assert line(found, "forgotten-relative-paraphrased").verdict == FAILED
    assert not [item for item in found.lines if "paraphrased" in item.name and item.condition == "int4-row"]
    assert any("paraphrases" in note for note in judge(evidence(original(), forgotten())).notes)


@pytest.mark.parametrize(("retain", "verdict"), [(0.2, PASSED), (0.24, WARNED), (0.4, FAILED), (UNSEEN, FAILED)])
def test_kept(retain: float, verdict: str) -> None:
    found = line(judge(evidence(original(), forgotten(retain=retain))), "kept")
    assert found.verdict == verdict
    assert found.threshold == 0.9
    assert found.value == pytest.approx((UNSEEN - retain) / (UNSEEN - LEARNED), abs=0.03)


def test_format_kept_and_every_fact_lost_scores_zero() -> None:
    found = line(judge(evidence(original(), forgotten(retain=UNSEEN))), "kept")
    assert found.value == pytest.approx(0, abs=0.03)


def test_a_destroyed_model_fails() -> None:
    found = judge(evidence(original(), forgotten(forget=9.0, retain=9.0, control=9.0, text=9.0)))
    assert found.verdict == FAILED
    assert line(found, "forgotten-relative").verdict == PASSED
    assert line(found, "kept").verdict == FAILED
    assert line(found, "general-text").verdict == FAILED


def test_a_worse_control_cannot_carry_the_share_kept() -> None:
    """Retain fell from 0.15 to 1.0 and the control from 1.05 to 2.4: the ratio to its own control alone reads 1.6."""
    found = line(judge(evidence(original(), forgotten(forget=2.4, retain=1.0, control=2.4))), "kept")
    assert found.value == pytest.approx(0.05 / 0.9, abs=0.03)
    assert found.verdict == FAILED
    assert "its own control 1.5" in found.reason


@pytest.mark.parametrize(("rise", "verdict"), [(0.0, PASSED), (0.02, PASSED), (0.3, FAILED), (3.0, FAILED)])
def test_a_general_rise_never_makes_kept_look_better(rise: float, verdict: str) -> None:
    levels = {"forget": UNSEEN + rise, "retain": LEARNED + rise, "control": UNSEEN + rise}
    found = line(judge(evidence(original(), forgotten(**levels))), "kept")
    assert (found.value, found.verdict) == (pytest.approx(1 - rise / 0.9, abs=0.03), verdict)
    alone = line(judge(evidence(original(), forgotten(forget=UNSEEN + rise, control=UNSEEN + rise))), "kept")
    assert alone.value == pytest.approx(1, abs=0.03)


def test_a_better_form_is_not_counted_as_knowledge() -> None:
    """Every fact is lost, and the form of answers learnt better: 0.5 for the retained as for the unseen."""
    found = line(judge(evidence(original(), forgotten(forget=0.5, retain=0.5, control=0.5))), "kept")
    assert (found.value, found.verdict) == (pytest.approx(0, abs=0.03), FAILED)


def test_an_original_that_is_broken_at_a_precision_makes_it_not_assessable() -> None:
    found = judge(
        evidence(
            original(),
            original("int4-row", retain=6.0, control=6.0),
            forgotten(),
            forgotten("int4-row", forget=6.0, retain=6.0, control=6.0),
            conditions=(FULL, INT4),
        )
    )
    kept = line(found, "kept", "int4-row")
    assert kept.verdict == NOT_ASSESSABLE
    assert (kept.value, kept.low, kept.high) == (None, None, None)
    assert found.verdict == NOT_ASSESSABLE
    assert line(found, "kept").verdict == PASSED


@pytest.mark.parametrize(
    ("retain", "control", "verdict"),
    [(9.8, 10.1, NOT_ASSESSABLE), (9.0, 12.0, NOT_ASSESSABLE), (0.75, 1.05, NOT_ASSESSABLE), (0.45, 1.05, PASSED)],
)
def test_what_a_precision_left_of_the_original_decides_what_can_be_judged_there(
    retain: float, control: float, verdict: str
) -> None:
    """A difference that chance left, one that the ruin itself made, a third and two thirds of what was there."""
    levels = {"retain": retain, "control": control, "forget": control}
    rounded = original("int4-row", **levels), forgotten("int4-row", **levels)
    found = line(judge(evidence(original(), forgotten(), *rounded, conditions=(FULL, INT4))), "kept", "int4-row")
    assert found.verdict == verdict
    if verdict == NOT_ASSESSABLE:
        assert "original model itself is broken" in found.reason
        assert "50%" in found.reason


@pytest.mark.parametrize(("factor", "verdict"), [(2.4, PASSED), (20.0, NOT_ASSESSABLE)])
def test_general_text_is_not_assessable_where_a_precision_ruined_the_original(factor: float, verdict: str) -> None:
    text = PLAIN + math.log(factor)
    sets = [original(), forgotten(), original("int4-row", text=text), forgotten("int4-row", text=text)]
    assert line(judge(evidence(*sets, conditions=(FULL, INT4))), "general-text", "int4-row").verdict == verdict


def test_an_original_that_hardly_knows_the_retained_records_makes_it_not_assessable() -> None:
    """It knows them a little better than the control, but not beyond doubt: a share of almost nothing says nothing."""
    faint = judge(evidence(original(retain=UNSEEN - 0.01), forgotten(retain=UNSEEN - 0.01)))
    assert line(faint, "kept").verdict == NOT_ASSESSABLE
    assert "does not itself know" in line(faint, "kept").reason


def test_kept_without_the_original_or_the_retain_set_is_not_assessable() -> None:
    assert line(judge(evidence(forgotten())), "kept").verdict == NOT_ASSESSABLE
    sets = [original(), [item for item in forgotten() if item.records != RETAIN]]
    assert line(judge(evidence(*sets)), "kept").verdict == NOT_ASSESSABLE


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, PASSED), (1.195, WARNED), (1.205, WARNED), (1.3, FAILED)])
def test_general_text(factor: float, verdict: str) -> None:
    text = measured(AUDITED, "full", TEXT, PLAIN + math.log(factor), spread=0.1)
    generator_free = [
        replace(score, nll=score.nll + (0.02 if i % 4 < 2 else -0.02)) for i, score in enumerate(text.scores)
    ]
    sets = [item for item in forgotten() if item.records != TEXT] + [replace(text, scores=tuple(generator_free))]
    found = line(judge(evidence(original(), sets)), "general-text")
    assert found.verdict == verdict
    assert found.value == pytest.approx(factor, rel=0.02)
    assert found.threshold == 1.2


def test_perplexity_counts_tokens() -> None:
    """One long text at ratio 2 and one short at ratio 1: by tokens 90% of log 2, by texts half of it."""
    ours = measured(AUDITED, "full", TEXT, PLAIN, groups=2)
    long, short = ours.scores[0], ours.scores[2]
    pair = (replace(long, nll=3.0 + math.log(2), tokens=90), replace(short, nll=3.0, tokens=10))
    theirs = tuple(replace(score, nll=3.0) for score in pair)
    kept = [item for item in forgotten() if item.records != TEXT] + [replace(ours, scores=pair)]
    base = [item for item in original() if item.records != TEXT]
    base.append(replace(ours, subject=ORIGINAL, scores=theirs))
    assert line(judge(evidence(base, kept)), "general-text").value == pytest.approx(2**0.9)


def test_without_general_text_a_note_says_so() -> None:
    sets = [[item for item in group if item.records != TEXT] for group in (original(), forgotten())]
    found = judge(evidence(*sets))
    assert found.verdict == PASSED
    assert "general-text" not in names(found)
    assert any("General text" in note for note in found.notes)


@pytest.mark.parametrize("forget", [UNSEEN + 1.2, UNSEEN + 0.4])
def test_overdone_is_warned_and_never_failed(forget: float) -> None:
    """Far above the control by the mean; or less far, but told apart from the control by rank."""
    found = judge(evidence(original(), forgotten(forget=forget)))
    assert line(found, "not-overdone").verdict == WARNED
    assert found.verdict == WARNED
    assert "hole" in line(found, "not-overdone").reason


def test_a_few_deep_holes_are_overdone_though_ranks_do_not_tell() -> None:
    item = forgotten()[0]
    scores = tuple(replace(score, nll=score.nll + (20 if i < 6 else -0.01)) for i, score in enumerate(item.scores))
    found = line(judge(evidence(original(), [replace(item, scores=scores), *forgotten()[1:]])), "not-overdone")
    assert found.verdict == WARNED
    assert found.value > 1.0


def test_better_known_is_not_overdone() -> None:
    assert line(judge(evidence(original(), forgotten(forget=LEARNED))), "not-overdone").verdict == PASSED


def test_too_few_groups_are_underpowered() -> None:
    sets = [item for item in forgotten() if item.records != FORGET]
    few = measured(AUDITED, "full", FORGET, UNSEEN, groups=3, spread=0.5)
    found = judge(evidence(original(), [*sets, few]))
    power = line(found, "power")
    assert power.verdict == WARNED
    assert power.detectable > 0.25
    assert power.detectable == max(item.detectable for item in found.lines if item.name.startswith("forgotten"))


def test_a_single_group_is_undecided_and_plain_data() -> None:
    sets = [item for item in forgotten() if item.records != FORGET]
    found = judge(evidence(original(), [*sets, measured(AUDITED, "full", FORGET, UNSEEN, groups=1)]))
    relative = line(found, "forgotten-relative")
    assert (relative.verdict, relative.low, relative.high, relative.detectable) == (WARNED, None, None, None)
    assert "unbounded" in relative.reason
    assert line(found, "power").verdict == WARNED
    json.dumps(found.to_dict(), allow_nan=False)


def uncontrolled(*groups: list) -> list:
    return [[item for item in group if item.records != CONTROL] for group in groups]


def test_a_missing_control_is_warned() -> None:
    found = judge(evidence(*uncontrolled(original(), forgotten())))
    assert found.verdict == WARNED
    assert line(found, "control", "").verdict == WARNED
    assert names(found) == {"control", "forgotten-absolute", "power", "kept", "general-text"}
    assert (line(found, "forgotten-absolute").verdict, line(found, "kept").verdict) == (WARNED, WARNED)
    assert "nothing says whether enough" in line(found, "forgotten-absolute").reason


def test_without_a_control_the_untouched_and_the_destroyed_still_fail() -> None:
    untouched = judge(evidence(*uncontrolled(original(), forgotten(forget=LEARNED))))
    assert line(untouched, "forgotten-absolute").verdict == FAILED
    destroyed = judge(evidence(*uncontrolled(original(), forgotten(forget=9.0, retain=9.0, text=9.0))))
    assert line(destroyed, "kept").verdict == FAILED


def test_without_a_control_a_retrained_model_is_still_a_reference() -> None:
    sets = uncontrolled(original(), forgotten(), attacked(dict.fromkeys(range(3), 0.4)))
    sets += [point("full", RETRAINED, forget=UNSEEN)]
    sets += [point("relearning", RETRAINED, seed, forget=UNSEEN) for seed in range(3)]
    found = judge(evidence(*sets, conditions=(FULL, ATTACK)))
    assert line(found, "forgotten-absolute").verdict == PASSED
    assert line(found, "forgotten-absolute", "relearning").verdict == FAILED
    without = [item for item in sets if item and item[0].subject != RETRAINED]
    attacks = judge(evidence(*without, conditions=(FULL, ATTACK)))
    assert [item.name for item in attacks.lines if item.condition == "relearning"] == ["seeds"]


def test_records_of_another_run_are_warned() -> None:
    def found(others: object) -> Judgement:
        return judge(evidence(original(), forgotten(), settings={"other_records_than_the_run": others}))

    assert line(found([]), "data", "").verdict == PASSED
    other = found(["retain", "control"])
    assert (other.verdict, line(other, "data", "").verdict) == (WARNED, WARNED)
    assert "retain, control" in line(other, "data", "").reason
    assert "data" not in names(judge(evidence(original(), forgotten())))


def test_overlap_is_warned() -> None:
    found = judge(evidence(original(), forgotten(), settings={"overlap": 3}))
    assert line(found, "overlap", "").verdict == WARNED
    assert found.verdict == WARNED
    assert "overlap" not in names(judge(evidence(original(), forgotten())))


def attacked(levels: dict[int, float], reference: float = UNSEEN) -> list:
    sets = []
    for seed, forget in levels.items():
        sets += point("relearning", AUDITED, seed, forget=forget, control=UNSEEN)
        sets += point("relearning", ORIGINAL, seed, control=reference)
    return sets


def test_the_worst_seed_of_a_random_attack_counts() -> None:
    found = judge(
        evidence(original(), forgotten(), attacked({0: UNSEEN, 1: 0.4, 2: UNSEEN}), conditions=(FULL, ATTACK))
    )
    relative = line(found, "forgotten-relative", "relearning")
    assert relative.verdict == FAILED
    assert "seed 1, the worst of 0, 1, 2" in relative.reason
    assert relative.value == pytest.approx(0.4 - UNSEEN, abs=0.03)


def test_among_seeds_that_pass_the_smallest_margin_is_shown() -> None:
    found = judge(evidence(original(), forgotten(), attacked({0: 1.1, 1: 1.0, 2: 1.05}), conditions=(FULL, ATTACK)))
    relative = line(found, "forgotten-relative", "relearning")
    assert relative.verdict == PASSED
    assert "seed 1" in relative.reason


def test_attacks_are_held_against_the_attacked_control_of_the_original() -> None:
    """Relearning teaches the form, to unseen records too: only the attacked control is a fair reference."""
    levels = dict.fromkeys(range(3), 0.6)
    fair = judge(evidence(original(), forgotten(), attacked(levels, reference=0.6), conditions=(FULL, ATTACK)))
    assert line(fair, "forgotten-absolute", "relearning").verdict == PASSED
    unfair = [item for item in attacked(levels) if item.subject != ORIGINAL]
    found = judge(evidence(original(), forgotten(), unfair, conditions=(FULL, ATTACK)))
    assert line(found, "forgotten-absolute", "relearning").verdict == NOT_ASSESSABLE


def test_what_is_kept_is_not_judged_under_attack() -> None:
    found = judge(
        evidence(original(), forgotten(), attacked(dict.fromkeys(range(3), UNSEEN)), conditions=(FULL, ATTACK))
    )
    assert {item.name for item in found.lines if item.condition == "relearning"} == {
        "forgotten-relative",
        "forgotten-absolute",
        "not-overdone",
        "power",
        "seeds",
    }
    assert found.verdict == PASSED


def test_fewer_than_three_seeds_are_warned() -> None:
    few, enough = (
        judge(evidence(original(), forgotten(), attacked(dict.fromkeys(range(n), UNSEEN)), conditions=(FULL, ATTACK)))
        for n in (2, 3)
    )
    seeds = line(few, "seeds", "relearning")
    assert (few.verdict, seeds.verdict, seeds.value, seeds.threshold) == (WARNED, WARNED, 2, 3)
    assert (enough.verdict, line(enough, "seeds", "relearning").verdict) == (PASSED, PASSED)


def test_a_condition_that_was_not_measured_is_not_assessable() -> None:
    found = judge(evidence(original(), forgotten(), conditions=(FULL, INT4)))
    assert line(found, "forgotten-relative", "int4-row").verdict == NOT_ASSESSABLE
    assert "int4-row" in line(found, "kept", "int4-row").reason


def test_scores_that_are_not_finite_are_not_assessable() -> None:
    sets = forgotten()
    broken = replace(sets[0], scores=(replace(sets[0].scores[0], nll=math.nan), *sets[0].scores[1:]))
    found = judge(evidence(original(), [broken, *sets[1:]]))
    assert line(found, "forgotten-relative").verdict == NOT_ASSESSABLE
    assert "not finite" in line(found, "forgotten-relative").reason


@pytest.mark.parametrize(("retain", "verdict"), [(0.15, PASSED), (0.9, FAILED)])
def test_without_a_forget_set_the_question_is_what_survives_a_precision(retain: float, verdict: str) -> None:
    taught = point("full", AUDITED, retain=LEARNED, control=UNSEEN, text=PLAIN)
    rounded = point("int4-row", AUDITED, retain=retain, control=UNSEEN, text=PLAIN)
    found = judge(evidence(taught, rounded, conditions=(FULL, INT4)))
    assert [(item.name, item.condition) for item in found.lines] == [("kept", "int4-row"), ("general-text", "int4-row")]
    assert found.verdict == verdict
    assert "audited at full" in found.lines[0].reason


def test_without_a_forget_set_the_original_is_compared_with_where_it_was_measured() -> None:
    sets = [[item for item in group if item.records != FORGET] for group in (original(), forgotten())]
    found = judge(evidence(*sets))
    assert names(found) == {"kept", "general-text"}
    assert "original at full" in line(found, "kept").reason


def test_nothing_to_judge_is_not_assessable() -> None:
    found = judge(evidence(point("full", AUDITED, retain=LEARNED)))
    assert (found.verdict, found.lines) == (NOT_ASSESSABLE, ())
    assert any("Nothing was judged" in note for note in found.notes)


def test_the_worst_verdict_is_the_whole() -> None:
    assert overall([PASSED, PASSED]) == PASSED
    assert overall([PASSED, WARNED]) == WARNED
    assert overall([WARNED, NOT_ASSESSABLE, PASSED]) == NOT_ASSESSABLE
    assert overall(VERDICTS) == FAILED


def test_judging_again_gives_the_same_and_one_more_condition_changes_no_other_line() -> None:
    sets = [original(), original("int4-row"), forgotten(), forgotten("int4-row")]
    one, two = judge(evidence(*sets)), judge(evidence(*sets, conditions=(FULL, INT4)))
    assert one == judge(evidence(*sets))
    assert one.lines == tuple(item for item in two.lines if item.condition in ("", "full"))


def test_a_judgement_goes_round_as_json() -> None:
    found = judge(evidence(original(), forgotten(), settings={"epsilon": 0.3}, notes=("a note",)))
    assert Judgement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert found.criteria.epsilon == 0.3
    assert "a note" in found.notes
    with pytest.raises(TypeError):
        Judgement.from_dict({**found.to_dict(), "schema": "other"})


def test_no_sentence_promises_more_than_was_measured() -> None:
    found = judge(
        evidence(
            original(), forgotten(forget=LEARNED, paraphrased=UNSEEN), attacked({0: 0.4}), conditions=(FULL, ATTACK)
        )
    )
    for sentence in [*found.notes, *(item.reason for item in found.lines)]:
        assert sentence
        assert sentence.endswith(".")
        assert not {"deleted", "compliant"} & set(sentence.lower().replace(".", " ").split())


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": 0},
        {"epsilon": "0.25"},
        {"epsilon_over": float("nan")},
        {"upsilon": 1.5},
        {"alpha": 0.5},
        {"perplexity_factor": 0.9},
        {"bootstrap_resamples": 10},
        {"bootstrap_resamples": 400.0},
        {"bootstrap_seed": -1},
        {"overlap": "three"},
        {"other_records_than_the_run": "forget"},
        {"intact": 0.0},
        {"intact_perplexity": 0.5},
    ],
)
def test_bad_criteria_are_named(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        judge(evidence(original(), forgotten(), settings=settings))


def test_the_defaults_are_those_of_the_design() -> None:
    found = Criteria()
    assert (found.epsilon, found.epsilon_over, found.upsilon, found.alpha) == (0.25, 1.0, 0.9, 0.05)
    assert (found.perplexity_factor, found.bootstrap_resamples) == (1.2, 2000)
    assert (found.intact, found.intact_perplexity) == (0.5, 10.0)
    assert PARAPHRASED not in {item.name for item in judge(evidence(original(), forgotten())).lines}
