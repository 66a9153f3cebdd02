"""What training behind a cut gains over the frozen probe and over training everything, and what each costs.

    python -m benchmarks.cut_training --data FOLDER [--sets clothing,mnist] [--seeds 3] [--first-seed 0]
        [--learns stages[-2:],head] [--everything clothing] [--everything-seeds 1]
    python -m benchmarks.cut_training --data FOLDER [--sets clothing,mnist] [--seeds 3] [--first-seed 0] --peers PYTHON
        [--epochs 12]

For each set and seed: the probe (readouts, weighting and strength chosen on validation) and the probe of the last
layer alone, both fitted on the training images; then the plan of ``--strategy partial`` on the same split, started at
the probe, with nothing in the store. Accuracy over validation and test images pooled. For the sets of ``--everything``
the same plan with everything learning, fresh views each epoch and a constant rate of 1e-4, less in earlier stages,
until six epochs have done no better on validation: from a solved head the first ones lose before they win. The best
epoch counts. How many times as long that takes is told where both were measured in one run. Seeds are those below
``--seeds``, from ``--first-seed`` on.

With ``--peers``, the Python of an environment with fastai, nothing of ours is trained: fastai's ``fine_tune`` of so
many epochs learns from the same images, and is judged on the same. Its accuracy alone is kept.

Writes ``results/cut_training.json`` and ``.md``, where rows that are not measured anew stay.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
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


_ROOT = Path(__file__).parent.parent

#: The plan with everything learning, earlier stages more slowly, until validation stops improving.
_EVERYTHING = ("phases.0.learns=all", "phases.0.frozen=[]", "phases.0.views=0", "phases.0.rate=1e-4",
               "phases.0.law=geometric", "phases.0.factor=1.3", "phases.0.schedule=constant", "phases.0.epochs=30",
               "phases.0.patience=6")


def trained(data: Path, seed: int, out: Path, *changes: str) -> dict[str, Any]:
    """Accuracy and times of the partial plan, changed; the trained network is judged even where the probe does better.

    The store is empty at first, so that the seconds hold everything.
    """
    plan = out.with_suffix(".toml")
    plan.write_text(to_toml(strategy_plan("partial", BackbonePlan(), PreprocessingPlan())))
    forecasts: list[PhaseForecast] = []

    def note(event: object) -> None:
        if isinstance(event, PhaseForecast):
            forecasts.append(event)

    result = regraft.train(data, plan=plan, seed=seed, store=out.with_suffix(".store"), out=out, set=changes,
                           report="none", quiet=True, hooks=regraft.Hooks(on_event=note))
    assert isinstance(result, TrainResult)
    right, count = pooled(result.validation, result.test)
    epochs = [epoch.seconds for epoch in result.epochs if epoch.images]
    return {"trained": right / count, "images": count, "epoch_seconds": statistics.median(epochs),
            "epochs": len(epochs), "kept_seconds": forecasts[0].prepared_seconds,
            "training_images": result.epochs[-1].images, "seconds": result.seconds}


def fastai(python: str, data: Path, seed: int, epochs: int, scratch: Path) -> dict[str, Any]:
    """Accuracy of fastai's ``fine_tune`` on the split of the same seed."""
    index = prepare(TrainSettings(data, seed=seed), strategy_plan("partial", BackbonePlan(), PreprocessingPlan())).index
    table, out = scratch / "table.csv", scratch / f"fastai-{data.name}-{seed}-{epochs}"
    learn = set(index.rows("train").tolist())
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows((index.file(row), index.labels(row)[0], "train" if row in learn else "test")
                         for row in range(len(index)))
    done = subprocess.run([python, "-m", "benchmarks.contestants.fastai_fine_tune", table, out, str(epochs)],
                          cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return {"accuracy": json.loads(done.stdout.splitlines()[-1])["accuracy"]}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="clothing,mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--learns", default="", help="what learns, by default what the plan says")
    parser.add_argument("--everything", default="")
    parser.add_argument("--everything-seeds", type=int, default=1)
    parser.add_argument("--peers", default="")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.seeds)
    asked = f"--sets {arguments.sets} --seeds {arguments.seeds}" + (
        f" --first-seed {arguments.first_seed}" if arguments.first_seed else "")
    if arguments.peers:
        _fastai_rows(arguments, seeds, asked)
        return
    changes = [f"phases.0.learns={arguments.learns}"] if arguments.learns else []
    command = (f"python -m benchmarks.cut_training --data FOLDER {asked}"
               + (f" --learns {arguments.learns}" if arguments.learns else "")
               + (f" --everything {arguments.everything} --everything-seeds {arguments.everything_seeds}"
                  if arguments.everything else ""))
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets.split(","):
            for seed in seeds:
                out, data = Path(scratch) / f"{name}-{seed}", arguments.data / name
                row = {"set": name, "seed": seed, **probes(data, seed, Path(scratch) / "store"),
                       **trained(data, seed, out, *changes)}
                if name in arguments.everything.split(",") and seed < arguments.everything_seeds:
                    row["everything"] = trained(data, seed, Path(scratch) / f"{name}-{seed}-all", *_EVERYTHING)
                print(json.dumps(row), flush=True)
                _write({**row, "conditions": conditions(command)})


