"""How far a command is: one event stream, shown as bars on a terminal, lines elsewhere, a cell in a notebook.

Everything goes to standard error, so that ``--json`` owns standard output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol

from regraft.errors import TimeLimitError

# Seconds between two plain lines of one task: enough to see life in a log file, few enough to read.
_LINE_EVERY = 5.0

# Seconds below which a rate says how fast the clock is read.
_TELLING = 0.1


class Task(Protocol):
    """One running task of known length."""

    def advance(self, count: int = 1) -> None:
        """Report ``count`` more finished items."""


class Progress(Protocol):
    """Where a command says what it does."""

    def say(self, text: str) -> None:
        """One line about what happens or was found."""

    def task(self, title: str, total: int) -> Any:
        """A context manager that yields a :class:`Task` of ``total`` items."""


class Deadline:
    """A moment after which work stops, or never.

    ``clock`` is monotonic; ``seconds`` counts from birth.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self._end is not None and self._clock() >= self._end

    def check(self, kept: Callable[[], str]) -> None:
        """Raise TimeLimitError, with what is kept in its message, once the moment has come."""
        if self.passed:
            raise TimeLimitError(f"the time limit of {self.seconds:g} s was reached: {kept()}")


def duration(seconds: float) -> str:
    """Seconds in words a person reads: ``850 ms``, ``12.3 s``, ``4 min 05 s``, ``1 h 02 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def pace(done: int, seconds: float) -> str:
    """How fast it goes: ``152/s``, ``4.1 s each``; nothing where there was too little to tell."""
    if not done or seconds < _TELLING:
        return ""
    rate = done / seconds
    return f"{rate:,.0f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Drop the line."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Count nothing."""
        yield _Counter(title, total)


class _Counter:
    """Counts items and times them; the base of every task that is shown."""

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.started = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self.done += count

    def line(self) -> str:
        """Title, count, rate and time left."""
        seconds = time.monotonic() - self.started
        told = [pace(self.done, seconds)]
        if 0 < self.done < self.total:
            told.append(f"{duration(seconds * (self.total - self.done) / self.done)} left")
        words = ", ".join(filter(None, told))
        return f"{self.title}: {self.done:,} of {self.total:,}" + (f" ({words})" if words else "")


class _LineTask(_Counter):
    def __init__(self, title: str, total: int, write: Callable[[str], None]) -> None:
        super().__init__(title, total)
        self._write = write
        self._shown = self.started

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        now = time.monotonic()
        if self.done < self.total and now - self._shown >= _LINE_EVERY:
            self._shown = now
            self._write(self.line())


class Lines:
    """Plain lines, for pipes and log files."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Print a line every few seconds and one at the end."""
        task = _LineTask(title, total, self.say)
        yield task
        self.say(task.line())


class Bars:
    """Bars with rate and time left, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        """Print one line above any running bar."""
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Show one bar while the task runs and leave its last line standing."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        counter = _Counter(title, total)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(),
                   TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
                   TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            handle = bar.add_task(title, total=total, rate="")

            class _BarTask:
                def advance(self, count: int = 1) -> None:
                    counter.advance(count)
                    bar.update(handle, advance=count, rate=pace(counter.done, time.monotonic() - counter.started))

            yield _BarTask()
        self.say(counter.line())


class Notebook(Lines):
    """One output area of a cell, rewritten in place."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._handle: Any = None

    def say(self, text: str) -> None:
        """Add one line to the cell's output."""
        self._lines.append(text)
        self._show(self._lines)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Rewrite the task's line in place."""
        task = _LineTask(title, total, lambda line: self._show([*self._lines, line]))
        yield task
        self.say(task.line())

    def _show(self, lines: list[str]) -> None:
        from IPython.display import display

        shown = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


def default() -> Progress:
    """Bars on a terminal, a cell in a notebook, plain lines elsewhere."""
    shell = sys.modules.get("IPython")
    if shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None:
        return Notebook()
    return Bars() if sys.stderr.isatty() else Lines()
