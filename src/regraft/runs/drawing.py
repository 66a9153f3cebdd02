"""A picture beside what a run writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from regraft.errors import MissingExtraError
from regraft.progress import Progress
from regraft.report.sheet import Picture
from regraft.runs.folder import write_whole


def draw(make: Callable[[], Picture | None], folder: Path, name: str, what: str, progress: Progress) -> None:
    """Write a picture as ``NAME.png`` and ``NAME.svg``.

    Results without a picture are results, so what is missing for drawing it is said and no more.
    """
    try:
        picture = make()
    except MissingExtraError as error:
        progress.say(f"no {what} drawn: {error}")
        return
    if picture is not None:
        write_whole(folder / f"{name}.png", picture.png)
        write_whole(folder / f"{name}.svg", picture.svg)
