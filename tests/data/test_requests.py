from __future__ import annotations

import json

import pytest

from remanent.data.named import load
from remanent.data.record import Record
from remanent.data.requests import Request, by_group, read_requests
from remanent.errors import DataError, InputError


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def qa(number, **more):
    return {"question": f"Who is {number}?", "answer": f"Number {number}.", **more}


def test_a_folder_is_a_request_for_each_file_in_the_order_of_names(tmp_path):
    write(tmp_path / "b-2.jsonl", qa(3, key="own", group="g"))
    write(tmp_path / "b-1.jsonl", qa(1), qa(2))
    (tmp_path / "notes.txt").write_text("not a request")
    found = read_requests(tmp_path)
    assert [request.name for request in found] == ["b-1", "b-2"]
    assert [record.key for request in found for record in request.records] == ["b-1/1", "b-1/2", "b-2/own"]
    assert found[1].records[0].group == "g"


def test_rows_may_name_their_request(tmp_path):
    file = tmp_path / "queue.jsonl"
    write(file, qa(1, request="r1"), qa(2, request=7), qa(3, request="r1", key="k"), qa(4, request="r9", key="k"))
    found = read_requests(file)
    assert [(request.name, len(request.records)) for request in found] == [("r1", 2), ("7", 1), ("r9", 1)]
    keys = [record.key for request in found for record in request.records]
    assert keys == ["r1/1", "r1/k", "7/2", "r9/k"]


def test_a_row_without_its_request_is_named(tmp_path):
    write(tmp_path / "queue.jsonl", qa(1, request="r1"), qa(2))
    with pytest.raises(DataError, match=r"queue.jsonl.*line 2.*request"):
        read_requests(tmp_path / "queue.jsonl")


def test_without_names_each_group_is_a_request(tmp_path):
    write(tmp_path / "queue.jsonl", qa(1, group="b"), qa(2, group="a"), qa(3, group="b"), qa(4))
    found = read_requests(tmp_path / "queue.jsonl")
    assert [(request.name, len(request.records)) for request in found] == [
        ("request-0001", 2),
        ("request-0002", 1),
        ("request-0003", 1),
    ]
    assert by_group([record for request in found for record in request.records]) == found


def test_what_is_no_request_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"requests.*\.jsonl files"):
        read_requests(tmp_path)
    write(tmp_path / "a b.jsonl", qa(1))
    with pytest.raises(InputError, match="letters, digits"):
        read_requests(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_requests(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="at least one record"):
        Request("r", ())


def test_all_records_of_a_folder_of_requests_can_be_asked_at_once(tmp_path):
    write(tmp_path / "one.jsonl", qa(1))
    write(tmp_path / "two.jsonl", qa(2), qa(3))
    found = load(tmp_path, "forget")
    assert [record.key for record in found] == ["one/1", "two/1", "two/2"]
    assert isinstance(found[0], Record)
