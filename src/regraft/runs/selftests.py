"""The self-test of a model on a frozen network: what the network makes of the drawn pictures is kept in the store."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import DECODER
from regraft.engines import processor
from regraft.errors import DataError
from regraft.extraction.store import ENGINES, ENGINES_DIGITS
from regraft.heads.linear import apart
from regraft.model import Model
from regraft.records.selftest import DrawnFeatures, SelfTest
from regraft.runs.engines import versions
from regraft.runs.folder import write_whole
from regraft.selftest import answers


def kept_self_test(model: Model, weights: str, store: Path) -> SelfTest:
    """What a saved model answers for the pictures of the self-test, its network being one of these ``weights``.

    Pictures and features are drawn and computed once for each network, preprocessing and machine, with the network of
    the first such model, loaded from its folder, and kept beside its engines in the folder of the ``store``.
    """
    record = model.record
    decides = [weights, [readout.to_dict() for readout in record.readouts], record.preprocessing.to_dict(), DECODER,
               processor.name(), versions()]
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    file = store / ENGINES / f"{weights[:ENGINES_DIGITS]}-{name}.pictures"
    drawn = _read(file)
    if drawn is None:
        drawn = _drawn(model)
        with suppress(OSError):  # what can't be kept is computed again
            file.parent.mkdir(exist_ok=True)
            write_whole(file, drawn.to_json())
    return answers.recorded(drawn.files, model.classes, model.head.logits(_read_by_head(model, drawn)))


def _drawn(model: Model) -> DrawnFeatures:
    """The pictures, and all that features can be made of, by the network as it was saved."""
    pictures, pixels_NHWC = answers.drawn(model.record.preprocessing)
    X_ND = model.features(pixels_NHWC, model.record.readouts)
    return DrawnFeatures.of(pictures, X_ND)


def _read_by_head(model: Model, drawn: DrawnFeatures) -> NDArray[np.float32]:
    """The joined readouts that the head reads, float32 [N, D]."""
    blocks = apart(drawn.features_ND, {readout.name: readout.dim for readout in model.record.readouts})
    return np.concatenate([blocks[readout.name] for readout in model.record.head_readouts], 1)


def _read(file: Path) -> DrawnFeatures | None:
    """What was kept; None where there is nothing, or it is damaged."""
    try:
        return DrawnFeatures.from_dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, DataError):
        return None
