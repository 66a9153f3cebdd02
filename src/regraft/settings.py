"""Every setting of every command, declared once: type, default, range, unit and help.

A command's settings are the fields of one frozen dataclass. Python (:func:`takes`), the command line and
the documentation derive their signatures from it; ``check`` refuses bad values, all of them at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from regraft.errors import SettingsError

Fit = Literal["crop", "pad", "squash"]
Device = Literal["auto", "cpu", "cuda", "mps"]
EngineName = Literal["auto", "pytorch", "openvino", "onnxruntime"]
Layout = Literal["auto", "classes", "splits"]
Strategy = Literal["features", "partial", "full", "auto"]
Pool = Literal["mean", "max", "none"]
ExportFormat = Literal["onnx", "openvino", "torch", "timm"]
ExportPrecision = Literal["fp32", "fp16", "int8"]
PageKind = Literal["images", "no-images", "none"]
Labels = Literal["one", "several"]

#: What stands between several labels in a cell of a table, where nothing else is said.
LABEL_SEPARATOR = ";"

#: Endings of the files of each format of export; the first is of the file that is opened.
EXPORT_ENDINGS: dict[ExportFormat, tuple[str, ...]] = {
    "onnx": (".onnx",), "openvino": (".xml", ".bin"), "torch": (".pt2",), "timm": (".safetensors", ".json")}

#: Endings of tables of predictions.
TABLES = (".csv", ".parquet", ".jsonl")

DEFAULT_BACKBONE = "efficientnet_lite0"

#: Share of known images that a model accepts as known, where nothing else is said.
ACCEPT = 0.95

#: How long ``train`` may let stages learn where no time limit and no strategy is given.
AUTO_LIMIT = "5m"

#: How long advice may try things out, beside the first look at the images.
ADVICE_LIMIT = "5m"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is said about one setting besides its type and default.

    Parameters
    ----------
    help:
        One sentence, for ``--help``, the documentation and error messages.
    ge, le:
        Smallest and largest allowed value, both included.
    gt, lt:
        The same, the bound itself excluded.
    metavar:
        The word that stands for the value on the command line.
    positional:
        True for what the command is about; it is given without a name.
    python_only:
        True for what can't be typed, such as a function.
    """

    help: str
    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None
    metavar: str | None = None
    positional: bool = False
    python_only: bool = False

    def problem(self, value: object) -> str | None:
        """Why a number is out of range, or None."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        bounds = ((self.ge, "at least", "__ge__"), (self.le, "at most", "__le__"),
                  (self.gt, "more than", "__gt__"), (self.lt, "less than", "__lt__"))
        try:
            number = float(value)
        except OverflowError:  # a whole number too long for floating point, which every range refuses
            number = math.inf
        broken = not math.isfinite(number) or any(
            bound is not None and not getattr(number, op)(float(bound)) for bound, _, op in bounds
        )
        return f"{self.range}" if broken else None

    @property
    def range(self) -> str:
        """The allowed range in words, empty without one."""
        pairs = ((self.ge, "at least"), (self.gt, "more than"), (self.le, "at most"), (self.lt, "less than"))
        return " and ".join(f"{words} {_number(bound)}" for bound, words in pairs if bound is not None)


def _number(value: float) -> str:
    return f"{value:,}" if float(value).is_integer() and abs(value) >= 1 else f"{value:g}"


_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>s|m|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | float, name: str = "time_limit") -> float:
    """Seconds of a duration such as ``90``, ``"90s"``, ``"5m"`` or ``"1.5h"``; raises SettingsError, by its name."""
    if isinstance(text, str):
        match = _DURATION.fullmatch(text.strip())
        if match is None:
            raise SettingsError([f"{name}: {text!r} is no duration; write it as 90s, 5m or 1h"])
        value = float(match["number"]) * _SECONDS[match["unit"] or "s"]
    else:
        value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise SettingsError([f"{name}: {text!r} is not allowed; it must be more than 0 seconds"])
    return value


_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?i?B?)", re.IGNORECASE)


def size_in_bytes(text: str | int, name: str = "store_limit") -> int:
    """Bytes of a size such as ``"20GB"``, ``"512M"`` or a plain number; raises SettingsError, by its name."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SettingsError([f"{name}: {text!r} is no size; write it as 20GB or 512MB"])
    unit = match["unit"].upper().rstrip("B").rstrip("I")
    return int(float(match["number"]) * 1024 ** " KMGT".index(unit or " "))


