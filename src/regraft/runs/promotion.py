"""A finished candidate takes the place of a model folder, all at once; the old model stays beside it.

The two folders change places in one step where the system can do that (Linux and macOS, on file systems that exchange
names), so at every moment the model's place holds one whole model. Elsewhere the old folder is moved away first; a note
beside the model says what was meant to happen, and the next update finishes it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from regraft.errors import OutputError
from regraft.records.base import shown
from regraft.runs.folder import begun_with, write_whole

_FORMAT = 1

#: Arguments of the systems' calls: the current folder for both names, and "exchange".
_AT_FDCWD = {"linux": -100, "darwin": -2}
_EXCHANGE = 2


@contextmanager
def alone(model: Path) -> Iterator[None]:
    """Let no other update of the same model run meanwhile; raises OutputError where one does.

    What was stopped in the middle of a promotion is finished first.
    """
    lock = filelock.FileLock(model.with_name(f".{model.name}.update.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(f"{shown(str(model))} is being updated by another process; wait for it") from None
    except OSError as error:
        raise OutputError(f"{shown(str(model.parent))} can't be written ({error.strerror}), so nothing in it can be "
                          "replaced; copy the model elsewhere") from None
    try:
        _finish(model)
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def promote(model: Path, candidate: Path, previous: Path, update: str) -> None:
    """Put the candidate where the model is, and the model to ``previous``; ``update`` names the candidate's run.

    Raises OutputError where the folders can't be moved; the old model is then where it was.
    """
    note = _note(model)
    try:
        write_whole(note, json.dumps({"format_version": _FORMAT, "candidate": str(candidate), "previous": str(previous),
                                      "update": update}) + "\n")
        if not _exchange(candidate, model):
            _move(model, candidate, previous)
    except OSError as error:
        note.unlink(missing_ok=True)
        raise OutputError(f"{shown(str(model))} can't be replaced ({error.strerror or error}); the candidate stays in "
                          f"{shown(str(candidate))}") from None
    _finish(model)


def _move(model: Path, candidate: Path, previous: Path) -> None:
    """The same in two steps; the first is undone where the second fails."""
    model.rename(previous)
    try:
        candidate.rename(model)
    except OSError:
        previous.rename(model)
        raise


def _finish(model: Path) -> None:
    """Finish or undo what was stopped in the middle of a promotion; nothing where none was."""
    note = _note(model)
    meant = _read(note)
    if meant is None:
        return
    candidate, previous = Path(meant["candidate"]), Path(meant["previous"])
    try:
        if not model.exists():
            (candidate if _is(candidate, meant["update"]) else previous).rename(model)
        elif _is(model, meant["update"]) and candidate.exists() and not previous.exists():
            candidate.rename(previous)
        note.unlink()
    except OSError as error:
        raise OutputError(f"an update of {shown(str(model))} was stopped while the folders {shown(str(candidate))}, "
                          f"{shown(str(model))} and {shown(str(previous))} changed places, and that can't be finished "
                          f"({error.strerror or error})") from None


def require_movable(model: Path, candidate: Path) -> None:
    """Raise OutputError where the candidate's folder could not take the model's place in one step."""
    near = next(folder for folder in (candidate, *candidate.parents) if folder.exists())
    if near.stat().st_dev != model.stat().st_dev:
        raise OutputError(f"{shown(str(candidate))} is on another disk than {shown(str(model))} and could not take its "
                          "place at once; leave --out away, or name a folder beside the model")


def _note(model: Path) -> Path:
    return model.with_name(f".{model.name}.promotion.json")


def _read(note: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(note.read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _is(folder: Path, update: str) -> bool:
    """Whether a folder holds the run of an update."""
    return begun_with(folder).get("update") == update


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system or the file system knows no such step."""
    call = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    function = None if call is None else getattr(ctypes.CDLL(None, use_errno=True), call, None)
    if function is None:
        return False
    here = _AT_FDCWD[sys.platform]
    if function(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number))
