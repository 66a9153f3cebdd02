"""Memory and time of one command on many JPEGs, in a process of its own with an empty store.

    python -m benchmarks.memory --images 20000 [--of train|pass|inspect] [--size 224] [--engine auto]
    python -m benchmarks.memory --data FOLDER --of inspect

Without a folder of image sets (all of which are taken as one), images of ten classes are written: noise over
class-coloured gradients, 256 x 192. ``pass`` is ``regraft features``: JPEG to features and nothing else. Reports the
largest anonymous resident memory above that of ``import torch, timm``. Writes ``results/memory-OF-N-SIZE.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import RESULTS, conditions

_CLASSES = 10


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """``count`` JPEGs in ten class folders."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:192, 0:256]
    for number in range(count):
        label = number % _CLASSES
        target = folder / f"class{label}"
        target.mkdir(parents=True, exist_ok=True)
        hue = np.array([np.sin(label + phase) for phase in (0, 2, 4)]) * 60 + 128
        wave = 40 * np.sin(rows * (label + 1) / 40 + columns * rng.uniform(0.01, 0.05))
        pixels = hue + wave[..., None] + rng.normal(0, 12, (192, 256, 1))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target / f"{number:06d}.jpg", quality=85)
    return folder


def anonymous_mib(pid: int) -> float | None:
    """Anonymous resident memory of a process, MiB, or None once it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
    return found[0] / 1024 if found else None


def peak_of(command: list[str]) -> tuple[float, float]:
    """Largest anonymous memory in MiB and wall seconds of a command; raises CalledProcessError."""
    started, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, anonymous_mib(process.pid) or 0.0)
        time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, time.monotonic() - started


def join_sets(sets: Path, folder: Path) -> tuple[Path, int]:
    """One folder of all classes of all sets, as links, and how many images it has."""
    count = 0
    for file in sorted(path for path in sets.glob("*/**/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
        target = folder / f"{file.relative_to(sets).parts[0]}-{file.parent.name}" / f"{count:06d}{file.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.resolve())
        count += 1
    return folder, count


def measure(data: Path, images: int, scratch: Path, of: str, size: int = 224, engine: str = "auto",
            ) -> dict[str, float]:
    """Peaks of a command on so many images, at so many pixels, and of the bare imports."""
    imports, _ = peak_of([sys.executable, "-c", "import torch, timm, time; time.sleep(0.5)"])
    command = {"train": ["train", str(data), "--strategy", "features", "--out", str(scratch / "out")],
               "pass": ["features", str(data), "--out", str(scratch / "features.npz")],
               "inspect": ["inspect", str(data), "--out", str(scratch / "out")]}[of]
    peak, seconds = peak_of([sys.executable, "-m", "regraft.cli", *command, "--store", str(scratch / "store"),
                             "--size", str(size), "--engine", engine, "--follow-links", "--quiet"])
    return {"images": images, "size": size, "imports_mib": imports, "peak_mib": peak,
            "above_imports_mib": peak - imports, "seconds": seconds}


def main() -> None:
    """Measure and write ``results/memory-OF-N-SIZE.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--of", choices=("train", "pass", "inspect"), default="train")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--scratch", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        if arguments.data is None:
            images = arguments.images
            data = write_images(Path(scratch, "images"), images)
        else:
            data, images = join_sets(arguments.data, Path(scratch, "images"))
        found = measure(data, images, Path(scratch), arguments.of, arguments.size, arguments.engine)
    command = (f"python -m benchmarks.memory --of {arguments.of} "
               f"{f'--images {images}' if arguments.data is None else '--data FOLDER'} --size {arguments.size} "
               f"--engine {arguments.engine}")
    result = {"conditions": conditions(command), "result": found}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"memory-{arguments.of}-{images}-{arguments.size}.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
