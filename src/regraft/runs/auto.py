"""``train`` without a plan or a strategy: a first look, then stages learn where that may pay and does not take long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from regraft.data.splits import TEST
from regraft.errors import DataError
from regraft.extraction.store import FeatureStore
from regraft.progress import Deadline, Progress, duration
from regraft.records.advice import Augmented
from regraft.records.images import ImageIndex
from regraft.runs.folder import begun_with, require_free
from regraft.runs.looking import Look, features_forecast, images_per_class
from regraft.runs.rank import SCORED, Runner
from regraft.runs.train import Before, prepare
from regraft.settings import AUTO_LIMIT, Strategy, TrainSettings, seconds
from regraft.strategy.advising import ENOUGH, Frozen, about_augmentations, enough, harmless
from regraft.strategy.presets import AUGMENT, MEASURED

#: Of a time limit that was given, the share that a training of stages may be expected to take: it must not run out.
_OF_LIMIT = 0.6


@dataclass(frozen=True)
class Settled:
    """Settings with a strategy in place of ``auto``, and what was found out on the way.

    Attributes
    ----------
    settings:
        The strategy is in them, and the time that is left.
    index:
        The divided images, where they were looked at.
    before:
        What the look took.
    augment:
        Augmentations for stages that learn, in a plan's words: those that do no harm, or that are yet to be measured.
    """

    settings: TrainSettings
    index: ImageIndex | None
    before: Before
    augment: tuple[str, ...] = MEASURED


def settled(settings: TrainSettings, progress: Progress) -> Settled:
    """Choose between a frozen network and learning its last stages; the reason is told.

    A run that was begun in ``out`` goes on with what was chosen for it then. What takes longer than a look at the
    features that any training needs is only measured where it could change the choice. A training of stages that does
    worse on validation than the frozen network is not kept (see :func:`regraft.train`), so it needs no trial.
    """
    began = time.monotonic()
    if settings.out is not None:
        out = Path(settings.out).expanduser()
        require_free(out, settings.force, settings.resume)
        begun = {} if settings.force else begun_with(out)
        for strategy in get_args(Strategy):
            if begun.get("strategy") == strategy:
                return Settled(replace(settings, strategy=strategy), None, Before(began, 0), _augment_of(begun))
    frozen = replace(settings, strategy="features")
    index = prepare(frozen)
    count = images_per_class(index, np.flatnonzero(index.splits != TEST))
    if not enough(count):
        progress.say(f"the network stays frozen: a class has {count:,} images (median), and below {ENOUGH} a network "
                     "that may change learns the images by heart")
        return Settled(frozen, index, Before(began, 0))
    return _looked(frozen, index, began, progress)


def _looked(settings: TrainSettings, index: ImageIndex, began: float, progress: Progress) -> Settled:
    """The choice, after a look at the images that may be learned from."""
    limit = None if settings.time_limit is None else seconds(settings.time_limit)
    with FeatureStore(settings.store) as store, ExitStack() as spaces:
        look = Look(settings, index, store, spaces, progress, Deadline(limit), SCORED)
        started = time.monotonic()
        try:
            found = look.frozen()
        except DataError as error:
            progress.say(f"the network stays frozen: {error}")
            return Settled(settings, index, Before(began, look.features.computed))
        solving = time.monotonic() - started
        left = None if limit is None else max(limit - (time.monotonic() - began), 1.0)
        allowed = seconds(AUTO_LIMIT) if left is None else _OF_LIMIT * left
        learnable = index.take(np.flatnonzero(index.splits != TEST))
        pays, *told = _weighed(settings, learnable, look.runner, found, solving, allowed)
        for line in told:
            progress.say(line)
        augmented = _tried(look, found, progress, Deadline(left)) if pays else ()
    left = None if limit is None else max(limit - (time.monotonic() - began), 1.0)
    return Settled(replace(settings, strategy="partial" if pays else "features", time_limit=left), index,
                   Before(began, look.features.computed), harmless(augmented) if augmented else MEASURED)


def _tried(look: Look, found: Frozen, progress: Progress, deadline: Deadline) -> tuple[Augmented, ...]:
    """What the augmentations of the strategy do to these images; told."""
    from regraft.runs import augmenting

    augmented = tuple(augmenting.tried(look, found.best.settings, AUGMENT, progress, deadline))
    if augmented:
        progress.say(about_augmentations(augmented))
    return augmented


def _augment_of(begun: Mapping[str, Any]) -> tuple[str, ...]:
    """The augmentations that an unfinished run was begun with."""
    phases = (begun.get("plan") or {}).get("phases") or [{}]
    return tuple(phases[0].get("augment", MEASURED))


def _weighed(settings: TrainSettings, index: ImageIndex, runner: Runner, found: Frozen, solving: float,
             allowed: float) -> tuple[bool, str, str, str]:
    """Whether stages are to learn, and the forecast in three lines."""
    frozen = f"forecast: {features_forecast(found, runner, len(index), solving).line}"
    stays = "taken: the network stays frozen"
    if not found.may_pay:
        return False, frozen, (f"forecast: letting stages learn usually pays where more than {found.room:.0%} of such "
                               "images are wrong, so hardly here"), stays
    try:
        from regraft.runs.ways import Ways
    except ImportError:
        return False, frozen, 'forecast: letting stages learn may do better: pip install "regraft[train]"', stays
    ways = Ways(settings, index, runner, found, solving)
    partial = ways.partial()
    if partial is None:
        return False, frozen, f"forecast: stages can't learn apart: {ways.untraced}", stays
    learning = f"forecast: {partial.line}"
    if partial.seconds > allowed:
        return False, frozen, learning, (f"{stays}: stages may learn for {duration(allowed)}; --strategy partial lets "
                                         "them learn all the same")
    return True, frozen, learning, "taken: the last stages learn too; kept if that does better on validation"
