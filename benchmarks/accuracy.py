"""Accuracy against the plain probe: same images, same splits, same backbone, same pixels.

The plain probe is what a careful person writes in twenty lines: the last layer's pooled features, standardised,
scikit-learn's logistic regression, C chosen on validation images (a fifth of what may be learned from where the
data has no validation split), then fitted again on everything but the test images.

    python -m benchmarks.accuracy --data FOLDER [--seeds 3] [--sets clothing,eurosat]

FOLDER holds image sets. A set's own test split is the test; else its validation split is (and is then not learned
from); else a fifth is split off, stratified, with the seed. Writes ``results/accuracy.json`` and ``accuracy.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import regraft
from benchmarks.machine import RESULTS, conditions, footer
from regraft.data.index import open_data
from regraft.extraction.extract import extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.model import load
from regraft.progress import Deadline, Silent
from regraft.runs.engines import Work, answer_engine

_CS = (0.001, 0.01, 0.1, 1.0, 10.0)
_SHUFFLES = 20_000


@dataclass(frozen=True)
class Run:
    """One set and seed: which test images each method got right (bool [N]), and who they are."""

    paths: tuple[str, ...]
    ours: NDArray[np.bool_]
    probe: NDArray[np.bool_]
    seconds: float
    head: str
    strength: float


def sources(folder: Path) -> dict[str, Any]:
    """Training data and test data of a set."""
    if (folder / "test").is_dir():
        return {"data": folder, "test": None}
    for name in ("validation", "val"):
        if (folder / name).is_dir():
            return {"data": folder / "train", "test": folder / name}
    return {"data": folder, "test": None}


def one_run(folder: Path, seed: int, out: Path) -> Run:
    """Train with Regraft, then the plain probe on the very same splits and features."""
    source = sources(folder)
    result = regraft.train(source["data"], strategy="features", out=out, test=source["test"], seed=seed,
                          quiet=True)
    splits = _splits(out)
    X_ND, ours, rows = _features(source, out)
    y = np.array([label for _, label, _ in rows])
    part = np.array([splits[key] for key, _, _ in rows])
    test = part == "test"
    answers = _plain_probe(X_ND, y, part, seed)
    chosen = result.head.chosen
    return Run(tuple(path for _, _, path in np.array(rows, object)[test]), ours[test], answers == y[test],
               result.seconds, chosen.label, chosen.strength)


def _splits(out: Path) -> dict[tuple[str, str], str]:
    with (out / "run" / "splits.csv").open(newline="", encoding="utf-8") as file:
        return {(row["root"], row["path"]): row["split"] for row in csv.DictReader(file)}


def _features(source: dict[str, Any], out: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[Any]]:
    """Last-layer features of every image from the store, whether our model answers it rightly, and who it is."""
    model = load(out)
    record = model.record
    work = Work(record.backbone, model.frozen(), record.weights_digest, record.readouts, record.preprocessing)
    blocks, right, rows = [], [], []
    with FeatureStore() as store:
        for root, data in enumerate(d for d in (source["data"], source["test"]) if d is not None):
            index = open_data(data)
            engine = answer_engine(work, index, store, "auto", "auto", Silent())
            with store.space(feature_key(record.preprocessing, record.weights_digest, engine)) as space:
                found = extract(index, space, engine, record.preprocessing, Silent(), Deadline(None), 0.1)
            everything = np.arange(len(found.rows))
            P = model.head.probabilities(found.read(everything, model.record.head.readouts))
            labels = [index.labels(int(row))[0] for row in found.rows]
            blocks.append(found.read(everything, ["last"]))
            right += [model.classes[k] == label for k, label in zip(P.argmax(1), labels, strict=True)]
            rows += [((str(root), index.paths[int(row)]), label, index.paths[int(row)])
                     for row, label in zip(found.rows, labels, strict=True)]
    return np.concatenate(blocks), np.array(right), rows


def _plain_probe(X_ND: NDArray[np.float32], y: NDArray[np.str_], part: NDArray[np.str_], seed: int) -> NDArray[np.str_]:
    learn = np.flatnonzero(part != "test")
    if (part == "validation").any():
        train, held = np.flatnonzero(part == "train"), np.flatnonzero(part == "validation")
    else:
        train, held = train_test_split(learn, test_size=0.2, stratify=y[learn], random_state=seed)
    scores = [_fit(X_ND[train], y[train], C)(X_ND[held]) == y[held] for C in _CS]
    best = _CS[int(np.argmax([s.mean() for s in scores]))]
    answers: NDArray[np.str_] = _fit(X_ND[learn], y[learn], best)(X_ND[part == "test"])
    return answers


def _fit(X_ND: NDArray[np.float32], y: NDArray[np.str_], C: float) -> Any:
    scaler = StandardScaler().fit(X_ND)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head = LogisticRegression(C=C, max_iter=300).fit(scaler.transform(X_ND), y)
    return lambda X: head.predict(scaler.transform(X))


def sign_flip_p(difference_N: NDArray[np.float64]) -> float:
    """Two-sided p of a paired sign-flip test that the mean difference is zero."""
    moved = difference_N[difference_N != 0]
    if not len(moved):
        return 1.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_SHUFFLES, len(moved)))
    shuffled = np.abs((signs * moved).sum(1))
    return float((1 + (shuffled >= abs(moved.sum()) - 1e-9).sum()) / (1 + _SHUFFLES))


def summarise(runs: list[Run]) -> dict[str, Any]:
    """Mean accuracies over seeds, and the paired test over images (an image's answers over seeds are averaged)."""
    per_image: dict[str, list[float]] = {}
    for run in runs:
        for path, ours, probe in zip(run.paths, run.ours, run.probe, strict=True):
            per_image.setdefault(path, []).append(float(ours) - float(probe))
    difference = np.array([np.mean(values) for values in per_image.values()])
    return {
        "ours": float(np.mean([run.ours.mean() for run in runs])),
        "probe": float(np.mean([run.probe.mean() for run in runs])),
        "p": sign_flip_p(difference), "test_images": len(runs[0].paths),
        "heads": [f"{run.head}, strength {run.strength:.0e}" for run in runs],
        "seconds": [run.seconds for run in runs],
    }


def table(results: dict[str, Any], found: dict[str, str]) -> str:
    """The results as Markdown."""
    lines = ["| set | test images | Regraft | plain probe | difference | p |", "|---|---|---|---|---|---|"]
    for name, r in results.items():
        lines.append(f"| {name} | {r['test_images']:,} | {r['ours']:.2%} | {r['probe']:.2%} | "
                     f"{100 * (r['ours'] - r['probe']):+.2f} | {r['p']:.3f} |")
    ours, probe = (float(np.mean([r[key] for r in results.values()])) for key in ("ours", "probe"))
    lines.append(f"| mean | | {ours:.2%} | {probe:.2%} | {100 * (ours - probe):+.2f} | |")
    return "\n".join([*lines, "", footer(found), ""])


def main() -> None:
    """Run the comparison and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default="")
    arguments = parser.parse_args()
    wanted = [s for s in arguments.sets.split(",") if s]
    folders = sorted(f for f in arguments.data.iterdir() if f.is_dir() and (not wanted or f.name in wanted))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders:
            runs = [one_run(folder, seed, Path(scratch) / f"{folder.name}-{seed}") for seed in range(arguments.seeds)]
            results[folder.name] = summarise(runs)
            print(folder.name, json.dumps(results[folder.name]), file=sys.stderr, flush=True)
    found = conditions(f"python -m benchmarks.accuracy --seeds {arguments.seeds}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "accuracy.json").write_text(json.dumps({"conditions": found, "results": results}, indent=2) + "\n")
    (RESULTS / "accuracy.md").write_text(table(results, found))
    print(table(results, found))


if __name__ == "__main__":
    main()
