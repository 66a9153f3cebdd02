"""Every recipe runs offline at classroom size, from its plan to a model that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

import regraft
from regraft.records.results import TrainResult
from regraft.strategy.library import recipe, recipe_names

#: Which set each recipe is tried on.
_SETS = {"digits": "mnist", "flowers102": "eurosat", "vgg19": "eurosat", "cats": "hymenoptera"}

#: Small pictures, few steps; the network and the numbers that count are the recipe's own in tests/test_plans.py.
_SMALL = ("preprocessing.size=64", "phases.*.epochs=1")

#: What a recipe that reads a module by its name reads in another network.
_ELSEWHERE = {"vgg19-block2pool": ('head.reads=["stage3/flatten"]',)}


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_runs_at_classroom_size(name: str, shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / next((folder for start, folder in _SETS.items() if name.startswith(start)), "clothing")
    plan = recipe(name)
    own = plan.backbone.name if plan.backbone.name.startswith("plain:") else "efficientnet_lite0"
    changes = (*(_SMALL if plan.phases else _SMALL[:1]), *_ELSEWHERE.get(name, ()))
    result = regraft.train(data, plan=name, set=changes, limit=8, out=tmp_path / "out", quiet=True, backbone=own)
    assert isinstance(result, TrainResult)
    began = [epoch.phase for epoch in result.epochs if epoch.train_loss is None]
    assert began == [phase.name for phase in plan.phases]
    assert result.validation is not None
    [answer] = regraft.load(result.out).predict(next(path for path in sorted(data.rglob("*.*")) if path.is_file()))
    assert answer.error is None