_REQUIREMENT = re.compile(r"recall:(?P<label>.+?)\s*>=\s*(?P<share>[\d.]+)", re.DOTALL)


def required_recall(text: str) -> tuple[str, float]:
    """Class and share of a requirement such as ``recall:defect>=0.995``; raises SettingsError."""
    match = _REQUIREMENT.fullmatch(text)
    try:
        share = float(match["share"]) if match else math.nan
    except ValueError:
        share = math.nan
    if match is None or not 0 < share < 1:
        raise SettingsError([f"require: {text!r} is not allowed; write recall:CLASS>=SHARE with a share between 0 and "
                             "1, such as recall:defect>=0.995"])
    return match["label"], share


Data = Annotated[str | Path, Setting(
    "A folder of class folders or of splits, a CSV or Parquet table, or torchvision:NAME.",
    metavar="DATA", positional=True)]
ModelPath = Annotated[str | Path, Setting("A model folder that train wrote.", metavar="MODEL", positional=True)]
AnyModel = Annotated[str | Path, Setting(
    "A model folder that train wrote, or an ONNX file that export wrote.", metavar="MODEL", positional=True)]
Group = Annotated[str | None, Setting(
    "What must stay on one side of a split: a table's column, 'parent' (the file's folder), a regular "
    "expression whose first group, or whole match, names the group, or a CSV file with columns path and group.",
    metavar="COLUMN|parent|REGEX|FILE.csv")]
Seed = Annotated[int, Setting("Seed of every random choice.", ge=0, le=2**31 - 1)]
DeviceSetting = Annotated[Device, Setting("Where the network runs.")]
EngineSetting = Annotated[EngineName, Setting(
    "What runs the frozen network; 'auto' measures once what is installed and takes the fastest that agrees with "
    "PyTorch.")]
Store = Annotated[str | Path | None, Setting(
    "Folder of the feature store; by default REGRAFT_STORE or a folder in your cache.", metavar="DIR")]
StoreLimit = Annotated[str, Setting("Size limit of the feature store; least recently used features go first.",
                                    metavar="SIZE")]
FollowLinks = Annotated[bool, Setting("Follow links that lead out of the data folder.")]
LayoutSetting = Annotated[Layout, Setting(
    "What the sub-folders of a data folder are; 'auto' takes names such as train and val for splits.")]
Backbone = Annotated[str, Setting("The pre-trained network; `regraft backbones` lists them.", metavar="NAME")]
Module = Annotated[object, Setting(
    "A network of your own, a torch.nn.Module that gives class scores, in place of a named backbone.",
    python_only=True)]
TrainedModule = Annotated[object, Setting(
    "The module that the model was trained with, where it is a network of your own.", python_only=True)]
Weights = Annotated[str | Path | None, Setting(
    "A local .safetensors or .pth file with the backbone's weights.", metavar="FILE")]
FitSetting = Annotated[Fit, Setting(
    "How a picture becomes the network's square: crop its centre, pad it, or squash it.")]
Size = Annotated[int | None, Setting(
    "Side of the network's input in pixels; by default the backbone's own.", ge=32, le=1024)]
Limit = Annotated[int | None, Setting(
    "Take at most this many images of each class (and split, where the data has some), seeded.", ge=1)]
Quiet = Annotated[bool, Setting("Say nothing but the result.")]
MaxQuarantined = Annotated[float, Setting(
    "Largest share of unreadable files that a run accepts.", ge=0, le=1)]

TestData = Annotated[str | Path | None, Setting(
    "Test images: a folder or table of their own, looked at once, at the end.", metavar="DATA")]
SplitsFile = Annotated[str | Path | None, Setting(
    "A splits.csv of an earlier run: the same images in the same splits.", metavar="FILE")]
TestShare = Annotated[float, Setting(
    "Share of the images split off as test where the data has none.", gt=0, lt=1)]
ValidationShare = Annotated[float, Setting(
    "Share of the rest split off as validation where the data has none.", gt=0, lt=1)]
NoTest = Annotated[bool, Setting("Split off no test images; they serve for learning too.")]
Workers = Annotated[int | None, Setting(
    "Threads that read pictures; by default one a core, 0 for none. It changes no answer.", ge=0, le=64)]
Report = Annotated[PageKind, Setting(
    "The page run/report.html that is written at the end: with pictures, without pictures and names of files, or "
    "none.")]
TimeLimit = Annotated[str | float | None, Setting(
    "Stop after this long (90s, 5m, 1h); what is computed is kept.", metavar="DURATION")]


