"""What is told of a model on its way to another machine: whether it is whole there, and the folder it travels in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.records.base import Record, shown
from regraft.records.selftest import SelfTestResult


@dataclass(frozen=True)
class CheckedFile(Record):
    """One file that decides answers, and its SHA-256.

    Attributes
    ----------
    name:
        Its path below what was checked.
    expected, found:
        64 hexadecimal digits each; None where it is missing or can't be read.
    """

    name: str
    expected: str
    found: str | None


@dataclass(frozen=True, repr=False)
class Verification(Record):
    """Whether a model is the one that was made, and answers as it did.

    Attributes
    ----------
    path, kind:
        What was checked: a model ``folder``, an exported ``file``, or a ``bundle``.
    model_digest:
        The digest that names the model; None where it can't be told any more.
    files:
        Every file that was checked.
    self_test:
        How the recorded pictures are answered; None where there is no self-test or it was not run.
    notes:
        What is no mistake but should be known, a line each.
    errors:
        What differs, a line each; empty where all is well.
    seconds:
        Wall time, imports apart.
    """

    path: str
    kind: Literal["folder", "file", "bundle"]
    model_digest: str | None
    files: tuple[CheckedFile, ...]
    self_test: SelfTestResult | None
    notes: tuple[str, ...]
    errors: tuple[str, ...]
    seconds: float

    def __repr__(self) -> str:
        equal = sum(file.expected == file.found for file in self.files)
        lines = [f"{shown(self.path)}: " + (f"{len(self.errors):,} differences" if self.errors else "verified"),
                 f"  digests: {equal:,} of {len(self.files):,} files as they were"]
        if self.self_test is not None:
            test = self.self_test
            lines.append(f"  self-test: {test.files - len(test.differences):,} of {test.files:,} pictures answered as "
                         f"they were, probabilities within {test.largest_probability_difference:.1e}")
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  error: {error}" for error in self.errors]
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class BundleResult(Record):
    """A folder that was made for a machine without a connection.

    Attributes
    ----------
    out:
        The folder.
    model_digest:
        Of the model in it.
    files, bytes:
        What it holds, paths below it.
    wheels:
        How many of the files are packages to install.
    python, platform:
        What the wheels fit, such as ``3.11`` and ``linux-x86_64``; the Python that the Containerfile names.
    seconds:
        Wall time, imports apart.
    """

    out: str
    model_digest: str
    files: tuple[str, ...]
    bytes: int
    wheels: int
    python: str
    platform: str
    seconds: float

    def __repr__(self) -> str:
        wheels = (f"{self.wheels:,} wheels for Python {self.python} on {self.platform}" if self.wheels else
                  "no wheels: Regraft must be installed where it is to run")
        return (f"{shown(self.out)}: {len(self.files):,} files, {self.bytes / 1e6:,.1f} MB, in {self.seconds:.1f} s\n"
                f"  {wheels}\n  on the other machine, type: sh start.sh (on Windows start.cmd)")
