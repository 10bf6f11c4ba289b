"""Where trials run: here, each in a process of its own, or on a Ray cluster."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from remanent.errors import MissingExtraError
from remanent.jobs.progress import Interface
from remanent.jobs.sweep_config import Trial
from remanent.jobs.sweep_trial import FAILED, failure, in_folder, run_trial

Row = dict[str, Any]


class Workers(Protocol):
    """Runs trials.

    Args:
        slots: how many it runs at a time.
    """

    slots: int

    def submit(self, trial: Trial) -> None:
        """Take a trial."""
        ...

    def next(self) -> Row:
        """The row of the next trial that ends."""
        ...

    def close(self) -> None:
        """End what still runs: its folders can be gone on with."""
        ...


class Here:
    """One after another in this process."""

    slots = 1

    def __init__(self, out: Path, keep_models: bool, interface: Interface) -> None:
        self.out, self.keep_models, self.interface = out, keep_models, interface
        self.waiting: deque[Trial] = deque()

    def submit(self, trial: Trial) -> None:
        self.waiting.append(trial)

    def next(self) -> Row:
        return run_trial(self.waiting.popleft(), self.out, keep_model=self.keep_models, interface=self.interface)

    def close(self) -> None:
        self.waiting.clear()


class Processes:
    """Each trial in a new process: it gives all its memory back, and one that is killed takes no other with it."""

    def __init__(self, out: Path, keep_models: bool, processes: int) -> None:
        self.out, self.keep_models, self.slots = out, keep_models, processes
        self.context = multiprocessing.get_context("spawn")
        self.waiting: deque[Trial] = deque()
        self.running: dict[Connection, tuple[Trial, BaseProcess]] = {}

    def submit(self, trial: Trial) -> None:
        self.waiting.append(trial)
        self._fill()

    def next(self) -> Row:
        self._fill()
        done = wait(list(self.running))[0]
        assert isinstance(done, Connection)
        trial, process = self.running.pop(done)
        try:
            row: Row = done.recv()
        except EOFError:  # it ended without a word
            process.join()
            reason = f"its process ended with code {process.exitcode}; {_meaning(process.exitcode)}"
            row = failure(trial, FAILED, reason)
        process.join()
        done.close()
        self._fill()
        return row

    def close(self) -> None:
        self.waiting.clear()
        for _, process in self.running.values():
            process.terminate()
        for _, process in self.running.values():
            process.join()
        self.running.clear()

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.slots:
            trial = self.waiting.popleft()
            ours, theirs = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_child, args=(theirs, trial, self.out, self.keep_models))
            process.start()
            theirs.close()
            self.running[ours] = (trial, process)


def _child(answer: Connection, trial: Trial, out: Path, keep_model: bool) -> None:
    """What a process does: it ends with its parent, whatever ends that, so that no folder ever has two writers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its children
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    answer.send(run_trial(trial, out, keep_model=keep_model))


def _meaning(code: int | None) -> str:
    return "it was killed, most often for want of memory" if code == -signal.SIGKILL else "see the system's log"


class Ray:
    """On a Ray cluster whose machines share the file system of the sweep's folder, the model and the records.

    Args:
        address: "local" starts a cluster on this machine; "auto" or an address joins one.
        slots: trials at a time at most; None leaves it to the cluster's processors.
        threads: processors of a trial.
    """

    def __init__(self, out: Path, keep_models: bool, address: str, slots: int | None, threads: int) -> None:
        try:
            self.ray = importlib.import_module("ray")
        except ImportError:
            raise MissingExtraError("ray", "ray", "running trials on a Ray cluster") from None
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a trial without a GPU hides none
        passed = {name: os.environ[name] for name in ("REMANENT_SECRET", "XDG_CACHE_HOME") if name in os.environ}
        self.ours = not self.ray.is_initialized()
        if self.ours:
            where = {"address": "local", "include_dashboard": False} if address == "local" else {"address": address}
            self.ray.init(**where, runtime_env={"env_vars": passed}, log_to_driver=False, logging_level="ERROR")
        found = self.ray.cluster_resources()
        self.slots = slots or max(1, int(found.get("CPU", 1)) // threads)
        gpus = 1 if found.get("GPU", 0) >= 1 else 0
        self.task = self.ray.remote(in_folder).options(num_cpus=threads, num_gpus=gpus, max_retries=2)
        self.out, self.keep_models = out, keep_models
        self.running: dict[Any, Trial] = {}

    def submit(self, trial: Trial) -> None:
        self.running[self.task.remote(trial, self.out, self.keep_models, str(Path.cwd()))] = trial

    def next(self) -> Row:
        (done, *_), _ = self.ray.wait(list(self.running), num_returns=1)
        trial = self.running.pop(done)
        try:
            row: Row = self.ray.get(done)
        except Exception as error:  # the machine, not the trial: whatever a trial does is in its row
            row = failure(trial, FAILED, f"{type(error).__name__}: the cluster lost it")
        return row

    def close(self) -> None:
        for task in self.running:
            self.ray.cancel(task, force=True)
        self.running.clear()
        if self.ours:
            self.ray.shutdown()
