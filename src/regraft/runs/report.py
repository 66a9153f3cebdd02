"""``report``: the page of a run from its folder, the pictures for reuse, and the model card."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from regraft.errors import MissingExtraError, OutputError, UsageError
from regraft.model import RUN
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.page import ReportResult, RunPage
from regraft.report.card import MARK, card
from regraft.report.figures import figures
from regraft.report.labels import labels_page
from regraft.report.page import comparison_page, figures_of, run_page
from regraft.runs.folder import write_whole
from regraft.runs.gather import gather, gather_labels, has_several_labels, model_folder
from regraft.runs.pictured import pictures
from regraft.settings import ReportSettings

#: The page and the folder of figures, both in ``run``, and the model card beside the model.
PAGE, FIGURES, CARD = "report.html", "figures", "README.md"

#: The page that sets several runs side by side, where none is named.
_SEVERAL = "comparison.html"


def report(settings: ReportSettings, progress: Progress) -> ReportResult:
    """Write the page of one run or several; see :func:`regraft.write_report`."""
    given = (settings.runs,) if isinstance(settings.runs, str | Path) else tuple(settings.runs)
    folders = [model_folder(path) for path in given]
    out = None if settings.out is None else Path(settings.out).expanduser()
    if len(folders) == 1:
        return write_page(folders[0], progress, out, settings.data, private=settings.no_images)
    several = next((folder for folder in folders if has_several_labels(folder)), None)
    if several is not None:
        raise UsageError(f"{shown(str(several))} has several labels an image, and runs with one label are set side by "
                         "side so far; give one run to a page")
    started = time.monotonic()
    page = comparison_page([gather(folder, settings.no_images) for folder in folders])
    return _written(out or Path(_SEVERAL), page, folders, (), (), started)


def write_page(folder: Path, progress: Progress, out: Path | None = None, data: str | Path | None = None, *,
               private: bool = False) -> ReportResult:
    """Write the page of the run in a model folder.

    ``data`` names where the images are, if not where the training found them; a ``private`` page shows none.
    """
    started = time.monotonic()
    if has_several_labels(folder):
        return _written(out or folder / RUN / PAGE, labels_page(gather_labels(folder, private)), [folder], (), (),
                        started)
    run = gather(folder, private)
    if not private:
        run = replace(run, pictures=pictures(run, folder, data, progress))
    notes = [note for note in (run.pictures.note, run.pictures.attribution_note) if note]
    files = [*_figures(run, folder, notes), *_card(run, folder, notes)]
    return _written(out or folder / RUN / PAGE, run_page(run), [folder], files, notes, started)


def _figures(run: RunPage, folder: Path, notes: list[str]) -> Iterator[str]:
    """Draw the figures for reuse; where matplotlib is missing that is noted."""
    main = next((f for f in figures_of(run) if f.split in run.reviews), None)
    if main is None:
        return
    (folder / RUN / FIGURES).mkdir(exist_ok=True)
    try:
        for name, picture in figures(main, run.reviews[main.split]):
            for ending, content in (("png", picture.png), ("svg", picture.svg)):
                write_whole(folder / RUN / FIGURES / f"{name}.{ending}", content)
                yield f"{RUN}/{FIGURES}/{name}.{ending}"
    except MissingExtraError as error:
        notes.append(f"no figures are drawn: {error}")


def _card(run: RunPage, folder: Path, notes: list[str]) -> Iterator[str]:
    """Write the model card, unless there is one of somebody's own."""
    file = folder / CARD
    if run.result is None or run.record is None:
        return
    if file.exists() and MARK not in file.read_text("utf-8", "replace"):
        notes.append(f"{CARD} is your own and stays as it is")
        return
    write_whole(file, card(run))
    yield CARD


def _written(page: Path, text: str, folders: Sequence[Path], files: Sequence[str], notes: Sequence[str],
             started: float) -> ReportResult:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, text)
    except OSError as error:
        raise OutputError(f"{shown(str(page))} can't be written ({error.strerror or error}); take another --out"
                          ) from None
    return ReportResult(str(page), page.stat().st_size, tuple(map(str, folders)), tuple(files),
                        tuple(notes), round(time.monotonic() - started, 3))
