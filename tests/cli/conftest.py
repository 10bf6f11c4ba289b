"""The program called as a person calls it, on a tiny model with records of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from remanent.cli.main import app
from remanent.data.jsonl import write_records
from remanent.data.record import Message, Record

PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Turin", "Delhi", "Perth", "Minsk", "Osaka", "Dakar")


def some_records(role, groups):
    return [
        Record(
            key=f"{role}-{number}",
            group=f"{role} person {number // 2}",
            prompt=(Message("user", f"Where did {role} person {number // 2} spend summer {number % 2}?"),),
            answer=f"In {PLACES[(number * 7 + len(role)) % 10]}, number {number * 3 % 11}.",
        )
        for number in range(2 * groups)
    ]


@pytest.fixture(scope="session")
def call():
    """Call the program in this process; the environment is afterwards what it was."""

    def run(*arguments):
        before = dict(os.environ)
        try:
            return CliRunner().invoke(app, [str(item) for item in arguments])
        finally:
            os.environ.clear()
            os.environ.update(before)

    return run


class World:
    """A folder with a tiny model and its records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "base"
        self.sets = {role: folder / f"{role}.jsonl" for role in ("forget", "retain", "control")}

    @property
    def records(self):
        """--forget ... --retain ... --control ..."""
        return [item for role, file in self.sets.items() for item in (f"--{role}", file)]

    def unlearn(self, out, *more):
        settings = ("--steps", 2, "--batch-size", 4, "--evaluate-every", 1, "--checkpoint-every", 1)
        method = ("--method", "grad-diff", "--set", "retain_weight=2", "--learning-rate", 0.001)
        return ["unlearn", "--model", self.model, *self.records, *method, *settings, "--out", out, *more]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    from remanent.models.save import save
    from remanent.models.tiny import tiny

    made = World(tmp_path_factory.mktemp("world"))
    sets = {role: some_records(role, 8) for role in made.sets}
    for role, records in sets.items():
        write_records(made.sets[role], records)
    loaded = tiny([record for records in sets.values() for record in records], hidden=32, layers=1, vocabulary=320)
    save(loaded.model, loaded.tokenizer, made.model)
    return made


@pytest.fixture(autouse=True, scope="session")
def own_secret(tmp_path_factory):
    """Record hashes are keyed with a secret of the tests' own, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMANENT_SECRET", str(tmp_path_factory.mktemp("secret") / "secret"))
        yield
