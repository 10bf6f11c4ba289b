import json

import pytest

from remanent.data.blur import NAMES, blur
from remanent.data.named import load
from remanent.errors import InputError


def written(folder, name, *texts):
    rows = [json.dumps({"text": text}) for text in texts]
    (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_a_relearning_set_is_plain_text(tmp_path):
    (one, two) = blur("rwku/D_hi", written(tmp_path, "rwku_D_hi", "A life. Answer: none.", "Another."))
    assert (one.prompt, one.answer) == ((), "A life. Answer: none.")
    assert (one.key, two.group) == ("blur/rwku/D_hi/0000", "blur/rwku/D_hi/0001")
    assert len(blur("D_lo", written(tmp_path, "D_lo_for_all", "Anything."))) == 1


def test_questions_with_and_without_answers(tmp_path):
    folder = written(tmp_path, "whp_forget", "Question: Who is he?\nAnswer: A boy.")
    (record,) = blur("whp/forget", folder)
    assert (record.question, record.answer) == ("Who is he?", "A boy.")
    with pytest.raises(InputError, match="questions with their answers; these have none"):
        blur("whp/retain", written(tmp_path, "whp_retain", "Who is she?"))
    with pytest.raises(InputError, match="have none"):
        blur("whp/retain", written(tmp_path, "whp_retain", "Question: Who is she?\nAnswer:"))


def test_questions_may_lack_answers_and_pairs_may_not(tmp_path):
    written(tmp_path, "whp_retain", "Question: Who is she?\nAnswer:", "Who is it?", "Question: And he? Answer: A boy.")
    found = blur("whp/retain", tmp_path, answered=False)
    assert [(record.question, record.answer) for record in found] == [
        ("Who is she?", ""),
        ("Who is it?", ""),
        ("And he?", "A boy."),
    ]
    written(tmp_path, "tofu_paired_forget_retain", "Who is she? And he?")
    with pytest.raises(InputError, match="have none"):
        blur("tofu/paired_forget_retain", tmp_path, answered=False)
    (text,) = blur("rwku/D_hi", written(tmp_path, "rwku_D_hi", "A life."), answered=False)
    assert text.answer == "A life."


def test_parts_that_the_hub_does_not_have():
    assert "tofu/paired_forget_retain" in NAMES
    for name in ("tofu/forget", "wmdp/forget", "tofu/D_lo", "rwku"):
        with pytest.raises(InputError, match="blur:"):
            blur(name)


def test_from_the_hub_and_by_name(hub, tmp_path):
    hub(
        "forgelab/BLUR",
        {"rwku_D_mid": {"train": [{"text": "Some text."}]}, "D_lo_for_all": {"train": [{"text": "x y"}]}},
    )
    assert load("blur:rwku/D_mid", "text")[0].answer == "Some text."
    assert load("blur:D_lo", "text")[0].answer == "x y"
