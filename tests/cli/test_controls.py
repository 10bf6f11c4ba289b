"""`remanent controls` on tiny bases: one that finds both equally hard, and one that has read the forget set."""

from __future__ import annotations

import json

import pytest

from remanent.data.authors import author_sets
from remanent.data.jsonl import read_records, write_records


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A forget file, and a tiny model that knows nobody."""
    from remanent.models.save import save
    from remanent.models.tiny import tiny

    folder = tmp_path_factory.mktemp("controls")
    records = author_sets(0, forget=8, questions=3).forget
    write_records(folder / "forget.jsonl", records)
    made = tiny(list(records), hidden=32, layers=1, vocabulary=320)
    save(made.model, made.tokenizer, folder / "base")
    return folder


def controls(call, small, out, *more):
    forget = small / "forget.jsonl"
    return call("controls", "--forget", forget, "--model", small / "base", "--out", out, *more)


def test_a_comparable_control(call, small, tmp_path):
    out = tmp_path / "control.jsonl"
    result = controls(call, small, out)
    assert result.exit_code == 0, result.output
    assert "Comparable" in result.stdout
    made = read_records(out, "control")
    assert len(made) == 24
    assert len({record.group for record in made}) == 8
    assert all(record.paraphrased_answer for record in made)


def test_a_base_that_has_seen_the_forget_set_is_said(call, small, tmp_path):
    """Taught for a while, it knows those, and finds the others harder by more than the margin."""
    taught = tmp_path / "taught"
    lesson = ("--epochs", 40, "--learning-rate", 0.01, "--checkpoint-every", 0)
    result = call("teach", "--model", small / "base", "--records", small / "forget.jsonl", *lesson, "--out", taught)
    assert result.exit_code == 0, result.output
    out = tmp_path / "control.jsonl"
    forget = small / "forget.jsonl"
    found = call("controls", "--forget", forget, "--model", taught / "model", "--out", out, "--json")
    assert found.exit_code == 1
    data = json.loads(found.stdout)
    assert data["comparable"] is False
    assert data["difference"]["low"] > data["margin"] == 0.25
    assert data["difference"]["value"] == pytest.approx(data["control"] - data["forget"])


def test_more_draws_come_nearer_group_by_group(small, tmp_path):
    """Of one draw and of eight that hold it, the eight lie no further from their sources in any group."""
    from remanent.jobs.config import ControlsSettings
    from remanent.jobs.controls import _scorer
    from remanent.jobs.controls import controls as make

    forget = read_records(small / "forget.jsonl", "forget")
    apart = {}
    for draws in (1, 8):
        settings = ControlsSettings(forget=str(small / "forget.jsonl"), model=str(small / "base"), draws=draws)
        out = tmp_path / f"{draws}.jsonl"
        make(settings, out)
        new = read_records(out, "control")
        scores = {role: _scorer(settings)(part) for role, part in (("new", new), ("old", forget))}
        known = dict(zip(sorted({item.group for item in forget}), _means(forget, scores["old"]), strict=True))
        apart[draws] = [abs(a - b) for a, b in zip(_means(new, scores["new"]), known.values(), strict=True)]
    assert all(many <= one + 1e-6 for one, many in zip(apart[1], apart[8], strict=True))
    assert sum(apart[8]) < sum(apart[1])


def _means(records, scores):
    """The mean of each group, in the order of the groups' names."""
    groups = sorted({item.group for item in records})
    return [
        sum(score for item, score in zip(records, scores, strict=True) if item.group == group)
        / sum(item.group == group for item in records)
        for group in groups
    ]


def test_left_out_records_move_the_difference(call, world, small, tmp_path):
    """The difference is of the means of all that is asked, not of the pairs alone."""
    forget = tmp_path / "forget.jsonl"
    write_records(forget, author_sets(0, forget=8, questions=4).forget)  # the fourth asks for an occupation
    out = tmp_path / "control.jsonl"
    asked = ("controls", "--forget", forget, "--model", small / "base", "--out", out, "--json")
    data = json.loads(call(*asked).stdout)
    assert (data["records"], data["unchanged"]) == (24, 8)
    assert data["difference"]["value"] == pytest.approx(data["control"] - data["forget"])


def test_bad_input_is_said_before_any_work(call, small, tmp_path):
    there = tmp_path / "control.jsonl"
    there.write_text("mine")
    assert controls(call, small, there).exit_code == 2
    assert there.read_text() == "mine"
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"question": "what is it?", "answer": "it is a baker"}\n')
    result = call("controls", "--forget", plain, "--model", small / "base", "--out", tmp_path / "new.jsonl")
    assert result.exit_code == 2
    assert "names, places, dates or numbers" in result.stderr
    assert not (tmp_path / "new.jsonl").exists()
