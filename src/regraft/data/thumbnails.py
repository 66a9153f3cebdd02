"""Small pictures for people: whole, upright, as WebP."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

from PIL import Image

from regraft.data.view import picture
from regraft.records.preprocessing import Preprocessing

#: Pixels of the longer side, and WebP's quality.
SIDE = 176
_QUALITY = 62


def thumbnail(file: Path, rules: Preprocessing) -> str:
    """A ``data:`` address of the picture; raises ImageError where the file is no readable image."""
    image = picture(file, replace(rules, size=SIDE), lambda width, height: min(width, height)).image
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return data_address(image)


def data_address(image: Image.Image) -> str:
    """A ``data:`` address of a small RGB picture, as WebP."""
    file = io.BytesIO()
    image.save(file, "webp", quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
