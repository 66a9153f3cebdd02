"""A plan: everything that decides a training, as data. It is printed, saved, reloaded and given to the only loop.

What learns is named; the cut that follows from it never stands in a plan, it is derived from the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from regraft.errors import SettingsError
from regraft.records.base import Record
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.settings import Fit, Setting, check

Optimiser = Literal["sgd", "adam", "adamw", "rmsprop"]
Schedule = Literal["constant", "step", "cosine", "one_cycle"]
Law = Literal["constant", "linear", "geometric", "groups"]
Normalisation = Literal["backbone", "imagenet", "half", "none"]
Activation = Literal["linear", "relu", "sigmoid", "tanh"]
StoreAs = Literal["half", "float32"]
Precision = Literal["auto", "fp32", "bf16"]

#: What a phase says learns in words that mean something in every network.
_ANYWHERE = re.compile(r"head|all|norms|biases|depthwise|stage\d+|stages\[.*\]|share\(.*\)")


def _problems(record: object) -> list[str]:
    try:
        check(record)
    except SettingsError as error:
        return list(error.problems)
    return []


@dataclass(frozen=True)
class DataPlan(Record):
    """``[data]``: how the images are divided, and how many are taken."""

    test_share: Annotated[float, Setting(
        "Share of the images split off as test where the data has none; 0 for none.", ge=0, lt=1)] = 0.2
    validation_share: Annotated[float, Setting(
        "Share of the rest split off as validation where the data has none.", gt=0, lt=1)] = 0.2
    limit: Annotated[int | None, Setting(
        "Take at most this many images of each class (and split, where the data has some), seeded.", ge=1)] = None
    classes: Annotated[int | None, Setting(
        "How many classes `regraft plan` counts the head for where no images are named; images have their own.",
        ge=2)] = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PreprocessingPlan(Record):
    """``[preprocessing]``: from a picture to the network's square."""

    size: Annotated[int | None, Setting(
        "Side of the network's input in pixels; by default the backbone's own.", ge=32, le=1024)] = None
    fit: Annotated[Fit, Setting("Crop the picture's centre, pad it, or squash it.")] = "crop"
    normalise: Annotated[Normalisation, Setting(
        "Mean and deviation subtracted and divided by: the backbone's own, ImageNet's, half (to [-1, 1]), or "
        "none (to [0, 1]).")] = "backbone"

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class BackbonePlan(Record):
    """``[backbone]``: the network and the weights it starts from."""

    name: Annotated[str, Setting("The network; `regraft backbones` lists them.")] = "efficientnet_lite0"
    weights: Annotated[str | None, Setting("A local .safetensors or .pth file with its weights.")] = None
    start: Annotated[Literal["pretrained", "random"], Setting(
        "Pre-trained weights, or the architecture alone with random ones.")] = "pretrained"
    words_of: Annotated[str | None, Setting(
        "The network whose modules and numbers of layers the phases name; by default the one of name. It is kept where "
        "another name is set.")] = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def own_words(self) -> bool:
        """Whether the phases' words were written for this network."""
        return self.words_of in (None, self.name)


@dataclass(frozen=True)
class HeadPlan(Record):
    """``[head]``: what turns features into class scores."""

    reads: Annotated[tuple[str, ...], Setting(
        "Readouts joined as its input (stage1 to stage8, last, logits, or a module's name), each pooled by its "
        "mean or, as NAME/flatten, not at all; none: chosen on validation images.")] = ()
    hidden: Annotated[tuple[int, ...], Setting(
        "Widths of hidden layers; none: a linear head.", ge=1, le=65_536)] = ()
    activation: Annotated[tuple[Activation, ...], Setting(
        "Activation after each hidden layer: one word for all, or one each.")] = ("relu",)
    dropout: Annotated[tuple[float, ...], Setting(
        "Dropout in front of each dense layer: one share for all, or one each.", ge=0, lt=1)] = (0.0,)
    one_logit: Annotated[bool, Setting("One output for two classes instead of two.")] = False
    start: Annotated[Literal["solved", "random"], Setting(
        "Start at the solved logistic regression, made no surer of itself than the first phase's label smoothing "
        "allows, or at random weights.")] = "solved"

    def __post_init__(self) -> None:
        problems = [f"head: {p}" for p in _problems(self)]
        for name, given in (("activation", self.activation), ("dropout", self.dropout)):
            layers = len(self.hidden) + (name == "dropout")
            if len(given) not in (1, layers):
                problems.append(f"head.{name}: {len(given)} values for {layers} layers; give 1 or {layers}")
        if self.hidden and self.start == "solved":
            problems.append("head.start: 'solved' is for a linear head; with hidden layers it must be 'random'")
        if problems:
            raise SettingsError(problems)


