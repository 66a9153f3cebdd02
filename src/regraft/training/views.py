"""Views of an image: 0 is the evaluation view, 1, 2, ... are seeded augmentations of it.

A view's pixels follow from the image, the view's number, the seed and the augmentation alone: not from the order of
calls, the thread or the process, and no global random state is read or moved. So what is computed from a view can be
kept under :meth:`Views.key`, as it is for view 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.view import Source, picture, pixel_digest, stretched, view0, view_key
from regraft.errors import DataError, SettingsError, UsageError
from regraft.records.preprocessing import Preprocessing
from regraft.records.views import Augmentation, RandomResizedCrop
from regraft.training.transforms import LAW, Draw, apply, arithmetic, crop_box, narrowest_side

Pixels = NDArray[np.uint8]

#: Pixels between the pictures of a preview.
_GAP = 4


@dataclass(frozen=True)
class CustomAugmentation:
    """A function of the user's own in place of an augmentation; it acts on view 0's pixels.

    Parameters
    ----------
    function:
        Takes uint8 [size, size, 3], which it may change, and a seeded numpy Generator, its only source of chance;
        gives uint8 [size, size, 3]. It is called from several threads.
    version:
        Names what the function does, whatever it depends on: change it with the function. Without one, nothing
        computed from its views is kept.
    """

    function: Callable[[Pixels, np.random.Generator], Pixels]
    version: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and not self.version.strip():
            raise SettingsError([f"version: {self.version!r} is not allowed; it must be text, or None to keep nothing"])

    @property
    def name(self) -> str:
        """Module and name of the function."""
        function = self.function
        return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"

    def varied(self, pixels: Pixels, generator: np.random.Generator) -> Pixels:
        """What the function makes of a copy of the pixels; raises DataError unless it is as many."""
        given: object = self.function(pixels.copy(), generator)
        if not isinstance(given, np.ndarray):
            raise DataError(f"{self.name} gives {type(given).__name__}; it must give a numpy array, "
                            f"uint8 {list(pixels.shape)}")
        if given.dtype != np.uint8 or given.shape != pixels.shape:
            raise DataError(f"{self.name} gives {given.dtype} {list(given.shape)}; it must give uint8 "
                            f"{list(pixels.shape)}")
        return np.ascontiguousarray(given)


@dataclass(frozen=True)
class Views:
    """The views of every image under one augmentation, one preprocessing and one seed."""

    augmentation: Augmentation | CustomAugmentation
    rules: Preprocessing
    seed: int

    @property
    def cacheable(self) -> bool:
        """Whether :meth:`key` names the pixels of every view for good."""
        return isinstance(self.augmentation, Augmentation) or self.augmentation.version is not None

    def key(self, k: int) -> str:
        """What decides view ``k`` besides the image; of view 0 it is :func:`regraft.data.view.view_key`.

        Raises UsageError where views can't be kept, and MissingExtraError without torchvision.
        """
        _check_number(k)
        if k == 0:
            return view_key(self.rules)
        values = {"view": view_key(self.rules), "k": k, "seed": self.seed, **self._named()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

    def _named(self) -> dict[str, object]:
        """The augmentation and what carries it out, as JSON values."""
        if isinstance(self.augmentation, CustomAugmentation):
            if self.augmentation.version is None:
                raise UsageError(f"{self.augmentation.name} has no version, so its views can't be kept; "
                                 "give CustomAugmentation(function, version=...)")
            return {"function": self.augmentation.name, "version": self.augmentation.version,
                    "law": f"{LAW} numpy-{np.__version__}"}
        crop = self.augmentation.crop
        # In the order in which they act: a crop that stands elsewhere makes no other pixels.
        steps = (*(() if crop is None else (crop,)), *self.augmentation.after_crop)
        return {"steps": Augmentation(steps).to_dict(), "arithmetic": arithmetic()}

    def pixels(self, data: Source, k: int, digest: bytes) -> Pixels:
        """View ``k`` of an image, uint8 [size, size, 3].

        ``data`` is what :func:`regraft.data.view.view0` takes, ``digest`` the 16 bytes that name view 0's pixels.
        Raises ImageError where the data is no readable image, and DataError for a wrong answer of a function of yours.
        """
        _check_number(k)
        if len(digest) != 16:
            raise UsageError(f"digest: {len(digest)} bytes given; it must be the 16 that name view 0's pixels")
        if k == 0:
            return view0(data, self.rules).pixels
        draw = Draw(self.seed, k, digest)
        if isinstance(self.augmentation, CustomAugmentation):
            return self.augmentation.varied(view0(data, self.rules).pixels, draw.generator)
        crop = self.augmentation.crop
        pixels = view0(data, self.rules).pixels if crop is None else self._cropped(data, crop, draw)
        image = Image.fromarray(pixels)
        for step in self.augmentation.after_crop:
            image = apply(step, image, draw, self.rules.pad_colour)
        return np.asarray(image)

    def _cropped(self, data: Source, crop: RandomResizedCrop, draw: Draw) -> Pixels:
        whole = picture(data, self.rules, lambda width, height: narrowest_side(width, height, crop)).image
        return stretched(whole, crop_box(*whole.size, crop, draw), self.rules)


def _check_number(k: int) -> None:
    if k < 0:
        raise UsageError(f"view {k} is not allowed; views are numbered from 0")


def preview(image: Source, views: Views, count: int = 9) -> Image.Image:
    """Views 1 to ``count`` of one picture in a grid on white, as near to a square as they fill; RGB."""
    if count < 1:
        raise UsageError(f"count: {count} is not allowed; it must be at least 1")
    digest = pixel_digest(view0(image, views.rules).pixels)
    columns = math.ceil(math.sqrt(count))
    step = views.rules.size + _GAP
    grid = Image.new("RGB", (columns * step - _GAP, math.ceil(count / columns) * step - _GAP), (255, 255, 255))
    for place in range(count):
        row, column = divmod(place, columns)
        grid.paste(Image.fromarray(views.pixels(image, place + 1, digest)), (column * step, row * step))
    return grid
