"""What is written about Regraft is true: checked against the declarations, by introspection."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

import regraft
from regraft import errors, model
from regraft.cli import COMMANDS, SPELLINGS, app
from regraft.data.decode import FORMATS
from regraft.data.listing import READABLE
from regraft.demonstration import DemoResult
from regraft.extraction.store import SpaceUse, StoreUse
from regraft.heads import choose
from regraft.records.advice import Advice, Depth, Forecast, Pilot, Recommended, Scenario
from regraft.records.base import Record
from regraft.records.deploying import BundleResult, CheckedFile, Verification
from regraft.records.described import DescribedPlan, PhaseFacts, Plans, Recipe, Recipes, SettingRow, SettingRows
from regraft.records.doctor import Doctor, EngineRow
from regraft.records.engines import EngineChoice, EngineFigures, EngineKind
from regraft.records.features import FeatureExport
from regraft.records.heads import Choice, HeadSettings, Tried
from regraft.records.images import Finding
from regraft.records.inspection import (
    ClassCount,
    DataFinding,
    Duplicate,
    Inspection,
    LabelSuspect,
    NameGroups,
    Shortcut,
    Shown,
)
from regraft.records.labels import LabelFigures, LabelsEvaluation, LabelsResult
from regraft.records.model import ModelRecord
from regraft.records.networks import (
    Backbone,
    BackboneDetail,
    Backbones,
    Cut,
    CutRow,
    Fetched,
    HeadLayer,
    InputSpec,
    LayerRow,
    Readout,
    StageRow,
)
from regraft.records.page import ReportResult
from regraft.records.pairing import PairedComparison
from regraft.records.predicted import PredictedFile
from regraft.records.preprocessing import Preprocessing
from regraft.records.ranking import Ranked, Ranking
from regraft.records.results import (
    Agreement,
    ClassFigures,
    Compared,
    Comparison,
    Decided,
    Evaluation,
    ExportResult,
    FeatureCount,
    Interval,
    Majority,
    OperatingPoint,
    Prediction,
    Predictions,
    Slice,
    TrainResult,
)
from regraft.records.runs import RunRow, Runs
from regraft.records.selftest import SelfTestDifference, SelfTestResult
from regraft.records.serving import Served, ServeResult
from regraft.records.training import Epoch
from regraft.records.update import Drift, NewClass, UpdateResult
from regraft.settings import Declared, declared
from tests.pages import blocks, commands, programs

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "regraft"

#: Pages a reader meets, all of them Markdown.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

#: Which record each section of docs/json.md describes, by the section's title.
DOCUMENTS: dict[str, type[Record]] = {
    "train": TrainResult, "Comparison": Comparison, "Compared": Compared, "evaluate": Evaluation,
    "predict": Predictions, "features": FeatureExport,
    "inspect": Inspection, "Class count": ClassCount, "Shown": Shown, "Duplicate": Duplicate,
    "Label suspect": LabelSuspect, "Shortcut": Shortcut, "Name groups": NameGroups, "Data finding": DataFinding,
    "export": ExportResult, "report": ReportResult, "Agreement": Agreement, "serve": ServeResult, "Served": Served,
    "fetch": Fetched, "backbones": Backbones,
    "backbones NAME": BackboneDetail, "store": StoreUse, "demo": DemoResult, "Prediction": Prediction,
    "compare": PairedComparison, "update": UpdateResult, "New class": NewClass, "Drift": Drift,
    "runs": Runs, "Run row": RunRow, "Decided": Decided, "Operating point": OperatingPoint,
    "Slice": Slice,
    "Epoch": Epoch,
    "train with several labels": LabelsResult, "evaluate with several labels": LabelsEvaluation,
    "Label figures": LabelFigures,
    "Interval": Interval, "Majority": Majority, "Class figures": ClassFigures, "Feature count": FeatureCount,
    "Choice": Choice, "Head": HeadSettings, "Tried": Tried, "Finding": Finding, "Backbone": Backbone,
    "Input": InputSpec, "Readout": Readout, "Space": SpaceUse, "recipes": Recipes, "Recipe": Recipe, "plan": Plans,
    "Described plan": DescribedPlan, "Phase facts": PhaseFacts, "settings": SettingRows, "Setting row": SettingRow,
    "Head layer": HeadLayer, "Stage": StageRow, "Cut row": CutRow, "Cut": Cut, "Layer": LayerRow,
    "Predicted file": PredictedFile,
    "rank": Ranking, "Ranked": Ranked, "advise": Advice, "Recommended": Recommended, "Forecast": Forecast,
    "Scenario": Scenario, "Depth": Depth, "Pilot": Pilot,
    "doctor": Doctor, "Engine row": EngineRow, "Engine choice": EngineChoice, "Engine figures": EngineFigures,
    "Engine kind": EngineKind,
    "verify": Verification, "Checked file": CheckedFile, "Self-test": SelfTestResult,
    "Self-test difference": SelfTestDifference, "bundle": BundleResult,
}

SETTINGS: dict[str, list[Declared]] = {
    name: [item for item in declared(function.settings) if not item.setting.python_only]  # type: ignore[attr-defined]
    for name, function in COMMANDS.items()
}


def text(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text("utf-8")


def sections(page: str) -> dict[str, str]:
    """Title (without code marks) and text of every section of a page; fenced blocks hold no titles."""
    without = re.sub(r"^```.*?^```", lambda m: m.group().replace("#", "\0"), text(page), flags=re.M | re.S)
    parts = re.split(r"^#+ (.+)$", without, flags=re.M)
    return {title.replace("`", "").strip(): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def keys(section: str) -> set[str]:
    """First cells of a section's tables, where they are code."""
    return set(re.findall(r"^\| `(\w+)` \|", section, flags=re.M))


