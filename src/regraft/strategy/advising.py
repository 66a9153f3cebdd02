"""From measurements to a recommendation with its reasons. Pure: what is measured is given, nothing is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.heads.probe import Probe, lead
from regraft.metrics import wilson
from regraft.records.advice import Augmented, Basis, Pilot, Scenario
from regraft.records.results import Interval

Similarity = Literal["similar", "different"]

#: Images of the median class from which on data counts as large. The published table gives no number.
LARGE = 250

#: Error of the frozen network above which letting stages learn may pay, on photos and on images unlike them.
_ROOM_SIMILAR, _ROOM_DIFFERENT = 0.10, 0.03

#: Images of the median class below which fine-tuning learns the images by heart instead of the classes.
ENOUGH = 30

#: Gain of earlier stages from which on images count as unlike the network's own.
_UNLIKE = 0.01

#: The published table: what to do by size and similarity.
_RULES = {("small", "similar"): "features", ("small", "different"): "partial", ("large", "similar"): "full",
          ("large", "different"): "scratch"}

#: Share of the frozen network's errors that training usually takes away: low, expected, high.
_USUAL = {"partial": (-0.2, 0.15, 0.4), "full": (-0.4, 0.15, 0.6)}


@dataclass(frozen=True)
class Frozen:
    """What heads on the frozen network reach.

    Attributes
    ----------
    last, joined:
        Heads that read the last place alone, and earlier ones too; on the same images.
    images_per_class:
        Of the median class.
    """

    last: Probe
    joined: Probe
    images_per_class: int

    @property
    def best(self) -> Probe:
        """The frozen network with the better head."""
        return min(self.joined, self.last, key=lambda probe: probe.log_loss)

    @property
    def gain_of_stages(self) -> tuple[float, float, float]:
        """Accuracy of the joined places less the last one's: value, low, high."""
        return lead(self.joined.right, self.last.right)

    @property
    def similarity(self) -> Similarity:
        """Whether earlier places beat the last one by more than chance."""
        return _similarity([self.gain_of_stages])

    @property
    def error(self) -> float:
        """Share of images that the frozen network gets wrong."""
        return 1 - self.best.accuracy

    @property
    def room(self) -> float:
        """Error above which letting stages learn may pay."""
        return _ROOM_DIFFERENT if self.similarity == "different" else _ROOM_SIMILAR

    @property
    def may_pay(self) -> bool:
        """Whether letting stages learn could beat the frozen network."""
        return enough(self.images_per_class) and self.error > self.room


@dataclass(frozen=True)
class Measured(Frozen):
    """What else is known about the images.

    Attributes
    ----------
    places:
        A head on each place alone, first to last, on the same images as each other.
    gain_of_doubling:
        Expected rise of accuracy with twice the images.
    entropy:
        See :class:`regraft.records.advice.Scenario`.
    """

    places: dict[str, Probe]
    gain_of_doubling: float
    entropy: float

    @property
    def peak(self) -> str:
        """The single place that does best."""
        return max(self.places, key=lambda name: self.places[name].accuracy)

    @property
    def similarity(self) -> Similarity:
        """Whether an earlier place, alone or joined, beats the last one by more than chance."""
        *earlier, last, _ = self.places.values()
        return _similarity([self.gain_of_stages, *(lead(probe.right, last.right) for probe in earlier)])


def _similarity(gains: Sequence[tuple[float, float, float]]) -> Similarity:
    return "different" if any(value >= _UNLIKE and low > 0 for value, low, _ in gains) else "similar"


def enough(images_per_class: int) -> bool:
    """Whether a class (the median one) has images enough to let stages learn."""
    return images_per_class >= ENOUGH


def entropy(logits_ND: NDArray[np.float32]) -> float:
    """Mean entropy of the softmax, as a share of the largest possible."""
    shifted = logits_ND.astype(np.float64) - logits_ND.max(1, keepdims=True)
    log_P = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-(np.exp(log_P) * log_P).sum(1).mean() / math.log(logits_ND.shape[1]))


def recommended(pilot: Pilot | None) -> str:
    """The strategy: stages learn only where a trial on these images has shown that it pays."""
    return "partial" if pilot is not None and pilot.pays else "features"


def scenario(found: Measured, strategy: str) -> Scenario:
    """Where the images stand in the published table."""
    size: Literal["small", "large"] = "large" if found.images_per_class >= LARGE else "small"
    rule = _RULES[size, found.similarity]
    return Scenario(size, found.images_per_class, found.gain_of_doubling, found.similarity, found.gain_of_stages,
                    found.entropy, rule, rule == strategy)


