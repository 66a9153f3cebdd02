"""How training images are varied: a closed list of transforms, each option declared with its range.

A plan names them as text, ``["horizontal_flip", "rotation(degrees=20)"]``, or as tables,
``[{name = "rotation", degrees = 20}]``; :func:`augmentation` reads both. Nothing that a file names is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from regraft.errors import SettingsError, UnknownNameError
from regraft.records.base import Record
from regraft.settings import Setting, check, declared

Fill = Literal["reflect", "pad"]

Probability = Annotated[float, Setting("Probability that an image is changed.", ge=0, le=1)]

Keep = Annotated[Literal["always", "measured"], Setting(
    "Whether the step stays: always, or unless the frozen probe tells validation images that are changed so worse.")]


class _ReadByOurselves(Record):
    """Reads JSON as it reads TOML, so that each mistake has one text; sub-classes say how in ``of_fields``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls.of_fields)

    @classmethod
    def of_fields(cls, values: object) -> Record:
        """The record of its JSON values; raises SettingsError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transform(_ReadByOurselves):
    """One step of an augmentation; raises SettingsError where options are out of range.

    A sub-class has a fixed ``name`` and its options as fields.
    """

    def __post_init__(self) -> None:
        check(self)
        for item in declared(type(self)):
            value = getattr(self, item.name)
            if not isinstance(value, str):
                # 1 and 1.0 are one setting, so one text and one key; likewise 0 and -0.
                object.__setattr__(self, item.name, float(value) + 0.0)

    @classmethod
    def of_fields(cls, values: object) -> Transform:
        """The step of its JSON values; raises SettingsError."""
        if isinstance(values, cls):
            return values
        steps = _steps(*_of_table(values))
        if len(steps) != 1 or not isinstance(steps[0], cls):
            raise SettingsError([f"{values!r} is no {cls.__name__}"])
        return steps[0]

    def to_text(self) -> str:
        """The shortest text that :func:`augmentation` reads as this step: options at their default are left out."""
        options = [f"{item.name}={_shortest(value)}" for item in declared(type(self))
                   if (value := getattr(self, item.name)) != item.default]
        name: str = self.name  # type: ignore[attr-defined]
        return f"{name}({', '.join(options)})" if options else name


@dataclass(frozen=True)
class HorizontalFlip(Transform):
    """Left and right exchanged."""

    name: Literal["horizontal_flip"] = field(init=False, default="horizontal_flip")
    p: Probability = 0.5
    keep: Keep = "always"


@dataclass(frozen=True)
class VerticalFlip(Transform):
    """Top and bottom exchanged."""

    name: Literal["vertical_flip"] = field(init=False, default="vertical_flip")
    p: Probability = 0.5
    keep: Keep = "always"


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """A rectangle of the whole upright picture, stretched to the network's square.

    It comes off the file, so it is the first step wherever it stands, and stands at most once.
    """

    name: Literal["random_resized_crop"] = field(init=False, default="random_resized_crop")
    scale_low: Annotated[float, Setting("Smallest share of the picture's area.", gt=0, le=1)] = 0.08
    scale_high: Annotated[float, Setting("Largest share of the picture's area.", gt=0, le=1)] = 1.0
    ratio: Annotated[float, Setting("Most that one side is longer than the other, as a factor.", ge=1, le=10)] = 4 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_low > self.scale_high:
            raise SettingsError([f"scale_low: {self.scale_low:g} is not allowed; it must be at most scale_high, "
                                 f"{self.scale_high:g}"])


@dataclass(frozen=True)
class Rotation(Transform):
    """Turned about the centre by an angle drawn evenly."""

    name: Literal["rotation"] = field(init=False, default="rotation")
    degrees: Annotated[float, Setting("Largest angle, either way round, in degrees.", ge=0, le=180)] = 15.0
    fill: Annotated[Fill, Setting(
        "What fills the corners: the picture reflected, or the pad colour of the preprocessing.")] = "reflect"


@dataclass(frozen=True)
class ColourJitter(Transform):
    """Brightness, contrast, saturation and hue, each changed by an amount drawn evenly, in an order drawn too."""

    name: Literal["colour_jitter"] = field(init=False, default="colour_jitter")
    brightness: Annotated[float, Setting("Largest change of the brightness, as a share of it.", ge=0, le=1)] = 0.2
    contrast: Annotated[float, Setting("Largest change of the contrast, as a share of it.", ge=0, le=1)] = 0.2
    saturation: Annotated[float, Setting("Largest change of the saturation, as a share of it.", ge=0, le=1)] = 0.2
    hue: Annotated[float, Setting("Largest change of the hue, in turns of the colour circle.", ge=0, le=0.5)] = 0.0


@dataclass(frozen=True)
class TrivialAugment(Transform):
    """One operation at one strength, both drawn: TrivialAugment in its wide form (Müller and Hutter, 2021)."""

    name: Literal["trivial_augment"] = field(init=False, default="trivial_augment")


@dataclass(frozen=True)
class RandomErasing(Transform):
    """A rectangle of 2 to 33 % of the area filled with the pad colour of the preprocessing (Zhong et al., 2017)."""

    name: Literal["random_erasing"] = field(init=False, default="random_erasing")
    p: Probability = 0.25


@dataclass(frozen=True)
class Grey(Transform):
    """Colours taken away."""

    name: Literal["grey"] = field(init=False, default="grey")
    p: Probability = 0.1


#: Steps that act on the network's square.
SquareStep = HorizontalFlip | VerticalFlip | Rotation | ColourJitter | TrivialAugment | RandomErasing | Grey

Step = SquareStep | RandomResizedCrop

#: Every transform that may stand in a file, by name.
TRANSFORMS: dict[str, type[Step]] = {kind.name: kind for kind in get_args(Step)}


@dataclass(frozen=True, repr=False)
class Augmentation(_ReadByOurselves):
    """The steps that vary a training image, in order; no step leaves every image as it is.

    Raises SettingsError where a step is no transform or ``random_resized_crop`` stands twice.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        given: tuple[object, ...] = self.steps
        if strange := [step for step in given if not isinstance(step, Transform)]:
            raise SettingsError([f"steps: {strange[0]!r} is no transform; augmentation([...]) reads texts and tables"])
        crops = sum(isinstance(step, RandomResizedCrop) for step in self.steps)
        if crops > 1:
            raise SettingsError([f"random_resized_crop: given {crops} times; it comes off the file, so at most once"])

    @property
    def crop(self) -> RandomResizedCrop | None:
        """The step that decides which part of the picture is seen, or None where view 0 does."""
        return next((step for step in self.steps if isinstance(step, RandomResizedCrop)), None)

    @property
    def after_crop(self) -> tuple[SquareStep, ...]:
        """The steps that act on the network's square."""
        return tuple(step for step in self.steps if not isinstance(step, RandomResizedCrop))

    def to_text(self) -> tuple[str, ...]:
        """The shortest texts that :func:`augmentation` reads as this, one a step."""
        return tuple(step.to_text() for step in self.steps)

    def __repr__(self) -> str:
        return ", ".join(self.to_text()) or "no augmentation"

    @classmethod
    def of_fields(cls, values: object) -> Augmentation:
        """The augmentation of its JSON values; raises SettingsError."""
        if isinstance(values, Augmentation):
            return values
        if not isinstance(values, Mapping) or set(values) != {"steps"} or not isinstance(values["steps"], list | tuple):
            raise SettingsError([f"{values!r} is no augmentation; give {{'steps': [...]}}"])
        return augmentation(values["steps"])


