"""What a person sees while work goes on: bars with the time left in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# done, total, what is going on
Advance = Callable[[int, int, str], None]
_LINES = 10


class Interface:
    """Where a job writes: sentences, warnings and bars.

    Args:
        console: rich's console; None is silent.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """A sentence."""
        if self.console is not None:
            self.console.print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """A sentence that a reader must know."""
        if self.console is not None:
            self.console.print(f"Warning: {text}", style="yellow", markup=False, highlight=False)

    @contextmanager
    def bar(self, title: str) -> Iterator[Advance]:
        """A bar for work whose total is known once it advances."""
        if self.console is None:
            yield lambda done, total, text: None
        elif self.console.is_terminal:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
                console=self.console,
                transient=False,
            ) as progress:
                task = progress.add_task(title, total=None, note="")
                yield lambda done, total, text: progress.update(task, completed=done, total=total, note=text)
        else:
            yield _Lines(self.say, title)


class _Lines:
    """A line at each tenth of the work, with the time left."""

    def __init__(self, say: Callable[[str], None], title: str) -> None:
        self.say, self.title = say, title
        self.began, self.first, self.tenth = time.monotonic(), -1, -1

    def __call__(self, done: int, total: int, text: str) -> None:
        if self.first < 0:
            self.first = done - 1
        tenth = done * _LINES // max(1, total)
        if tenth == self.tenth and done != total:
            return
        self.tenth = tenth
        passed = time.monotonic() - self.began
        left = passed / max(1, done - self.first) * (total - done)
        self.say(f"{self.title}: {done}/{total}, {left:.0f} s left{'; ' + text if text else ''}")
