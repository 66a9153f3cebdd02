"""JSON schemas of records, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from regraft.records.base import Record


def schema(record: type[Record]) -> dict[str, Any]:
    """The schema of ``record.to_dict()``, whole in itself."""
    written = TypeAdapter(record).json_schema()
    parts = written.pop("$defs", {})
    whole: dict[str, Any] = _inlined(written, parts)
    whole["properties"] = {"format_version": {"const": record.format_version}, **whole["properties"]}
    return whole


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    """The schema with every reference replaced by what it names."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(parts[node["$ref"].rpartition("/")[2]], parts)
        return {key: _inlined(value, parts) for key, value in node.items()}
    return [_inlined(item, parts) for item in node] if isinstance(node, list) else node