def _fastai_rows(arguments: argparse.Namespace, seeds: range, asked: str) -> None:
    """Accuracy of fastai, put beside ours of the same set and seed."""
    about = conditions(f"python -m benchmarks.cut_training --data FOLDER {asked} --peers PYTHON --epochs "
                       f"{arguments.epochs}")
    wanted = [(name, seed) for name in arguments.sets.split(",") for seed in seeds]
    if missing := [one for one in wanted if one not in [(row["set"], row["seed"]) for row in _rows()]]:
        raise SystemExit(f"{missing} were not measured yet; run the command without --peers first")
    for name, seed in wanted:
        with tempfile.TemporaryDirectory() as scratch:
            found = fastai(arguments.peers, arguments.data / name, seed, arguments.epochs, Path(scratch))
        [row] = [one for one in _rows() if (one["set"], one["seed"]) == (name, seed)]
        row.setdefault("fastai", {})[str(arguments.epochs)] = {**found, "conditions": about}
        print(json.dumps({"set": name, "seed": seed, "fastai": row["fastai"]}), flush=True)
        _write(row)


def _rows() -> list[dict[str, Any]]:
    """What was measured before."""
    file = RESULTS / "cut_training.json"
    found: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.is_file() else []
    return found


def _write(row: dict[str, Any]) -> None:
    """Put one row into the results, in the place of what was measured of that set and seed before.

    What everything learning and fastai gave stays with its own conditions where it is not measured anew.
    """
    file, known = RESULTS / "cut_training.json", _rows()
    for one in known:
        if (one["set"], one["seed"]) != (row["set"], row["seed"]):
            continue
        if "everything" in one and "everything" not in row:
            row |= {"everything": {"conditions": one["conditions"], **one["everything"]}}
        if "fastai" in one:
            row.setdefault("fastai", one["fastai"])
    others = [one for one in known if (one["set"], one["seed"]) != (row["set"], row["seed"])]
    rows = sorted([*others, row], key=lambda one: (one["set"], one["seed"]))
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    (RESULTS / "cut_training.md").write_text(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row, the means of each set under them, and when and how it was measured."""
    lines = ["# Training behind a cut, against the frozen probe and against training everything", "",
             "| set | seed | images judged | last layer % | probe % | behind the cut % | in s | epochs of s | "
             "everything % | in s | epochs of s | times as long | fastai % (epochs) |",
             "| --- " * 13 + "|"]
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        lines += [_line(row, row["seed"], row["images"]) for row in of_set]
        whole = [row for row in of_set if _together(row)]
        if len(whole) < len(of_set):
            lines.append(_line(_mean(of_set), f"mean of {len(of_set)}", ""))
        if len(whole) > 1:
            lines.append(_line({**_mean(whole), "everything": _mean([row["everything"] for row in whole])},
                               f"mean of {len(whole)}", ""))
    about = dict.fromkeys(footer(one["conditions"]) for one in rows)
    about |= dict.fromkeys(f"everything: {footer(one['everything']['conditions'])}" for one in rows
                           if "conditions" in one.get("everything", {}))
    about |= dict.fromkeys(f"fastai: {footer(found['conditions'])}" for one in rows
                           for found in one.get("fastai", {}).values())
    return "\n\n".join(["\n".join(lines), *about]) + "\n"


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of all figures of some rows."""
    keys = ("last", "probe", "trained", "seconds", "epochs", "epoch_seconds")
    return {"set": rows[0].get("set"), **{key: statistics.fmean(row[key] for row in rows) for key in keys
                                          if key in rows[0]}}


def _line(row: dict[str, Any], seed: Any, images: Any) -> str:
    shares = [f"{100 * row[key]:.2f}" for key in ("last", "probe", "trained")]
    cells = [row["set"], seed, images, *shares, *_times(row)]
    if everything := row.get("everything"):
        times = f"{everything['seconds'] / row['seconds']:.1f}" if _together(row) else ""
        cells += [f"{100 * everything['trained']:.2f}", *_times(everything), times]
    else:
        cells += [""] * 4
    cells.append(", ".join(f"{100 * found['accuracy']:.2f} ({epochs})"
                           for epochs, found in sorted(row.get("fastai", {}).items(), key=lambda one: int(one[0]))))
    return f"| {' | '.join(map(str, cells))} |"


def _together(row: dict[str, Any]) -> bool:
    """Whether everything learning was measured in the same run: only then can times be compared."""
    return "conditions" not in row.get("everything", {"conditions": ""})


def _times(of: dict[str, Any]) -> list[str]:
    return [f"{of['seconds']:.0f}", f"{of['epochs']:.3g} of {of['epoch_seconds']:.1f}"]


if __name__ == "__main__":
    main()