def _one_network(module: object, backbone: str | None) -> None:
    """Raise SettingsError where both a module and another network's name are given."""
    if module is not None and backbone not in (None, DEFAULT_BACKBONE):
        raise SettingsError([f"backbone: {backbone!r} and a module are given; give one of them"])


PlanName = Annotated[str | Path | None, Setting(
    "A recipe or a group of recipes (`regraft recipes` lists them), or a plan's TOML file, or several of these with "
    "commas between them; by default a frozen backbone and a solved head.", metavar="NAME|FILE")]
Changes = Annotated[Sequence[str], Setting(
    "Change a setting of the plan, such as phases.0.epochs=1 or phases.*.epochs=1; may be given several times.",
    metavar="PATH=VALUE")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Checked:
    """Settings that were looked at: of the right types, within their ranges."""

    def __post_init__(self) -> None:
        check(self)
        # One text stands for a list of one; a text is a sequence too, of letters, which nobody means.
        for item in declared(type(self)):
            value = getattr(self, item.name)
            if get_origin(item.type) is Sequence and not isinstance(value, tuple):
                object.__setattr__(self, item.name, (value,) if isinstance(value, str) else tuple(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Computing(_Checked):
    """Of commands that compute features, or take them from the store."""

    device: DeviceSetting = "auto"
    store: Store = None
    store_limit: StoreLimit = "20GB"
    quiet: Quiet = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reading(_Checked):
    """Of commands that look for the images of a data folder."""

    layout: LayoutSetting = "auto"
    follow_links: FollowLinks = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measuring(_Reading, _Computing):
    """Of commands that compute the features of data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seeing(_Measuring):
    """Of commands that settle how the network sees the images, and how many of them."""

    fit: FitSetting = "crop"
    size: Size = None
    limit: Limit = None
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Dividing(_Seeing):
    """Of commands that divide the images into those to learn from and those to test on."""

    test: TestData = None
    group: Group = None
    splits: SplitsFile = None
    test_share: TestShare = 0.2
    no_test: NoTest = False
    max_quarantined: MaxQuarantined = 0.1


@dataclasses.dataclass(frozen=True)
class TrainSettings(_Dividing):
    """Settings of ``train``."""

    data: Annotated[str | Path, Setting(
        "A folder of class folders or of splits, a CSV or Parquet table, torchvision:NAME, or a file of features.",
        metavar="DATA", positional=True)]
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path | None, Setting(
        "The model folder to write; by default a fresh one under runs/.", metavar="OUT")] = None
    backbone: Annotated[str | None, Setting(
        "The pre-trained network; by default the plan's, else efficientnet_lite0. `regraft backbones` lists them.",
        metavar="NAME")] = None
    weights: Weights = None
    strategy: Annotated[Strategy, Setting(
        "How to transfer: 'features' freezes the backbone and solves a head on its features; 'partial' then trains "
        "its last two stages too, 'full' everything; what does worse on validation is not kept. 'auto' looks at the "
        f"features first, and is 'partial' where that may pay and is expected to take at most {AUTO_LIMIT} (with "
        "--time-limit, six tenths of it), else 'features'.")] = "auto"
    plan: PlanName = None
    set: Changes = ()
    folds: Annotated[int | None, Setting(
        "Folds of the cross-validation; by default 5 below 2,000 images and none above.", ge=2, le=20)] = None
    exclude: Annotated[str | Path | None, Setting(
        "A CSV file with a column path: images to leave out, such as the exclude.csv that inspect writes.",
        metavar="FILE")] = None
    validation_share: ValidationShare = 0.2
    accept: Annotated[float, Setting(
        "Share of known images that the model is to accept as known; what is less like them is unknown.",
        gt=0, lt=1)] = ACCEPT
    require: Annotated[Sequence[str], Setting(
        "Choose a threshold so that this share of a class is caught, such as recall:defect>=0.995; may be given "
        "several times.", metavar="recall:CLASS>=SHARE")] = ()
    costs: Annotated[str | Path | None, Setting(
        "A CSV table of what each decision (columns) costs where each class (rows) is right; a column 'ask' is the "
        "cost of asking a person.", metavar="FILE")] = None
    ask: Annotated[float | None, Setting(
        "Ask a person where it is unsure, so that at least this share of the other decisions is right.", gt=0, lt=1,
        )] = None
    conformal: Annotated[float | None, Setting(
        "Answer with a set of labels that holds the right one for this share of images.", gt=0, lt=1)] = None
    time_limit: TimeLimit = None
    labels: Annotated[Labels, Setting(
        "How many labels an image has: one, or 'several', any number of them or none in a cell of a table.")] = "one"
    label_separator: Annotated[str, Setting(
        "What stands between the labels in a cell, with --labels several.", metavar="TEXT")] = LABEL_SEPARATOR
    engine: EngineSetting = "auto"
    workers: Workers = None
    report: Report = "images"
    resume: Annotated[bool, Setting("Go on with the unfinished run in OUT; an error where there is none.")] = False
    force: Annotated[bool, Setting("Replace a finished model in OUT.")] = False
    module: Module = None
    hooks: Annotated[object, Setting(
        "What a caller in Python replaces: see regraft.Hooks.", python_only=True)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_network(self.module, self.backbone)
        for text in self.require:
            required_recall(text)
        if self.require and self.costs is not None:
            raise SettingsError(["costs: thresholds and costs can't both decide; leave --require or --costs away"])
        _one_or_several(self)


def _one_or_several(settings: TrainSettings) -> None:
    """Raise SettingsError for what can't be had with several labels an image, or needs them."""
    _separator(settings.label_separator)
    if settings.labels == "one":
        if settings.label_separator != LABEL_SEPARATOR:
            raise SettingsError(["label_separator: no cell is taken apart where an image has one label; add "
                                 "--labels several"])
        return
    asked = {"strategy": settings.strategy not in ("auto", "features"), "plan": settings.plan is not None,
             "set": bool(settings.set), "require": bool(settings.require), "costs": settings.costs is not None,
             "ask": settings.ask is not None, "conformal": settings.conformal is not None,
             "limit": settings.limit is not None, "accept": settings.accept != ACCEPT}
    refused = [f"--{name}" for name, given in asked.items() if given]
    if refused:
        raise SettingsError([f"labels: several labels an image are learned on frozen features, without "
                             f"{', '.join(refused)}; leave that away, or take --labels one"])


def _separator(text: str | None) -> None:
    """Raise SettingsError for a separator that takes nothing apart."""
    if text is not None and not text.strip():
        raise SettingsError([f"label_separator: {text!r} is not allowed; give a mark such as ';' or '|'"])


@dataclasses.dataclass(frozen=True)
class RankSettings(_Dividing):
    """Settings of ``rank``."""

    data: Data
    _: dataclasses.KW_ONLY
    backbones: Annotated[Sequence[str], Setting(
        "The networks to compare, with commas between them or given several times; NAME=FILE gives one its weights. "
        "By default all whose weights are on this machine.", metavar="NAME,NAME=FILE,...")] = ()
    out: Annotated[str | Path | None, Setting(
        "A folder for ranking.json and the chart of accuracy against cost.", metavar="DIR")] = None
    time_limit: TimeLimit = None


@dataclasses.dataclass(frozen=True)
class AdviseSettings(_Dividing):
    """Settings of ``advise``."""

    data: Data
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path | None, Setting(
        "Write the recommended plan to this TOML file, and the picture of the cuts beside it.",
        metavar="FILE")] = None
    backbone: Backbone = DEFAULT_BACKBONE
    weights: Weights = None
    validation_share: ValidationShare = 0.2
    time_limit: Annotated[str | float, Setting(
        "Try nothing that would take longer than this beside the first look at the images (90s, 5m, 1h).",
        metavar="DURATION")] = ADVICE_LIMIT
    force: Annotated[bool, Setting("Replace FILE.")] = False


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(_Measuring):
    """Settings of ``evaluate``."""

    model: AnyModel
    data: Data
    _: dataclasses.KW_ONLY
    split: Annotated[str | None, Setting(
        "Which split of the data: train, validation, test or all; by default test where there is one, "
        "else all.", metavar="NAME")] = None
    splits: Annotated[str | Path | None, Setting(
        "The splits.csv of a run: which images of the same data are in which split.", metavar="FILE")] = None
    slices: Annotated[str | None, Setting(
        "Measure groups of the images apart, with commas between: size, folder, brightness or columns of the table.",
        metavar="NAME,...")] = None
    label_separator: Annotated[str | None, Setting(
        "What stands between the labels in a cell, for a model of several labels; by default as in its training.",
        metavar="TEXT")] = None
    max_quarantined: MaxQuarantined = 0.1
    engine: EngineSetting = "auto"
    module: TrainedModule = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _separator(self.label_separator)


@dataclasses.dataclass(frozen=True)
class CompareSettings(_Computing):
    """Settings of ``compare``."""

    first: Annotated[str | Path, Setting("A model folder that train wrote.", metavar="A", positional=True)]
    second: Annotated[str | Path, Setting("The model folder to compare it with.", metavar="B", positional=True)]
    data: Annotated[str | Path | None, Setting(
        "Labelled images, as for evaluate; by default the answers that both trainings kept for their test images.",
        metavar="DATA", positional=True)] = None


@dataclasses.dataclass(frozen=True)
class UpdateSettings(_Measuring):
    """Settings of ``update``."""

    model: ModelPath
    data: Annotated[str | Path | Sequence[str | Path], Setting(
        "New labelled images: folders, tables or torchvision:NAME, as for train.", metavar="DATA", positional=True)]
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path | None, Setting(
        "The folder of the candidate, on the model's disk; by default MODEL.update-... beside the model.",
        metavar="OUT")] = None
    tolerance: Annotated[float, Setting(
        "By how much the candidate's accuracy may lie below the old model's, as a share of the test images.",
        ge=0, lt=1)] = 0.01
    originals: Annotated[str | Path | None, Setting(
        "Where the images of the first training are now; by default where it found them.", metavar="DATA")] = None
    time_limit: TimeLimit = None
    engine: EngineSetting = "auto"
    workers: Workers = None
    report: Report = "images"


@dataclasses.dataclass(frozen=True)
class RunsSettings(_Checked):
    """Settings of ``runs``."""

    folder: Annotated[str | Path, Setting("Where the model folders are.", metavar="DIR", positional=True)] = "runs"


@dataclasses.dataclass(frozen=True)
class PredictSettings(_Checked):
    """Settings of ``predict``."""

    model: AnyModel
    paths: Annotated[str | Path | Sequence[str | Path], Setting(
        "Image files, or folders of them.", metavar="PATH", positional=True)]
    _: dataclasses.KW_ONLY
    csv: Annotated[str | Path | None, Setting("Write the predictions to this CSV file too.", metavar="F")] = None
    out: Annotated[str | Path | None, Setting(
        "Write the predictions to this file and show their number alone; its ending says how: .csv, .parquet or "
        ".jsonl.", metavar="F")] = None
    sort_into: Annotated[str | Path | None, Setting(
        "Copy each picture into this folder, by class.", metavar="DIR")] = None
    follow_links: FollowLinks = False
    device: DeviceSetting = "auto"
    quiet: Quiet = False
    module: TrainedModule = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and Path(self.out).suffix.lower() not in TABLES:
            raise SettingsError([f"out: {str(self.out)!r} is not allowed; its name must end in {', '.join(TABLES)}"])
        if self.out is not None and self.csv is not None:
            raise SettingsError(["out: --csv writes the same table; give one of the two"])


@dataclasses.dataclass(frozen=True)
class ExportSettings(_Checked):
    """Settings of ``export``."""

    model: ModelPath
    _: dataclasses.KW_ONLY
    format: Annotated[ExportFormat, Setting(
        "What to write: one ONNX file from pixels to probabilities, the same as OpenVINO's IR or as a PyTorch program "
        "(.pt2), or the weights of a timm network.")] = "onnx"
    precision: Annotated[ExportPrecision, Setting(
        "What the network computes in; fp16 and int8 change answers, and int8 learns its ranges on training "
        "images.")] = "fp32"
    data: Annotated[str | Path | None, Setting(
        "Where the images to compare on are; by default where the training found them.", metavar="DIR")] = None
    out: Annotated[str | Path | None, Setting(
        "The file to write; by default model.onnx, or as the format calls it, in the model folder.",
        metavar="F")] = None
    quiet: Quiet = False
    module: TrainedModule = None

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = []
        ending = EXPORT_ENDINGS[self.format][0]
        if self.out is not None and Path(self.out).suffix.lower() != ending:
            problems.append(f"out: {str(self.out)!r} is not allowed; its name must end in {ending}")
        if self.precision != "fp32" and self.format != "onnx":
            problems.append(f"precision: {self.precision!r} is not allowed with --format {self.format}; leave it away, "
                            "or write --format onnx")
        if problems:
            raise SettingsError(problems)


@dataclasses.dataclass(frozen=True)
class ReportSettings(_Checked):
    """Settings of ``report``."""

    runs: Annotated[str | Path | Sequence[str | Path], Setting(
        "The model folder of a run, finished or not; several are set side by side.", metavar="RUN", positional=True)]
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path | None, Setting(
        "The page to write; by default run/report.html in the model folder, of several runs comparison.html here.",
        metavar="FILE")] = None
    data: Annotated[str | Path | None, Setting(
        "Where the images are now; by default where the training found them.", metavar="DATA")] = None
    no_images: Annotated[bool, Setting("Show no pictures and no names of files, for private data.")] = False
    quiet: Quiet = False


