"""What can go wrong, by what the caller can do about it.

::

    RegraftError                    the base: one line, no traceback on the command line; exit code 1
    ├── UsageError                  the call is wrong: type something else; exit code 2
    │   ├── SettingsError           one or several settings are out of range, all named at once
    │   └── UnknownNameError        a backbone, split, class or column that does not exist; names the nearest
    ├── DataError                   the folder or table can't be used as it is
    │   └── ImageError              one file is no readable image; carries the reason
    ├── BackboneError               a network or its weights can't be had, or do not fit each other
    ├── ModelError                  a model folder or exported file is missing, unfinished or damaged
    │   └── TamperedError           a hashed file differs from the manifest
    ├── ExportError                 no file can be made that answers as the model does
    ├── BundleError                 the packages of a bundle can't be had
    ├── StoreError                  the feature store can't be read or written
    ├── TrainingError           a training can't go on: a loss that is no number, a plan that does not fit the network
    ├── OutputError                 the output folder is in use, finished or not writable
    ├── MissingExtraError           an optional dependency is not installed; carries the line to type
    └── StoppedError                stopped before the end; says what is kept and how to continue
        └── TimeLimitError          the time limit was reached

Every message says what was given, what is allowed and what to type instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class RegraftError(Exception):
    """Base of everything Regraft raises on purpose."""

    exit_code = 1


class UsageError(RegraftError, ValueError):
    """The call itself is wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """One or several settings are wrong; ``problems`` holds a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class UnknownNameError(UsageError):
    """A name that does not exist, with the nearest ones that do."""

    def __init__(self, kind: str, given: str, known: Iterable[str], hint: str = "") -> None:
        self.given = given
        self.nearest = tuple(difflib.get_close_matches(given, sorted(set(known)), n=3, cutoff=0.5))
        advice = f"did you mean {' or '.join(map(repr, self.nearest))}?" if self.nearest else ""
        super().__init__("; ".join(part for part in (f"no {kind} is called {given!r}", advice, hint) if part))


class DataError(RegraftError):
    """The given images or table can't be used as they are."""


class ImageError(DataError):
    """One file is no readable image.

    ``reason`` is a short phrase without the path, fit for a table of many files.
    """

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{path}: {reason}" if path else reason)


class BackboneError(RegraftError):
    """A network or its weights can't be had, or do not fit each other.

    ``differences`` holds a line for every tensor that does not fit, where that is why.
    """

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        self.differences = tuple(differences)
        super().__init__(message)


class ModelError(RegraftError):
    """A model folder or an exported file is missing, unfinished or not readable."""


class TamperedError(ModelError):
    """A file that decides answers differs from the manifest written when the model was finished."""


class ExportError(RegraftError):
    """A model can't be exported, or the exported file does not answer as the model does; nothing was written."""


class BundleError(RegraftError):
    """The packages that a bundle is to hold can't be had; nothing was written."""


class StoreError(RegraftError):
    """The feature store can't be read or written."""


class TrainingError(RegraftError):
    """A training by steps can't go on; nothing of the failed step is kept."""


class OutputError(RegraftError):
    """The output folder is finished already, in use, or can't be written."""


class MissingExtraError(RegraftError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part; install it with: pip install \"regraft[{extra}]\"")


class StoppedError(RegraftError):
    """Stopped before the end; the message says what is kept and how to continue."""


class TimeLimitError(StoppedError):
    """The time limit was reached."""
