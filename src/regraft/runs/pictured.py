"""What a page shows of the images themselves: thumbnails, and where the network looked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.thumbnails import SIDE, data_address, thumbnail
from regraft.data.view import view0
from regraft.errors import ImageError, MissingExtraError, RegraftError
from regraft.extraction.ordered import ordered_map
from regraft.heads.linear import LinearHead
from regraft.model import Model, load
from regraft.networks.lite import LiteNetwork
from regraft.progress import Progress
from regraft.records.page import Attribution, Pictures, RunPage
from regraft.records.review import Answered
from regraft.runs.gather import without_places
from regraft.runs.originals import originals, sources

#: Bytes that all pictures of a page may take together.
_BUDGET = 4_500_000

#: How many mistakes have a picture before anything else has; how many images are asked where the network looked.
_FIRST, _LOOKS = 24, 4

#: From cold to warm, RGB, laid over a picture the more the warmer.
_WARM = np.array([[40, 60, 160], [120, 70, 170], [230, 120, 60], [255, 214, 80]], np.float32)


def pictures(run: RunPage, out: Path, data: str | Path | None, progress: Progress) -> Pictures:
    """Pictures of a run's images from ``data``, or from where the training found them."""
    wanted = list(_wanted(run))
    if not wanted or run.run is None or run.run.preprocessing is None:
        return Pictures()
    files = _files(run, data, wanted)
    thumbnails = _thumbnails(run, files, progress)
    missing = len(wanted) - len(thumbnails)
    note = "" if not missing else (
        "The images are not where the training found them, so none is shown; regraft report --data names the place."
        if not thumbnails else f"{missing:,} images are not shown: they are gone, or the page would be too large.")
    looks = [image for image in _looked_at(run) if image.row in files]
    if not looks:
        return Pictures(thumbnails, note=note)
    try:
        return Pictures(thumbnails, tuple(_attributions(run, out, looks, files)), note)
    except RegraftError as error:
        return Pictures(thumbnails, (), note,
                        f"No picture shows where the network looks: {without_places(str(error))}.")


def _files(run: RunPage, data: str | Path | None, wanted: Sequence[Answered]) -> dict[int, Path]:
    """Where each wanted image is now, by its data row; without those that are gone."""
    given = [(data, run.settings.get("follow_links") is True)] if data is not None else sources(run.settings)
    found: dict[tuple[str, str], Path] = {}
    for number, (source, follow) in enumerate(given):  # as the training joined them
        try:
            there = originals(source, follow)
        except RegraftError:  # a table that is no longer as it was: its images are told to be gone
            continue
        found.update({(str(int(root) + number), path): file for (root, path), file in there.items()})
    return {image.row: found[key] for image in wanted if (key := (run.roots[image.row], image.path)) in found}


def _thumbnails(run: RunPage, files: Mapping[int, Path], progress: Progress) -> dict[int, str]:
    assert run.run is not None
    rules = run.run.preprocessing
    assert rules is not None

    def look(item: tuple[int, Path]) -> tuple[int, str | None]:
        row, file = item
        try:
            return row, thumbnail(file, rules)
        except ImageError:
            return row, None

    found: dict[int, str] = {}
    room = _BUDGET
    with progress.task("making thumbnails", len(files)) as task:
        for row, address in ordered_map(look, list(files.items())):
            task.advance()
            if address is not None and len(address) <= room:
                found[row] = address
                room -= len(address)
    return found


def _wanted(run: RunPage) -> Iterator[Answered]:
    """Images that the page shows, the most telling first, each once."""
    reviews = [run.reviews[split] for split in ("test", "validation") if split in run.reviews]
    lists: list[Sequence[Answered]] = [part for r in reviews for part in (r.mistakes[:_FIRST], r.doubtful)]
    lists += [part for r in reviews[:1] for part in (r.sure, r.unsure)] + [r.mistakes[_FIRST:] for r in reviews]
    seen: set[int] = set()
    for image in (image for part in lists for image in part):
        if image.row not in seen:
            seen.add(image.row)
            yield image


def _looked_at(run: RunPage) -> list[Answered]:
    """Right answers of several classes, and the worst mistakes."""
    main = next((run.reviews[split] for split in ("test", "validation") if split in run.reviews), None)
    return [] if main is None else [*main.sure[:_LOOKS], *main.mistakes[:_LOOKS]]


def _attributions(run: RunPage, out: Path, images: Sequence[Answered], files: Mapping[int, Path],
                  ) -> Iterator[Attribution]:
    model = load(out)
    rules = model.record.preprocessing
    pixels_BHWC = np.stack([view0(files[image.row], rules).pixels for image in images])
    classes_B = np.array([model.classes.index(image.answer) for image in images])
    for image, pixels, heat in zip(images, pixels_BHWC, _heat(model, pixels_BHWC, classes_B), strict=True):
        yield Attribution(image.row, image.answer, image.truth, data_address(_overlaid(pixels, heat)))


def _heat(model: Model, pixels_BHWC: NDArray[np.uint8], classes_B: NDArray[np.int64]) -> NDArray[np.float32]:
    """What spoke for a class in each picture, float32 [B, H, W] from 0 to 1."""
    network, head = model.frozen(), model.head
    if isinstance(network, LiteNetwork) and isinstance(head, LinearHead):
        from regraft.attribution.class_maps import class_maps

        return class_maps(network, model.record.preprocessing, head, pixels_BHWC, classes_B)
    try:
        from regraft.attribution.gradcam import gradcam
    except ImportError:
        raise MissingExtraError("where the network looks", "train") from None
    return gradcam(model, pixels_BHWC, classes_B)


def _overlaid(pixels_HWC: NDArray[np.uint8], heat_HW: NDArray[np.float32]) -> Image.Image:
    """A picture with warm colours where the heat is."""
    picture = Image.fromarray(pixels_HWC).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    large = np.asarray(Image.fromarray(heat_HW).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 1)
    at = large * (len(_WARM) - 1)
    low = np.minimum(at.astype(int), len(_WARM) - 2)
    part = (at - low)[..., None]
    colour_HWC = _WARM[low] * (1 - part) + _WARM[low + 1] * part
    share = 0.62 * large[..., None]
    grey_HWC = np.asarray(picture.convert("L"), np.float32)[..., None] * 0.35 + np.asarray(picture, np.float32) * 0.65
    return Image.fromarray((grey_HWC * (1 - share) + colour_HWC * share).astype(np.uint8))
