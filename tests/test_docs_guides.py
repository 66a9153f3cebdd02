"""The blocks of the guides run, one after the other, each as it stands, in a folder with what a reader would have."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.records.results import ExportResult, TrainResult
from tests.conftest import write_crops
from tests.doors import regraft_cli
from tests.pages import commands, programs, run

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.slow

#: Pages, in the order of docs/index.md. The blocks of training.md have tests of their own.
GUIDES = ("first-minute", "inspecting", "advice", "report", "deciding", "plans", "several-labels", "augmentation",
          "store", "features", "export", "runtime", "updating", "deploying", "python")

#: Commands that can't end or can't be had here, and why. Whatever begins so is passed over.
ELSEWHERE = {
    "pip install": "the environment is there already",
    "regraft demo": "make demo runs it",
    "sh start.sh": "serves until it is stopped; tests/test_bundle.py starts it",
    "podman": "needs podman",
    "regraft export model --format timm": "wants a head on the last layer alone; tests/test_export.py trains one",
    "regraft bundle": "downloads packages; tests/test_bundle.py makes one without",
    "regraft train photos/ --plan flowers102": "needs weights that are not in the installation",
    "regraft train photos/ --plan own.toml,vgg19-codes": "needs weights that are not in the installation",
}

#: What a page takes for granted besides photos: folders and files by the names that it uses.
MODELS = ("model", "model.onnx", "first-model", "second-model", "other-model")
ALREADY = {"report": MODELS, "export": ("model",), "runtime": ("model.onnx",), "updating": ("model",),
           "deploying": ("model", "model.onnx"), "several-labels": ()}


def page_of(guide: str) -> Path:
    return DOCS / f"{guide}.md"


def commands_of(guide: str) -> list[str]:
    return [line for line in commands(page_of(guide)) if not line.startswith(tuple(ELSEWHERE))]


def tables(folder: Path) -> None:
    """``photos.csv`` with several labels an image, ``february.csv`` with one, and ``costs.csv``."""
    photos = sorted((folder / "photos").rglob("*.jpg"))
    rows = [f"{file.relative_to(folder)},{file.parent.name}{';sharp' if number % 3 else ''}"
            for number, file in enumerate(photos)]
    (folder / "photos.csv").write_text("\n".join(["path,labels", *rows, ""]), "utf-8")
    later = [f"{file.relative_to(folder)},{file.parent.name}" for file in sorted((folder / "later").rglob("*.jpg"))]
    (folder / "february.csv").write_text("\n".join(["path,label", *later, ""]), "utf-8")
    (folder / "costs.csv").write_text("right,ok,defect,ask\nok,0,1,0.2\ndefect,50,0,0.2\n", "utf-8")


@pytest.fixture
def readers_folder(crops: Path, trained: TrainResult, exported: ExportResult, tmp_path: Path,
                   monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """What makes the folder that a reader of a page is in."""
    def prepare(page: str) -> Path:
        shutil.copytree(crops, tmp_path / "photos")
        for number, name in enumerate(("other-photos", "new-photos", "january", "later", "parts"), start=1):
            write_crops(tmp_path / name, 30 if name == "parts" else 8, seed=number)
        (tmp_path / "parts" / "palace").rename(tmp_path / "parts" / "ok")
        (tmp_path / "parts" / "flower").rename(tmp_path / "parts" / "defect")
        for name in ("inbox", "new"):
            shutil.copytree(tmp_path / "other-photos" / "palace", tmp_path / name)
        for name in ("new.jpg", "a.jpg", "b.jpg", "cat.jpg"):
            shutil.copy(tmp_path / "other-photos" / "flower" / "000.jpg", tmp_path / name)
        tables(tmp_path)
        for name in ALREADY.get(page, ()):
            if name.endswith(".onnx"):
                shutil.copy(exported.out, tmp_path / name)
            else:
                shutil.copytree(trained.out, tmp_path / name)
        monkeypatch.chdir(tmp_path)
        return tmp_path
    return prepare


@pytest.mark.parametrize("page", [page for page in GUIDES if commands_of(page)])
def test_the_commands_of_a_guide_run(page: str, readers_folder: Callable[[str], Path]) -> None:
    folder = readers_folder(page)
    for line in commands_of(page):
        words = shlex.split(line)
        assert words[0] == "regraft", f"{page}: {line}: neither run here nor listed with a reason"
        done = regraft_cli(*words[1:], cwd=folder)
        assert done.returncode == 0, f"{page}: {line}: {done.stderr}"


@pytest.mark.parametrize("page", [page for page in GUIDES if programs(page_of(page))])
def test_the_programs_of_a_guide_run(page: str, readers_folder: Callable[[str], Path]) -> None:
    readers_folder(page)
    if page == "several-labels":  # its program reads the model that its first command made
        assert regraft_cli(*shlex.split(commands_of(page)[0])[1:]).returncode == 0
    for program in programs(page_of(page)):
        run(program, f"{page}.md")