@dataclass(frozen=True)
class Phase(Record):
    """One of ``[[phases]]``: what learns, for how long, and how."""

    name: Annotated[str, Setting("What to call it in tables and curves.")]
    learns: Annotated[tuple[str, ...], Setting(
        "What learns: head, all, norms, biases, depthwise, a stage (stage6, stages[-2:]), layers[100:] in Keras' "
        "numbering, share(0.3) of the parameters counted from the output, or module names with * for anything.")]
    frozen: Annotated[tuple[str, ...], Setting("What of it stays frozen, in the same words.")] = ()
    elsewhere: Annotated[tuple[str, ...], Setting(
        "What learns instead, nothing of it frozen, in a network without the modules that learns or frozen name, and "
        "in another one than their layers were counted in; rates then fall over the stages.")] = ()
    epochs: Annotated[float, Setting("Passes over the training images.", gt=0, le=10_000)] = 5.0
    batch: Annotated[int, Setting("Images a step.", ge=1, le=65_536)] = 32
    optimiser: Annotated[Optimiser, Setting("How gradients become steps.")] = "adamw"
    momentum: Annotated[float, Setting("Momentum of sgd and rmsprop.", ge=0, lt=1)] = 0.0
    nesterov: Annotated[bool, Setting("Nesterov's momentum, for sgd.")] = False
    rate: Annotated[float, Setting("Learning rate at the head.", gt=0, le=100)] = 1e-3
    head_rate: Annotated[float | None, Setting(
        "Learning rate of the head where it has one of its own; a solved head wants less than what is behind the cut, "
        "as its many inputs all move at once.", gt=0, le=100)] = None
    schedule: Annotated[Schedule, Setting("How the rate changes over the phase.")] = "one_cycle"
    warmup: Annotated[float, Setting("Share of the steps in which the rate rises from near 0.", ge=0, lt=1)] = 0.0
    step_epochs: Annotated[float, Setting("Epochs between two steps of the schedule 'step'.", gt=0)] = 3.0
    step_factor: Annotated[float, Setting("Factor of each step of the schedule 'step'.", gt=0, le=1)] = 0.1
    decay: Annotated[float, Setting("Rate divided by 1 + decay x steps so far, on top of the schedule.", ge=0)] = 0.0
    law: Annotated[Law, Setting(
        "Rates over depth: constant, linear down to last_rate, geometric (divided by factor at each group), or one "
        "for each group.")] = "constant"
    over: Annotated[tuple[str, ...], Setting(
        "Groups of modules from the head downwards: names joined by + share a rate, NAME.* stands for the children "
        "of NAME from last to first; by default the stages.")] = ()
    group_rates: Annotated[tuple[float, ...], Setting("A rate for each group of over, for the law 'groups'.")] = ()
    last_rate: Annotated[float, Setting("Rate of the last group of the law 'linear'.", gt=0)] = 1e-7
    factor: Annotated[float, Setting("Divisor from one group to the next of the law 'geometric'.", ge=1)] = 3.0
    other_rate: Annotated[float | None, Setting(
        "Rate of what learns and no group names; by default that of the last group.", ge=0)] = None
    weight_decay: Annotated[float, Setting("Weight decay.", ge=0, le=10)] = 0.0
    decay_norms: Annotated[bool, Setting("Weight decay of norms and biases too.")] = False
    batch_norm: Annotated[Literal["inference", "training"], Setting(
        "Batch norm uses what it was trained with, or each batch's own statistics.")] = "inference"
    loss: Annotated[Literal["cross_entropy", "binary"], Setting(
        "Cross-entropy of the class scores, or binary cross-entropy of one logit.")] = "cross_entropy"
    label_smoothing: Annotated[float, Setting("Label smoothing.", ge=0, lt=1)] = 0.0
    class_weights: Annotated[Literal["none", "balanced"], Setting("Weights of the classes in the loss.")] = "none"
    sampling: Annotated[Literal["shuffled", "balanced"], Setting(
        "Every image once an epoch, or drawn so that classes come equally often.")] = "shuffled"
    mixup: Annotated[float, Setting("Alpha of mixup; 0 for none.", ge=0)] = 0.0
    cutmix: Annotated[float, Setting("Alpha of CutMix; 0 for none.", ge=0)] = 0.0
    clip: Annotated[float | None, Setting("Largest norm of a step's gradient.", gt=0)] = None
    accumulate: Annotated[int, Setting("Batches whose gradients make one step.", ge=1)] = 1
    ema: Annotated[float | None, Setting(
        "Decay a step of the moving average of the weights that is kept instead of them.", gt=0, lt=1)] = None
    patience: Annotated[int | None, Setting(
        "Stop after this many epochs without a better validation loss.", ge=1)] = None
    augment: Annotated[tuple[str, ...], Setting(
        "Augmentations of the training images, such as horizontal_flip or rotation(degrees=20).")] = ()
    views: Annotated[int, Setting(
        "Augmented views of each image, kept at the cut and used in turn with the image as it is; 0: fresh ones each "
        "epoch.",
        ge=0, le=1_000)] = 0
    cached: Annotated[Literal["auto", "always", "never"], Setting(
        "Keep activations at the cut: where it pays, always, or never.")] = "auto"
    store_as: Annotated[StoreAs, Setting("Number format of the kept activations.")] = "half"
    precision: Annotated[Precision, Setting(
        "Arithmetic of the training: fp32, or bf16, on a processor of dense layers alone; auto takes it where the "
        "device has it.")] = "auto"

    def __post_init__(self) -> None:
        problems = _problems(self)
        if not self.learns:
            problems.append("learns: nothing is named; give at least one, such as head")
        if self.law == "groups" and len(self.group_rates) != len(self.over):
            problems.append(f"group_rates: {len(self.group_rates)} rates for {len(self.over)} groups of over")
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            problems.append("nesterov: it needs optimiser = \"sgd\" and a momentum")
        if problems:
            raise SettingsError([f"{self.name or 'phase'}: {p}" for p in problems])

    @property
    def what_learns(self) -> str:
        """The words for what learns, and for what of it does not."""
        return ", ".join(self.learns) + (f" without {', '.join(self.frozen)}" if self.frozen else "")

    @property
    def counts_layers(self) -> bool:
        """Whether it numbers layers, which mean something in the network alone that they were counted in."""
        return any(word.startswith("layers[") for word in (*self.learns, *self.frozen))

    @property
    def of_one_network(self) -> bool:
        """Whether it numbers layers or names modules."""
        return bool(self.over) or any(not _ANYWHERE.fullmatch(word) for word in (*self.learns, *self.frozen))


