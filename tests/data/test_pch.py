from __future__ import annotations

import json

import pytest

from remanent.data.named import load
from remanent.data.overlap import find_overlap
from remanent.data.pch import pch
from remanent.data.requests import by_group
from remanent.errors import InputError


def test_the_real_files(data_folder):
    folder = data_folder / "pch"
    if not folder.is_dir():
        pytest.skip("no local copy of PCH")
    forget, retain = pch("forget", folder), load("pch:retain", "retain", data_folder)
    assert (len(forget), len(retain)) == (60, 60)
    assert all(record.prompt == () and record.group == record.key for record in forget)
    kinds = [pch(f"forget/{kind}", folder) for kind in ("personal", "copyright", "harmful")]
    assert [len(records) for records in kinds] == [20, 20, 20]
    assert sorted(record.key for records in kinds for record in records) == sorted(record.key for record in forget)
    assert not find_overlap(forget, retain).identical
    assert len(by_group(forget)) == 60


def test_local_files(tmp_path):
    rows = [{"id": n, "kind": kind, "text": f"Text {n}."} for n, kind in ((0, "personal"), (7, "harmful"))]
    (tmp_path / "pch").mkdir()
    (tmp_path / "pch" / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [record.key for record in load("pch:forget", "forget", tmp_path)] == ["pch/forget/000", "pch/forget/007"]
    assert [record.answer for record in pch("forget/harmful", tmp_path / "pch")] == ["Text 7."]


def test_from_the_hub(hub):
    hub("FITPCH/PCH", {"default": {"train": [{"text": f"Text {n}."} for n in range(600)]}})
    qa = [{"question": f"Q {n}?", "answer": f"A {n}."} for n in range(600)]
    hub("FITPCH/PCH_QA", {"default": {"train": qa}})
    assert [pch("forget")[0].answer, pch("retain")[0].answer] == ["Text 0.", "Text 300."]
    assert len(pch("retain")) == 300
    asked = pch("retain_qa")[-1]
    assert (asked.question, asked.answer, asked.key) == ("Q 599?", "A 599.", "pch/retain_qa/299")
    with pytest.raises(InputError, match="do not say their kind"):
        pch("forget/personal")


def test_an_unknown_part_is_named():
    with pytest.raises(InputError, match=r"did you mean 'forget'\?"):
        load("pch:forgot", "forget")
