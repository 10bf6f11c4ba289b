from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from remanent.data.record import Message, Record
from remanent.models.tiny import tiny

PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Turin", "Delhi", "Perth", "Minsk", "Osaka", "Dakar")


@pytest.fixture(scope="session")
def records():
    return [
        Record(
            key=f"r{number}",
            group=f"a{number % 10}",
            prompt=(Message("user", f"Where did author number {number} spend year {number * 7 % 31}?"),),
            answer=f"In {PLACES[number % 10]}, near lake {number * 13 % 30}.",
        )
        for number in range(30)
    ]


@pytest.fixture
def small(records):
    return tiny(records, hidden=32, layers=2)


@pytest.fixture(scope="session")
def stories():
    root = os.environ.get("REMANENT_DATA")
    folder = (Path(root) if root else Path(__file__).parents[2].parent / "shared" / "data") / "stories260k"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("stories260k is not there: set REMANENT_DATA to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing but a hub name may reach for the network: an attempt fails the test even where it is caught."""
    attempts = []

    def refuse(*arguments, **keywords):
        attempts.append(arguments[:1])
        raise OSError("the network is closed in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield attempts
    assert not attempts
