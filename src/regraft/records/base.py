"""What every record has: a dictionary, a file, a readable ``repr`` and a table for notebooks."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np

from regraft.errors import DataError


class Record:
    """Base of the frozen dataclasses that flow from room to room.

    ``to_dict`` gives plain JSON values under stable names; ``from_dict`` refuses unknown keys, values of
    another type and another ``format_version``, all mistakes in one message.
    """

    format_version: ClassVar[int] = 1
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what ``--json`` prints and what files hold."""
        return {"format_version": self.format_version, **_fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record of ``to_dict``'s output; raises DataError with every difference."""
        from pydantic import ValidationError

        given = dict(values)
        version = given.pop("format_version", None)
        if version != cls.format_version:
            raise DataError(
                f"{cls.__name__}: format_version is {version!r}, this Regraft reads {cls.format_version}"
            )
        try:
            record: Self = _adapter(cast(Hashable, cls)).validate_python(given)
        except ValidationError as error:
            places = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
            lines = (f"{place}: {message}" if place else message for place, message in places)
            raise DataError(f"{cls.__name__}: {'; '.join(lines)}") from None
        return record

    def to_json(self) -> str:
        """``to_dict`` as an indented JSON document, the same bytes for the same record."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _repr_html_(self) -> str:
        """Show the record's text as it is, escaped, in a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"


@functools.cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def plain(value: Any) -> Any:
    """JSON values of a record's field: tuples and arrays become lists, paths text."""
    if isinstance(value, Record):
        return _fields(value)  # the outermost record carries the format version
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def shown(name: str) -> str:
    """A class or file name fit for one line of a terminal: control characters and the like escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def harmless(text: str | None) -> str | None:
    """A text for a table's cell that no spreadsheet takes for a formula: an apostrophe in front makes it a text."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text


def columns(rows: Sequence[Sequence[str]], indent: int = 4) -> Iterator[str]:
    """Lines of a table whose columns are as wide as they need to be; columns of numbers stand to the right."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [any(map(_number, column)) and all(not cell or _number(cell) for cell in column[1:])
             for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.rjust(width) if number else cell.ljust(width)
                 for cell, width, number in zip(row, widths, right, strict=True))
        yield " " * indent + "  ".join(cells).rstrip()


def _number(cell: str) -> bool:
    return re.fullmatch(r"-?[\d,.]+(e[-+]?\d+)?", cell) is not None
