"""What advice would have been best: every strategy and every network run to the end, and what was advised beside it.

    python -m benchmarks.oracle --data FOLDER [--sets eurosat,mnist] [--limit 100] [--budget 2h]
        [--only advise,rank] [--strategies features,partial,full] [--backbones efficientnet_lite0,NAME=FILE]

FOLDER holds image sets. Of each set: what ``advise`` recommended and what it forecast, test accuracy and time of every
strategy, the best in hindsight, the regret in points, whether the best one's lead is more than chance (paired over the
test images); and what ``rank`` recommended among the networks, against the full probe of each. Once the budget is used
up nothing more is begun, and what is missing stands in the file as null. Writes ``results/oracle.json``; what is not
measured anew stays there.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import regraft
from benchmarks.machine import RESULTS, conditions
from regraft.heads.probe import lead
from regraft.records.results import TrainResult
from regraft.settings import seconds


class Budget:
    """Seconds that the whole study may take."""

    def __init__(self, limit: float) -> None:
        self._ends = time.monotonic() + limit

    @property
    def left(self) -> float:
        return self._ends - time.monotonic()


def main() -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", help="names of sets, with commas between them; by default all of FOLDER")
    parser.add_argument("--backbones", help="networks to rank; by default those on this machine")
    parser.add_argument("--limit", type=int, help="at most this many images of each class")
    parser.add_argument("--only", default="advise,rank", help="one of them")
    parser.add_argument("--strategies", default="features,partial,full", help="those that are run to the end")
    parser.add_argument("--budget", default="2h")
    parser.add_argument("--out", type=Path, default=RESULTS / "oracle.json")
    given = parser.parse_args()
    budget = Budget(seconds(given.budget))
    names = given.sets.split(",") if given.sets else sorted(p.name for p in given.data.iterdir() if p.is_dir())
    written: dict[str, Any] = json.loads(given.out.read_text("utf-8")) if given.out.is_file() else {}
    chosen = given.strategies.split(",")
    for study in given.only.split(","):
        command = (f"python -m benchmarks.oracle --only {study} --sets {','.join(names)} --limit {given.limit} "
                   f"--budget {given.budget}" + (f" --strategies {given.strategies}" if study == "advise" else ""))
        sets: dict[str, Any] = written.setdefault(study, {})
        for name in names:
            found: dict[str, Any] | None
            with tempfile.TemporaryDirectory() as folder:
                common = {"store": Path(folder) / "store", "limit": given.limit, "quiet": True}
                if study == "advise":
                    found = strategies(given.data / name, Path(folder), common, chosen, budget)
                else:
                    found = networks(given.data / name, Path(folder), common, given.backbones, budget)
            if found is not None or name not in sets:
                sets[name] = None if found is None else {"conditions": conditions(command), **found}
            print(study, name, json.dumps(sets[name], indent=2), flush=True)
            given.out.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


def strategies(data: Path, folder: Path, common: Mapping[str, Any], names: Sequence[Any], budget: Budget,
               ) -> dict[str, Any]:
    """What was advised, and what became of every strategy on the test images."""
    advice = regraft.advise(data, **common)
    runs: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
    right: dict[str, NDArray[np.bool_]] = {}
    for strategy in names:
        if budget.left > 0:
            result = regraft.train(data, out=folder / strategy, strategy=strategy, time_limit=budget.left,
                                   report="none", **common)
            right[strategy] = answers(result, data)
            runs[strategy] = {"test": float(right[strategy].mean()), "seconds": result.seconds}
    chosen = advice.recommended.strategy
    return {"advised": chosen, "advice_seconds": advice.seconds, "runs": runs,
            "forecasts": [forecast.to_dict() for forecast in advice.forecasts], **regret(right, chosen)}


def answers(result: TrainResult, data: Path) -> NDArray[np.bool_]:
    """Whether each test image is answered rightly, in the order of the run's own list of splits."""
    with (Path(result.out) / "run" / "splits.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    found = regraft.predict(result.out, [data / row["path"] for row in rows], quiet=True)
    return np.array([p.label == row["label"] for p, row in zip(found, rows, strict=True)])


def networks(data: Path, folder: Path, common: Mapping[str, Any], backbones: str | None, budget: Budget,
             ) -> dict[str, Any] | None:
    """What was recommended among networks, and the full probe of each."""
    if budget.left <= 0:
        return None
    ranking = regraft.rank(data, backbones=backbones or (), **common)
    full: dict[str, dict[str, Any] | None] = {}
    right: dict[str, NDArray[np.bool_]] = {}
    for row in ranking.ranking:
        full[row.backbone] = None
        if budget.left > 0:
            result = regraft.train(data, out=folder / f"probe-{len(full)}", backbone=row.backbone, weights=row.weights,
                                   strategy="features", report="none", **common)
            right[row.backbone] = answers(result, data)
            full[row.backbone] = {"test": float(right[row.backbone].mean()), "seconds": result.seconds}
    return {"recommended": ranking.recommended, "passes": ranking.passes, "all_passes": ranking.all_passes,
            "seconds": ranking.seconds, "probes": full, **regret(right, ranking.recommended)}


def regret(right: Mapping[str, NDArray[np.bool_]], chosen: str) -> dict[str, Any]:
    """The best in hindsight, and by how much it beats what was chosen: points, and the paired 95 % interval."""
    if chosen not in right:
        return {"best": None, "regret": None}
    best = max(right, key=lambda name: right[name].mean())
    value, low, high = (round(100 * number, 2) for number in lead(right[best], right[chosen]))
    return {"best": best, "regret": value, "regret_interval": [low, high]}


if __name__ == "__main__":
    main()
