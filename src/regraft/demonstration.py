"""``demo``: real hand-written digits from scikit-learn, from pictures on disk to answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.records.base import Record
from regraft.records.results import Evaluation, Predictions, TrainResult
from regraft.runs.folder import fresh_folder
from regraft.settings import DemoSettings

#: Every fifth digit is for the test, as every user would keep some back.
_TEST_EVERY = 5


@dataclass(frozen=True, repr=False)
class DemoResult(Record):
    """Where everything is, and what came out."""

    data: str
    model: str
    training: TrainResult
    evaluation: Evaluation
    predictions: Predictions

    def __repr__(self) -> str:
        return "\n".join([
            repr(self.training), "", "the same figure from the saved model:", repr(self.evaluation), "",
            "three predictions:", repr(self.predictions), "",
            f"pictures  {self.data}", f"model     {self.model}",
            f"try it    regraft predict {self.model} {self.predictions[0].path}",
        ])


def write_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 digits (8 x 8 pixels, UCI, Alpaydin and Kaynak 1998) as ``split/class/number.png``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if number % _TEST_EVERY == 0 else "train"
        target = folder / split / str(label)
        target.mkdir(parents=True, exist_ok=True)
        grey = np.rint(pixels * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(target / f"{number:04d}.png")
    return folder


def demonstrate(settings: DemoSettings, train: Callable[..., TrainResult], evaluate: Callable[..., Evaluation],
                predict: Callable[..., Predictions]) -> DemoResult:
    """Run the whole job through the public doors."""
    out = Path(settings.out) if settings.out else fresh_folder("demo")
    common: dict[str, Any] = {"store": settings.store, "quiet": settings.quiet}
    data = write_digits(out / "digits")
    training = train(data, strategy="features", out=out / "model", **common)
    evaluation = evaluate(out / "model", data, split="test", **common)
    shown = [sorted((data / "test" / label).iterdir())[0] for label in ("3", "5", "8")]
    return DemoResult(str(data), training.out, training, evaluation, predict(out / "model", shown, quiet=True))
