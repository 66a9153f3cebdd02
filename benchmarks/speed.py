"""Seconds from process start to a saved model and its test accuracy, against others, on the same files and weights.

    python -m benchmarks.speed --data FOLDER [--sets A,A+B] [--repeats 3] [--peers PYTHON [--which fastai,keras]]

FOLDER holds image sets; A+B joins two. Of each, the images of ``test`` are the test (else those of ``validation``, else
a fifth), the others are learned from. The programs of ``benchmarks/contestants`` take turns, each in its own process.
``--peers`` names the Python of an environment with fastai, Keras and timm, as ``make peers`` makes one; without it they
are left out, and ``--which`` names some of them. They take many minutes and run in the first round only, unless
``--peer-repeats`` says otherwise.

Regraft starts each time with features of another set in its store, so that it has run on the machine before; its very
first run, with nothing kept at all, is a row of its own. Writes ``results/speed.json`` and ``speed.md``, where sets
that are not measured anew stay, after every round.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.machine import RESULTS, conditions, footer
from regraft.data.index import open_data

_ROOT = Path(__file__).parent.parent

#: What each of the peers is called, and its program.
PEERS = {"fastai": ("fastai fine_tune(4)", "fastai_fine_tune"),
         "tutorial": ("PyTorch's tutorial, 25 epochs", "pytorch_tutorial"),
         "keras": ("Keras' guide, 10 + 10 epochs", "keras_two_phases"),
         "timm": ("timm's parts, 10 epochs", "timm_train")}


def write_table(folders: list[Path], target: Path) -> Path:
    """Path, label and split of every image of some sets."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for folder in folders:
            writer.writerows(_rows(folder))
    return target


def _rows(folder: Path) -> Iterator[tuple[Path, str, str]]:
    index = open_data(str(folder))
    names = [path.parts[0] for path in map(Path, index.paths)]
    held = next((name for name in ("test", "validation", "val") if name in names), None)
    if held is None:
        test = np.random.default_rng(0).permutation(len(names)) < len(names) / 5
    else:
        test = np.array([name == held for name in names])
    for row in range(len(names)):
        yield folder / index.paths[row], index.labels(row)[0], "test" if test[row] else "train"


def anonymous_mib(process: psutil.Process) -> float:
    """Anonymous memory of a process and its children, MiB."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            memory = one.memory_info()
            total += memory.rss - memory.shared
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def run(python: str, contestant: str, table: Path, scratch: Path, store: Path | None) -> dict[str, float]:
    """One contestant's run: seconds, accuracy, largest anonymous memory."""
    out = Path(tempfile.mkdtemp(dir=scratch)) / "out"
    environment = os.environ | ({} if store is None else {"REGRAFT_STORE": str(store)})
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen([python, "-m", f"benchmarks.contestants.{contestant}", str(table), str(out)], cwd=_ROOT,
                          env=environment, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, anonymous_mib(watched))
            time.sleep(0.1)
        seconds = time.monotonic() - started
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, contestant)
    shutil.rmtree(out.parent)
    return {"seconds": seconds, "accuracy": json.loads(printed.splitlines()[-1])["accuracy"], "peak_mib": peak}


def contest(table: Path, warm: Path, scratch: Path, repeats: int, peers: str | None, peer_repeats: int,
            which: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Every contestant in turn, so many times: after each round, all runs so far."""
    rows: list[dict[str, Any]] = []

    def note(name: str, found: dict[str, float]) -> None:
        rows.append({"contestant": name, **found})
        print(json.dumps(rows[-1]), flush=True)

    for turn in range(repeats):
        for name, start in (("Regraft", warm), ("Regraft, first run ever", None)):
            store = Path(tempfile.mkdtemp(dir=scratch)) / "store"
            if start is not None:
                shutil.copytree(start, store)
            note(name, run(sys.executable, "regraft_features", table, scratch, store))
            shutil.rmtree(store.parent)
        note("PyTorch + scikit-learn", run(sys.executable, "plain_probe", table, scratch, None))
        if peers is not None and turn < peer_repeats:
            for peer in which:
                name, program = PEERS[peer]
                note(name, run(peers, program, table, scratch, None))
        yield rows


def summarise(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each contestant, and how much longer than Regraft it takes."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    medians = []
    for contestant in names:
        own = [row for row in rows if row["contestant"] == contestant]
        times = [row["seconds"] for row in own]
        medians.append({"set": name, "contestant": contestant, "runs": len(own), "seconds": statistics.median(times),
                        "fastest": min(times), "slowest": max(times),
                        "accuracy": statistics.median(row["accuracy"] for row in own),
                        "peak_mib": statistics.median(row["peak_mib"] for row in own)})
    return [{**median, "times": median["seconds"] / medians[0]["seconds"]} for median in medians]


def table_of(sets: dict[str, Any]) -> str:
    """The results as Markdown, and under them when and how each was measured."""
    lines = ["| set | | runs | seconds (median, from, to) | of Regraft's | test accuracy | memory MiB |",
             "|---|---|---|---|---|---|---|"]
    for row in (row for one in sets.values() for row in one["results"]):
        spread = f"{row['seconds']:.1f} ({row['fastest']:.1f} to {row['slowest']:.1f})"
        lines.append(f"| {row['set']} | {row['contestant']} | {row['runs']} | {spread} | {row['times']:.1f} | "
                     f"{row['accuracy']:.1%} | {row['peak_mib']:,.0f} |")
    return "\n".join([*lines, *(line for one in sets.values() for line in ("", footer(one["conditions"]))), ""])


def main() -> None:
    """Run the contest and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="clothing,clothing+flowers102+hymenoptera")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=None)
    parser.add_argument("--which", default=",".join(PEERS))
    parser.add_argument("--peer-repeats", type=int, default=1)
    arguments = parser.parse_args()
    data = arguments.data.resolve()  # the table of a set lies elsewhere
    which = arguments.which.split(",")
    if unknown := [name for name in which if name not in PEERS]:
        parser.error(f"--which: there is no {', '.join(unknown)}; take some of {', '.join(PEERS)}")
    file = RESULTS / "speed.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    about = conditions(f"python -m benchmarks.speed --data FOLDER --sets {arguments.sets} --repeats {arguments.repeats}"
                       + (f" --peers PYTHON --which {arguments.which} --peer-repeats {arguments.peer_repeats}"
                          if arguments.peers else ""))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sets = [one.split("+") for one in arguments.sets.split(",")]
        other = next(folder for folder in sorted(data.iterdir())
                     if folder.is_dir() and not any(folder.name in parts for parts in sets))
        run(sys.executable, "regraft_features", write_table([other], scratch / "other.csv"), scratch, scratch / "warm")
        for parts in sets:
            set_name = " + ".join(parts)
            table = write_table([data / part for part in parts], scratch / "table.csv")
            for rows in contest(table, scratch / "warm", scratch, arguments.repeats, arguments.peers,
                                arguments.peer_repeats, which):
                found[set_name] = {"conditions": about, "results": summarise(set_name, rows)}
                RESULTS.mkdir(exist_ok=True)
                file.write_text(json.dumps(found, indent=2) + "\n")
                (RESULTS / "speed.md").write_text(table_of(found))
    print(table_of(found))


if __name__ == "__main__":
    main()
