"""TOML to a plan. Every mistake of a file is named at once, each in one line that begins with its place."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from regraft.errors import SettingsError
from regraft.records.base import shown
from regraft.records.plan import BackbonePlan, DataPlan, HeadPlan, Phase, Plan, PreprocessingPlan
from regraft.settings import Declared, declared, problem, unknown_setting
from regraft.strategy.words import WORDS

#: The tables of a plan besides ``[published]`` and ``[[phases]]``, in the order in which they are written.
TABLES: dict[str, type[Any]] = {
    "data": DataPlan, "preprocessing": PreprocessingPlan, "backbone": BackbonePlan, "head": HeadPlan}

#: What a plan holds beside its own settings, and the version of its form.
PHASES, PUBLISHED, VERSION = "phases", "published", "format_version"

#: What stands for a required setting that is missing or wrong while the others are checked together.
_STAND_IN: dict[str, Any] = {"learns": ("head",)}

#: A longer value is cut in an error message.
_LONG = 80

_K = TypeVar("_K")


def read_plan(text: str) -> Plan:
    """The plan of a TOML text.

    A single value stands for a list of one. Raises SettingsError with a line for every mistake: unknown tables
    and settings, values of the wrong type or out of range, settings that contradict each other.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        words = str(error)
        if "line" not in words:
            words = words.replace("at end of document", f"at line {text.count(chr(10)) + 1}, the end of the document")
        raise SettingsError([f"no TOML: {words}"]) from None
    except RecursionError:
        raise SettingsError(["no TOML: its lists are nested too deep; a plan needs tables and lists of values"]
                            ) from None
    return build_plan(values)


def build_plan(values: Mapping[str, Any]) -> Plan:
    """The plan of nested dictionaries, as TOML gives them; raises SettingsError like :func:`read_plan`."""
    reader = _Reader()
    given = {key: value for key, value in values.items() if key not in (*TABLES, PHASES, PUBLISHED, VERSION)}
    version = values.get(VERSION, Plan.format_version)
    if version != Plan.format_version or isinstance(version, bool):
        reader.problems.append(f"{VERSION}: {_given(version)} is not allowed; this Regraft reads {Plan.format_version}")
    parts: dict[str, Any] = {
        name: reader.record(kind, values[name], name) for name, kind in TABLES.items() if name in values}
    parts[PHASES] = reader.phases(values.get(PHASES, []))
    reader.doubtful(*(kind for name, kind in TABLES.items() if parts.get(name, kind) is None))
    parts[PUBLISHED] = reader.published(values.get(PUBLISHED, {}))
    plan = reader.record(Plan, given, "", {name: part for name, part in parts.items() if part is not None})
    if reader.problems or plan is None:
        raise SettingsError(reader.problems)
    return plan


def places() -> Iterator[tuple[str, type[Any]]]:
    """Each table of a plan as it is written, and its record."""
    yield "the top of a plan", Plan
    for name, kind in TABLES.items():
        yield f"[{name}]", kind
    yield f"[[{PHASES}]]", Phase


