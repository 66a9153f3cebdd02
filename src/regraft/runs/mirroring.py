"""Which changed pictures keep their labels: the frozen probe is asked about validation images that are changed so.

It sees what a person would: digits and letters that are mirrored become others, photographs stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.metrics import mcnemar
from regraft.records.views import HorizontalFlip, Step, VerticalFlip, augmentation

#: Validation images that are asked about at most.
ASKED = 256

#: How often chance alone may let a harmless step be taken for harmful.
_BY_CHANCE = 0.01

#: Whether each of the images is told rightly after a step that changes all of them, bool [M].
Told = Callable[[Step], NDArray[np.bool_]]


@dataclass(frozen=True)
class Measured:
    """One step that was to be measured: of ``images`` some are ``lost`` by it, and some ``won``."""

    step: Step
    images: int
    lost: int
    won: int

    @property
    def harms(self) -> bool:
        """Whether more are lost than won, by more than chance."""
        return self.lost > self.won and mcnemar(self.lost, self.won) < 2 * _BY_CHANCE  # either way; here it is one

    def __repr__(self) -> str:
        what = "does harm here and is left away" if self.harms else "is kept"
        return (f"{self.step.name} {what}: of {self.images:,} validation images it makes {self.lost:,} wrong and "
                f"{self.won:,} right")


def measured(words: tuple[str, ...], as_they_are: NDArray[np.bool_], told: Told,
             ) -> tuple[tuple[str, ...], tuple[Measured, ...]]:
    """The words of an augmentation without steps that do harm, and what was found out about those to be measured.

    ``as_they_are`` [M] says of each image whether it is told rightly without any.
    """
    kept: list[str] = []
    found: list[Measured] = []
    for step in augmentation(words).steps:
        if not isinstance(step, HorizontalFlip | VerticalFlip) or step.keep == "always":
            kept.append(step.to_text())
            continue
        after = told(replace(step, p=1.0, keep="always"))
        one = Measured(step, len(after), int((as_they_are & ~after).sum()), int((after & ~as_they_are).sum()))
        found.append(one)
        if not one.harms:
            kept.append(replace(step, keep="always").to_text())
    return (tuple(kept) if found else words), tuple(found)