def fields(record: type[Record]) -> set[str]:
    return {field.name for field in dataclasses.fields(record)}  # type: ignore[arg-type]


def allowed(item: Declared) -> str:
    """What a setting takes, in words."""
    kinds = get_args(item.type) or (item.type,)
    if item.setting.positional:
        return "paths" if item.repeatable else "path" if Path in kinds else "text"
    if item.choices:
        return ", ".join(f"`{choice}`" for choice in item.choices)
    if bool in kinds:
        return "flag"
    if kinds[0] in (int, float):
        limits = ((item.setting.ge, "at least"), (item.setting.gt, "more than"), (item.setting.le, "at most"),
                  (item.setting.lt, "less than"))
        words = " and ".join(f"{words} {bound:,}" for bound, words in limits if bound is not None)
        return ", ".join(part for part in ("whole number" if kinds[0] is int else "number", words) if part)
    return code(item.setting.metavar or "")


def code(words: str) -> str:
    """Code in a table's cell, where a bar would end the cell."""
    return "`" + words.replace("|", r"\|") + "`"


def row(item: Declared) -> str:
    """The one way to write a setting down."""
    name = item.setting.metavar or "" if item.setting.positional else item.option
    if item.default is dataclasses.MISSING:
        default = "required"
    elif item.default is None or item.default is False or item.default == ():
        default = item.default_text
    else:
        default = code(str(item.default))
    return f"| {code(name)} | {default} | {allowed(item)} | {item.setting.help} |"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_setting_is_documented(name: str) -> None:
    section = sections("docs/commands.md")[f"regraft {name}"]
    written = [line for line in section.splitlines() if line.startswith("| `")]
    assert written == [row(item) for item in SETTINGS[name]], "docs/commands.md differs from the declared settings"


@pytest.mark.parametrize("title", DOCUMENTS)
def test_every_key_of_the_json_documents_is_documented(title: str) -> None:
    assert keys(sections("docs/json.md")[title]) == fields(DOCUMENTS[title])


def test_every_key_of_the_model_record_is_documented() -> None:
    page = sections("docs/model-folder.md")
    assert keys(page["model.json"]) == fields(ModelRecord)
    assert keys(page["preprocessing"]) == fields(Preprocessing)
    assert keys(page["The run"]) == set()
    for name in (*model.FILES, "manifest.json"):
        assert f"`{name}`" in text("docs/model-folder.md")


def test_every_error_is_documented_with_its_exit_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", text("docs/errors.md"), flags=re.M))
    classes = {name: kind for name, kind in vars(errors).items()
               if inspect.isclass(kind) and issubclass(kind, errors.RegraftError)}
    assert rows == {name: str(kind.exit_code) for name, kind in classes.items()}


def test_every_format_and_ending_is_documented() -> None:
    page = text("docs/data.md")
    assert [name for name in (*FORMATS, *sorted(READABLE)) if f"`{name}`" not in page] == []


def test_the_choice_is_documented() -> None:
    page = text("docs/choosing.md")
    assert ", ".join(f"`{strength:g}`" for strength in choose.STRENGTHS) in page
    assert f"at most {choose.FEW} images" in page


def test_every_public_name_stands_in_the_python_page() -> None:
    page = text("docs/python.md")
    missing = [name for name in regraft.__all__ if f"regraft.{name}" not in page]
    assert missing == []
    assert [name for name in regraft.__all__ if not hasattr(regraft, name)] == []
    assert [name for name in regraft.__all__ if name != "__version__" and not inspect.getdoc(getattr(regraft, name))
            ] == []


def test_the_readme_names_what_to_type() -> None:
    page = text("README.md")
    for line in ("make demo", "make test", 'pip install "regraft[train]"'):
        assert re.search(f"^{re.escape(line)}$", page, flags=re.M), f"README.md does not name: {line}"


