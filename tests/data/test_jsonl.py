import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanent.data.jsonl import read_records, write_records
from remanent.data.record import Message, Record
from remanent.errors import DataError, InputError


def file_of(tmp_path, *lines):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_the_three_shapes(tmp_path):
    path = file_of(
        tmp_path,
        {"question": "Who?", "answer": "Ann.", "author": "A", "paraphrased_question": "Which one?", "id": 4},
        {"text": "A plain text.", "key": 7},
        "",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ],
            "group": "g",
            "wrong_answers": ["Bye"],
            "paraphrased_question": "Hey",
            "paraphrased_answer": None,
        },
        {"question": "Q", "answer": "A", "perturbed_answer": ["B", "C"]},
    )
    first, second, third, fourth = read_records(path, "forget")
    user = Message("user", "Who?")
    assert first == Record("forget/1", "A", (user,), "Ann.", (Message("user", "Which one?"),))
    assert second == Record("7", "7", (), "A plain text.")
    system = Message("system", "Be brief.")
    assert third == Record(
        "forget/4", "g", (system, Message("user", "Hi")), "Hello", (system, Message("user", "Hey")), "", ("Bye",)
    )
    assert (fourth.key, fourth.group, fourth.wrong_answers) == ("forget/5", "forget/5", ("B", "C"))


QA = {"question": "Q", "answer": "A"}


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ("{", "", "malformed JSON at column 2"),
        ("[1]", "", "holds list"),
        ('{"a": ' * 100_000, "", "JSON"),
        ({"prompt": "Q"}, "", "unknown shape, fields found: prompt"),
        ({"txt": "Q"}, "", "meant to be 'text'"),
        ({"question": "Q", "anwser": "A"}, "answer", "is missing; expected text (is 'anwser' meant to be 'answer'?)"),
        ({"question": None, "answer": "A"}, "question", "is null"),
        ({"question": 3, "answer": "A"}, "question", "holds int; expected text"),
        ({"question": "Q", "answer": " "}, "answer", "is empty"),
        ({"question": "Q", "answer": "\ud800"}, "answer", "surrogate"),
        ({**QA, "text": "t"}, "text", "stands next to question"),
        ({**QA, "wrong_answers": "B"}, "wrong_answers", "expected a list of texts"),
        ({**QA, "wrong_answers": ["B", 1]}, "wrong_answers[1]", "holds int"),
        ({**QA, "group": True}, "group", "holds bool"),
        ({**QA, "key": "forget/1"}, "key", "is the key of line 1 too"),
        ({"text": "t", "paraphrased_question": "Q"}, "paraphrased_question", "needs a question"),
        ({"messages": "hi"}, "messages", "expected a list"),
        ({"messages": [{"role": "assistant", "content": "A"}]}, "messages", "at least two turns"),
        ({"messages": [{"role": "user", "content": "Q"}] * 2}, "messages", "the last turn is the user's"),
        ({"messages": [{"role": "usr", "content": "Q"}, 1]}, "messages[0].role", "did you mean 'user'?"),
        ({"messages": [{"role": "user", "content": "Q"}, 1]}, "messages[1]", "holds int"),
        ({"messages": [{"role": "user"}, 1]}, "messages[0].content", "is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, field, said):
    path = file_of(tmp_path, QA, line)
    with pytest.raises(DataError) as caught:
        read_records(path, "forget")
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, field)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.jsonl: is empty; expected the retain records"):
        read_records(path, "retain")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: there is no such file"):
        read_records(tmp_path / "no.jsonl", "retain")
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path, "retain")


def test_bytes_that_are_not_utf8_are_named_and_a_byte_order_mark_is_not_one(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"data\.jsonl, line 2: byte 11 is not UTF-8"):
        read_records(path, "retain")
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n')
    assert read_records(path, "retain")[0].answer == "a"


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
turns = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), max_size=3)


@st.composite
def record_lists(draw):
    records = []
    for key in draw(st.lists(text, unique=True, min_size=1, max_size=4)):
        prompt = (*draw(turns), Message("user", draw(text))) if draw(st.booleans()) else ()
        paraphrase = (*prompt[:-1], Message("user", draw(text))) if prompt and draw(st.booleans()) else ()
        optional = st.just("") | text
        wrong = tuple(draw(st.lists(text, max_size=3)))
        records.append(Record(key, draw(text), prompt, draw(text), paraphrase, draw(optional), wrong))
    return records


@settings(deadline=None)  # it flushes to the disk
@given(record_lists())
def test_what_is_written_reads_back(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("written") / "new" / "out.jsonl"
    write_records(path, records)
    assert read_records(path, "any") == records
    assert [item.name for item in path.parent.iterdir()] == ["out.jsonl"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.jsonl"
    good = Record("1", "1", (), "text")
    write_records(path, [good])
    bad = Record("2", "2", (Message("user", "Q"),), "A", (Message("system", "S"), Message("user", "P")))
    with pytest.raises(InputError, match="record 2"):
        write_records(path, [good, bad])
    with pytest.raises(UnicodeEncodeError):
        write_records(path, [Record("3", "3", (), "\ud800")])
    assert read_records(path, "any") == [good]
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_answer_is_needed_each_row_must_ask_something(tmp_path):
    file = tmp_path / "prompts.jsonl"
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]
    rows = [{"question": "Where?"}, {"question": "Where?", "answer": "Here."}, {"messages": turns[:1]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": turns}]))
    found = read_records(file, "forget", answered=False)
    assert [(record.question, record.answer) for record in found] == [
        ("Where?", ""),
        ("Where?", "Here."),
        ("Who?", ""),
        ("Who?", "Ann."),
    ]
    with pytest.raises(DataError, match="line 1, field 'answer': is missing"):
        read_records(file, "forget")
    file.write_text('{"text": "All of it."}\n')
    with pytest.raises(DataError, match="line 1, field 'text': asks nothing"):
        read_records(file, "forget", answered=False)
    file.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match="expected a list of turns"):
        read_records(file, "forget", answered=False)
