"""What this machine has for Regraft: the record of ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record, columns, shown
from regraft.records.engines import EngineChoice


@dataclass(frozen=True)
class EngineRow(Record):
    """One engine: its version, what it computes in, and what is missing where it can't run."""

    engine: str
    version: str | None
    precisions: tuple[str, ...]
    missing: str = ""


@dataclass(frozen=True, repr=False)
class Doctor(Record):
    """What was found on this machine.

    Attributes
    ----------
    version, python, system:
        Of Regraft and of what it runs on.
    processor, arithmetic, cores, memory_bytes:
        The processor's name, its instructions that matter here, the cores this process may use, the machine's
        memory; None where the system does not tell.
    gpu:
        What is known of a GPU, in a line; empty where none was found.
    engines:
        A row for each engine.
    store, store_bytes:
        Where the feature store is, and the bytes of its features.
    choices:
        Which engines were measured for which network, the latest first.
    """

    version: str
    python: str
    system: str
    processor: str
    arithmetic: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    gpu: str
    engines: tuple[EngineRow, ...]
    store: str
    store_bytes: int
    choices: tuple[EngineChoice, ...]

    def __repr__(self) -> str:
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:,.1f} GiB of memory"
        lines = [f"regraft {self.version}, Python {self.python}, {self.system}",
                 f"processor: {self.processor}, {self.cores} cores{memory}",
                 f"  {', '.join(self.arithmetic) or 'its instructions are not known'}",
                 f"GPU: {self.gpu or 'none was found'}", "engines:"]
        lines += columns([(row.engine, row.version or "-", ", ".join(row.precisions) or row.missing)
                          for row in self.engines])
        lines.append(f"feature store: {shown(self.store)}, {self.store_bytes / 2**20:,.1f} MiB")
        for choice in self.choices:
            lines += ["", *_choice_lines(choice)]
        return "\n".join(lines)


def _choice_lines(choice: EngineChoice) -> list[str]:
    """What was measured for one network, and what was taken."""
    lines = [f"{shown(choice.backbone)} at {choice.size} pixels, on {choice.cores} cores:"]
    rows = [("", "images/s", "cosine", "same answers", "")]
    for figures in choice.figures:
        taken = [what for what, kind in (("to learn from", choice.learning), ("for figures", choice.answers))
                 if kind == figures.kind]
        rows.append((str(figures.kind), _told(figures.images_per_second, ",.1f"), _told(figures.cosine, ".4f"),
                     _told(figures.same_answers, ".0%"), " and ".join(taken) or figures.reason))
    lines += columns(rows)
    if choice.reason:
        lines.append(f"    taken: {choice.reason}")
    return lines


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