@dataclass(frozen=True)
class Plan(Record):
    """A whole training.

    ``phases`` is empty where the backbone stays frozen and the head is solved. ``published`` holds figures of
    the walk-through that a recipe follows, as it gives them.
    """

    name: Annotated[str, Setting("What to call it.")] = "features"
    about: Annotated[str, Setting("What it is, in a sentence.")] = ""
    published: dict[str, str] = field(default_factory=dict)
    data: DataPlan = DataPlan()
    preprocessing: PreprocessingPlan = PreprocessingPlan()
    backbone: BackbonePlan = BackbonePlan()
    head: HeadPlan = HeadPlan()
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        twice = sorted({name for name in names if names.count(name) > 1})
        problems = [f"phases: the name {name!r} is given twice" for name in twice]
        if self.head.one_logit != any(p.loss == "binary" for p in self.phases) and self.phases:
            problems.append("head.one_logit and a phase's loss = \"binary\" need each other")
        if problems:
            raise SettingsError(problems)


@dataclass(frozen=True)
class Run(Record):
    """What one training did, written down before it starts.

    Attributes
    ----------
    strategy:
        ``features``: the backbone is frozen, only the head learns.
    backbone, weights_digest:
        The network and the digest of its tensors; empty where features of unknown origin are learned from.
    preprocessing:
        View 0, or None there.
    readouts:
        Where features are read; the head is chosen among them.
    folds, repeats:
        Cross-validation that chooses and measures, or None where a validation split does.
    images:
        How many are in each split.
    plan:
        Of a training by steps.
    """

    strategy: str
    backbone: str
    weights_digest: str
    preprocessing: Preprocessing | None
    readouts: tuple[Readout, ...]
    folds: int | None
    repeats: int
    seed: int
    images: dict[str, int]
    plan: Plan | None = None