@dataclasses.dataclass(frozen=True)
class ServeSettings(_Checked):
    """Settings of ``serve``."""

    model: AnyModel
    _: dataclasses.KW_ONLY
    host: Annotated[str, Setting(
        "The address to listen on; another than this machine's own needs --allow-host and --token.",
        metavar="ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Setting("The port to listen on; 0 takes any free one.", ge=0, le=65535)] = 8000
    allow_host: Annotated[Sequence[str], Setting(
        "A name under which the server is reached, besides this machine's own; may be given several times.",
        metavar="NAME")] = ()
    token: Annotated[str | None, Setting(
        "What every request must send as 'Authorization: Bearer TOKEN', at least 16 characters; by default "
        "REGRAFT_TOKEN.", metavar="TOKEN")] = None
    max_body: Annotated[str, Setting("Largest body of a request.", metavar="SIZE")] = "32MB"
    max_images: Annotated[int, Setting("Most pictures in one request.", ge=1, le=10_000)] = 64
    max_pixels: Annotated[int, Setting(
        "Most pixels of one picture; a model's own limit holds too.", ge=1)] = 80_000_000
    queue: Annotated[int, Setting(
        "Most pictures in work at a time; further requests are told to come back.", ge=1)] = 256
    batch: Annotated[int, Setting("Most pictures that go to the network together.", ge=1, le=256)] = 8
    deadline: Annotated[str, Setting(
        "Longest time from a request's last byte to its answer (10s, 1m).", metavar="DURATION")] = "10s"
    upload_time: Annotated[str, Setting(
        "Longest time in which a request's body may arrive.", metavar="DURATION")] = "30s"
    quiet: Quiet = False

    def __post_init__(self) -> None:
        super().__post_init__()
        size_in_bytes(self.max_body, "max_body")
        seconds(self.deadline, "deadline")
        seconds(self.upload_time, "upload_time")
        if self.max_images > self.queue:
            raise SettingsError([f"max_images: {self.max_images:,} is more than the queue of {self.queue:,} holds"])


@dataclasses.dataclass(frozen=True)
class VerifySettings(_Checked):
    """Settings of ``verify``."""

    path: Annotated[str | Path, Setting(
        "A model folder that train wrote, an ONNX file that export wrote, or a folder that bundle made.",
        metavar="PATH", positional=True)]
    _: dataclasses.KW_ONLY
    quiet: Quiet = False
    module: TrainedModule = None


@dataclasses.dataclass(frozen=True)
class BundleSettings(_Checked):
    """Settings of ``bundle``."""

    model: AnyModel
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path, Setting("The folder to make.", metavar="DIR")]
    no_wheels: Annotated[bool, Setting(
        "Leave the packages out; Regraft must then be installed where the model is to run.")] = False
    wheel: Annotated[str | Path | None, Setting(
        "The wheel of Regraft to put in; by default one is made of the Regraft that runs.", metavar="FILE")] = None
    force: Annotated[bool, Setting("Replace a bundle in DIR.")] = False
    quiet: Quiet = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_wheels and self.wheel is not None:
            raise SettingsError(["wheel: it is a package, and no_wheels leaves packages out; give one of them"])


@dataclasses.dataclass(frozen=True)
class BackbonesSettings(_Checked):
    """Settings of ``backbones``."""

    name: Annotated[str | None, Setting(
        "One backbone, to see all about it, or a pattern such as 'resnet*'.", metavar="NAME",
        positional=True)] = None
    _: dataclasses.KW_ONLY
    offline: Annotated[bool, Setting("List only what runs without a download.")] = False
    all: Annotated[bool, Setting("Show every place where the network can be cut, with every layer.")] = False


@dataclasses.dataclass(frozen=True)
class FeaturesSettings(_Seeing):
    """Settings of ``features``."""

    data: Data
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path, Setting(
        "The file to write; its ending says how: .h5, .npz, .parquet or .safetensors.",
        metavar="FILE")] = "features.h5"
    layer: Annotated[str, Setting(
        "A readout (stage1, ..., last, logits) or any module of the network.", metavar="NAME")] = "last"
    pool: Annotated[Pool, Setting(
        "What becomes of a layer's positions: their mean, their largest value, or nothing, so that features keep "
        "the layer's own shape.")] = "mean"
    backbone: Backbone = DEFAULT_BACKBONE
    weights: Weights = None
    max_quarantined: MaxQuarantined = 0.1
    engine: EngineSetting = "auto"
    force: Annotated[bool, Setting("Replace FILE where it exists.")] = False
    module: Module = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_network(self.module, self.backbone)


