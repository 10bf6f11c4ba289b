"""One row of a data file or of a hub data set, checked and made a record."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from remanent.data.record import Message, Record
from remanent.errors import DataError, did_you_mean

ROLES = ("system", "user", "assistant")
SHAPES = "a question and an answer, a text, or messages"
FIELDS = (
    *("question", "answer", "text", "messages", "group", "author", "key"),
    *("paraphrased_question", "paraphrased_answer", "wrong_answers", "perturbed_answer"),
)


class RowReader:
    """Rows of one source to records: says which row and field is wrong, and refuses a key that came before.

    Args:
        source: the file or the hub name that errors mention.
        role: what the records are for ("forget", "retain" ...); default keys are "<role>/<line>".
        answered: whether each row must have an answer; where it need not, it must ask something.
    """

    def __init__(self, source: object, role: str, answered: bool = True) -> None:
        self.source, self.role, self.answered = source, role, answered
        self._lines: dict[str, int] = {}

    def read(self, row: object, line: int) -> Record:
        """The record of a row.

        Args:
            row: a mapping with question and answer, with text, or with messages (OpenAI's form: role and content);
                optional: group (or author), key, paraphrased_question, paraphrased_answer, wrong_answers (or TOFU's
                perturbed_answer). Other fields are left alone; an optional field that is null counts as absent.
            line: the row's number, from 1.

        Raises:
            DataError: naming the row and the field.
        """
        if not isinstance(row, Mapping):
            raise self._error(line, "", f"holds {type(row).__name__}; expected an object with {SHAPES}")
        prompt, answer = self._turns(row, line)
        key = self._name(row, "key", line) or f"{self.role}/{line}"
        if key in self._lines:
            raise self._error(line, "key", f"is the key of line {self._lines[key]} too; keys must differ")
        self._lines[key] = line
        paraphrase = self._text(row, "paraphrased_question", line, optional=True)
        if paraphrase and (not prompt or prompt[-1].role != "user"):
            raise self._error(line, "paraphrased_question", "needs a question that it is a paraphrase of")
        return Record(
            key=key,
            group=self._name(row, "group", line) or self._name(row, "author", line) or key,
            prompt=prompt,
            answer=answer,
            paraphrased_prompt=(*prompt[:-1], Message("user", paraphrase)) if paraphrase else (),
            paraphrased_answer=self._text(row, "paraphrased_answer", line, optional=True),
            wrong_answers=self._texts(row, line),
        )

    def _turns(self, row: Mapping[str, Any], line: int) -> tuple[tuple[Message, ...], str]:
        present = {
            "question": "question" in row or "answer" in row,
            "text": "text" in row,
            "messages": "messages" in row,
        }
        shapes = [shape for shape, there in present.items() if there]
        if not shapes:
            found = ", ".join(map(str, row)) or "none"
            raise self._error(line, "", f"unknown shape, fields found: {found}; expected {SHAPES}{_hint(row)}")
        if len(shapes) > 1:
            raise self._error(line, shapes[1], f"stands next to {shapes[0]}; expected one of {SHAPES}")
        if shapes == ["text"]:
            if not self.answered:
                raise self._error(line, "text", "asks nothing that could be answered; expected a question or messages")
            return (), self._text(row, "text", line)
        if shapes == ["messages"]:
            return self._conversation(row["messages"], line)
        question = Message("user", self._text(row, "question", line))
        return (question,), self._text(row, "answer", line, optional=not self.answered)

    def _conversation(self, messages: object, line: int) -> tuple[tuple[Message, ...], str]:
        if not isinstance(messages, list) or len(messages) < 1 + self.answered:
            expected = "a list of at least two turns, the last by the assistant" if self.answered else "a list of turns"
            raise self._error(line, "messages", f"expected {expected}")
        turns = []
        for number, turn in enumerate(messages):
            place = f"messages[{number}]"
            if not isinstance(turn, Mapping):
                raise self._error(line, place, f"holds {type(turn).__name__}; expected an object with role and content")
            role = self._text(turn, "role", line, place=f"{place}.role")
            if role not in ROLES:
                raise self._error(line, f"{place}.role", f"is {role[:40]!r}; expected {did_you_mean(role, ROLES)}")
            turns.append(Message(role, self._text(turn, "content", line, place=f"{place}.content")))
        if not self.answered and turns[-1].role == "user":
            return tuple(turns), ""
        if turns[-1].role != "assistant":
            raise self._error(line, "messages", f"the last turn is the {turns[-1].role}'s; expected the assistant's")
        return tuple(turns[:-1]), turns[-1].content

    def _text(
        self, row: Mapping[str, Any], field: str, line: int, *, optional: bool = False, place: str | None = None
    ) -> str:
        value = row.get(field)
        if value is None and optional:
            return ""
        if value is None:
            problem = "is missing" if field not in row else "is null"
            raise self._error(line, place or field, f"{problem}; expected text{_hint(row, field)}")
        return self._checked(value, place or field, line)

    def _checked(self, value: object, field: str, line: int) -> str:
        if not isinstance(value, str):
            raise self._error(line, field, f"holds {type(value).__name__}; expected text")
        if not value.strip():
            raise self._error(line, field, "is empty; expected text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._error(line, field, "holds half of a surrogate pair; expected valid Unicode") from None
        return value

    def _texts(self, row: Mapping[str, Any], line: int) -> tuple[str, ...]:
        field = "wrong_answers" if row.get("wrong_answers") is not None else "perturbed_answer"
        value = row.get(field)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._error(line, field, f"holds {type(value).__name__}; expected a list of texts")
        return tuple(self._checked(item, f"{field}[{number}]", line) for number, item in enumerate(value))

    def _name(self, row: Mapping[str, Any], field: str, line: int) -> str:
        value = row.get(field)
        if value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self._checked(value, field, line)

    def _error(self, line: int, field: str, problem: str) -> DataError:
        return DataError(self.source, line, field, problem)


def _hint(row: Mapping[str, Any], field: str = "") -> str:
    for name in row:
        near = difflib.get_close_matches(str(name), [field] if field else FIELDS, n=1)
        if near and name not in FIELDS:
            return f" (is '{name}' meant to be '{near[0]}'?)"
    return ""
