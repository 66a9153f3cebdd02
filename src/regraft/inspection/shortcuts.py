"""Shortcut alarm: what beside the picture's content gives the class away.

A small decision tree guesses the class from one cue alone, on images it was not fitted on. What a camera, a program or
a download left behind (size, format, metadata, compression, a frame) must not do that: a network would learn the trace
instead of the subject. Colour and bytes a pixel belong to what is shown, too; they are measured and told, no alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.data.splits import folds
from regraft.inspection.measuring import Measured
from regraft.metrics import wilson
from regraft.records.base import shown
from regraft.records.inspection import Shortcut
from regraft.records.results import Interval

#: Of fewer images of a class a tree says nothing.
LEAST_IMAGES = 10

_FOLDS = 5
_LEAVES = 64

#: The alarm sounds where the lower end of the interval lies this far above the commonest class ...
_CLEARLY_MORE = 0.15

#: ... or where at least this share of one class is told apart, and of the others at most that share taken for it. Among
#: many classes a small one stands out by chance, so it needs this many images.
_TOLD_APART = 0.6
_MISTAKEN = 0.1
_LEAST_TOLD = 20


@dataclass(frozen=True)
class Cue:
    """One thing to guess the class from: ``columns`` makes numbers of an image, ``is_content`` is no trace."""

    name: str
    columns: Callable[[Measured], Sequence[float]]
    is_content: bool
    advice: str


CUES = (
    Cue("image size", lambda m: (m.width, m.height, m.width * m.height, m.width / m.height), False,
        "Collect all classes at the same size, or save them anew so; training with --fit squash hides the shape only."),
    Cue("file format", lambda m: (_number_of(m.header.format), _number_of(m.header.mode)), False,
        "Convert all images to one format and one kind of pixels."),
    Cue("metadata", lambda m: [float(name in m.header.metadata) for name in ("exif", "icc_profile", "photoshop",
                                                                              "xmp", "comment", "dpi")], False,
        "The classes come from different cameras or programs; collect each class from all of them."),
    Cue("JPEG quality", lambda m: (-1.0 if m.header.jpeg_quality is None else m.header.jpeg_quality,), False,
        "Traces of compression are in the pixels: save all classes anew from the originals in the same way."),
    Cue("frame", lambda m: (*m.frame, m.frame_grey), False,
        "Cut the frames off, or collect all classes without them."),
    Cue("bytes a pixel", lambda m: (m.size / (m.width * m.height),), True,
        "Busy pictures take more bytes, so this may be the subject itself; look at it where the JPEG quality differs."),
    Cue("mean colour", lambda m: (*m.colour, m.spread), True,
        "Colour may be the subject itself (a sea is blue), or the light of the day on which a class was photographed."),
)


def _number_of(word: str) -> float:
    """A number for a word, the same in every process."""
    return float(int.from_bytes(word.encode()[:6].ljust(6)))


def shortcuts(seen: Sequence[Measured], y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None,
              classes: Sequence[str], seed: int) -> tuple[Shortcut, ...]:
    """What each cue tells of the classes with enough images; empty where fewer than two have them."""
    kept_K = np.bincount(y_N, minlength=len(classes)) >= LEAST_IMAGES
    if kept_K.sum() < 2:
        return ()
    rows = np.flatnonzero(kept_K[y_N])
    number_K = np.cumsum(kept_K) - 1
    y, names = number_K[y_N[rows]].astype(np.int32), [name for name, kept in zip(classes, kept_K, strict=True) if kept]
    fold_N = folds(y, None if groups_N is None else groups_N[rows], _FOLDS, seed)
    return tuple(_judge(cue, np.array([cue.columns(seen[row]) for row in rows.tolist()], np.float64), y, fold_N, names)
                 for cue in CUES)


def _judge(cue: Cue, X_ND: NDArray[np.float64], y_N: NDArray[np.int32], fold_N: NDArray[np.int8],
           names: Sequence[str]) -> Shortcut:
    prior_K = np.bincount(y_N, minlength=len(names)) / len(y_N)
    even_NK, held = _answers(X_ND, y_N, fold_N, len(names))
    right = (even_NK * prior_K).argmax(1) == y_N[held]
    accuracy = Interval(*wilson(float(right.sum()), len(held)))
    majority = float(prior_K.max())
    given = _given_away(even_NK.argmax(1), y_N[held], names)
    alarm = not cue.is_content and (accuracy.low >= majority + _CLEARLY_MORE or bool(given))
    return Shortcut(cue.name, alarm, cue.is_content, accuracy, majority, tuple(names[k] for k in given),
                    _words(cue, accuracy, majority, [names[k] for k in given]), cue.advice)


def _answers(X_ND: NDArray[np.float64], y_N: NDArray[np.int32], fold_N: NDArray[np.int8], classes: int,
             ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Held-out class likelihoods as if all classes were equally common [M, K], and the rows they are of [M]."""
    from sklearn.tree import DecisionTreeClassifier

    held = np.flatnonzero(fold_N >= 0)
    even_NK = np.zeros((len(y_N), classes))
    for fold in range(_FOLDS):
        rows = np.flatnonzero(fold_N == fold)
        train = np.flatnonzero(fold_N != fold)
        if not len(rows):
            continue
        tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=3, class_weight="balanced",
                                      random_state=0).fit(X_ND[train], y_N[train])
        even_NK[np.ix_(rows, tree.classes_)] = tree.predict_proba(X_ND[rows])
    return even_NK[held], held


def _given_away(answers_N: NDArray[np.int64], y_N: NDArray[np.int32], names: Sequence[str]) -> list[int]:
    """Classes that are told apart from all others, the bounds of the intervals counted."""
    found = []
    for k in range(len(names)):
        of, others = answers_N[y_N == k] == k, answers_N[y_N != k] == k
        if (len(of) >= _LEAST_TOLD and wilson(float(of.sum()), len(of))[1] >= _TOLD_APART
                and wilson(float(others.sum()), len(others))[2] <= _MISTAKEN):
            found.append(k)
    return found


def _words(cue: Cue, accuracy: Interval, majority: float, given: Sequence[str]) -> str:
    text = (f"Guesses of the class from the {cue.name} alone, without a look at the picture, are right "
            f"{accuracy.value:.0%} of the time; always naming the commonest class is right {majority:.0%}.")
    if given:
        named = ", ".join(shown(name) for name in given[:5]) + (", ..." if len(given) > 5 else "")
        text += f" It gives away: {named}."
    return text
