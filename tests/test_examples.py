"""The programs of examples/ answer as Regraft does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.records.results import ExportResult
from regraft.selftest.pictures import pictures

EXAMPLES = Path(__file__).parents[1] / "examples"

PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('regraft', 'torch', 'onnx'):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import runpy
program = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(program, run_name="__main__")
"""


def test_python_without_regraft_answers_as_regraft_does(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    """Crops of photos, and drawn pictures of every kind that has 8 bits a channel."""
    for name, data in pictures():
        if name != "deep.png":
            (tmp_path / name).write_bytes(data)
    shutil.copy(crops / "palace" / "000.jpg", tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 20
    done = subprocess.run([sys.executable, "-c", PROGRAM, EXAMPLES / "python" / "answer.py", exported.out, *files],
                          capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    answers = regraft.predict(exported.out, files, quiet=True)
    assert [(name, label) for name, label, _ in lines] == [(answer.path, answer.label) for answer in answers]
    assert [float(p) for _, _, p in lines] == pytest.approx([answer.probability for answer in answers], abs=1e-4)


def test_python_says_how_it_is_called() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "python" / "answer.py"], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stderr) == (1, "type: python answer.py MODEL.onnx PICTURE ...\n")


@pytest.mark.skipif("ORT" not in os.environ or shutil.which("c++") is None,
                    reason="ORT names no release of ONNX Runtime with its headers, or there is no C++ compiler")
def test_cpp_answers_as_regraft_does(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    """Compiled with the command of its README."""
    page = (EXAMPLES / "cpp" / "README.md").read_text("utf-8")
    (command,) = re.findall(r"^c\+\+ .*$", page, flags=re.M)
    shutil.copy(EXAMPLES / "cpp" / "answer.cpp", tmp_path)
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    model: Any = regraft.load(exported.out)
    for file in (crops / "palace" / "000.jpg", crops / "flower" / "000.jpg"):
        pixels = tmp_path / "picture.rgb"
        model.pixels(file).tofile(pixels)
        done = subprocess.run([tmp_path / "answer", exported.out, pixels], capture_output=True, text=True, check=True)
        printed = [float(number) for number in re.findall(r"\d\.\d+(?:e-\d+)?", done.stdout)]
        expected = list(model.predict(file).probabilities.values())
        assert printed[-len(expected):] == pytest.approx(expected, abs=1e-4)
