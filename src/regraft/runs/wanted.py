"""What the settings of a training want decided, read and checked against the classes before anything runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from regraft.errors import DataError, UnknownNameError, UsageError
from regraft.records.base import shown
from regraft.records.decisions import ASK, Requirement, Wanted
from regraft.settings import TrainSettings, required_recall


def wanted(settings: TrainSettings, classes: Sequence[str]) -> Wanted:
    """The wishes of the settings.

    Raises UnknownNameError for a class that is none, DataError for a table of costs that does not fit the classes,
    UsageError where a class is called like the decision to ask a person.
    """
    requirements = tuple(Requirement(*required_recall(text)) for text in settings.require)
    for requirement in requirements:
        if requirement.label not in classes:
            raise UnknownNameError("class", requirement.label, classes,
                                   f"the classes are {', '.join(map(shown, classes[:10]))}")
    costs, ask_cost = ((), None) if settings.costs is None else read_costs(Path(settings.costs).expanduser(), classes)
    if ASK in classes and (settings.ask is not None or ask_cost is not None):
        raise UsageError(f"a class is called {ASK!r}, which is what a decision to ask a person is called; rename it, "
                         "or leave asking away")
    return Wanted(settings.accept, requirements, costs, ask_cost, settings.ask, settings.conformal)


def read_costs(file: Path, classes: Sequence[str]) -> tuple[tuple[tuple[float, ...], ...], float | None]:
    """A table of costs: a row for each right class, a column for each decision, with ``ask`` among them if wanted.

    The cost of asking must be the same in each row. Raises DataError.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            header, *rows = [row for row in csv.reader(handle) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{shown(str(file))} can't be read as a table of costs ({error})") from None
    columns = header[1:]
    asks = ASK in columns and ASK not in classes
    expected = [*classes, *([ASK] if asks else [])]
    for what, names, needed in (("columns", columns, expected), ("rows", [row[0] for row in rows], list(classes))):
        if sorted(names) != sorted(needed):
            raise DataError(f"{file.name} has the {what} {', '.join(map(shown, names[:10]))}; costs need one for each "
                            f"class ({', '.join(map(shown, classes[:10]))}), and may have a column {ASK}")
    table = {row[0]: dict(zip(columns, row[1:], strict=False)) for row in rows}
    costs = tuple(tuple(_cost(file, table[right].get(decided)) for decided in classes) for right in classes)
    asking = {_cost(file, row[ASK]) for row in table.values()} if asks else set()
    if len(asking) > 1:
        raise DataError(f"{file.name}: asking a person costs the same whatever is right; the column {ASK} holds "
                        "several values")
    return costs, asking.pop() if asking else None


def _cost(file: Path, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{file.name}: {shown(text or '')!r} is no cost; it must be a number of at least 0")
    return value
