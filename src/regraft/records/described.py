"""What is told about recipes, plans and settings before anything runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from regraft.errors import UsageError
from regraft.progress import duration
from regraft.records.base import Record, columns, shown
from regraft.records.plan import Phase, Plan

_WIDTH = 110

#: What a forecast of time is worth.
_MEASURED = "; measured on random pixels, decoding comes on top"

_TITLES = ("phase", "learns", "epochs", "batch", "optimiser", "rate", "schedule", "batch norm")


@dataclass(frozen=True)
class Recipe(Record):
    """A recipe: what to type, what it is, and the figures of the walk-through that it follows."""

    name: str
    about: str
    published: dict[str, str]


@dataclass(frozen=True, repr=False)
class Recipes(Record):
    """Recipes, and the names that stand for several of them."""

    recipes: tuple[Recipe, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        width = max([len(recipe.name) for recipe in self.recipes] + [0])
        lines = []
        for recipe in self.recipes:
            lines.append(f"{recipe.name:<{width}}  {recipe.about}")
            lines += [f"{'':<{width}}    published {figure}: {text}" for figure, text in recipe.published.items()]
        for group, names in self.groups.items():
            lines.append(f"{group} stands for {', '.join(names)}")
        return "\n".join([*lines, "try one with: regraft plan --plan NAME"])


@dataclass(frozen=True)
class SettingRow(Record):
    """One setting: where it applies, its default, what it takes, and what it means."""

    name: str
    where: tuple[str, ...]
    default: str
    allowed: str
    help: str


@dataclass(frozen=True, repr=False)
class SettingRows(Record):
    """Settings of commands and of a plan's tables; the same one of several commands is told once."""

    settings: tuple[SettingRow, ...]

    def __repr__(self) -> str:
        lines = []
        for row in self.settings:
            lines.append(f"{row.name}  ({', '.join(row.where)})")
            lines += textwrap.wrap(row.help, _WIDTH, initial_indent="    ", subsequent_indent="    ")
            lines.append(f"    {row.allowed}; default: {row.default}")
        return "\n".join(lines)


@dataclass(frozen=True)
class PhaseFacts(Record):
    """What a network makes of a phase's words.

    Attributes
    ----------
    trainable, parameters:
        Parameters that learn, and all of network and head.
    cut:
        The place behind which training runs.
    rates, sizes:
        Learning rate of each group of modules, from the head downwards, and how many parameters it has.
    head:
        Parameters of the head.
    instead:
        What differs from the plan, as its words belong to another network; else empty.
    bytes, seconds:
        Forecast for the images: what kept activations take on the disk, and how long the phase takes, decoding
        apart; None where no images are named.
    """

    trainable: int
    parameters: int
    cut: str
    rates: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    head: int = 0
    instead: str = ""
    bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, repr=False)
class DescribedPlan(Record):
    """A plan in a readable table.

    Attributes
    ----------
    plan:
        What would run.
    network:
        What the network makes of each phase, in their order; empty where it was not asked.
    data, classes, images:
        The images it is for, how many classes they have and how many images each split, or ``undivided``; None
        where none are named.
    pass_seconds:
        Forecast of the pass of all images through the frozen network, decoding apart; None where none are named.
    notes:
        What the figures of the network take for granted, or why there are none.

    Raises UsageError where the plan needs two classes and the images have others.
    """

    plan: Plan
    network: tuple[PhaseFacts, ...] = ()
    data: str | None = None
    classes: int | None = None
    images: dict[str, int] | None = None
    pass_seconds: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.network and len(self.network) != len(self.plan.phases):
            raise ValueError(f"facts of {len(self.network)} phases for a plan of {len(self.plan.phases)}")
        if self.plan.head.one_logit and self.classes not in (None, 2):
            raise UsageError(f"the plan {self.plan.name!r} has one output for two classes (head.one_logit), "
                             f"{shown(str(self.data))} has {self.classes}; add --set head.one_logit=false --set "
                             "'phases.*.loss=cross_entropy'")

    def __repr__(self) -> str:
        plan = self.plan
        lines = [f"{plan.name}: {plan.about}" if plan.about else plan.name]
        lines += [f"  published {figure}: {text}" for figure, text in plan.published.items()]
        if self.images is not None:
            counts = ", ".join(f"{count:,} {split}" for split, count in self.images.items())
            lines.append(f"  data           {shown(str(self.data))}: {counts} images of {self.classes} classes")
        lines += [f"  {title:<14} {text}" for title, text in _parts(plan)]
        if self.pass_seconds is not None:
            lines.append(f"  forecast       about {duration(self.pass_seconds)} for the pass of all images through the "
                         f"frozen network{_MEASURED}")
        lines += [f"  {'note':<14} {note}" for note in self.notes]
        if not plan.phases:
            return "\n".join([*lines, "  phases         none: the backbone stays frozen, the head is solved on its "
                                      "features"])
        lines += ["", *columns([_TITLES, *map(_row, plan.phases)], indent=2)]
        for number, phase in enumerate(plan.phases):
            facts = self.network[number] if self.network else None
            told = [*_details(phase, facts), *(_facts(facts) if facts is not None else ())]
            lines += ["", f"  {phase.name}", *(f"    {line}" for line in told)] if told else []
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Plans(Record):
    """The plans that a name stands for: one, or those of a group of recipes."""

    plans: tuple[DescribedPlan, ...]
    file: str | None = None

    def __repr__(self) -> str:
        text = "\n\n".join(map(repr, self.plans))
        return f"{text}\n\nwritten to {shown(self.file)}" if self.file is not None else text