@dataclasses.dataclass(frozen=True)
class InspectSettings(_Seeing):
    """Settings of ``inspect``."""

    data: Data
    _: dataclasses.KW_ONLY
    out: Annotated[str | Path | None, Setting(
        "The folder to write what was found to; by default a fresh one under runs/.", metavar="OUT")] = None
    backbone: Backbone = DEFAULT_BACKBONE
    weights: Weights = None
    preview: Annotated[bool, Setting(
        "Write preview.png too: labelled samples, and what each augmentation does to one image.")] = False
    engine: EngineSetting = "auto"
    force: Annotated[bool, Setting("Replace an inspection in OUT.")] = False
    module: Module = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_network(self.module, self.backbone)


@dataclasses.dataclass(frozen=True)
class FetchSettings(_Checked):
    """Settings of ``fetch``."""

    name: Annotated[str, Setting("The pre-trained network; `regraft backbones` lists them.", metavar="NAME",
                                 positional=True)]
    _: dataclasses.KW_ONLY
    to: Annotated[str | Path, Setting("The folder that the weight file is written to.", metavar="DIR")] = "."


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreSettings(_Checked):
    """Settings of ``store``."""

    store: Store = None
    clear: Annotated[bool, Setting("Delete every feature that no running command uses.")] = False
    store_limit: Annotated[str | None, Setting(
        "Delete the least recently used features until the store is this small.", metavar="SIZE")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorSettings(_Checked):
    """Settings of ``doctor``."""

    store: Store = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings(_Checked):
    """Settings of ``demo``."""

    out: Annotated[str | Path | None, Setting(
        "Where the digits and the model go; by default a fresh folder under runs/.", metavar="OUT")] = None
    store: Store = None
    quiet: Quiet = False


@dataclasses.dataclass(frozen=True)
class PlanSettings(_Reading):
    """Settings of ``plan``."""

    data: Annotated[str | Path | None, Setting(
        "The images it is for: a folder, a table or torchvision:NAME.", metavar="DATA", positional=True)] = None
    _: dataclasses.KW_ONLY
    plan: PlanName = None
    backbone: Annotated[str | None, Setting(
        "Another backbone than the plan's; `regraft backbones` lists them.", metavar="NAME")] = None
    set: Changes = ()
    out: Annotated[str | Path | None, Setting("Write the plan to this TOML file too.", metavar="FILE")] = None
    force: Annotated[bool, Setting("Replace FILE.")] = False


@dataclasses.dataclass(frozen=True)
class RecipesSettings(_Checked):
    """Settings of ``recipes``."""

    name: Annotated[str | None, Setting(
        "One recipe or group of them.", metavar="NAME", positional=True)] = None


@dataclasses.dataclass(frozen=True)
class SettingsSettings(_Checked):
    """Settings of ``settings``."""

    word: Annotated[str | None, Setting(
        "Tell only of settings with this word in their name, or of one command or table of a plan.",
        metavar="WORD", positional=True)] = None


@dataclasses.dataclass(frozen=True)
class Declared:
    """One field of a settings class, as the command line and the documentation need it."""

    name: str
    type: Any
    default: Any
    setting: Setting

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words, empty where any value of the type goes."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def option(self) -> str:
        """The option's name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def repeatable(self) -> bool:
        """Whether it takes several values: a sequence in Python, an option given several times."""
        return any(get_origin(kind) in (tuple, Sequence) for kind in (self.type, *get_args(self.type)))

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types of which a value may be, or of which each of several values may be."""
        if get_origin(self.type) in (tuple, Sequence):
            return get_args(get_args(self.type)[0]) or get_args(self.type)[:1]
        return get_args(self.type) or (self.type,)

    @property
    def allowed(self) -> str:
        """What it takes, in words, range included; None is left out, as a default says it."""
        if get_origin(self.type) in (tuple, Sequence):
            return f"a list, each of it {dataclasses.replace(self, type=get_args(self.type)[0]).allowed}"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        names = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "true or false",
                 object: "an object of Python"}
        words = [names[kind] for kind in self.kinds if kind in names]
        return " or ".join(words) + (f" {self.setting.range}" if self.setting.range else "")

    @property
    def default_text(self) -> str:
        """The default in words."""
        if self.default is dataclasses.MISSING:
            return "required"
        if self.default is None or self.default == ():
            return "none"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple):
            return ", ".join(map(str, self.default))
        return str(self.default)


