"""What the images look like to the network: labelled samples, and each augmentation on one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from regraft.data.view import pixel_digest, view0
from regraft.errors import ImageError
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing
from regraft.records.views import TRANSFORMS, Augmentation
from regraft.training.views import Views

#: Samples in a row, and views of each augmentation beside the picture itself.
_ROW = 8

#: Most samples, spread over the classes.
_SAMPLES = 32

_SIDE, _GAP, _CAPTION = 112, 6, 16
_INK, _PAPER = (30, 30, 30), (255, 255, 255)

Labelled = tuple[str, Image.Image]


def samples(index: ImageIndex, rules: Preprocessing, seed: int) -> list[Labelled]:
    """Seeded samples of each class in turn, as the network sees them, under their class's name."""
    rng = np.random.default_rng(seed)
    y_N = index.y_N
    per_class = max(1, math.ceil(_SAMPLES / max(1, len(index.classes))))
    rows = [row for k in range(len(index.classes))
            for row in rng.permutation(np.flatnonzero(y_N == k))[:per_class].tolist()]
    if len(rows) > _ROW:  # whole rows, so that the augmentations begin one of their own
        number = min(_SAMPLES, len(rows) // _ROW * _ROW)
        rows = sorted(rng.permutation(rows)[:number].tolist(), key=lambda row: int(y_N[row]))
    found = []
    for row in rows:
        try:
            found.append((index.classes[y_N[row]], Image.fromarray(view0(index.file(row), rules).pixels)))
        except ImageError:  # changed since it was looked at
            continue
    return found


def augmented(index: ImageIndex, row: int, rules: Preprocessing, seed: int) -> list[Labelled]:
    """One image, and the first views of it under each transform with its defaults; raises MissingExtraError."""
    original = view0(index.file(row), rules).pixels
    digest = pixel_digest(original)
    found: list[Labelled] = []
    for name, kind in TRANSFORMS.items():
        views = Views(Augmentation((kind(),)), rules, seed)
        found.append(("as it is", Image.fromarray(original)))
        found += [(name, Image.fromarray(views.pixels(index.file(row), number, digest))) for number in range(1, _ROW)]
    return found


def sheet(pictures: Sequence[Labelled]) -> Image.Image:
    """The pictures in rows of eight, each under its caption; RGB."""
    rows = max(1, math.ceil(len(pictures) / _ROW))
    across, down = _SIDE + _GAP, _SIDE + _GAP + _CAPTION
    canvas = Image.new("RGB", (_ROW * across + _GAP, rows * down + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for place, (caption, image) in enumerate(pictures):
        row, column = divmod(place, _ROW)
        left, top = _GAP + column * across, _GAP + row * down
        draw.text((left, top), _short(shown(caption)), fill=_INK, font=font)
        canvas.paste(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, top + _CAPTION))
    return canvas


def _short(caption: str) -> str:
    return caption if len(caption) <= _SIDE // 7 else caption[:_SIDE // 7 - 2] + ".."
