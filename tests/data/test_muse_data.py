import pytest

from remanent.data.muse import muse
from remanent.errors import InputError


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


def test_an_unknown_split_is_named():
    with pytest.raises(InputError, match=r"retain: got 'muse:book/retain_qa'; .*did you mean 'books/retain_qa'\?"):
        muse("book/retain_qa", role="retain")
