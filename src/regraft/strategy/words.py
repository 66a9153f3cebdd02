"""The words of a plan that only a network can understand fully: their form is checked without one.

Whether a module of that name exists is for the network to say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from regraft.records.plan import HeadPlan, Phase

#: Stages that features may be read at, at most; see :mod:`regraft.networks.readouts`.
_STAGES = 8

_READOUTS = ("last", "logits", *(f"stage{number}" for number in range(1, _STAGES + 1)))
_POOLINGS = ("mean", "flatten")
_MODULE = re.compile(r"\w+(\.\w+)*")
_PATTERN = re.compile(r"[\w*?]+(\.[\w*?]+)*")
_SLICE = re.compile(r"(stages|layers)\[(-?\d*:-?\d*|-?\d+)\]")
_SHARE = re.compile(r"share\((?P<share>[^()]*)\)")
_STEP = re.compile(r"\s*[\w-]+\s*(\((\s*\w+\s*=\s*[\w.+-]+\s*(,(?!\s*\))|(?=\)))\s*)*\)\s*)?")

_READOUT = ("stage1 to stage8, last, logits or a module's name such as features.9; as NAME/flatten where it is not to "
            "be pooled")
_LEARNER = ("head, all, norms, biases, depthwise, a stage such as stage6 or stages[-2:], layers[100:], share(0.3), or "
            "a module's name with * for anything")


def problem_of_readout(word: str) -> str | None:
    """What a readout must be where the word is none: ``stage3``, ``last``, ``features.9/flatten``."""
    name, slash, pooling = word.partition("/")
    if slash and pooling not in _POOLINGS:
        return f"{name}/{' or '.join(_POOLINGS)}"
    if name in _READOUTS:
        return None
    stage = re.fullmatch(r"stage(-?\d+)", name)
    near = [] if "." in name else difflib.get_close_matches(name, ("last", "logits"), n=1, cutoff=0.75)
    if near:
        return f"{_READOUT}; did you mean {near[0]!r}?"
    return _READOUT if stage or not _MODULE.fullmatch(name) else None


def problem_of_learner(word: str) -> str | None:
    """What a word for parts of the network must be where it is none: ``head``, ``layers[100:]``, ``blocks.*``."""
    share = _SHARE.fullmatch(word)
    if share:
        try:
            fits = 0 < float(share["share"]) <= 1
        except ValueError:
            fits = False
        return None if fits else "share(S) with S more than 0 and at most 1"
    return None if _PATTERN.fullmatch(word) or _SLICE.fullmatch(word) else _LEARNER


def problem_of_group(word: str) -> str | None:
    """What a group of modules must be where the text is none: ``classifier``, ``bn1 + conv1``, ``features.*``."""
    fits = all(_PATTERN.fullmatch(name.strip()) for name in word.split("+"))
    return None if fits else "names of modules joined by +, or NAME.* for the children of one"


def problem_of_step(word: str) -> str | None:
    """What an augmentation must look like where the text does not: ``rotation(degrees=20)``."""
    return None if _STEP.fullmatch(word) else "a name with options, such as horizontal_flip or rotation(degrees=20)"


#: How the words of a field are checked, by record and field.
WORDS: dict[tuple[type, str], Callable[[str], str | None]] = {
    (HeadPlan, "reads"): problem_of_readout,
    (Phase, "learns"): problem_of_learner,
    (Phase, "frozen"): problem_of_learner,
    (Phase, "elsewhere"): problem_of_learner,
    (Phase, "over"): problem_of_group,
    (Phase, "augment"): problem_of_step,
}
