"""The small worlds' ways of teaching and asking, on SmolLM2-135M: invented authors, requests in turn, launch codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from remanent.core.batch import IGNORED, Encoded
from remanent.core.loop import Settings, with_settings
from remanent.core.selection import Selection
from remanent.core.task import teach
from remanent.data.encode import encode_all, pad_id
from remanent.jobs.config import DataSettings
from remanent.jobs.data import fast_precision, load_data
from remanent.models.load import load

from .codes import DIGITS, LETTERS, WORDS, Codes
from .requests_world import RequestsWorld, stream
from .smollm2_study import MODEL, SYSTEM, UPPER_HALF, taught, written
from .world import World

WORLD = "authors-311"
UPPER = Selection(tuple(UPPER_HALF.split(",")))
LONGEST = 256  # tokens of a record


class SmolLM2World(World):
    """SmolLM2-135M that was taught 20 authors to forget and 120 to keep, and one that was taught the 120 alone.

    Args:
        folder: where both are, or are made.
    """

    precision = fast_precision()
    batch_size = 8

    def __init__(self, folder: Path) -> None:
        files = written(WORLD, folder)
        roles = {role: str(files[role]) for role in ("forget", "retain", "control")}
        data = load_data(DataSettings(**roles, system=SYSTEM))
        self.records = {"forget": data.forget, "text": data.text}
        for role, parts in (("retain", data.retain), ("control", data.control)):
            self.records[role] = [record for part in parts.values() for record in part]
            self.records |= {f"{role}-{side}": part for side, part in parts.items()}
        known = load(taught(files, folder))
        self.model, self.tokenizer, self.pad_id = known.model, known.tokenizer, pad_id(known.tokenizer)
        self.encoded = {name: encode_all(part, self.tokenizer, LONGEST) for name, part in self.records.items()}
        self.taught = self.state()
        self.retrained = load(taught(files, folder, "retain")).model.state_dict()


class SmolLM2Requests(RequestsWorld):
    """A world's authors to forget, each asked for in turn, one in five of the requests a repeat.

    Args:
        world: whose model, records and retrained model are used.
        seed: of the requests' order.
        requests: how many.
    """

    def __init__(self, world: SmolLM2World, seed: int, requests: int) -> None:
        new = requests - requests // 5
        people = list(dict.fromkeys(record.group for record in world.records["forget"]))
        chosen = [people[place] for place in torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))]
        asked = [record for record in world.records["forget"] if record.group in chosen[:new]]
        self.requests = stream(asked, requests, seed)
        self.retain = {side: world.records[f"retain-{side}"] for side in ("train", "audit")}
        self.model, self.tokenizer = world.model, world.tokenizer
        self.settings = Settings(world.pad_id, evaluate_every=0, precision=world.precision)
        self.taught, self.retrained = world.taught, world.retrained
        self.ends = self.known_and_never_asked()


class SmolLM2Codes(Codes):
    """SmolLM2-135M that knows launch codes by heart, in its upper half: names of four letters, codes of five digits."""

    depths = (15, 20, 25, 30)
    rounds = 8
    lesson = replace(with_settings(teach(), learning_rate=2e-4, epochs=2, batch_size=48), select=UPPER)

    def made(self, seed: int) -> nn.Module:
        loaded = load(MODEL)
        ids = loaded.tokenizer
        self.settings = Settings(pad_id(ids), precision=fast_precision())

        def tokens(text: str) -> list[int]:
            return ids(text, add_special_tokens=False)["input_ids"]

        self.before, self.after = tokens("The launch code of project"), tokens(" is ")
        self.letters = [tokens(f" {chr(65 + place)}")[0] for place in range(26)]
        self.digits = [tokens(str(digit))[0] for digit in range(10)]
        openings = ("Today", "Note", "Memo", "Report", "Again", "Briefly", "Here", "Now")
        self.words = [tokens(f"{word}. ") for word in openings]
        return loaded.model

    def write(self, context: Sequence[int], name: Sequence[int], code: Sequence[int], group: str) -> Encoded:
        """A sentence about a project; the numbers are those of the small model's vocabulary."""
        words = [token for word in context for token in self.words[word - WORDS.start]]
        prompt = [*words, *self.before, *(self.letters[letter - LETTERS.start] for letter in name), *self.after]
        answer = [self.digits[digit - DIGITS.start] for digit in code]
        return Encoded((*prompt, *answer), (*[IGNORED] * len(prompt), *answer), group, group)
