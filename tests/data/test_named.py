import sys

import pytest

from remanent.data.authors import author_sets
from remanent.data.jsonl import write_records
from remanent.data.named import NAMES, load
from remanent.data.record import Record
from remanent.errors import DataError, InputError, MissingExtraError


def test_a_path(tmp_path):
    record = Record("k", "g", (), "text")
    write_records(tmp_path / "data.jsonl", [record])
    write_records(tmp_path / "data.txt", [record])
    assert load(tmp_path / "data.jsonl", "forget") == load(str(tmp_path / "data.txt"), "forget") == [record]
    with pytest.raises(DataError, match="there is no such file"):
        load("missing.jsonl", "forget")
    with pytest.raises(DataError, match="there is no such file"):
        load(tmp_path / "missing", "forget")


def test_the_embedded_authors():
    assert load("authors:forget", "forget") == list(author_sets().forget)
    assert load("authors:control:7", "control") == list(author_sets(7).control)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("authors:forgot", "did you mean 'forget'"),
        ("authors:forget:x", "whole number from 0"),
        ("authors:forget:-1", "whole number from 0"),
        ("author:forget", "did you mean 'authors:forget'"),
        ("tofu:forget1", "did you mean 'forget10'"),
        ("muse:books", "one of books/forget_qa"),
        ("hub:no-owner", "hub:<owner>/<name>"),
        ("hub:a/b:c:d:e", "hub:<owner>/<name>"),
        ("tofu", "a path to a .jsonl file, or authors"),
        ("something", "a path to a .jsonl file, or authors"),
        ("", "a path to a .jsonl file, or authors"),
    ],
)
def test_an_unknown_name_is_refused_with_the_setting_that_holds_it(name, said):
    with pytest.raises(InputError) as caught:
        load(name, "forget")
    assert (caught.value.field, caught.value.value) == ("forget", name)
    assert said in str(caught.value)


def test_tofu_and_muse_from_a_folder_or_the_environment(data_folder, monkeypatch):
    monkeypatch.delenv("REMANENT_DATA", raising=False)
    records = load("tofu:forget01", "forget", data_folder)
    assert len(records) == 40
    monkeypatch.setenv("REMANENT_DATA", str(data_folder))
    assert load("tofu:forget01", "forget") == records
    assert len(load("muse:books/forget_qa", "forget")) == 100


def test_any_data_set_on_the_hub(hub):
    hub(
        "someone/things",
        {
            "default": {"train": [{"text": "a text", "n": 1}], "test": [{"text": "b text", "n": 2}]},
            "chat": {"train": [{"messages": [{"role": r, "content": r} for r in ("user", "assistant")], "key": None}]},
            "bad": {"train": [{"question": "Q", "answer": "A"}, {"question": "Q", "answer": ""}]},
        },
    )
    assert load("hub:someone/things", "retain") == [Record("retain/1", "retain/1", (), "a text")]
    assert load("hub:someone/things::test", "retain")[0].answer == "b text"
    assert load("hub:someone/things:chat", "retain")[0].question == "user"
    with pytest.raises(DataError, match=r"hub:someone/things:bad:train, line 2, field 'answer': is empty"):
        load("hub:someone/things:bad:train", "retain")
    with pytest.raises(InputError, match=r"retain: got 'someone/things:chat:test'.*`datasets` says: "):
        load("hub:someone/things:chat:test", "retain")
    with pytest.raises(InputError, match=r"retain: got 'someone/things:other:train'.*default"):
        load("hub:someone/things:other", "retain")


@pytest.mark.parametrize("error", ["DatasetNotFoundError", "ConnectionError"])
def test_a_hub_that_does_not_answer_is_an_input_error(monkeypatch, error):
    datasets = pytest.importorskip("datasets")

    def refuse(*_, **__):
        raise getattr(datasets.exceptions, error, ConnectionError)("not there")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match=r"forget: got 'a/b:train'.*says: not there"):
        load("hub:a/b", "forget")


def test_the_hub_without_datasets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"the data set a/b needs the package datasets.*remanent\[data\]"):
        load("hub:a/b", "forget")


def test_no_name_is_listed_twice():
    assert len(set(NAMES)) == len(NAMES)
