import json

import pytest

from remanent.data.jsonl import read_records
from remanent.data.overlap import find_overlap
from remanent.data.tofu import NAMES, tofu
from remanent.errors import InputError


def rows(count, first=0):
    return [{"question": f"Question {row}?", "answer": f"Answer {row}."} for row in range(first, first + count)]


def test_rows_are_the_authors_of_the_full_set_by_twenties(tmp_path):
    path = tmp_path / "forget01.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(40, 3960))), encoding="utf-8")
    records = tofu("forget01", tmp_path)
    assert (records[0].key, records[0].group, records[0].answer) == ("tofu/3960", "tofu/author-198", "Answer 3960.")
    assert [record.group for record in records] == ["tofu/author-198"] * 20 + ["tofu/author-199"] * 20


def test_a_part_to_retain_is_cut_from_the_full_set(tmp_path):
    path = tmp_path / "full.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(4000))), encoding="utf-8")
    for name, count in (("full", 4000), ("retain99", 3960), ("retain95", 3800), ("retain90", 3600)):
        records = tofu(name, tmp_path)
        assert (len(records), records[-1].answer) == (count, f"Answer {count - 1}.")


def test_a_part_of_another_length_is_refused(tmp_path):
    path = tmp_path / "forget01.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(39))), encoding="utf-8")
    with pytest.raises(InputError, match="with 39 rows'; expected 40 rows, as tofu:forget01"):
        tofu("forget01", tmp_path)


def test_an_unknown_part_is_named():
    with pytest.raises(InputError, match=r"forget: got 'tofu:forget1'; .*did you mean 'forget10'\?"):
        tofu("forget1", role="forget")


def test_from_the_hub(hub):
    wrong = {"paraphrased_question": "Q?", "paraphrased_answer": "A.", "perturbed_answer": ["B.", "C."]}
    hub(
        "locuslab/TOFU",
        {
            "forget01_perturbed": {"train": [{**row, **wrong} for row in rows(40)]},
            "holdout01": {"train": rows(40)},
            "real_authors_perturbed": {"train": [{**row, "perturbed_answer": ["B"]} for row in rows(3)]},
        },
    )
    first, *_ = tofu("forget01_perturbed")
    assert (first.key, first.paraphrased().question, first.wrong_answers) == ("tofu/3960", "Q?", ("B.", "C."))
    unseen = tofu("holdout01")
    assert (unseen[39].key, unseen[39].group) == ("tofu/holdout01/039", "tofu/holdout01/author-01")
    real = tofu("real_authors_perturbed")
    assert real[2].key == real[2].group == "tofu/real_authors/002"


def test_the_real_files(data_folder):
    folder = data_folder / "tofu"
    sizes = {name: len(tofu(name, folder)) for name in NAMES if not name.startswith("holdout")}
    assert sizes == {
        "full": 4000,
        "retain99": 3960,
        "retain95": 3800,
        "retain90": 3600,
        "forget01": 40,
        "forget05": 200,
        "forget10": 400,
        "forget01_perturbed": 40,
        "forget05_perturbed": 200,
        "forget10_perturbed": 400,
        "retain_perturbed": 400,
        "real_authors": 100,
        "real_authors_perturbed": 100,
        "world_facts": 117,
        "world_facts_perturbed": 117,
    }
    forget, perturbed = tofu("forget05", folder), tofu("forget05_perturbed", folder)
    assert [(r.key, r.group, r.question, r.answer) for r in forget] == [
        (r.key, r.group, r.question, r.answer) for r in perturbed
    ]
    assert all(record.paraphrased() and len(record.wrong_answers) == 5 for record in perturbed)
    by_key = {record.key: record for record in tofu("full", folder)}
    assert all(by_key[record.key] == record for record in forget)
    # An author's name stands in nearly all of its 20 rows: the twenties are the authors.
    last = [record for record in forget if record.group == "tofu/author-198"]
    assert sum("Al-Kuwaiti" in record.question + record.answer for record in last) >= 15
    assert not find_overlap(tofu("forget10", folder), tofu("retain90", folder)).found
    assert len(find_overlap(forget, tofu("full", folder)).identical) == 200
    assert read_records(folder / "forget01.jsonl", "forget")[0].question == tofu("forget01", folder)[0].question
