"""The fenced blocks of a page, and what a reader does with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S):
        yield found[1], found[2]


def programs(page: Path) -> list[str]:
    """The blocks of Python."""
    return [block for language, block in blocks(page) if language == "python"]


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks, without comments; lines that end in a backslash are joined."""
    lines = (line.partition("#")[0].strip() for language, block in blocks(page) if language == "shell"
             for line in block.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def run(program: str, name: str) -> None:
    """What a reader does who copies the block into a file."""
    exec(compile(program, name, "exec"), {"__name__": "__main__"})  # noqa: S102 - our own page
