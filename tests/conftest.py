"""Real pictures and one feature store for all tests; no test writes into the user's cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft  # sets how PyTorch's threads wait, before any test imports it
from regraft.records.results import ExportResult, TrainResult

#: Side of the square crops that stand for photographs.
CROP = 120


@pytest.fixture(scope="session", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A feature store of the session, for this process and those it starts; matplotlib's list of fonts beside it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_STORE", str(folder))
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real image sets beside the checkout; a user's clone has none."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared image sets are not beside this checkout (../shared/data)")
    return folder


def sample_photo(name: str) -> Image.Image:
    """scikit-learn's sample photo ``china.jpg`` or ``flower.jpg``, 640 x 427."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(name))


def write_crops(folder: Path, per_class: int, seed: int = 0) -> Path:
    """Class folders ``palace`` and ``flower`` of square crops of two real photographs, JPEG."""
    rng = np.random.default_rng(seed)
    for label, photo in (("palace", sample_photo("china.jpg")), ("flower", sample_photo("flower.jpg"))):
        target = folder / label
        target.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            x, y = (int(rng.integers(0, length - CROP)) for length in photo.size)
            photo.crop((x, y, x + CROP, y + CROP)).save(target / f"{number:03d}.jpg", quality=92)
    return folder


def write_digits(folder: Path, labels: str, per_class: int) -> Path:
    """Class folders of scikit-learn's real 8 x 8 digits, PNG."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in labels:
        target = folder / label
        target.mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(digits.target == int(label))[:per_class]:
            pixels = np.rint(digits.images[row] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(target / f"{row:04d}.png")
    return folder


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 crops, two classes; read only."""
    return write_crops(tmp_path_factory.mktemp("crops") / "crops", 20)


@pytest.fixture(scope="session")
def trained(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A model of the crops; read only."""
    return regraft.train(crops, out=tmp_path_factory.mktemp("trained") / "model", quiet=True)


@pytest.fixture(scope="session")
def exported(trained: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """The model of the crops, exported; read only."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(trained.out, folder)
    return regraft.export(folder, quiet=True)
