"""Every setting there is, told from its declaration."""

from __future__ import annotations

from collections.abc import Iterator

from regraft.errors import UnknownNameError
from regraft.records.described import SettingRow, SettingRows
from regraft.settings import commands, declared
from regraft.strategy.reading import places


def explain(word: str | None = None) -> SettingRows:
    """The settings of all commands and of a plan's tables; with a word, those it names.

    A word is a setting (``epochs``, ``--test-share``, ``phases.0.epochs``) or a part of its name, a command or a
    table of a plan (``train``, ``phases``). Raises UnknownNameError with the nearest.
    """
    rows = tuple(_merged())
    if word is None:
        return SettingRows(rows)
    name = word.strip().lstrip("-").replace("-", "_").rpartition(".")[2].strip("[]").lower()
    if name:
        for matches in (_is, _belongs, _contains):
            found = tuple(row for row in rows if matches(row, name))
            if found:
                return SettingRows(found)
    known = {row.name.lstrip("-") for row in rows} | {_plain(place) for row in rows for place in row.where}
    raise UnknownNameError("setting, command or table of a plan", word, known, "`regraft settings` lists all")


def _rows() -> Iterator[SettingRow]:
    for command, settings in commands().items():
        for item in declared(settings):
            name = item.setting.metavar or item.name if item.setting.positional else item.option
            where = f"regraft {command}"
            if item.setting.python_only:
                name, where = item.name, f"regraft.{command}()"
            yield SettingRow(name, (where,), item.default_text, item.allowed, item.setting.help)
    for place, kind in places():
        for item in declared(kind):
            yield SettingRow(item.name, (place,), item.default_text, item.allowed, item.setting.help)


def _merged() -> Iterator[SettingRow]:
    """Rows in order; what is said of several commands in the same words is one row."""
    where: dict[tuple[str, ...], list[str]] = {}
    for row in _rows():
        where.setdefault((row.name, row.default, row.allowed, row.help), []).extend(row.where)
    for (name, default, allowed, text), found in where.items():
        yield SettingRow(name, tuple(found), default, allowed, text)


def _plain(place: str) -> str:
    return place.removeprefix("regraft").strip(" .()[]")


def _name(row: SettingRow) -> str:
    return row.name.lstrip("-").replace("-", "_").lower()


def _is(row: SettingRow, name: str) -> bool:
    return _name(row) == name


def _belongs(row: SettingRow, name: str) -> bool:
    return name in map(_plain, row.where)


def _contains(row: SettingRow, name: str) -> bool:
    return name in _name(row)
