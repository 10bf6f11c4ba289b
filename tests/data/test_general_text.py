from remanent.data.general_text import PASSAGES, general_text


def test_the_passages_are_plain_text_of_some_length_from_before_1900():
    records = general_text()
    assert 12 <= len(records) == len({record.group for record in records}) <= 20
    for record, passage in zip(records, PASSAGES, strict=True):
        assert (record.prompt, record.answer, record.group) == ((), passage.text, passage.title)
        assert 60 <= len(passage.text.split()) <= 120
        assert passage.year < 1900
        assert passage.text[0].isupper()
        assert passage.text[-1] in ".”"
        assert "  " not in passage.text
        assert "\n" not in passage.text


def test_passages_open_as_their_works_do():
    openings = {passage.title: passage.text for passage in PASSAGES}
    assert openings["Moby-Dick"].startswith("Call me Ishmael.")
    assert openings["Pride and Prejudice"].endswith("of some one or other of their daughters.")
