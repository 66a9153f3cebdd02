"""Features of a lower precision brought to where the answer's precision has them, on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regraft.extraction.extract import Features, Route, extract
from regraft.extraction.store import Space
from regraft.progress import Deadline, Progress
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing

#: Images that both engines compute, some seconds' work; what it gains stands in LOG.md.
_COMPARED = 256


def aligned(features: Features, index: ImageIndex, answers: Route, rules: Preprocessing, progress: Progress,
            deadline: Deadline) -> Features:
    """The same with each other engine's rows shifted by how far the answering one lies from them on average.

    A good part of what bf16 does to a feature is the same in every image, and a head that was learned on such features
    misreads those in fp32. The shift of each number is measured on some of the images, which both engines compute.
    """
    shifts: dict[Space, Mapping[str, NDArray[np.float32]]] = {}
    for number, space in enumerate(features.spaces):
        there = np.flatnonzero(features.of_N == number)
        if space is answers.space or not len(there):
            continue
        # By their digests: nearly the same ones after another division into splits.
        some = np.sort(sorted(there, key=lambda at: features.digests[at])[:_COMPARED])
        progress.say(f"comparing {space.key.engine} with {answers.engine.key} on {len(some):,} images")
        exact = extract(index.take(features.rows[some]), answers.space, answers.engine, rules, progress, deadline, 1.0)
        some = some[exact.rows]
        # A file that was written anew meanwhile is another picture.
        same = np.flatnonzero([features.digests[at] == digest for at, digest in zip(some, exact.digests, strict=True)])
        if len(same):
            names = [readout.name for readout in space.key.readouts]
            shifts[space] = {name: (exact.read(same, [name]) - features.read(some[same], [name])).mean(0)
                             for name in names}
    return replace(features, shifts=shifts)