def augmentation(values: str | Sequence[str | Mapping[str, object]]) -> Augmentation:
    """The augmentation that a plan names, as texts or tables, presets among them; a text alone is one value.

    Raises SettingsError with every mistake.
    """
    steps: list[Step] = []
    problems: list[str] = []
    for number, value in enumerate([values] if isinstance(values, str) else values, start=1):
        try:
            name, options = _of_text(value) if isinstance(value, str) else _of_table(value)
            steps += _steps(name, options)
        except SettingsError as error:
            problems += [f"augment, step {number}: {problem}" for problem in error.problems]
    if problems:
        raise SettingsError(problems)
    return Augmentation(tuple(steps))


def _steps(name: str, options: Mapping[str, object]) -> tuple[Step, ...]:
    """The steps of one name: one of a transform, all of a preset."""
    if name in PRESETS:
        if options:
            raise SettingsError([f"{name}: a preset takes no options, {', '.join(options)} given; "
                                 f"it is {PRESETS[name]!r}"])
        return PRESETS[name].steps
    if name not in TRANSFORMS:
        known = (*TRANSFORMS, *PRESETS)
        raise SettingsError([str(UnknownNameError("transform", name, known, f"there are {', '.join(known)}"))])
    return (_step(name, options),)


def _step(name: str, options: Mapping[str, object]) -> Step:
    known = {item.name: item for item in declared(TRANSFORMS[name])}
    takes = f"{name} takes {', '.join(known)}" if known else f"{name} takes none"
    problems = [str(UnknownNameError("option", option, known, takes)) for option in options if option not in known]
    step = None
    try:
        step = TRANSFORMS[name](**{option: _plain(value) for option, value in options.items() if option in known})
    except SettingsError as error:
        problems += [f"{name}: {problem}" for problem in error.problems]
    if step is None or problems:
        raise SettingsError(problems)
    return step


def _plain(value: object) -> Any:
    """A whole number too long for floating point as infinity, which every range refuses."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    return value


_TEXT = re.compile(r"\s*(?P<name>[\w-]+)\s*(\((?P<options>[^()]*)\))?\s*")


def _of_text(text: str) -> tuple[str, dict[str, object]]:
    """Name and options of ``rotation(degrees=20, fill=pad)``."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise SettingsError([f"{text!r} is no transform; write it as rotation(degrees=20)"])
    options: dict[str, object] = {}
    for part in (found["options"] or "").split(",") if (found["options"] or "").strip() else ():
        option, equals, value = (word.strip() for word in part.partition("="))
        if not (option and equals and value):
            raise SettingsError([f"{text!r}: {part.strip()!r} is no option; write it as rotation(degrees=20)"])
        if option in options:
            raise SettingsError([f"{text!r}: {option} is given twice; once is allowed"])
        options[option] = _value(value)
    return found["name"], options


def _of_table(table: object) -> tuple[str, dict[str, object]]:
    """Name and options of ``{name = "rotation", degrees = 20}``."""
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise SettingsError([f"{table!r} is no transform; write it as 'rotation(degrees=20)' or "
                             "{name = \"rotation\", degrees = 20}"])
    return table["name"], {str(option): value for option, value in table.items() if option != "name"}


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _shortest(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


#: Augmentations with a name. The published systems say which transforms they use; where they give no figure, ours
#: are the defaults or those of ``light``.
PRESETS: dict[str, Augmentation] = {}
PRESETS["light"] = augmentation(["horizontal_flip", "random_resized_crop(scale_low=0.6)"])
PRESETS["published-cats-dogs"] = augmentation(["horizontal_flip", "rotation(degrees=72)"])  # 0.2 of a turn
PRESETS["published-flowers"] = augmentation(
    ["colour_jitter", "horizontal_flip", "rotation", "random_resized_crop(scale_low=0.6)"])
