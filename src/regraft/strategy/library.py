"""The recipes that come with Regraft, by name; a plan by its name or its file."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from regraft.errors import SettingsError, UnknownNameError, UsageError
from regraft.records.base import shown
from regraft.records.plan import Plan
from regraft.strategy.reading import read_plan

_FOLDER = Path(__file__).parents[1] / "recipes"

_ENDING = ".toml"

#: A plan's file is some kilobytes; whatever is larger is none.
_LARGEST = 1_000_000

#: Names that stand for several recipes.
GROUPS: dict[str, tuple[str, ...]] = {
    "baselines-16-class": ("baseline-mlp", "baseline-cnn", "baseline-vgg16"),
    "own-network": ("own-network-random", "own-network-pretrained"),
    "flowers102": ("flowers102-vgg16", "flowers102-resnet50", "flowers102-resnet152"),
}


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes, sorted."""
    return tuple(sorted(file.stem for file in _FOLDER.glob(f"*{_ENDING}")))


@functools.cache
def recipe(name: str) -> Plan:
    """A recipe's plan; raises UnknownNameError with the nearest names."""
    if name not in recipe_names():
        raise UnknownNameError("recipe", name, [*recipe_names(), *GROUPS],
                               "`regraft recipes` lists them; a plan of your own is named by its .toml file")
    return read_plan((_FOLDER / f"{name}{_ENDING}").read_text("utf-8"))


def load_plan(name_or_path: str | Path) -> Plan:
    """The plan of a recipe's name or of a TOML file.

    Raises UnknownNameError with the nearest names, UsageError for a group of recipes or a file that can't be read,
    SettingsError with every mistake of the file.
    """
    plans = load_plans(name_or_path)
    if len(plans) > 1:
        raise UsageError(f"{name_or_path} stands for {len(plans)} recipes; give one of "
                         + ", ".join(plan.name for plan in plans))
    return plans[0]


def load_plans(name_or_path: str | Path) -> tuple[Plan, ...]:
    """The plans of a group of recipes, or the one of a recipe or file; raises as :func:`load_plan` does.

    A text may name several of these, with commas between them.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and "," in text and not Path(text).expanduser().exists():
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not names:
            raise UsageError(f"{text!r} names no plan; give the name of a recipe (`regraft recipes` lists them) or a "
                             "plan's TOML file")
        return tuple(plan for name in names for plan in load_plans(name))
    if text in GROUPS:
        return tuple(map(recipe, GROUPS[text]))
    is_file = isinstance(name_or_path, Path) or text.endswith(_ENDING) or any(
        mark in text for mark in (os.sep, os.altsep or os.sep))
    if not is_file:
        return (recipe(text),)
    try:
        return (read_plan(_text(Path(text).expanduser())),)
    except SettingsError as error:
        raise SettingsError([f"{shown(text)}: {told}" for told in error.problems]) from None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        raise UsageError(f"{shown(str(file))} does not exist; give a plan's TOML file or the name of a recipe "
                         "(`regraft recipes` lists them)") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{shown(str(file))} can't be read ({reason}); give a plan's TOML file") from None
    if len(data) > _LARGEST:
        raise SettingsError([f"no plan: more than {_LARGEST:,} bytes; a plan is a short text"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise SettingsError([f"no TOML: byte {data[error.start]:#04x} in line {line} is no UTF-8 text"]) from None
