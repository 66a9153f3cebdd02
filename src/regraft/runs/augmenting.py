"""Which augmentations do harm on these images: heads learned with and without a changed view of each, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regraft.extraction.extract import Route, extract_view
from regraft.extraction.store import FeatureKey
from regraft.heads.choose import FLOOR, Candidate
from regraft.heads.probe import FOLDS, answers
from regraft.metrics import mean_difference
from regraft.progress import Deadline, Progress
from regraft.records.advice import Augmented
from regraft.records.heads import HeadSettings
from regraft.records.views import augmentation
from regraft.runs.looking import Look
from regraft.training.views import Views

#: Images that are changed and learned from at most.
_TRIED = 600

#: The view that is compared with the picture itself.
_VIEW = 1


def tried(look: Look, head: HeadSettings, words: Sequence[str], progress: Progress, deadline: Deadline,
          ) -> Iterator[Augmented]:
    """What learning from one changed view of each image does beside learning from the images alone.

    ``head`` names the readouts; ``words`` are augmentations as a plan writes them. Both heads answer the same unchanged
    images, which neither learned from.
    """
    candidate = Candidate(head.readouts, head.weighting)
    part = look.part(_TRIED, head.readouts)
    plain = answers(part.blocks, part.y_N, part.groups_N, part.classes, [candidate], look.seed, FOLDS)
    if plain is None:
        return
    before = _losses(plain.P_MK, part.y_N[plain.rows])
    for word in words:
        views = Views(augmentation((word,)), look.runner.rules, look.seed)
        engine, rules = look.runner.engine, look.runner.rules
        space = look.spaces.enter_context(look.store.space(FeatureKey(
            views.key(_VIEW), look.runner.network.digest, engine.readouts, engine.key, rules.mean, rules.std)))
        extract_view(part.files, part.digests, Route(space, engine), partial(_pixels, views), f"trying {word}",
                     progress, deadline)
        located = space.locate(part.digests)
        both = {name: np.concatenate([block, space.read(located, [name])]) for name, block in part.blocks.items()}
        changed = answers(both, part.y_N, part.groups_N, part.classes, [candidate], look.seed, FOLDS, views=2)
        assert changed is not None
        after = _losses(changed.P_MK, part.y_N[changed.rows])
        yield Augmented(word, len(before), float(before.mean()), float(after.mean()), mean_difference(after, before))


def _pixels(views: Views, data: bytes, digest: bytes) -> NDArray[np.uint8]:
    return views.pixels(data, _VIEW, digest)


def _losses(P_MK: NDArray[np.floating], y_M: NDArray[np.int32]) -> NDArray[np.float64]:
    """Negative log-probability of each image's right class, nats, [M]."""
    of_right = P_MK[np.arange(len(y_M)), y_M].astype(np.float64)
    return -np.log(np.maximum(of_right, FLOOR))
