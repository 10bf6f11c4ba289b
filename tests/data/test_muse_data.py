import json

import pytest

from remanent.data.muse import muse
from remanent.errors import DataError, InputError


def test_the_real_files(data_folder):
    sizes = {}
    for split in ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl"):
        records = muse(f"books/{split}", data_folder / "muse")
        sizes[split] = len(records)
        assert records[3].key == records[3].group == f"muse/books/{split}/003"
    assert sizes == {"forget_qa": 100, "retain_qa": 100, "forget_qa_icl": 10, "retain_qa_icl": 10}
    first = muse("books/forget_qa", data_folder / "muse")[0]
    assert first.question == "What is the most important ball in Quidditch according to Wood?"
    assert first.answer == "the Golden Snitch"


def test_from_the_hub(hub, tmp_path):
    hub("muse-bench/MUSE-News", {"knowmem": {"forget_qa": [{"question": "Who?", "answer": "A minister."}]}})
    (record,) = muse("news/forget_qa", tmp_path)
    assert (record.key, record.question, record.answer) == ("muse/news/forget_qa/000", "Who?", "A minister.")


def test_texts_from_the_hub(hub, tmp_path):
    rows = [
        {"prompt": "the cupboard was full of them", "gt": ", and that was where he slept."},
        {"prompt": "how is the boy getting here,", "gt": "Dumbledore?"},
        {"prompt": "he said, ", "gt": '"Go."'},
    ]
    texts = {split: [{"text": f"a {split} text"}] for split in ("forget", "retain", "holdout")}
    hub("muse-bench/MUSE-Books", {"verbmem": {"forget": rows}, "privleak": texts})
    found = muse("books/verbmem", tmp_path)
    assert [record.answer for record in found] == [
        "the cupboard was full of them, and that was where he slept.",
        "how is the boy getting here, Dumbledore?",
        'he said, "Go."',
    ]
    assert all(record.prompt == () for record in found)
    assert [record.key for record in found] == [record.group for record in found]
    assert found[1].key == "muse/books/verbmem/001"
    for part, split in (("privleak", "forget"), ("privleak_retain", "retain"), ("privleak_holdout", "holdout")):
        (record,) = muse(f"books/{part}", tmp_path)
        assert (record.key, record.answer) == (f"muse/books/{part}/000", f"a {split} text")


def test_a_row_without_its_beginning_is_named(tmp_path):
    (tmp_path / "news_verbmem_forget.jsonl").write_text(json.dumps({"gt": "and so on"}))
    with pytest.raises(DataError, match="line 1, field 'prompt': holds NoneType; expected text"):
        muse("news/verbmem", tmp_path)


def test_an_unknown_split_is_named():
    with pytest.raises(InputError, match=r"retain: got 'muse:book/retain_qa'; .*did you mean 'books/retain_qa'\?"):
        muse("book/retain_qa", role="retain")
