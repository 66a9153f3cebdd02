"""Whether probabilities and promises hold on test images that served for nothing else.

    python -m benchmarks.truth --data FOLDER [--splits 10]

Calibration (clothing, eurosat, mnist): the expected calibration error on the test, beside the 95th percentile of what a
perfectly calibrated model with the same probabilities would show (labels drawn from them 2,000 times), and the
log-loss without and with the temperature. Required recall (mnist, cats_dogs): over seeded splits, how often the recall
that was required does not lie above the interval of the recall on the test. Writes ``results/truth.json`` and
``truth.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import regraft
from benchmarks.accuracy import sources
from benchmarks.machine import RESULTS, conditions, footer
from regraft import metrics
from regraft.model import load
from regraft.runs.answers import read_answers

_DRAWS = 2_000
_REQUIRED = {"mnist": ("8", 0.95), "cats_dogs": ("dogs", 0.97)}


def calibration(folder: Path, scratch: Path) -> dict[str, Any]:
    """Error on the test, what chance alone would show, log-loss before and after."""
    source = sources(folder)
    out = scratch / folder.name
    regraft.train(source["data"], test=source["test"], strategy="features", out=out, report="none", quiet=True,
                  store=scratch / "store")
    test = read_answers(out)["test"]
    P_NK, temperature = test.P_NK.astype(np.float64), load(out).record.temperature
    rng = np.random.default_rng(0)
    drawn = [metrics.calibration_error(P_NK, _labels(P_NK, rng)) for _ in range(_DRAWS)]
    plain_NK = np.maximum(P_NK, 1e-30) ** temperature
    plain_NK /= plain_NK.sum(1, keepdims=True)
    return {"set": folder.name, "images": len(P_NK), "temperature": temperature,
            "error": metrics.calibration_error(P_NK, test.y_N), "by_chance": float(np.percentile(drawn, 95)),
            "log_loss_before": metrics.log_loss(plain_NK, test.y_N), "log_loss": metrics.log_loss(P_NK, test.y_N)}


def _labels(P_NK: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int32]:
    found: NDArray[np.int32] = (P_NK.cumsum(1) < rng.random((len(P_NK), 1))).sum(1).astype(np.int32)
    return found.clip(max=P_NK.shape[1] - 1)


def required_recall(folder: Path, label: str, recall: float, splits: int, scratch: Path) -> dict[str, Any]:
    """The recall on the test of so many seeded splits, with its interval."""
    found = []
    for seed in range(splits):
        result = regraft.train(folder, strategy="features", out=scratch / f"{folder.name}-{seed}", seed=seed,
                               report="none", quiet=True, require=f"recall:{label}>={recall}", store=scratch / "store")
        assert result.test is not None
        assert result.test.decided is not None
        [point] = result.test.decided.points
        assert point.sensitivity is not None
        found.append((point.sensitivity.value, point.sensitivity.low, point.sensitivity.high))
    return {"set": folder.name, "class": label, "required": recall, "splits": splits,
            "held": sum(high >= recall for _, _, high in found), "recalls": [round(value, 4) for value, _, _ in found],
            "mean": float(np.mean([value for value, _, _ in found]))}


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        calibrated = [calibration(arguments.data / one, scratch) for one in ("clothing", "eurosat", "mnist")]
        recalls = [required_recall(arguments.data / one, label, recall, arguments.splits, scratch)
                   for one, (label, recall) in _REQUIRED.items()]
    about = conditions(f"python -m benchmarks.truth --data FOLDER --splits {arguments.splits}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "truth.json").write_text(json.dumps(
        {"conditions": about, "calibration": calibrated, "required_recall": recalls}, indent=2) + "\n")
    lines = ["| set | test images | temperature | calibration error | if perfect, 95 % | log-loss before | after |",
             "|---|---|---|---|---|---|---|",
             *(f"| {c['set']} | {c['images']:,} | {c['temperature']:.2f} | {c['error']:.4f} | {c['by_chance']:.4f} | "
               f"{c['log_loss_before']:.4f} | {c['log_loss']:.4f} |" for c in calibrated), "",
             "| set | class | recall required | splits | held within the interval | mean recall |",
             "|---|---|---|---|---|---|",
             *(f"| {r['set']} | {r['class']} | {r['required']:.0%} | {r['splits']} | {r['held']} | {r['mean']:.1%} |"
               for r in recalls), "", footer(about), ""]
    (RESULTS / "truth.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
