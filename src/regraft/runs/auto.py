"""``train --strategy auto``: what is advised for the images is what is trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

from regraft.progress import Progress
from regraft.runs.advise import consult
from regraft.runs.folder import begun_with
from regraft.runs.train import divide, open_images
from regraft.settings import ADVICE_LIMIT, Strategy, TrainSettings, seconds


def settled(settings: TrainSettings, progress: Progress) -> TrainSettings:
    """The settings with the advised strategy in place of ``auto``; the forecast is told in three lines.

    A run that was begun in ``out`` goes on with what was advised for it then. A trial takes five minutes at most, and
    with a time limit a third of it; the training has what is left. A training that does worse on validation than the
    frozen network is not kept (see :func:`regraft.train`).
    """
    begun = {} if settings.out is None or settings.force else begun_with(Path(settings.out).expanduser())
    for strategy in get_args(Strategy):
        if begun.get("strategy") == strategy:
            return replace(settings, strategy=strategy)
    started = time.monotonic()
    limit = None if settings.time_limit is None else seconds(settings.time_limit)
    trial = seconds(ADVICE_LIMIT) if limit is None else min(seconds(ADVICE_LIMIT), limit / 3)
    advice = consult(settings, divide(open_images(settings), settings), trial, progress, started)
    for line in advice.forecast_lines():
        progress.say(line)
    left = None if limit is None else max(limit - (time.monotonic() - started), 1.0)
    return replace(settings, strategy=advice.recommended.strategy, time_limit=left)  # type: ignore[arg-type]
