"""The gradient of a batch, in as many parts as memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from regraft.errors import TrainingError

#: How often a batch is halved before the training gives up.
_HALVINGS = 3

_Found = TypeVar("_Found")


class Portions:
    """Works through batches in equal parts; where memory runs out, in twice as many from then on.

    The parts' gradients add up to the batch's, so a step stays what it was; only batch norm in training mode sees the
    statistics of a part instead of the batch's.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._parts = 1

    def run(self, count: int, parameters: Sequence[Tensor], part: Callable[[slice], _Found]) -> list[_Found]:
        """What ``part`` gives for slices of a batch of so many images, each of which adds to the gradients.

        Every image is in exactly one slice whose gradient counts. Raises TrainingError where an eighth of the batch, or
        a single image, is too large.
        """
        before = [parameter.grad for parameter in parameters]
        while (found := self._try(count, parameters, part)) is None:
            if self._parts == 2**_HALVINGS or self._parts >= count:
                raise TrainingError(f"memory ran out with {-(-count // self._parts)} of {count} images at a time; take "
                                    "a smaller batch or size, or a network that needs less")
            self._parts *= 2
            self._say(f"memory ran out: batches of {count} are worked through in {self._parts} parts, one step for all")
        for parameter, earlier in zip(parameters, before, strict=True):
            if earlier is not None:
                parameter.grad = earlier if parameter.grad is None else parameter.grad + earlier
        return found

    def _try(self, count: int, parameters: Sequence[Tensor], part: Callable[[slice], _Found]) -> list[_Found] | None:
        """None where memory ran out."""
        for parameter in parameters:
            parameter.grad = None
        size = -(-count // self._parts)
        try:
            return [part(slice(at, min(at + size, count))) for at in range(0, count, size)]
        except (MemoryError, RuntimeError) as error:
            if not _is_shortage(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _is_shortage(error: Exception) -> bool:
    """Whether memory ran out; on a processor PyTorch has no error of its own for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
