"""The output folder of a training: claimed, continued, finished, never half a model."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from regraft.errors import OutputError
from regraft.manifest import NAME as MANIFEST
from regraft.model import RUN
from regraft.records.base import Record, harmless, plain, shown
from regraft.records.images import Quarantined

#: What a run was begun with, and what a process that works in it holds.
STARTED, LOCK = "settings.json", ".lock"

#: Why the run did not finish, where it could still say so.
STOPPED = "stopped.json"
_FORMAT = 1


def fresh_folder(name: str) -> Path:
    """A folder under ``runs/`` that does not exist yet, named after the data and the time."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")[:60] or "run"
    base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000)))
    return next(folder for folder in candidates if not folder.exists())


class RunFolder:
    """``OUT/run``: what a training writes besides the model. Made by :func:`claim`."""

    def __init__(self, out: Path, continued: bool) -> None:
        self.out = out
        self.path = out / RUN
        self.continued = continued

    def write(self, name: str, record: Record | Mapping[str, Any]) -> None:
        """Write one JSON document, whole or not at all."""
        values = record.to_dict() if isinstance(record, Record) else plain(record)
        write_whole(self.path / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def write_lines(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Write JSON lines, whole or not at all."""
        write_whole(self.path / name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))

    def write_quarantine(self, quarantined: Sequence[Quarantined]) -> None:
        """List the unreadable files with their reasons; no cell is a formula to a spreadsheet."""
        with (self.path / "quarantine.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "reason"])
            writer.writerows([harmless(q.path), harmless(q.reason)] for q in quarantined)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it there; nothing is left where that fails."""
    half = path.with_name(f".{path.name}.half")
    try:
        half.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def read_lines(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a file of JSON lines; none where it is not there or no such file."""
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if isinstance(line, dict)]


def begun_with(out: Path) -> dict[str, Any]:
    """The settings that the run in a model folder was begun with, as plain values; empty where none are told."""
    begun = _read(out / RUN / STARTED)
    settings = begun.get("settings") if isinstance(begun, dict) else None
    return settings if isinstance(settings, dict) else {}


@contextmanager
def whole_file(path: Path, forecast: int) -> Iterator[Path]:
    """A place beside ``path`` to write to, renamed to it at the end; nothing is left of what does not get so far.

    ``forecast`` is how many bytes the file will take. Raises OutputError where the disk has no room for them or
    the folder can't be written.
    """
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < forecast:
            raise OutputError(f"{shown(str(path))} needs {forecast:,} bytes, {free:,} are free there; free some, or "
                              "take another place")
        yield half
        with half.open("rb") as file:
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        raise OutputError(f"{shown(str(path))} can't be written ({error.strerror or error}); take another place"
                          ) from None
    finally:
        if half.exists():
            half.unlink()


def require_free(out: Path, force: bool, resume: bool) -> bool:
    """Raise OutputError where no training may begin in a folder or go on there; True where one is unfinished."""
    finished, begun = (out / MANIFEST).exists(), _read(out / RUN / STARTED) is not None
    if finished and not force:
        raise OutputError(f"{out} holds a finished model; take another --out, or replace it with --force")
    if not begun and not finished and out.exists() and any(out.iterdir()):
        raise OutputError(f"{out} is neither empty nor the folder of a run; take another --out")
    if resume and (finished or not begun):
        raise OutputError(f"{out} holds no unfinished run to resume; leave --resume away to begin one there")
    return begun and not finished


@contextmanager
def claim(out: Path, settings: Mapping[str, Any], force: bool, resume: bool = False) -> Iterator[RunFolder]:
    """Take an output folder for this process: begin in it, or continue what the same settings began.

    Raises OutputError where the folder is finished (without ``force``), holds nothing to ``resume``, was begun with
    other settings, holds something else, is in use by another process, or can't be written.
    """
    run = out / RUN
    given = {"format_version": _FORMAT, "settings": plain(settings)}
    continued = require_free(out, force, resume)
    started = _read(run / STARTED)
    if continued and started != given and not force:
        raise OutputError(f"{out} was begun with other settings ({_difference(started, given)}); say the same again, "
                          "take another --out, or begin anew with --force")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}); take another --out") from None
    lock = filelock.FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(f"{out} is in use by another training; wait for it, or take another --out") from None
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}); take another --out") from None
    try:
        folder = RunFolder(out, continued and started == given)
        folder.write(STARTED, given)
        (run / STOPPED).unlink(missing_ok=True)
        yield folder
    except BaseException as error:
        _tell(run, error)
        raise
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _tell(run: Path, error: BaseException) -> None:
    """Write down why the run ends here; a disk that has no room for it is not to hide the reason itself."""
    reason = "it was stopped by hand" if isinstance(error, KeyboardInterrupt | GeneratorExit) else str(error)
    with contextlib.suppress(OSError):
        write_whole(run / STOPPED, json.dumps({"format_version": _FORMAT, "kind": type(error).__name__,
                                               "message": reason}) + "\n")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _difference(started: Any, given: Mapping[str, Any]) -> str:
    before, now = (started or {}).get("settings", {}), given["settings"]
    names = sorted(set(before) | set(now))
    return ", ".join(f"{n}: {before.get(n)!r}, now {now.get(n)!r}" for n in names if before.get(n) != now.get(n))