class _Reader:
    """Builds records and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.wrong: set[str] = set()  # names of settings whose values were refused

    def record(self, kind: type[_K], values: object, path: str, parts: Mapping[str, Any] | None = None) -> _K | None:
        """The record of one table, or None; what is wrong in it is left out, so that the rest is checked too."""
        inside = f"{path}." if path else ""
        if not isinstance(values, Mapping):
            table = f"[[{PHASES}]]" if kind is Phase else f"[{path}]"
            self.problems.append(f"{path}: {_given(values)} is not allowed; it must be a table, {table}")
            return None
        known = {item.name: item for item in declared(kind)}
        good: dict[str, Any] = dict(parts or {})
        wrong = set(self.wrong) if kind is Plan else set()
        for key, value in values.items():
            if key not in known:
                self.problems.append(_no_such(key, value, inside, kind, list(known)))
                continue
            fitted = _fitted(known[key], value)
            words = problem(known[key], fitted) or _word_problem(kind, key, fitted)
            if words:
                wrong.add(key)
                self.problems.append(f"{inside}{key}: {_given(value)} is not allowed; it must be {words}")
            else:
                good[key] = fitted
        for item in known.values():
            if item.default is dataclasses.MISSING and item.name not in good:
                good[item.name] = _STAND_IN.get(item.name, path)
                if item.name not in values:
                    self.problems.append(f"{inside}{item.name}: missing; {item.setting.help}")
        self.wrong |= wrong
        try:
            return kind(**good)
        except SettingsError as error:
            # A contradiction with a value that was refused already would be told twice.
            self.problems += [f"{inside}{told}" for told in _told(error, good, inside)
                              if not wrong & set(re.findall(r"\w+", told))]
            return None

    def doubtful(self, *kinds: type[Any]) -> None:
        """Say nothing of a whole plan that depends on these records: they could not be built."""
        self.wrong |= {item.name for kind in kinds for item in declared(kind)}

    def phases(self, values: object) -> tuple[Phase, ...]:
        """The phases that can be built."""
        if not isinstance(values, list | tuple):
            self.problems.append(f"{PHASES}: {_given(values)} is not allowed; it must be a list of tables, each under "
                                 f"[[{PHASES}]]")
            return ()
        found = [self.record(Phase, value, f"{PHASES}.{number}") for number, value in enumerate(values)]
        if None in found:
            self.doubtful(Phase)
        return tuple(phase for phase in found if phase is not None)

    def published(self, values: object) -> dict[str, str]:
        """The figures of ``[published]``, as text."""
        if not isinstance(values, Mapping):
            self.problems.append(f"{PUBLISHED}: {_given(values)} is not allowed; it must be a table, [{PUBLISHED}]")
            return {}
        self.problems += [f"{PUBLISHED}.{shown(key)}: {_given(value)} is not allowed; it must be text"
                          for key, value in values.items() if not isinstance(value, str)]
        return {key: value for key, value in values.items() if isinstance(value, str)}


def _told(error: SettingsError, values: Mapping[str, Any], inside: str) -> list[str]:
    """The problems of a record without the place that it says itself."""
    return [told.removeprefix(f"{values.get('name') or 'phase'}: ").removeprefix(inside) for told in error.problems]


def _fitted(item: Declared, value: object) -> object:
    """The value as the record holds it: lists as tuples, one value as a tuple of one, whole numbers as floats."""
    if get_origin(item.type) is tuple:
        one = dataclasses.replace(item, type=get_args(item.type)[0])
        members = value if isinstance(value, list | tuple) else [value]
        return tuple(_fitted(one, member) for member in members)
    if isinstance(value, int) and not isinstance(value, bool) and float in item.kinds:
        try:
            return float(value)
        except OverflowError:
            return value
    return value


def _word_problem(kind: type[Any], key: str, value: object) -> str | None:
    of_word = WORDS.get((kind, key))
    if of_word is None or not isinstance(value, tuple):
        return None
    return next((words for words in map(of_word, value) if words), None)


def _no_such(key: str, value: object, inside: str, kind: type[Any], known: Sequence[str]) -> str:
    """One line about an unknown key: the nearest of its table, else the table that it belongs to, else all."""
    here = [*known, *TABLES, PHASES, PUBLISHED] if kind is Plan else list(known)
    if not difflib.get_close_matches(key, here, n=1):
        owners = [place for place, other in places() if other is not kind and key in {i.name for i in declared(other)}]
        if owners:
            return f"{inside}{key}: no such setting here; it belongs to {' or '.join(owners)}"
    line = unknown_setting(shown(key), here, inside)
    is_table = isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping))
    return line.replace("no such setting", "no such table", 1) if is_table and kind is Plan else line


def _given(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else text[:_LONG] + "..."
