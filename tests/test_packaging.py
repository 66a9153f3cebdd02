"""The wheel: built, installed elsewhere, complete."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import regraft

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
                   check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"regraft/__init__.py", "regraft/py.typed", "regraft/data/view.py"} <= set(names)
    for folder in ("recipes", "report/templates", "serving/pages", "bundling/files"):
        files = {f"regraft/{folder}/{file.name}" for file in (ROOT / "src/regraft" / folder).iterdir()}
        assert files
        assert files <= set(names)
    assert {Path(name).name for name in names if "licenses" in name} == {"LICENSE", "NOTICE"}
    assert all(name.startswith(("regraft/", f"regraft-{regraft.__version__}.dist-info/")) for name in names)


def test_installed_elsewhere_it_runs(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target",
                    str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", "import regraft, sys; print(regraft.__file__); from regraft.cli import main; "
         "regraft.plan(plan='vgg19-codes'); main(['--version'])"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
    where, version = done.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert version == f"regraft {regraft.__version__}"


def test_the_core_does_not_ask_for_torch(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
        lines = archive.read(name).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    core = [line for line in required if "extra ==" not in line]
    assert not [line for line in core if line.startswith(("torch", "timm", "openvino"))]
    assert all(any(mark in line for mark in "<>=") for line in required), "every dependency has a range"
    assert [line for line in required if line.startswith("torch>=") and "train" in line]
