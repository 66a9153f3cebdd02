"""The examples of docs/training.md run, one after the other, each as it stands, in a folder with real photos."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.conftest import write_crops
from tests.pages import programs, run

PAGE = Path(__file__).parents[1] / "docs" / "training.md"

BLOCKS = programs(PAGE)

#: What only some environments have: its block runs where it is installed.
HEAVY = ("mlflow",)


def missing(block: str) -> list[str]:
    return [name for name in HEAVY if f"import {name}" in block and importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos/``; the blocks of the page leave their models in it, for those after them."""
    here = tmp_path_factory.mktemp("page")
    write_crops(here / "photos", 8)
    return here


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[block.splitlines()[0] for block in BLOCKS])
def test_the_block_runs(number: int, inside: Path) -> None:
    lacking = missing(BLOCKS[number])
    if lacking:
        pytest.skip(f"{', '.join(lacking)} is not installed")
    run(BLOCKS[number], PAGE.name)


def test_what_the_blocks_left(inside: Path) -> None:
    if not (inside / "scratch").exists():
        pytest.skip("the blocks were not run")
    lines = [json.loads(line) for line in Path("own-loop/run/history.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2, 3]
    hooked = Path("hooked/run/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in hooked] == [0, 5, 5]
    assert not list(Path().glob("*/run/checkpoints"))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator("curves").Reload()
    assert [scalar.step for scalar in curves.Scalars("validation_accuracy")] == [0, 1, 2, 3]
    assert len(curves.Scalars("train_loss")) == 3