def expected(strategy: str, found: Frozen, pilot: Pilot | None, tried: bool = False) -> tuple[Interval, Basis]:
    """Accuracy of a strategy, and how it is known; ``tried`` where the trial was of this very strategy."""
    n = len(found.best.right)
    measured = Interval(*wilson(int(found.best.right.sum()), n))
    value = measured.value
    if strategy == "features":
        return measured, "measured"
    if tried and pilot is not None:
        # Of two answers to an image at most one error each can differ: no interval of the gain is wider than this.
        spread = 1.96 * math.sqrt((2 - pilot.frozen - pilot.trained) / pilot.images + found.error * value / n)
        middle = value + pilot.trained - pilot.frozen
        return _interval(middle, middle - spread, middle + spread), "tried"
    # What is usual comes on top of what the measurement itself leaves open.
    low, usual, high = (start + share * found.error for start, share in
                        zip((measured.low, value, measured.high), _USUAL[strategy], strict=True))
    if pilot is not None:  # a trial of one cut says more about the others than what is usual
        usual = min(max(value + pilot.trained - pilot.frozen, low), high)
    return _interval(usual if enough(found.images_per_class) else value, low, high), "estimated"


def from_scratch(found: Measured) -> Interval:
    """Accuracy of a network that starts without knowledge: a guess."""
    # What edges and colours alone tell is about what a network without other knowledge learns from few images.
    first = next(iter(found.places.values())).accuracy
    return _interval(0.9 * first, 0.5 * first, found.best.accuracy)


def _interval(value: float, low: float, high: float) -> Interval:
    value = min(max(value, 0.0), 1.0)
    return Interval(value, min(max(low, 0.0), value), max(min(high, 1.0), value))


def harmless(augmentations: Sequence[Augmented]) -> tuple[str, ...]:
    """Those that a plan may keep, in its words."""
    return tuple(one.augmentation for one in augmentations if not one.harms)


def about_augmentations(augmentations: Sequence[Augmented]) -> str:
    """What was found out about them, in a sentence; empty where nothing was tried."""
    if not augmentations:
        return ""
    harmful = [f"{one.augmentation.partition('(')[0]} (log-loss {one.log_loss:.3f} to {one.changed_log_loss:.3f} on "
               f"{one.images:,} images)" for one in augmentations if one.harms]
    if harmful:
        return f"Changing pictures by {' and by '.join(harmful)} makes answers worse, so the plan leaves that out."
    names = " and ".join(one.augmentation.partition("(")[0] for one in augmentations)
    return f"Changing pictures while they are learned from ({names}) does no harm here, so the plan does so."


def reasons(found: Measured, pilot: Pilot | None, told: Scenario, not_tried: str,
            augmentations: Sequence[Augmented] = ()) -> Iterator[str]:
    """Why, a sentence each; ``not_tried`` says why no trial was made where one would have been."""
    n = len(found.best.right)
    yield (f"The frozen network, with only its answer learned, is right on {found.best.accuracy:.1%} of {n:,} images "
           f"that it had not learned from, so {found.error:.1%} are left to gain.")
    yield _about_similarity(found)
    if augmentations:
        yield about_augmentations(augmentations)
    if pilot is not None:
        verdict = ("so it pays" if pilot.pays else "so it is not worth the time")
        yield (f"A short trial let the last two stages learn from {pilot.learned_from:,} images: on {pilot.images:,} "
               f"others {pilot.trained:.1%} were right, against {pilot.frozen:.1%} with the frozen network; {verdict}.")
    elif not_tried:
        yield f"Letting stages learn was not tried: {not_tried}."
    elif not enough(found.images_per_class):
        yield (f"A class has {found.images_per_class:,} images (median); below {ENOUGH} a network that may change "
               "itself learns the images by heart, so it stays frozen.")
    else:
        yield (f"Letting stages learn usually pays where the frozen network is wrong on more than {found.room:.0%} of "
               "such images; here it is not, so no time was spent on trying.")
    gain = 100 * found.gain_of_doubling
    yield (f"Twice as many images would bring about {gain:.1f} more right answers in 100"
           + ("; collecting more is the surest way to improve." if gain >= 2 else ", so the images are enough."))
    size = f"{told.size} ({told.images_per_class:,} images a class)"
    rule = {"features": "to keep the network frozen", "partial": "to train the later layers",
            "full": "to train everything", "scratch": "to train from scratch"}[told.rule]
    yield (f"The well-known table of four cases would call your data {size} and {told.similarity}, and say {rule}; "
           + ("the measurements agree." if told.agrees else "the measurements on your images say otherwise."))


def _about_similarity(found: Measured) -> str:
    value, low, high = (100 * number for number in found.gain_of_stages)
    *_, last, _ = found.places
    peak = found.places[found.peak].accuracy
    if found.similarity == "different":
        return (f"Your images are unlike the photos that the network was trained on: read alone, {found.peak} is right "
                f"on {peak:.1%}, the last layer ({last}) on {found.places[last].accuracy:.1%}. Earlier stages joined "
                f"with the last layer change the result by {value:+.1f} points ({low:+.1f} to {high:+.1f}), so the "
                f"answer should read {', '.join(found.joined.settings.readouts)}; train looks at earlier stages by "
                "itself.")
    return ("Your images are like the photos that the network was trained on: no earlier stage tells more than the "
            f"last layer ({found.places[last].accuracy:.1%}), and joining them with it changes the result by "
            f"{value:+.1f} points.")
