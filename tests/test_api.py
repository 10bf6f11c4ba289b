"""The API offers what the program's commands of those names offer."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest

import remanent
from remanent.cli.main import COMMANDS
from remanent.cli.options import options
from remanent.data.authors import author_sets
from remanent.errors import InputError
from remanent.jobs import audit as audit_job
from remanent.jobs import unlearn as unlearn_job
from remanent.jobs.config import AuditSettings, DataSettings, UnlearnSettings, parse
from remanent.jobs.rerun import TOLERANCE
from remanent.jobs.verify import Verified

SETTINGS = {"unlearn": UnlearnSettings, "audit": AuditSettings}
# Where Python has another name for an option, or none: a file for a text, many for one, printing.
OTHERWISE = {
    "certify": {"passphrase_file": "passphrase", "adapter": "adapters"},
    "verify": {"parent_key": "parent_keys", "audit": "audit_file"},
}
PRINTING = {"json"}
# What Python has besides: progress is shown or not, lists of records in place of names.
BESIDES = {"progress", "records", "settings"}
VALUES = (0.05, 0.3, 3, 16, "cosine", "bf16", "lora", False, True, {"beta": 0.2}, "text", ["exposure<=1"])


def offered(name):
    return inspect.signature(getattr(remanent, name)).parameters


def asked(name):
    """The command's own parameters, those that come from settings apart."""
    (command,) = import_module(f"remanent.cli.{COMMANDS[name][0]}").app.registered_commands
    known = {option.name for option in options(SETTINGS[name])} if name in SETTINGS else set()
    found = inspect.signature(command.callback).parameters
    return {key: item for key, item in found.items() if key not in known}


VERBS = [name for name in remanent.__all__ if name in COMMANDS]


def test_the_verbs_are_commands():
    assert {*VERBS, "__version__"} == set(remanent.__all__)


@pytest.mark.parametrize("name", VERBS)
def test_the_commands_options_are_the_functions_arguments(name):
    renamed = OTHERWISE.get(name, {})
    wanted = {renamed.get(option, option) for option in asked(name) if option not in PRINTING}
    if name in SETTINGS:  # by name, or among **settings, each of which is tried below
        wanted |= {option.name for option in options(SETTINGS[name])} & set(offered(name))
    assert set(offered(name)) - BESIDES == wanted


@pytest.mark.parametrize("name", VERBS)
def test_what_may_be_left_out_may_be_left_out_in_both(name):
    renamed = OTHERWISE.get(name, {})
    for option, item in asked(name).items():
        if option in PRINTING:
            continue
        default = offered(name)[renamed.get(option, option)].default
        assert (default is inspect.Parameter.empty) == (item.default is inspect.Parameter.empty), option


def test_defaults_that_python_writes_otherwise():
    assert asked("verify")["tolerance"].default == TOLERANCE
    assert offered("verify")["tolerance"].default is None


@pytest.fixture
def settings_of(monkeypatch, tmp_path):
    """The settings and records with which a function calls its job."""
    seen = []

    class Run:
        path = tmp_path

    def job(settings, out, *, interface, records):
        seen.append((settings, out, records))
        return Run

    monkeypatch.setattr(unlearn_job, "unlearn", job)
    monkeypatch.setattr(audit_job, "run_audit", lambda *given, **options: (job(*given, **options), None))

    def call(name, model="m", **given):
        getattr(remanent, name)(model, **({"forget": "f.jsonl", "out": tmp_path} | given))
        return seen[-1]

    return call


@pytest.mark.parametrize(
    ("name", "path"), [(name, option.path) for name, kind in SETTINGS.items() for option in options(kind)]
)
def test_every_option_arrives(settings_of, name, path):
    """Each takes a value that its command takes, and ends where the command puts it."""
    kind = SETTINGS[name] if len(path) == 1 else DataSettings
    required = {"model": "m", "data": {}} if len(path) == 1 else {}
    default = kind.model_fields[path[-1]].default
    for value in VALUES:
        try:
            parse(kind, {**required, path[-1]: value}, "")
        except InputError:
            continue
        if value != default:
            break
    else:
        pytest.fail(f"no value for {path}")
    given = {path[-1]: value} if path != ("model",) else {"model": value}
    found = settings_of(name, **given)[0]
    for part in path:
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize("name", SETTINGS)
def test_records_may_be_lists_and_unknown_settings_are_named(settings_of, name):
    sets = author_sets(forget=2, retain=2, control=2, questions=1)
    settings, _, records = settings_of(name, forget=sets.forget, retain="r.jsonl", text=sets.control)
    assert records == {"forget": list(sets.forget), "text": list(sets.control)}
    assert settings.data.retain == "r.jsonl"
    assert settings_of(name, data={"system": "S"}, split_seed=3)[0].data.model_dump(exclude_none=True) == {
        "forget": "f.jsonl",
        "system": "S",
        "split_seed": 3,
    }
    with pytest.raises(InputError, match="sistem"):
        settings_of(name, sistem="S")


def test_an_audit_goes_where_the_command_puts_it(settings_of):
    assert settings_of("audit", model="some/model", out=None)[1] == Path("runs/audit-model")


def test_verifying_gives_the_verdict_and_every_problem(tmp_path):
    from remanent.auditing.chain import Link
    from remanent.auditing.verify import Verification
    from remanent.jobs.rerun import Row

    good = Verification(True, (), "PASSED", {})
    assert (Verified(good).verdict, Verified(good).problems, Verified(good).ok) == ("PASSED", (), True)
    link = Link("ab" * 32, "original", "", ("it is not there",))
    row = Row("full", "forget", None, 1.0, 2.0, 0.02, "1.0000 nats apart")
    found = Verified(good, (link,), (row,))
    assert not found.ok
    assert [problem.rpartition(": ")[2] for problem in found.problems] == ["it is not there", "1.0000 nats apart"]
    assert [line for line in found.sentences() if line.startswith("Problem: ")] == [
        f"Problem: {problem}" for problem in found.problems
    ]
