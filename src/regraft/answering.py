"""Images in, predictions out, in order: the one way for every kind of model, whatever runs its network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.listing import Seen, pictures
from regraft.data.view import view0
from regraft.errors import DataError, ImageError
from regraft.extraction.ordered import ordered_map
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Prediction

#: Name and source of an image.
Named = tuple[str, Any]


@dataclass(frozen=True)
class Answerer:
    """What answers: ``answer`` takes names and pixels, uint8 [B, S, S, 3], of at most ``batch`` images."""

    preprocessing: Preprocessing
    batch: int
    answer: Callable[[Sequence[str], NDArray[np.uint8]], Sequence[Prediction]]

    def answers(self, sources: Sequence[Named], progress: Progress) -> Iterator[Prediction]:
        """An answer for each image, in order; decoding goes on while the network runs.

        An unreadable image is an answer with its ``error``. However many images there are, a bounded number of them
        is in memory.
        """
        waiting: list[tuple[str, NDArray[np.uint8] | str]] = []
        readable = 0
        with (progress.task("predicting", len(sources)) as task,
              closing(ordered_map(self._look, sources)) as looked_at):
            for name, seen in looked_at:
                waiting.append((name, seen))
                readable += not isinstance(seen, str)
                if readable == self.batch or len(waiting) == 16 * self.batch:
                    yield from self._answer(waiting)
                    waiting, readable = [], 0
                task.advance()
            yield from self._answer(waiting)

    def _look(self, item: Named) -> tuple[str, NDArray[np.uint8] | str]:
        """Name and pixels, or why there are none."""
        name, source = item
        try:
            return name, view0(source, self.preprocessing).pixels
        except ImageError as error:
            return name, error.reason

    def _answer(self, images: Sequence[tuple[str, NDArray[np.uint8] | str]]) -> Iterator[Prediction]:
        readable = [(name, seen) for name, seen in images if not isinstance(seen, str)]
        answered = iter(self.answer([name for name, _ in readable], np.stack([pixels for _, pixels in readable]))
                        if readable else ())
        for name, seen in images:
            yield Prediction(name, error=seen) if isinstance(seen, str) else next(answered)


def named_sources(images: Any, follow_links: bool) -> Iterator[Named]:
    """Name and source of each image; folders are opened. Raises DataError where one holds no pictures."""
    if isinstance(images, str | Path):
        path = Path(images)
        if not path.is_dir():
            yield str(images), path
            return
        found = list(pictures(path, path, Seen(), follow_links))
        if not found:
            raise DataError(f"{shown(str(images))} holds no pictures")
        for name in found:
            yield str(path / name), path / name
    elif isinstance(images, Sequence) and not isinstance(images, bytes):
        for image in images:
            yield from named_sources(image, follow_links)
    else:
        yield f"<{type(images).__name__}>", images
