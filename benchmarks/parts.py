"""What the parts of a training cost: the pass, large photographs, precision, the head, a step, starting, a second fit.

    python -m benchmarks.parts --data FOLDER [--only pass,photos,precision,head,step,start,refit]

FOLDER holds image sets. Each part is measured against what it is to be compared with in the same run, taking turns,
and the medians are told. Writes ``results/parts.json`` and ``parts.md``, where parts that are not measured anew stay.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import regraft
from benchmarks.machine import RESULTS, conditions, footer
from benchmarks.memory import join_sets, write_images
from regraft.data.index import open_data
from regraft.data.view import view0
from regraft.engines.processor import cores
from regraft.extraction.alignment import aligned
from regraft.extraction.extract import Features, Route, extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.heads.choose import divide, fit_many
from regraft.heads.linear import fit_head
from regraft.networks.lite import load_lite
from regraft.progress import Deadline, Silent
from regraft.records.heads import HeadSettings
from regraft.records.images import ImageIndex
from regraft.records.plan import Phase
from regraft.runs.engines import Engines, Work, answer_engine
from regraft.runs.train import preprocessing
from regraft.settings import TrainSettings

#: (part, what, figure)
Row = tuple[str, str, str]

_REPEATS = 3

#: Has glibc keep what is freed, instead of giving it back and fetching it again in each batch.
_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}

#: Images of a step, as many as plans take.
_STEP = 32


def medians(*timed: Callable[[], float], repeats: int = _REPEATS) -> list[float]:
    """Each in turn, so many times: the medians of what they return."""
    rounds = [[one() for one in timed] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def seconds(done: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    done()
    return time.perf_counter() - started


def processor_seconds(done: Callable[[], object]) -> float:
    """How long cores work on it, one core after the other."""
    started = time.process_time()
    done()
    return time.process_time() - started


def _work() -> Work:
    network = load_lite("efficientnet_lite0", "measuring")
    rules = preprocessing(TrainSettings("."), network.input, None)
    return Work(network.name, network.module, network.digest, network.readouts, rules)


def _plain_loop(files: Sequence[Path], workers: int, kept: bool, scratch: Path) -> float:
    """Seconds of the plain loop over some files, in a process of its own, which may keep memory that is freed."""
    names = scratch / "files.txt"
    names.write_text("".join(f"{file}\n" for file in files), "utf-8")
    done = subprocess.run([sys.executable, "-m", "benchmarks.contestants.plain_pass", names, str(workers)], check=True,
                          capture_output=True, text=True, env=os.environ | (_KEPT if kept else {}))
    return float(done.stdout)


def _best_workers(files: Sequence[Path], kept: bool, scratch: Path) -> int:
    """The number of workers that suits the plain loop best."""
    return min(range(3), key=lambda workers: _plain_loop(files, workers, kept, scratch))


def _pass(index: ImageIndex, work: Work, scratch: Path, precision: str) -> float:
    """Seconds of Regraft's pass with an empty store, the engine known."""
    shutil.rmtree(scratch / "fresh", ignore_errors=True)
    with FeatureStore(scratch / "fresh") as store:
        engines = Engines(work, store, "auto", "auto", Silent(), lower=precision == "bf16")
        if precision == "bf16":
            engine = engines.make(next(kind for kind in engines.kinds if kind.precision == "bf16"))
        else:
            (scratch / "fresh").mkdir(exist_ok=True)
            shutil.copytree(scratch / "known" / "engines", scratch / "fresh" / "engines", dirs_exist_ok=True)
            engine = answer_engine(work, index, store, "auto", "auto", Silent())
        with store.space(feature_key(work.rules, work.digest, engine)) as space:
            return seconds(lambda: extract(index, space, engine, work.rules, Silent(), Deadline(None), 0.1))


def images_to_features(data: Path, scratch: Path) -> list[Row]:
    """Images a second from JPEG to features, against the plain loop and against what the cores allow."""
    return [row for name in ("cats_dogs", "clothing") for row in _pass_of(data / name, scratch)]


