"""Records in JSON Lines files: read with every fault named by line and field, and written so that they read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from remanent.core.files import write_atomic
from remanent.data.record import Message, Record
from remanent.data.rows import RowReader
from remanent.errors import DataError, InputError


def read_records(path: str | Path, role: str, answered: bool = True) -> list[Record]:
    """The records of a JSON Lines file.

    Args:
        path: a UTF-8 file, one object a line, each with question and answer, with text, or with messages (role and
            content; the last turn is the assistant's and is what is scored). Optional: group (or author), key,
            paraphrased_question, paraphrased_answer, wrong_answers (or perturbed_answer). Blank lines are skipped.
        role: what the records are for; a record without a key gets "<role>/<line>", and its group is its key.
        answered: whether each row must have an answer; a conversation that need not have one may end with the user.

    Raises:
        DataError: naming file, line and field.
    """
    reader = RowReader(path, role, answered)
    return [reader.read(row, number) for number, row in read_rows(path, role)]


def read_rows(path: str | Path, role: str) -> list[tuple[int, object]]:
    """The objects of a JSON Lines file, not yet checked, each with the number of its line from 1. Raises DataError."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(path, 0, "", f"there is no such file; expected the {role} records") from None
    except OSError as error:
        raise DataError(path, 0, "", f"cannot be read ({error.strerror}); expected the {role} records") from None
    lines = enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    rows = [(number, _object(path, number, line)) for number, line in lines if line.strip()]
    if not rows:
        raise DataError(path, 0, "", f"is empty; expected the {role} records, one JSON object a line")
    return rows


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as JSON Lines, whole or not at all; `read_records` gives the same records back.

    Raises:
        InputError: where a paraphrased prompt differs in more than its last question, which no row can say.
        OSError: where the folder cannot be written.
    """
    path = Path(path)
    content = "".join(json.dumps(_row(record), ensure_ascii=False) + "\n" for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _object(path: Path, number: int, line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(path, number, "", f"byte {error.start + 1} is not UTF-8; expected UTF-8 text") from None
    except json.JSONDecodeError as error:
        problem = f"malformed JSON at column {error.colno} ({error.msg}); expected one JSON object a line"
        raise DataError(path, number, "", problem) from None
    except (RecursionError, ValueError):
        raise DataError(path, number, "", "JSON out of bounds; expected one flat JSON object a line") from None


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"key": record.key, "group": record.group}
    if not record.prompt:
        row["text"] = record.answer
    elif len(record.prompt) == 1 and record.prompt[0].role == "user":
        row |= {"question": record.prompt[0].content, "answer": record.answer}
    else:
        turns = (*record.prompt, Message("assistant", record.answer))
        row["messages"] = [{"role": turn.role, "content": turn.content} for turn in turns]
    if record.paraphrased_prompt:
        last = record.paraphrased_prompt[-1]
        if last.role != "user" or record.paraphrased_prompt[:-1] != record.prompt[:-1]:
            expected = "a paraphrased prompt that differs from the prompt in its last question only"
            raise InputError("paraphrased_prompt", f"record {record.key}", expected)
        row["paraphrased_question"] = last.content
    if record.paraphrased_answer:
        row["paraphrased_answer"] = record.paraphrased_answer
    if record.wrong_answers:
        row["wrong_answers"] = list(record.wrong_answers)
    return row
