"""One look at each file: what it says about itself, and small numbers of its pixels that later checks compare.

What is kept of an image takes some 3 KB.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.decode import read_file
from regraft.data.header import Header, read_header
from regraft.data.view import picture
from regraft.errors import ImageError
from regraft.extraction.ordered import ordered_map
from regraft.progress import Progress
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing

#: Side of the small grey picture that near duplicates are compared on, pixels.
SMALL = 48

#: Side of the square that sharpness is measured on: blur that it does not show, a network hardly sees either.
_SHARP = 128

#: Most of a side that is searched for a frame, as a share of it; in smaller pictures a stroke would look like one.
_FRAME = 0.3
_LEAST_FRAMED = 48

#: Rows whose grey values deviate less than this (of 255) are one colour, compression noise included.
_FLAT = 4.0

#: A frame ends in a straight line: in the next two rows at least this share of the pixels differs from it by more than
#: so much. A plain ground, which goes on beside the subject, does not.
_LINE = 0.6
_STANDS_OUT = 20.0

#: Most that the mean of a row of a frame differs from the outermost row.
_SAME_GREY = 8.0


@dataclass(frozen=True)
class Measured:
    """What was seen in one file.

    Attributes
    ----------
    content:
        16 bytes that name the decoded pixels: equal ones mean equal pictures, whatever the file is called.
    size:
        Bytes of the file.
    width, height:
        Pixels of the upright picture.
    notes:
        What it took to make 8-bit RGB of it.
    grey:
        The whole picture squeezed to a square, uint8 [SMALL, SMALL].
    colour, spread:
        Mean red, green and blue, 0 to 255; standard deviation of the grey values.
    bright:
        The grey value that 95 % of the pixels do not exceed.
    sharpness:
        Variance of the Laplacian over that of the grey values, of the picture at 128 pixels.
    frame:
        Width of a one-coloured frame at the left, top, right and bottom, shares of the side up to 0.3.
    frame_grey:
        Grey value of the frame; -1 without one.
    """

    content: bytes
    size: int
    header: Header
    width: int
    height: int
    notes: tuple[str, ...]
    grey: NDArray[np.uint8]
    colour: tuple[float, float, float]
    spread: float
    bright: float
    sharpness: float
    frame: tuple[float, float, float, float]
    frame_grey: float


def measure(data: bytes, rules: Preprocessing) -> Measured:
    """Measure one file's bytes; raises ImageError where they are no readable image."""
    # What is measured fits in a small square, so that large JPEGs are decoded at a part of their size.
    small = replace(rules, size=_SHARP, jpeg_scale_margin=1.0)
    decoded = picture(data, small, lambda width, height: float(min(width, height)))
    header = read_header(data)
    image = decoded.image
    grey = image.convert("L")
    values_HW = np.asarray(grey)
    turned = (header.width >= header.height) != (image.width >= image.height)
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    colour = np.asarray(image.resize((8, 8), Image.Resampling.BOX)).reshape(-1, 3).mean(0)
    frame, frame_grey = _frame(values_HW)
    return Measured(
        content=_digest(image, width, height), size=len(data), header=header, width=width, height=height,
        notes=decoded.notes, grey=np.asarray(grey.resize((SMALL, SMALL), Image.Resampling.BOX)),
        colour=(float(colour[0]), float(colour[1]), float(colour[2])), spread=float(values_HW.std()),
        bright=float(np.percentile(values_HW, 95)), sharpness=_sharpness(grey), frame=frame, frame_grey=frame_grey)


def _digest(image: Image.Image, width: int, height: int) -> bytes:
    digest = hashlib.sha256(f"{width} {height} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.digest()[:16]


def _sharpness(grey: Image.Image) -> float:
    if max(grey.size) > _SHARP:
        grey = grey.resize((_SHARP, _SHARP), Image.Resampling.BOX)
    values_HW = np.asarray(grey).astype(np.float32)
    if min(values_HW.shape) < 3:
        return 0.0
    inner = values_HW[1:-1, 1:-1]
    laplacian = (values_HW[:-2, 1:-1] + values_HW[2:, 1:-1] + values_HW[1:-1, :-2] + values_HW[1:-1, 2:] - 4 * inner)
    return float(laplacian.var() / max(float(values_HW.var()), 1.0))


def _frame(values_HW: NDArray[np.uint8]) -> tuple[tuple[float, float, float, float], float]:
    """Widths of a one-coloured frame at the four sides, and its grey value."""
    if min(values_HW.shape) < _LEAST_FRAMED:
        return (0.0, 0.0, 0.0, 0.0), -1.0
    sides = (values_HW.T, values_HW, values_HW.T[::-1], values_HW[::-1])
    left, top, right, bottom = (_framed_rows(side) for side in sides)
    framed = [float(side[0].mean()) for side, share in zip(sides, (left, top, right, bottom), strict=True) if share]
    return (left, top, right, bottom), float(np.mean(framed)) if framed else -1.0


def _framed_rows(values_HW: NDArray[np.uint8]) -> float:
    """Share of the height that a frame takes at the top: rows of one colour that end in a straight line."""
    most = max(1, round(_FRAME * len(values_HW)))
    rows = values_HW[:most + 2].astype(np.float32)
    grey = rows[0].mean()
    flat = (rows[:most].std(1) < _FLAT) & (np.abs(rows[:most].mean(1) - grey) < _SAME_GREY)
    count = most if flat.all() else int(flat.argmin())
    beyond = np.abs(rows[count:count + 2] - grey) > _STANDS_OUT
    return count / len(values_HW) if len(beyond) and beyond.mean(1).max() >= _LINE else 0.0


class Measuring:
    """Collects what is seen in each file of an index; :meth:`look` may be called from several threads.

    ``seen`` holds the measurements by row of the index, ``errors`` why the others can't be read, once
    :meth:`look_at_all` is done.
    """

    def __init__(self, index: ImageIndex, rules: Preprocessing) -> None:
        self.seen: dict[int, Measured] = {}
        self.errors: dict[int, str] = {}
        self._index, self._rules = index, rules

    def look(self, row: int, data: bytes) -> None:
        """Measure the bytes of one file; raises ImageError where they are no readable image."""
        self.seen[row] = measure(data, self._rules)

    def look_at_all(self, progress: Progress) -> None:
        """Read and measure every file of the index."""
        with (progress.task("reading images", len(self._index)) as task,
              closing(ordered_map(self._read, range(len(self._index)))) as reasons):
            for row, reason in enumerate(reasons):
                if reason is not None:
                    self.errors[row] = reason
                task.advance()

    def _read(self, row: int) -> str | None:
        """Read and measure one file; why it can't be, else None."""
        try:
            self.look(row, read_file(self._index.file(row)))
        except ImageError as error:
            return error.reason
        return None