def declared(settings: type[Any]) -> Iterator[Declared]:
    """The settings of a class, its own first and then those it shares; a field without a Setting is none."""
    hints = typing.get_type_hints(settings, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(settings) if field.init}
    for kind in settings.__mro__:
        for name in inspect.get_annotations(kind):
            if name in fields and get_origin(hints[name]) is Annotated:
                annotated, setting = get_args(hints[name])
                yield Declared(name, annotated, fields.pop(name).default, setting)


def commands() -> dict[str, type[Any]]:
    """Each command and the class of its settings, in the order of declaration."""
    return {name.removesuffix("Settings").lower(): value for name, value in globals().items()
            if name.endswith("Settings") and isinstance(value, type) and dataclasses.is_dataclass(value)}


def check(settings: object) -> None:
    """Raise SettingsError with a line for every value of the wrong type or out of range, or for a text that is none."""
    problems = []
    for item in declared(type(settings)):
        value = getattr(settings, item.name)
        if item.setting.positional or (value == item.default and type(value) is type(item.default)):
            continue
        words = problem(item, value)
        if words:
            problems.append(f"{item.name}: {value!r} is not allowed; it must be {words}")
    if problems:
        raise SettingsError(problems)
    # What these texts may be, no type tells.
    readers: dict[str, Callable[[Any, str], object]] = {"time_limit": seconds, "store_limit": size_in_bytes}
    for name, read in readers.items():
        value = getattr(settings, name, None)
        if value is not None:
            read(value, name)


