"""A plan to TOML: what differs from the defaults, each setting under a comment that explains it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regraft.errors import OutputError, SettingsError
from regraft.records.base import shown
from regraft.records.plan import Plan
from regraft.settings import declared
from regraft.strategy.reading import PHASES, PUBLISHED, TABLES, VERSION

_WIDTH = 110
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(plan: Plan, *, comments: bool = True) -> str:
    """TOML text that :func:`regraft.strategy.reading.read_plan` reads as the same plan.

    Only what differs from its default is written, by default with its meaning and range as a comment. Raises
    SettingsError for text that no UTF-8 file can hold.
    """
    tree = values(plan, defaults=False)
    lines = [f"{VERSION} = {plan.format_version}", *_settings(plan, comments)]
    if plan.published:
        lines += ["", f"[{PUBLISHED}]", *(f"{_key(key)} = {_value(text)}" for key, text in plan.published.items())]
    for name in TABLES:
        if name in tree:
            lines += ["", f"[{name}]", *_settings(getattr(plan, name), comments)]
    for phase in plan.phases:
        lines += ["", f"[[{PHASES}]]", *_settings(phase, comments)]
    return "\n".join(lines) + "\n"


def save_plan(plan: Plan, path: str | Path, *, force: bool = False) -> Path:
    """Write the plan to a TOML file; the file's path.

    Raises OutputError where the file is there already (without ``force``) or can't be written.
    """
    file = Path(path).expanduser()
    if file.exists() and not force:
        raise OutputError(f"{shown(str(file))} is there already; take another name, or replace it with --force")
    text = to_toml(plan)
    half = file.with_name(f".{file.name}.half")
    try:
        half.write_text(text, "utf-8")
        half.replace(file)
    except OSError as error:
        raise OutputError(f"{shown(str(file))} can't be written ({error.strerror}); take another name") from None
    return file


def values(plan: Plan, *, defaults: bool = True) -> dict[str, Any]:
    """The plan as nested dictionaries in TOML's types; without ``defaults`` only what differs from them.

    A setting that is None is left out: TOML has no word for it.
    """
    tree = {**_values(plan, defaults), PUBLISHED: dict(plan.published),
            **{name: _values(getattr(plan, name), defaults) for name in TABLES},
            PHASES: [_values(phase, defaults) for phase in plan.phases]}
    return {key: value for key, value in tree.items() if defaults or value not in ({}, [])}


def _values(record: object, defaults: bool) -> dict[str, Any]:
    given = {item.name: getattr(record, item.name) for item in declared(type(record))
             if defaults or getattr(record, item.name) != item.default}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()
            if value is not None}


def _settings(record: object, comments: bool) -> Iterator[str]:
    about = {item.name: item for item in declared(type(record))}
    for name, value in _values(record, defaults=False).items():
        if comments:
            item = about[name]
            limits = item.allowed if item.choices or item.setting.range else ""
            text = f"{item.setting.help} [{limits}]" if limits else item.setting.help
            yield from textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        yield f"{name} = {_value(value)}"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    return f'"{"".join(map(_character, str(value)))}"'


def _character(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    if 0xD800 <= ord(c) <= 0xDFFF:
        raise SettingsError([f"{c!r} is a byte that is no text; a plan's file holds UTF-8 text only"])
    return c if c >= " " and c != "\x7f" else f"\\u{ord(c):04X}"
