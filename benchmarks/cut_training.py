"""What training behind a cut gains over the frozen probe, and what an epoch of it costs.

    python -m benchmarks.cut_training --data FOLDER [--sets clothing,mnist] [--seeds 3] [--full clothing]

For each set and seed: the probe (readouts, weighting and strength chosen on validation) and the probe of the last
layer alone, both fitted on the training images; then the plan of ``--strategy partial`` on the same split, started at
the probe. Accuracy over validation and test images pooled. With ``--full``, one epoch of ``--strategy full`` on that
set, in the same run. Writes ``results/cut_training.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import regraft
from benchmarks.machine import RESULTS, conditions, footer
from regraft.extraction.extract import extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.networks.build import load_backbone
from regraft.progress import Deadline, Silent
from regraft.records.decisions import Wanted
from regraft.records.plan import BackbonePlan, PreprocessingPlan, Run
from regraft.records.results import Evaluation, TrainResult
from regraft.records.training import PhaseForecast
from regraft.runs.engines import Work, answer_engine
from regraft.runs.steps import prepare
from regraft.runs.train import fit, preprocessing
from regraft.settings import TrainSettings
from regraft.strategy.presets import strategy_plan
from regraft.strategy.writing import to_toml


def pooled(*figures: Evaluation | None) -> tuple[float, int]:
    """Right answers over several splits, and how many images there were."""
    found = [f for f in figures if f is not None]
    return sum(f.accuracy.value * f.n for f in found), sum(f.n for f in found)


def probes(data: Path, seed: int, store: Path) -> dict[str, float]:
    """Accuracy of the chosen probe and of the last layer's."""
    plan = strategy_plan("partial", BackbonePlan(), PreprocessingPlan())
    job = prepare(TrainSettings(data, seed=seed), plan)
    network = load_backbone("efficientnet_lite0")
    rules = preprocessing(job.settings, network.input, None)
    work = Work(network.name, network.module, network.digest, network.readouts, rules)
    found = {}
    with FeatureStore(store) as opened:
        engine = answer_engine(work, job.index, opened, "auto", "auto", Silent())
        with opened.space(feature_key(rules, network.digest, engine)) as space:
            features = extract(job.index, space, engine, rules, Silent(), Deadline(None), 0.1)
            for name, only in (("probe", ()), ("last", ("last",))):
                run = Run("features", network.name, network.digest, rules, network.readouts, None, 1, seed,
                          job.index.split_counts())
                fitted = fit(job.index, features, network.readouts, run, Silent(), Deadline(None), Wanted(0.95), only)
                right, count = pooled(fitted.validation, fitted.test)
                found[name] = right / count
    return found


def trained(data: Path, strategy: str, seed: int, store: Path, out: Path, *changes: str) -> dict[str, Any]:
    """Accuracy and times of a strategy's plan; the trained network is judged even where the probe does better."""
    plan = out.with_suffix(".toml")
    plan.write_text(to_toml(strategy_plan(strategy, BackbonePlan(), PreprocessingPlan())))
    forecasts: list[PhaseForecast] = []

    def note(event: object) -> None:
        if isinstance(event, PhaseForecast):
            forecasts.append(event)

    result = regraft.train(data, plan=plan, seed=seed, store=store, out=out, set=changes, quiet=True,
                           hooks=regraft.Hooks(on_event=note))
    assert isinstance(result, TrainResult)
    right, count = pooled(result.validation, result.test)
    epochs = [epoch.seconds for epoch in result.epochs if epoch.images]
    return {"trained": right / count, "images": count, "epoch_seconds": statistics.median(epochs),
            "kept_seconds": forecasts[0].prepared_seconds, "training_images": result.epochs[-1].images,
            "seconds": result.seconds}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="clothing,mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", default="")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        for name in arguments.sets.split(","):
            for seed in range(arguments.seeds):
                out = Path(scratch) / f"{name}-{seed}"
                row = {"set": name, "seed": seed, **probes(arguments.data / name, seed, store),
                       **trained(arguments.data / name, "partial", seed, store, out)}
                print(json.dumps(row), flush=True)
                rows.append(row)
        if arguments.full:
            full = trained(arguments.data / arguments.full, "full", 0, store, Path(scratch) / "full",
                           "phases.0.epochs=1")
            rows.append({"set": arguments.full, "seed": 0, "full_epoch_seconds": full["epoch_seconds"],
                         "training_images": full["training_images"]})
            print(json.dumps(rows[-1]), flush=True)
    _write(rows, f"python -m benchmarks.cut_training --data FOLDER --sets {arguments.sets} --seeds {arguments.seeds}"
                 + (f" --full {arguments.full}" if arguments.full else ""))


def _write(rows: list[dict[str, Any]], command: str) -> None:
    about = conditions(command)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cut_training.json").write_text(json.dumps({"conditions": about, "rows": rows}, indent=2) + "\n")
    lines = ["# Training behind a cut, against the frozen probe", "",
             "| set | seed | images judged | last layer % | probe % | trained % | epoch s | kept in s |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        if "trained" in row:
            shares = " | ".join(f"{100 * row[key]:.2f}" for key in ("last", "probe", "trained"))
            lines.append(f"| {row['set']} | {row['seed']} | {row['images']} | {shares} | {row['epoch_seconds']:.1f} | "
                         f"{row['kept_seconds']:.1f} |")
        else:
            lines.append(f"| {row['set']} | {row['seed']} | one epoch of full fine-tuning, {row['training_images']:,} "
                         f"images | | | | {row['full_epoch_seconds']:.1f} | |")
    (RESULTS / "cut_training.md").write_text("\n".join([*lines, "", footer(about)]) + "\n")


if __name__ == "__main__":
    main()
