"""Trials in processes of their own and on a Ray cluster find what they find here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import threading
import time

import pytest

from remanent.core.files import read_json
from remanent.errors import MissingExtraError
from remanent.jobs.sweep import sweep
from remanent.jobs.sweep_workers import Processes, Ray

AXES = {"method": ["npo", "grad-diff"], "unlearn": {"steps": 3}}


def found(out):
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_memory")}
        for row in read_json(out / "sweep.json")["trials"]
    ]


@pytest.fixture(scope="module")
def here(sweep_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("here") / "sweep"
    sweep(sweep_world.file(**AXES), out)
    return found(out)


@pytest.mark.slow
def test_two_processes_find_the_same(here, sweep_world, tmp_path):
    sweep(sweep_world.file(**AXES, processes=2), tmp_path)
    assert found(tmp_path) == here
    assert not [file for file in (tmp_path / "trials").rglob("model") if file.is_dir()]


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_row_and_the_next_call_does_it(here, sweep_world, tmp_path, monkeypatch):
    start = Processes._fill
    killed = []

    def fill(self):
        start(self)
        if not killed:
            process = next(iter(self.running.values()))[1]
            killed.append(process.pid)
            threading.Timer(1.0, os.kill, (process.pid, signal.SIGKILL)).start()

    monkeypatch.setattr(Processes, "_fill", fill)
    view = sweep(sweep_world.file(**AXES, processes=2), tmp_path)
    assert [row["status"] for row in view.rows] == ["failed", "done"]
    assert "killed" in view.rows[0]["reason"]
    sweep(sweep_world.file(**AXES), tmp_path)
    assert found(tmp_path) == here


@pytest.mark.slow
def test_closing_ends_what_still_runs(sweep_world, tmp_path):
    from remanent.jobs.data import load_data
    from remanent.jobs.sweep_space import grid, trial

    asked = sweep_world.file(**AXES)
    workers = Processes(tmp_path, False, 2)
    for setting in grid(asked):
        workers.submit(trial(asked, setting, 0, load_data(asked.unlearn.data)))
    processes = [process for _, process in workers.running.values()]
    assert len(processes) == 2
    time.sleep(0.5)
    workers.close()
    assert not [process for process in processes if process.is_alive()]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'remanent[ray]'")
def test_a_local_ray_cluster_finds_the_same(here, sweep_world, tmp_path):
    if shutil.disk_usage("/dev/shm").free < 200 * 2**20:
        pytest.skip("a local Ray cluster needs 200 MB of shared memory")
    sweep(sweep_world.file(**AXES, ray="local", processes=2), tmp_path)
    assert found(tmp_path) == here


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    def missing(name, *rest):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"remanent\[ray\]"):
        Ray(tmp_path, False, "local", None, 1)
