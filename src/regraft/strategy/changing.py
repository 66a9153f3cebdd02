"""``--set phases.0.epochs=1``: a plan with some of its settings changed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args, get_origin

from regraft.errors import SettingsError
from regraft.records.plan import Phase, Plan
from regraft.settings import Declared, declared
from regraft.strategy.reading import PHASES, TABLES, build_plan
from regraft.strategy.writing import values

#: All phases at once.
EVERY = "*"


def override(plan: Plan, changes: Sequence[str]) -> Plan:
    """The plan with settings changed, each given as ``PATH=VALUE``.

    A path is ``name``, ``TABLE.SETTING``, ``phases.NUMBER.SETTING`` (from 0) or ``phases.*.SETTING`` for all phases.
    A value is TOML, or text without quotes; ``none`` takes back a setting that has no default. Where another backbone
    is named, ``backbone.words_of`` keeps the one that the phases' words were written for; where a phase's words are
    given anew, its ``elsewhere`` goes unless it is given too. Raises SettingsError with a line for every mistake.
    """
    tree = values(plan)
    problems: list[str] = []
    changed_in: list[tuple[int, str]] = []
    for change in changes:
        path, equals, text = change.partition("=")
        path = path.strip()
        if not equals:
            problems.append(f"{change!r} changes nothing; write it as PATH=VALUE, such as phases.*.epochs=1")
            continue
        try:
            found = _targets(plan, tree, path)
            item = found[0][1]
            value = _value(path, item, text.strip())
        except SettingsError as error:
            problems += error.problems
            continue
        for table, _ in found:
            if value is None:
                table.pop(item.name, None)
            else:
                table[item.name] = value
            changed_in.append((id(table), item.name))
    for phase in tree.get(PHASES, ()):
        said = {name for table, name in changed_in if table == id(phase)}
        if said & {"learns", "frozen"} and "elsewhere" not in said:
            phase.pop("elsewhere", None)  # it stood in for words that are gone
    try:
        changed = build_plan(tree)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    if changed.backbone.words_of == plan.backbone.words_of:
        changed = on_backbone(replace(changed, backbone=replace(changed.backbone, name=plan.backbone.name)),
                              changed.backbone.name)
    return changed


def on_backbone(plan: Plan, name: str) -> Plan:
    """The plan with another backbone; it remembers which one the words of its phases were written for."""
    backbone = replace(plan.backbone, name=name)
    if name != plan.backbone.name and any(phase.of_one_network for phase in plan.phases):
        backbone = replace(backbone, words_of=plan.backbone.words_of or plan.backbone.name)
    return replace(plan, backbone=backbone)


def _targets(plan: Plan, tree: dict[str, Any], path: str) -> list[tuple[dict[str, Any], Declared]]:
    """The tables that a path means, at least one, and the setting in them; raises SettingsError."""
    place, _, name = path.rpartition(".")
    first, _, number = place.partition(".")
    kind: type[Any] = Plan
    tables = [tree]
    if first in TABLES and not number:
        kind, tables = TABLES[first], [tree[first]]
    elif first == PHASES and number:
        if not plan.phases:
            raise SettingsError([f"{path}: the plan {plan.name!r} has no phases; its head is solved"])
        if number != EVERY and number not in map(str, range(len(plan.phases))):
            raise SettingsError([f"{path}: no phase {number}; the plan {plan.name!r} has "
                                 f"{', '.join(f'{n} ({p.name})' for n, p in enumerate(plan.phases))}, and {EVERY} is "
                                 "all of them"])
        kind = Phase
        tables = tree[PHASES] if number == EVERY else [tree[PHASES][int(number)]]
    elif place:
        raise SettingsError([_no_such(plan, path)])
    item = next((item for item in declared(kind) if item.name == name), None)
    if item is None:
        raise SettingsError([_no_such(plan, path)])
    return [(table, item) for table in tables]


def _paths(plan: Plan) -> Iterator[str]:
    yield from (item.name for item in declared(Plan))
    for name, kind in TABLES.items():
        yield from (f"{name}.{item.name}" for item in declared(kind))
    for number in (EVERY, *range(len(plan.phases))) if plan.phases else ():
        yield from (f"{PHASES}.{number}.{item.name}" for item in declared(Phase))


def _no_such(plan: Plan, path: str) -> str:
    """One line with the nearest paths: by their last name alone, else as a whole."""
    known = list(_paths(plan))
    name = path.rpartition(".")[2]
    same = [one for one in known if one.rpartition(".")[2] == name]
    if "." in path:
        nearest = difflib.get_close_matches(path, same, n=1, cutoff=0) or difflib.get_close_matches(path, known, n=1)
    else:
        nearest = same[:2] or difflib.get_close_matches(path, known, n=1)
    advice = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else "`regraft settings` lists them"
    return f"{path}: no such setting; {advice}"


def _value(path: str, item: Declared, text: str) -> object:
    """The value of a text: TOML where it is some, None for ``none`` where that is allowed, else the text itself."""
    if text.lower() == "none" and item.default is None:
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        if text[:1] in ("[", "{", '"', "'"):
            raise SettingsError([f"{path}: {text!r} is no TOML value; write it as 1e-3, text, \"text\" or "
                                 "[\"one\", \"two\"], in quotes for the shell"]) from None
        return text
    is_text = get_origin(item.type) is None and set(get_args(item.type) or (item.type,)) <= {str, type(None)}
    if set(parsed) != {"value"} or (is_text and not isinstance(parsed["value"], str)):
        return text
    return parsed["value"]