def _pass_of(folder: Path, scratch: Path) -> list[Row]:
    work, index = _work(), open_data(folder)
    files = [Path(index.file(row)) for row in range(len(index))]
    with FeatureStore(scratch / "known") as store:
        engine = answer_engine(work, index, store, "auto", "auto", Silent())
    some = files[::max(1, len(files) // 200)]
    best, best_kept = (_best_workers(some, kept, scratch) for kept in (False, True))
    pixels = [view0(file, work.rules).pixels for file in some]
    batches = [np.stack(pixels[at:at + engine.batch]) for at in range(0, len(pixels), engine.batch)]
    # What the cores allow is measured in each round too: the machine is not the same fast all the time.
    plain, keeping, ours, lower, decode, forward = medians(
        lambda: _plain_loop(files, best, False, scratch), lambda: _plain_loop(files, best_kept, True, scratch),
        lambda: _pass(index, work, scratch, "fp32"), lambda: _pass(index, work, scratch, "bf16"),
        lambda: processor_seconds(lambda: [view0(file, work.rules) for file in some]) / len(some),
        lambda: processor_seconds(lambda: [engine.run(batch) for batch in batches]) / len(some))
    bound, n = cores() / (decode + forward), len(index)
    return [("pass", f"{folder.name}, {n:,} images, plain PyTorch loop, {best} workers", f"{n / plain:.0f} images/s"),
            ("pass", f"{folder.name}, the same told to keep freed memory, {best_kept} workers",
             f"{n / keeping:.0f} images/s"),
            ("pass", f"{folder.name}, Regraft, {engine.key}", f"{n / ours:.0f} images/s, {plain / ours:.2f} of the "
             f"loop, {keeping / ours:.2f} where that keeps memory, {n / ours / bound:.2f} of the bound of {bound:.0f}"),
            ("pass", f"{folder.name}, Regraft, bf16", f"{n / lower:.0f} images/s, {plain / lower:.2f} of the loop")]


def large_photographs(data: Path, scratch: Path) -> list[Row]:
    """Photographs of twelve megapixels: images a second against a full decode, and whether models agree."""
    folder = scratch / "large"
    index = open_data(data / "cats_dogs")
    taken = index.take(np.sort(np.random.default_rng(0).permutation(len(index))[:160]))
    for row in range(len(taken)):
        target = folder / taken.labels(row)[0] / f"{row:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(taken.file(row)) as image:
            image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(target, quality=90)
    work = _work()
    files = sorted(folder.rglob("*.jpg"))[:40]
    rules = work.rules
    short = round(rules.size / rules.crop_fraction)

    def fully(file: Path) -> NDArray[np.uint8]:
        with Image.open(file) as image:
            width, height = image.size
            scale = short / min(width, height)
            size = (round(width * scale), round(height * scale))
            found = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            left, top = (size[0] - rules.size) // 2, (size[1] - rules.size) // 2
            return np.asarray(found.crop((left, top, left + rules.size, top + rules.size)))

    full, ours = medians(lambda: seconds(lambda: [fully(file) for file in files]),
                         lambda: seconds(lambda: [view0(file, rules) for file in files]))
    # The same pictures, decoded in full and saved without loss at the network's size, make the other model.
    for file in folder.rglob("*.jpg"):
        target = scratch / "small" / file.parent.name / f"{file.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fully(file)).save(target)
    answers = []
    fits: dict[str, Literal["crop", "squash"]] = {"large": "crop", "small": "squash"}
    for name, fit in fits.items():
        out = scratch / f"model-{name}"
        regraft.train(scratch / name, strategy="features", out=out, fit=fit, no_test=True, report="none", quiet=True,
                      store=scratch / "store")
        answers.append([one.label for one in regraft.load(out).predict(sorted((scratch / name).rglob("*.*")))])
    same = float(np.mean([a == b for a, b in zip(*answers, strict=True)]))
    return [("photos", "12 megapixels, Pillow's full decode and resize, one core", f"{len(files) / full:.1f} images/s"),
            ("photos", "12 megapixels, view 0, one core", f"{len(files) / ours:.1f} images/s, {full / ours:.2f} of it"),
            ("photos", f"labels of the two models that agree, {len(answers[0])} images", f"{same:.1%}")]


def _route(work: Work, scratch: Path, precision: str) -> Route:
    store = FeatureStore(scratch / "store").__enter__()
    engines = Engines(work, store, "auto", "auto", Silent(), lower=True)
    engine = engines.make(next(kind for kind in engines.kinds if kind.precision == precision))
    return Route(store.space(feature_key(work.rules, work.digest, engine)).__enter__(), engine)


def _features(index: ImageIndex, work: Work, route: Route) -> Features:
    return extract(index, route.space, route.engine, work.rules, Silent(), Deadline(None), 0.1)


def lower_precision(data: Path, scratch: Path) -> list[Row]:
    """Heads learned in bf16, as a training learns from many images, and in fp32, both asked about fp32 features.

    Three folds take turns to be held out.
    """
    work, same, right, count = _work(), 0, np.zeros(2), 0
    names = ("last", "stage7", "stage6", "stage5", "stage4", "logits")
    settings = HeadSettings("logistic_regression", names, "equal", 1e-5)
    exactly, lower = (_route(work, scratch, precision) for precision in ("fp32", "bf16"))
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        index = open_data(folder)
        exact = _features(index, work, exactly)
        _features(index, work, lower)
        y_N = index.y_N[exact.rows]
        for learn, held in divide(y_N, None, 3, 0):
            mixed = replace(exact, spaces=(lower.space, exactly.space),
                            of_N=np.isin(np.arange(len(y_N)), held).astype(np.int64))
            mixed = aligned(mixed, index, exactly, work.rules, Silent(), Deadline(None))
            answers = []
            for features in (exact, mixed):
                blocks = {name: features.read(learn, [name]) for name in names}
                head = fit_head(blocks, y_N[learn], len(index.classes), settings)
                answers.append(head.logits(exact.read(held, names)).argmax(1))
            same += int((answers[0] == answers[1]).sum())
            right += [(answer == y_N[held]).sum() for answer in answers]
            count += len(held)
    change = (right[1] - right[0]) / count
    return [("precision", f"learned in bf16 instead of fp32, {count:,} held-out images of all sets pooled",
             f"accuracy {right[0] / count:.2%} to {right[1] / count:.2%} ({100 * change:+.2f} points), "
             f"{same / count:.2%} of the labels agree")]


def _forty_classes(data: Path, scratch: Path) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Features of the last layer [5000, 1280] of images of forty classes of all sets, and their classes, shuffled."""
    work, found, labels, classes = _work(), [], [], 0
    route = _route(work, scratch, "fp32")
    for name in ("clothing", "eurosat", "mnist", "cats_dogs", "hymenoptera", "flowers102"):
        index = open_data(data / name)
        rows = np.flatnonzero(index.y_N < 40 - classes)
        exact = _features(index.take(rows), work, route)
        found.append(exact.read(np.arange(len(exact.rows)), ["last"]))
        labels.append(index.y_N[rows][exact.rows] + classes)
        classes += int(index.y_N[rows].max()) + 1
    X_ND, y_N = np.concatenate(found), np.concatenate(labels).astype(np.int32)
    order = np.random.default_rng(0).permutation(len(y_N))[:5_000]
    assert len(order) == 5_000
    assert classes == 40
    return X_ND[order], y_N[order]


def heads(data: Path, scratch: Path) -> list[Row]:
    """The whole path of strengths against one fit of scikit-learn's on the same features; memory of a large one."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    X_ND, y_N = _forty_classes(data, scratch)
    learn, held = slice(4_000), slice(4_000, None)
    standard = StandardScaler().fit(X_ND[learn])
    Z_ND = standard.transform(X_ND)
    right: dict[str, float] = {}

    def path() -> None:
        chosen = HeadSettings("logistic_regression", ("last",), "equal", 1e-4)
        head = fit_many(X_ND[learn].copy(), y_N[learn], X_ND[held].copy(), y_N[held], 40, {"last": 1280}, chosen)
        right["path"] = float((head.logits(X_ND[held]).argmax(1) == y_N[held]).mean())

    def theirs() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = LogisticRegression(C=1.0, tol=1e-4, max_iter=1_000).fit(Z_ND[learn], y_N[learn])
        right["one"] = float(fit.score(Z_ND[held], y_N[held]))

    ours, one = medians(lambda: seconds(path), lambda: seconds(theirs))
    return [("head", "4,000 x 1,280 x 40, scikit-learn once (C = 1, tol = 1e-4)",
             f"{one:.2f} s, right on {right['one']:.1%} of 1,000 others"),
            ("head", "the same, Regraft, strengths tried, the best on these 1,000 solved to the end",
             f"{ours:.2f} s, {ours / one:.2f} of it, right on {right['path']:.1%}"),
            *map(_growth, (1_000, 10_000, 100_000))]


def _growth(rows: int) -> Row:
    """What a path of three strengths takes on so many random rows, in a process of its own."""
    code = ("import resource, time\nimport numpy as np\nfrom regraft.heads.solver import fit_path\n"
            f"rng = np.random.default_rng(0)\ny = rng.integers(0, 100, {rows}).astype(np.int32)\n"
            f"Z = rng.normal(size=({rows}, 1280)).astype(np.float32) / np.float32(36)\n"
            "started = time.perf_counter()\nlist(fit_path(Z, y, 100, (1e-3, 1e-4, 1e-5)))\n"
            "took = time.perf_counter() - started\n"
            "print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    took, peak = map(float, done.stdout.split())
    return "head", f"{rows:,} x 1,280 x 100, three strengths", f"{took:.1f} s, {peak / 2**20:.2f} GiB at most"


def steps(_: Path, __: Path) -> list[Row]:
    """Forward and backward of a batch through what learns, against PyTorch's own arithmetic, all channels-last."""
    return [_step_of("the last two stages learn", "stages[-2:]"), _step_of("everything learns", "all")]


def _step_of(title: str, learns: str) -> Row:
    import torch

    from regraft.engines.allocation import keep_freed_memory
    from regraft.networks.build import load_backbone
    from regraft.networks.graph import Graph, Suffix
    from regraft.training.arithmetic import arithmetic
    from regraft.training.phases import understand

    keep_freed_memory()  # for all of them, though a training of Regraft's alone does so
    network = load_backbone("efficientnet_lite0")
    module = network.module.to(memory_format=torch.channels_last)
    graph = Graph(module, network.input.size, network.readouts)
    phase = Phase("steps", (learns,))
    found = understand(phase, graph, [readout for readout in network.readouts if readout.name == "last"], 0)
    assert found.cut is not None
    suffix = Suffix(graph, found.cut, found.behind)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in found.learns.parameters)
    x = torch.rand((_STEP, *found.cut.shape), generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    ours = arithmetic(phase, "cpu", suffix, found.cut.shape)

    def step(computed: AbstractContextManager[object]) -> float:
        module.zero_grad(set_to_none=True)
        started = time.perf_counter()
        with computed:
            made = suffix(x)
        torch.autograd.backward(made.square().sum())
        return time.perf_counter() - started

    step(nullcontext())  # sets up
    took, plain, cast = medians(lambda: step(ours.learning()), lambda: step(nullcontext()),
                                lambda: step(torch.autocast("cpu", torch.bfloat16)), repeats=9)
    return ("step", f"{_STEP} images forward and backward, {title}, {'bf16' if ours.bf16 else 'fp32'}",
            f"{1000 * took:.0f} ms; PyTorch {1000 * plain:.0f} ms in fp32 ({plain / took:.1f} times), "
            f"{1000 * cast:.0f} under its autocast to bf16 ({cast / took:.1f} times)")


def starting(data: Path, scratch: Path) -> list[Row]:
    """Seconds from process start, against importing PyTorch and timm."""
    out = scratch / "model"
    regraft.train(data / "hymenoptera", strategy="features", out=out, report="none", quiet=True,
                  store=scratch / "store")
    regraft.export(out, quiet=True)
    image = next((data / "hymenoptera").rglob("*.jpg"))
    command = [sys.executable, "-m", "regraft.cli"]
    commands = {"import torch, timm": [sys.executable, "-c", "import torch, timm"],
                "regraft --help": [*command, "--help"],
                "regraft predict MODEL, one image": [*command, "predict", str(out), str(image), "--quiet"],
                "regraft predict model.onnx, one image":
                    [*command, "predict", str(out / "model.onnx"), str(image), "--quiet"]}
    found = medians(*(lambda command=command: seconds(
        lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for command in commands.values()),
        repeats=5)
    return [("start", name, f"{took:.2f} s") for name, took in zip(commands, found, strict=True)]


def refit(data: Path, scratch: Path) -> list[Row]:
    """Trainings after a tenth of 10,000 images were moved to another class and back, three times, and of real ones."""
    images = write_images(scratch / "many", 10_000)
    half = [sorted((images / name).iterdir())[::2] for name in ("class0", "class1")]
    moves = [(file, images / target / f"moved-{file.name}")
             for files, target in zip(half, ("class1", "class0"), strict=True) for file in files]
    wrong, right = _refitted(images, moves, scratch)
    real, count = join_sets(data, scratch / "real")
    files = sorted(real.rglob("*.*"))[::10]
    classes = sorted(path.name for path in real.iterdir())
    moves = [(file, real / classes[(classes.index(file.parent.name) + 1) % len(classes)] / f"moved-{file.name}")
             for file in files]
    of_real = _refitted(real, moves, scratch)

    def told(times: Sequence[float]) -> str:
        return f"{statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f})"

    known = "in the store, no forward pass: index, head and model"
    return [("refit", f"10,000 images of 10 classes {known}, a tenth of the labels made wrong", told(wrong)),
            ("refit", "the same, those labels put right", told(right)),
            ("refit", f"{count:,} images of {len(classes)} classes {known}, a tenth made wrong", told(of_real[0])),
            ("refit", "the same, those labels put right", told(of_real[1]))]


def _refitted(images: Path, moves: Sequence[tuple[Path, Path]], scratch: Path) -> tuple[list[float], list[float]]:
    """Seconds of trainings after files were moved, and of those after they were moved back."""
    settings: dict[str, Any] = {"strategy": "features", "quiet": True, "store": scratch / "store", "report": "none",
                                "follow_links": True}
    regraft.train(images, out=scratch / f"{images.name}-first", **settings)
    times: tuple[list[float], list[float]] = ([], [])
    for at in range(2 * _REPEATS):
        for here, there in moves:
            (here if at % 2 == 0 else there).rename(there if at % 2 == 0 else here)
        started = time.perf_counter()
        result = regraft.train(images, out=scratch / f"{images.name}-{at}", **settings)
        times[at % 2].append(time.perf_counter() - started)
        assert result.features.computed == 0
    return times


PARTS: dict[str, Callable[[Path, Path], list[Row]]] = {
    "pass": images_to_features, "photos": large_photographs, "precision": lower_precision, "head": heads,
    "step": steps, "start": starting, "refit": refit}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PARTS))
    arguments = parser.parse_args()
    file = RESULTS / "parts.json"
    parts: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            rows = PARTS[name](arguments.data, Path(scratch))
        about = conditions(f"python -m benchmarks.parts --data FOLDER --only {name}")
        parts[name] = {"conditions": about, "rows": rows}
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(parts, indent=2) + "\n")
        (RESULTS / "parts.md").write_text(table(parts))
    print(table(parts))


def table(parts: dict[str, Any]) -> str:
    """What was measured last of each part, and under it when and how."""
    found = [parts[name] for name in PARTS if name in parts]
    rows = [f"| {' | '.join(row)} |" for one in found for row in one["rows"]]
    lines = ["| part | what | figure |", "|---|---|---|", *rows]
    return "\n\n".join(["\n".join(lines), *(footer(one["conditions"]) for one in found)]) + "\n"


if __name__ == "__main__":
    main()
