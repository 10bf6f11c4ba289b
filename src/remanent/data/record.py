"""One thing that a model was taught, or must forget: a prompt, its answer, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a conversation. Role: "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A prompt and the answer that is scored.

    Args:
        key: unique within its set.
        group: the unit that splits and intervals count: the author, the person, the document. Records that share
            facts share a group. Default when a file names none: the record itself.
        prompt: the turns before the answer; () for plain text, all of which is scored.
        answer: the text that is scored.
        paraphrased_prompt: the same question in other words; () where there is none.
        paraphrased_answer: the same answer in other words; "" where there is none.
        wrong_answers: answers of the same form that are false.
    """

    key: str
    group: str
    prompt: tuple[Message, ...]
    answer: str
    paraphrased_prompt: tuple[Message, ...] = ()
    paraphrased_answer: str = ""
    wrong_answers: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last user turn; "" for plain text."""
        return next((turn.content for turn in reversed(self.prompt) if turn.role == "user"), "")

    def paraphrased(self) -> Record | None:
        """The record asked, and where known answered, in other words; None where no paraphrase is known."""
        if not self.paraphrased_prompt and not self.paraphrased_answer:
            return None
        return replace(
            self,
            prompt=self.paraphrased_prompt or self.prompt,
            answer=self.paraphrased_answer or self.answer,
            paraphrased_prompt=(),
            paraphrased_answer="",
        )