def problem(item: Declared, value: object) -> str | None:
    """What a setting's value must be, where it is of another type or out of range; else None."""
    return _type_problem(item, value) or item.setting.problem(value)


def _type_problem(item: Declared, value: object) -> str | None:
    origin = get_origin(item.type)
    if origin in (tuple, Sequence):
        one = dataclasses.replace(item, type=get_args(item.type)[0])
        # A record holds tuples, so that it can be compared; a caller may give any sequence, or one text alone.
        several = isinstance(value, tuple) or (origin is Sequence and isinstance(value, Sequence))
        members = (value,) if isinstance(value, str) else value if several else (None,)
        found = (problem(one, member) for member in typing.cast(Sequence[object], members))
        words = next((words for words in found if words), None)
        if words or (isinstance(value, str) and origin is tuple):
            return f"a list, each of it {words or one.allowed}"
        return None
    if item.choices:
        return None if value in item.choices else item.allowed
    kinds = item.kinds
    if object in kinds:  # whoever uses it tells what it must be
        return None
    if isinstance(value, bool):
        fits = bool in kinds
    elif isinstance(value, int):
        fits = int in kinds or float in kinds
    elif isinstance(value, str):
        fits = str in kinds or Path in kinds
    else:
        fits = isinstance(value, tuple(kind for kind in kinds if isinstance(kind, type)))
    return None if fits else item.allowed