def _parts(plan: Plan) -> Iterator[tuple[str, str]]:
    """What stands outside of the phases, in a line each."""
    backbone, images, head, data = plan.backbone, plan.preprocessing, plan.head, plan.data
    weights = f"weights of {backbone.weights}" if backbone.weights else f"{backbone.start} weights"
    size = f"{images.size} x {images.size}" if images.size else "the backbone's own size"
    reads = ", ".join(head.reads) or "readouts chosen on validation images"
    hidden = "".join(f" - {width} {word}" for width, word in zip(head.hidden, _each(head.activation, head.hidden),
                                                                 strict=True))
    dropout = f", dropout {', '.join(f'{share:g}' for share in head.dropout)}" if any(head.dropout) else ""
    last = "one logit" if head.one_logit else "classes"
    yield "backbone", f"{backbone.name}, {weights}"
    yield "preprocessing", f"{size}, {images.fit}, normalised for {images.normalise}"
    yield "head", f"{reads}{hidden} - {last}{dropout}, {head.start} start"
    limit = f"; at most {data.limit:,} images of each class" if data.limit else ""
    yield "held out", (f"{data.test_share:.0%} as test, {data.validation_share:.0%} of the rest as validation, where "
                       f"the data has none{limit}")


def _each(words: Sequence[str], layers: Sequence[int]) -> Sequence[str]:
    return [words[0]] * len(layers) if len(words) == 1 else words


def _row(phase: Phase) -> tuple[str, ...]:
    momentum = f" {phase.momentum:g}" if phase.momentum else ""
    nesterov = " nesterov" if phase.nesterov else ""
    return (phase.name, phase.what_learns, f"{phase.epochs:g}", f"{phase.batch:,}",
            f"{phase.optimiser}{momentum}{nesterov}", f"{phase.rate:g}", phase.schedule, phase.batch_norm)


def _details(phase: Phase, facts: PhaseFacts | None) -> Iterator[str]:
    """What is told of a phase where it is not as by default."""
    if phase.law != "constant":
        end = {"linear": f"down to {phase.last_rate:g}", "geometric": f"divided by {phase.factor:g} at each group",
               "groups": ", ".join(f"{rate:g}" for rate in phase.group_rates)}[phase.law]
        over = ", ".join(phase.over) or "the stages"
        other = "" if phase.other_rate is None else f"; {phase.other_rate:g} for the rest"
        yield f"rates over depth: {phase.law}, {phase.rate:g} {end}, over {over}{other}"
    if phase.head_rate is not None:
        yield f"rate of the head: {phase.head_rate:g}"
    if phase.decay:
        yield f"rate divided by 1 + {phase.decay:g} x steps"
    if phase.weight_decay:
        yield f"weight decay {phase.weight_decay:g}"
    if phase.loss != "cross_entropy":
        yield f"loss: {phase.loss}"
    if phase.augment:
        yield f"augmented: {', '.join(phase.augment)}"
    if phase.elsewhere and not (facts is not None and facts.instead):
        yield f"in another network: {', '.join(phase.elsewhere)} learns"


def _facts(facts: PhaseFacts) -> Iterator[str]:
    if facts.instead:
        yield facts.instead
    yield (f"{facts.trainable:,} of {facts.parameters:,} parameters learn, {facts.parameters - facts.trainable:,} stay "
           f"frozen; cut at {facts.cut}")
    rows = [(f"{rate:.3g}", f"{facts.sizes[group]:,}" if group in facts.sizes else "", group)
            for group, rate in facts.rates.items()]
    yield from columns([("rate", "parameters", "of"), *rows] if rows else (), indent=2)
    if facts.seconds is not None:
        kept = f", {facts.bytes / 2**20:,.1f} MiB of activations kept" if facts.bytes else ""
        yield f"forecast: about {duration(facts.seconds)}{kept}{_MEASURED}"
