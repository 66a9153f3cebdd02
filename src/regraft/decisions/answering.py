"""What a model says of images, from features and logits; every door answers through this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.decisions.rules import ASKED, decide, label_sets
from regraft.errors import ModelError
from regraft.heads.solver import softmax
from regraft.records.decisions import ASK, DecisionRule, Unknown
from regraft.records.results import Prediction


def predictions(names: Sequence[str], logits_NK: NDArray[np.float64], classes: Sequence[str],
                unknown: Unknown | None = None, novelty_N: NDArray[np.floating] | None = None,
                rule: DecisionRule | None = None) -> list[Prediction]:
    """The answer for each of N images: label, probabilities, novelty, decision, set of labels.

    ``logits_NK`` are the calibrated head's, ``novelty_N`` is what ``unknown`` judges. What is unknown, a rule that
    asks persons asks for too. Raises ModelError where a score is no number.
    """
    if not (np.isfinite(logits_NK).all() and (novelty_N is None or np.isfinite(novelty_N).all())):
        raise ModelError("the model gives scores that are no numbers, so its weights are damaged or none of a trained "
                         "model; train it again, or take another copy")
    P_NK = softmax(logits_NK).astype(np.float64, copy=False)
    unknown_N = None if unknown is None or novelty_N is None else novelty_N > unknown.threshold
    decided_N = _decisions(P_NK, unknown_N, rule, classes)
    sets_NK = label_sets(P_NK, rule) if rule is not None and rule.set_share is not None else None
    found = []
    for n, (name, row_K) in enumerate(zip(names, P_NK, strict=True)):
        best = int(row_K.argmax())
        found.append(Prediction(
            name, classes[best], float(row_K[best]),
            {label: float(p) for label, p in zip(classes, row_K, strict=True)},
            unknown=None if unknown_N is None else bool(unknown_N[n]),
            novelty=None if novelty_N is None else float(novelty_N[n]),
            decision=None if decided_N is None else ASK if decided_N[n] == ASKED else classes[int(decided_N[n])],
            labels=None if sets_NK is None else tuple(classes[k] for k in np.flatnonzero(sets_NK[n]).tolist())))
    return found


def _decisions(P_NK: NDArray[np.float64], unknown_N: NDArray[np.bool_] | None, rule: DecisionRule | None,
               classes: Sequence[str]) -> NDArray[np.int64] | None:
    if rule is None or not rule.decides:
        return None
    decided_N = decide(P_NK, rule, classes)
    asks = rule.ask_below is not None or rule.ask_cost is not None
    return np.where(unknown_N, ASKED, decided_N) if asks and unknown_N is not None else decided_N