def test_the_readme_shows_every_room() -> None:
    tree = next(block for language, block in blocks(ROOT / "README.md") if language == "text" and "regraft/" in block)
    rooms = {path.name + "/" if path.is_dir() else path.name for path in SOURCE.iterdir()
             if not path.name.startswith("_") and path.suffix in ("", ".py")}
    assert rooms - set(re.findall(r"[\w.]+/|\w+\.py", tree)) == set()


# -- blocks of code --------------------------------------------------------------------------------


def shell_lines() -> Iterator[tuple[str, str]]:
    """Page and command of every line of every shell block."""
    for page in PAGES:
        for line in commands(page):
            yield page.name, line


def spelled(words: list[str]) -> list[str]:
    """A command line with the command in one word."""
    one = SPELLINGS.get((words[0], words[1])) if len(words) > 1 else None
    return words if one is None else [one, *words[2:]]


def test_commands_in_shell_blocks_are_understood() -> None:
    # Typer carries its own copy of click in some versions, so nothing here is named by its type.
    group: Any = typer.main.get_command(app)
    found = 0
    for page, line in shell_lines():
        words = shlex.split(line)
        if words[:1] == ["regraft"] and words[1:] not in (["--help"], ["--version"]):
            words = spelled(words[1:])
            command = group.commands.get(words[0])
            assert command is not None, f"{page}: {line}: no such command"
            try:
                command.make_context(words[0], words[1:])
            except Exception as error:
                pytest.fail(f"{page}: {line}: {error}")
            found += 1
    assert found >= 10


def test_targets_in_shell_blocks_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), flags=re.M))
    assert {"demo", "test", "check", "bench", "docs", "clean"} <= targets
    named = {(page, line.split()[1]) for page, line in shell_lines() if line.startswith("make ")}
    assert [(page, target) for page, target in named if target not in targets] == []


def test_commands_in_running_text_exist() -> None:
    options = {name: {item.option for item in SETTINGS[name]} | {"--json", "--help"} for name in COMMANDS}
    wrong = []
    for page in PAGES:
        for mention in re.findall(r"`regraft ([^`\n]+)`", page.read_text("utf-8")):
            command, *rest = spelled(mention.split())
            used = {word for word in rest if word.startswith("--")}
            if command not in {*COMMANDS, "--help", "--version"} or used - options.get(command, set()):
                wrong.append(f"{page.name}: regraft {mention}")
    assert wrong == []


def test_options_in_running_text_exist() -> None:
    known = {item.option for items in SETTINGS.values() for item in items} | {"--json", "--help", "--version"}
    used = {(page.name, option) for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
            for option in re.findall(r"`(--[a-z-]+)", page.read_text("utf-8"))}
    assert sorted((page, option) for page, option in used if option not in known) == []


def python_blocks() -> list[tuple[str, str]]:
    return [(page.name, block) for page in PAGES for block in programs(page)]


@pytest.mark.parametrize(("page", "block"), python_blocks())
def test_python_blocks_call_what_exists(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block, page)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("regraft"):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
              and isinstance(node.func.value, ast.Name) and node.func.value.id == "regraft"):
            assert node.func.attr in regraft.__all__
            function: Callable[..., Any] = getattr(regraft, node.func.attr)
            named = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
            inspect.signature(function).bind(*node.args, **named)


def test_links_between_pages_lead_somewhere() -> None:
    broken = [f"{page.name}: {target}" for page in PAGES
              for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
              if not (page.parent / target).exists()]
    assert broken == []


# -- the source and the whole repository -----------------------------------------------------------


def undocumented(tree: ast.Module, module: str) -> Iterator[str]:
    """Public classes, functions and methods without a docstring, and the module itself."""
    if tree.body and not ast.get_docstring(tree):
        yield module

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
                continue
            if not ast.get_docstring(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(tree.body, f"{module}:")


def test_every_public_thing_has_a_docstring() -> None:
    missing = [name for file in sorted(SOURCE.rglob("*.py"))
               for name in undocumented(ast.parse(file.read_text("utf-8")), str(file.relative_to(SOURCE)))]
    assert missing == []


def repository_files() -> Iterator[Path]:
    """What is kept under version control, without asking for git: a source archive has none."""
    made = {"__pycache__", "_build", "build", "dist", "runs"}
    for path in sorted(ROOT.iterdir()):
        hidden = path.name.startswith(".") and path.name not in (".ci", ".github", ".pre-commit-config.yaml")
        if hidden or path.name in made:
            continue
        inside = [path] if path.is_file() else path.rglob("*")
        yield from (file for file in inside if file.is_file() and not made & set(file.relative_to(ROOT).parts))


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(rb"(?<![\w.])/(?:work|root|home|Users|opt)/\w")
    found = [str(file.relative_to(ROOT)) for file in repository_files() if place.search(file.read_bytes())]
    assert found == []
