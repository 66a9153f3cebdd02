"""The texts of a bundle: how to start it, how to make a container of it, what it is."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from string import Template

_FOLDER = files("regraft.bundling") / "files"

#: Names of the texts; those that are typed as commands.
TEXTS, SCRIPTS = ("start.sh", "start.cmd", "Containerfile", "README.txt"), ("start.sh",)


def filled(name: str, values: Mapping[str, object]) -> bytes:
    """A text with its values, as the bytes of its file: those of Windows have Windows's line ends."""
    text = Template((_FOLDER / name).read_text("utf-8")).substitute(values)
    return (text.replace("\n", "\r\n") if name.endswith(".cmd") else text).encode()
