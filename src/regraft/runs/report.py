"""``report``: the page of a run from its folder, the pictures for reuse, and the model card."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from regraft.data.thumbnails import thumbnail
from regraft.errors import ImageError, OutputError, RegraftError
from regraft.extraction.extract import ordered_map
from regraft.model import RUN
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.page import Pictures, ReportResult, RunPage
from regraft.records.review import Answered
from regraft.report.page import comparison_page, figures_of, run_page
from regraft.runs.folder import write_whole
from regraft.runs.gather import gather, model_folder
from regraft.runs.originals import originals
from regraft.settings import ReportSettings

PAGE = "report.html"

#: The page that sets several runs side by side, where none is named.
_SEVERAL = "comparison.html"

#: Bytes that all pictures of a page may take together.
_BUDGET = 4_500_000


def report(settings: ReportSettings, progress: Progress) -> ReportResult:
    """Write the page; see :func:`regraft.report`."""
    started = time.monotonic()
    given = (settings.runs,) if isinstance(settings.runs, str | Path) else tuple(settings.runs)
    folders = [model_folder(path) for path in given]
    runs = [gather(folder, settings.no_images) for folder in folders]
    if len(runs) > 1:
        page, text, notes = Path(settings.out or _SEVERAL).expanduser(), comparison_page(runs), ()
    else:
        run = runs[0] if settings.no_images else replace(runs[0], pictures=_pictures(runs[0], folders[0], settings.data,
                                                                                     progress))
        page, text = Path(settings.out).expanduser() if settings.out else folders[0] / RUN / PAGE, run_page(run)
        notes = tuple(note for note in (run.pictures.note, run.pictures.attribution_note) if note)
    try:
        write_whole(page, text)
    except OSError as error:
        raise OutputError(f"{shown(str(page))} can't be written ({error.strerror or error}); take another --out"
                          ) from None
    return ReportResult(str(page), page.stat().st_size, tuple(map(str, folders)), (), notes,
                        round(time.monotonic() - started, 3))


def _pictures(run: RunPage, out: Path, data: str | Path | None, progress: Progress) -> Pictures:
    """Thumbnails of what the page shows, as many as its budget allows."""
    wanted = list(_wanted(run))
    rules = None if run.run is None else run.run.preprocessing
    if not wanted or rules is None:
        return Pictures()
    where = data if data is not None else run.settings.get("data")
    try:
        files = {} if where is None else originals(where, run.settings.get("follow_links") is True)
    except RegraftError:
        files = {}
    there = [(image.row, file) for image in wanted if (file := files.get(("0", image.path))) is not None]

    def look(item: tuple[int, Path]) -> tuple[int, str | None]:
        row, file = item
        try:
            return row, thumbnail(file, rules)
        except ImageError:
            return row, None

    found: dict[int, str] = {}
    room = _BUDGET
    with progress.task("making thumbnails", len(there)) as task:
        for row, address in ordered_map(look, there):
            task.advance()
            if address is not None and len(address) <= room:
                found[row] = address
                room -= len(address)
    missing = len({image.row for image in wanted}) - len(found)
    note = "" if not missing else (
        "The images are not where the training found them, so none is shown; regraft report --data names the place."
        if not found else f"{missing:,} images are not shown: they are gone, or the page would be too large.")
    return Pictures(found, note=note)


def _wanted(run: RunPage) -> Iterator[Answered]:
    """Images that the page shows, the most telling first, each once."""
    reviews = [run.reviews[f.split] for f in figures_of(run) if f.split in run.reviews]
    lists: Sequence[Sequence[Answered]] = [
        part for r in reviews for part in (r.mistakes[:24], r.doubtful)] + [
        part for r in reviews[:1] for part in (r.sure, r.unsure)] + [r.mistakes[24:] for r in reviews]
    seen: set[int] = set()
    for image in (image for part in lists for image in part):
        if image.row not in seen:
            seen.add(image.row)
            yield image
