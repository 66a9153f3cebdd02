"""Plans and recipes as readable tables."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.records.described import DescribedPlan, PhaseFacts, Recipe, Recipes
from regraft.records.images import ImageIndex
from regraft.records.plan import Plan
from regraft.strategy.library import GROUPS, load_plans, recipe, recipe_names


def describe(plan: Plan, network: Sequence[PhaseFacts] = (), index: ImageIndex | None = None,
             data: str | None = None, pass_seconds: float | None = None, notes: Sequence[str] = ()) -> DescribedPlan:
    """What would run; with ``network`` also what learns in numbers, and with an ``index`` on how many images.

    The other arguments are as in :class:`~regraft.records.described.DescribedPlan`. Raises UsageError where plan and
    images do not fit.
    """
    classes = images = None
    if index is not None:
        counts = {split: count for split, count in index.split_counts().items() if count}
        rest = len(index) - sum(counts.values())
        classes, images = len(index.classes), {**counts, "undivided": rest} if rest else counts
    return DescribedPlan(plan, tuple(network), data, classes, images, pass_seconds, tuple(notes))


def list_recipes(name: str | None = None) -> Recipes:
    """All recipes and groups, or those of one name; raises UnknownNameError with the nearest names."""
    plans = [recipe(one) for one in recipe_names()] if name is None else load_plans(name)
    return Recipes(tuple(Recipe(plan.name, plan.about, dict(plan.published)) for plan in plans),
                   {group: names for group, names in GROUPS.items() if name in (None, group)})