_P = ParamSpec("_P")
_S = TypeVar("_S")
_R = TypeVar("_R")


def takes(settings: Callable[_P, _S]) -> Callable[[Callable[[_S], _R]], Callable[_P, _R]]:
    """Turn ``f(settings)`` into ``f(data, *, seed=0, ...)`` with the fields of the settings class.

    Type checkers, ``help()`` and notebooks see the arguments; the declaration stays in one place.
    """
    found = inspect.signature(settings).parameters
    parameters = {item.name: found[item.name] for item in declared(typing.cast(type[Any], settings))}

    def wrap(function: Callable[[_S], _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def door(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            unknown = [name for name in kwargs if name not in parameters]
            if unknown:
                raise SettingsError([unknown_setting(name, list(parameters)) for name in unknown])
            return function(settings(*args, **kwargs))

        returns = inspect.signature(function).return_annotation
        door.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            list(parameters.values()), return_annotation=returns
        )
        door.settings = settings  # type: ignore[attr-defined]
        return door

    return wrap


def unknown_setting(given: str, known: Sequence[str], inside: str = "") -> str:
    """One line about a setting that does not exist, ``inside`` a table (``"head."``), with the nearest that does."""
    nearest = difflib.get_close_matches(given, known, n=1)
    advice = f"did you mean {nearest[0]!r}?" if nearest else "the settings are " + ", ".join(known)
    return f"{inside}{given}: no such setting; {advice}"
