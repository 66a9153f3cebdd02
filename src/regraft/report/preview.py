"""What the images look like to the network: labelled samples, and each augmentation on one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from regraft.data.view import pixel_digest, view0
from regraft.errors import ImageError
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing
from regraft.records.views import TRANSFORMS, Augmentation
from regraft.training.views import Views

#: Pictures in a row.
_ROW = 8

#: Most samples, spread over the classes.
_SAMPLES = 32

_SIDE, _GAP, _CAPTION = 112, 6, 16
_LETTERS = 18
_INK, _PAPER = (30, 30, 30), (255, 255, 255)

Labelled = tuple[str, Image.Image]


def samples(index: ImageIndex, rules: Preprocessing, seed: int) -> list[list[Labelled]]:
    """Rows of seeded samples of each class, as the network sees them, under their class's name."""
    rng = np.random.default_rng(seed)
    y_N = index.y_N
    per_class = max(1, math.ceil(_SAMPLES / max(1, len(index.classes))))
    chosen = [row for k in range(len(index.classes))
              for row in rng.permutation(np.flatnonzero(y_N == k))[:per_class].tolist()]
    if len(chosen) > _SAMPLES:
        chosen = sorted(rng.permutation(chosen)[:_SAMPLES].tolist(), key=lambda row: int(y_N[row]))
    found = []
    for row in chosen:
        try:
            found.append((index.classes[y_N[row]], Image.fromarray(view0(index.file(row), rules).pixels)))
        except ImageError:  # changed since it was looked at
            continue
    return [found[start:start + _ROW] for start in range(0, len(found), _ROW)]


def augmented(file: Path, rules: Preprocessing, seed: int) -> list[list[Labelled]]:
    """A row for each transform with its defaults: the image as it is, and views of it; raises MissingExtraError."""
    original = view0(file, rules).pixels
    digest = pixel_digest(original)
    rows: list[list[Labelled]] = []
    for name, kind in TRANSFORMS.items():
        views = Views(Augmentation((kind(),)), rules, seed)
        varied = (Image.fromarray(views.pixels(file, number, digest)) for number in range(1, _ROW))
        rows.append([("as it is", Image.fromarray(original)), *((name, image) for image in varied)])
    return rows


def sheet(rows: Sequence[Sequence[Labelled]]) -> Image.Image:
    """Rows of at most eight pictures, each under its caption; RGB."""
    across, down = _SIDE + _GAP, _SIDE + _GAP + _CAPTION
    canvas = Image.new("RGB", (_ROW * across + _GAP, len(rows) * down + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for at, row in enumerate(rows):
        for column, (caption, image) in enumerate(row):
            left, top = _GAP + column * across, _GAP + at * down
            draw.text((left, top), _short(shown(caption)), fill=_INK, font=font)
            canvas.paste(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, top + _CAPTION))
    return canvas


def _short(caption: str) -> str:
    return caption if len(caption) <= _LETTERS else caption[:_LETTERS - 2] + ".."
