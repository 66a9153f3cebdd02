"""On a device of its own a network learns what it learns on the processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.utils.backend_registration

import regraft
from regraft.settings import Strategy
from tests.conftest import write_crops

_ROOT = Path(__file__).parent.parent

_STRATEGIES: tuple[Strategy, ...] = ("partial", "full")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
                       reason="this PyTorch can't be given a device written in Python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and models that learned on the device from them."""
    folder = tmp_path_factory.mktemp("accelerator")
    images = write_crops(folder / "images", 12)
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.accelerator", images, folder, *_STRATEGIES],
                          cwd=_ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return folder


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_training_on_a_device_gives_what_the_processor_gives(folder: Path, strategy: Strategy,
                                                             tmp_path: Path) -> None:
    written: dict[str, Any] = json.loads((folder / f"{strategy}.json").read_text())
    found = written["result"]
    assert written["ran"]["aten.convolution_backward_overrideable.default"] > 10
    here = regraft.train(folder / "images", strategy=strategy, out=tmp_path / "model", store=tmp_path / "store",
                         engine="pytorch", quiet=True, report="none",
                         set=("phases.0.epochs=1", "phases.0.precision=fp32"))
    for there, epoch in zip(found["epochs"], here.epochs, strict=True):
        assert there["validation_loss"] == pytest.approx(epoch.validation_loss, rel=0.05, abs=1e-3)
        assert there["images"] == epoch.images
    assert here.test is not None
    assert found["test"]["accuracy"]["value"] == pytest.approx(here.test.accuracy.value)
    answers = regraft.load(folder / strategy).predict(sorted((folder / "images").rglob("*.jpg")))
    assert [one.label for one in answers] == [
        one.label for one in regraft.load(here.out).predict(sorted((folder / "images").rglob("*.jpg")))]
