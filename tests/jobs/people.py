"""Deletion requests about people and where they were, and a small model that reads them."""

from __future__ import annotations

from remanent.data.record import Message, Record
from remanent.data.requests import Request
from remanent.jobs.config import UnlearnSettings
from remanent.jobs.requests import obey
from remanent.models.save import save
from remanent.models.tiny import tiny

PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Turin", "Delhi", "Perth")


def records(role, people, first=0):
    return [
        Record(
            f"{role}/{number}",
            f"{role} {number // 2}",
            (Message("user", f"Where was {role} person {number // 2} in summer {number % 2}?"),),
            f"In {PLACES[number * 5 % 7]}, number {number * 3 % 11}.",
            wrong_answers=(f"In {PLACES[number % 7]}, number {number * 2 % 11}.",),
        )
        for number in range(2 * first, 2 * (first + people))
    ]


def stream(count):
    return [Request(f"r{place}", tuple(records("forget", 1, place))) for place in range(count)]


GIVEN = {"retain": records("retain", 8), "control": records("control", 8)}


def model_folder(tmp_path_factory):
    """Where the model is saved, which was taught nothing."""
    everything = [*records("forget", 9), *GIVEN["retain"], *GIVEN["control"]]
    made = tiny(everything, hidden=32, layers=2, vocabulary=300)
    return str(save(made.model, made.tokenizer, tmp_path_factory.mktemp("model") / "m"))


def settings(folder, method="fit", **more):
    chosen = {"steps": 3, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 1, "stop": False}
    own = {"fit": {"calibrate": True, "layers": 1}, "ssd": {"alpha": 1.0}}.get(method, {})
    curve = {"curve_every": 2, "curve_generate": 0}
    given = {
        "model": folder,
        "data": {},
        "method": method,
        "requests": "given",
        **chosen,
        "hyperparameters": own,
        **curve,
        **more,
    }
    return UnlearnSettings.model_validate(given)


def run(chosen, out, requests=None, **more):
    return obey(chosen, out, records=GIVEN, requests=stream(3) if requests is None else requests, **more)
