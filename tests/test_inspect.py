"""``inspect``: real pictures with planted faults, found; and small or odd sets, told without false certainty."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.data.header import read_header
from regraft.data.index import open_data
from regraft.errors import DataError, OutputError
from regraft.inspection.measuring import Measuring, measure
from regraft.inspection.shortcuts import shortcuts
from regraft.progress import Silent
from regraft.records.inspection import DataFinding, Duplicate, Inspection
from regraft.records.preprocessing import Preprocessing
from regraft.runs import inspect as inspecting

from .conftest import sample_photo, write_crops, write_digits
from .doors import json_of

Change = Callable[[Image.Image], Image.Image]


def finding(result: Inspection, name: str) -> DataFinding | None:
    return next((f for f in result.findings if f.id == name), None)


def pairs_of(groups: tuple[Duplicate, ...]) -> set[tuple[str, str]]:
    return {(a, b) for group in groups for a in group.files for b in group.files if a < b}


def trimmed(image: Image.Image, share: float = 0.05) -> Image.Image:
    """A tenth of each side cut off, half of it at each end."""
    width, height = image.size
    return image.crop((round(width * share), round(height * share), round(width * (1 - share)),
                       round(height * (1 - share))))


CHANGES: dict[str, tuple[Change, int]] = {
    "quality": (lambda image: image, 50),
    "half": (lambda image: image.resize((image.width // 2, image.height // 2)), 90),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
    "cropped": (trimmed, 90),
}


def plant(folder: Path, count: int, seed: int = 0) -> dict[tuple[str, str], str]:
    """Copies of ``count`` files in each way, of other files in each; the pairs of paths and how they were made."""
    files = sorted(folder.rglob("*.jpg"))
    order = np.random.default_rng(seed).permutation(len(files)).tolist()
    planted: dict[tuple[str, str], str] = {}
    for name in ("exact", *CHANGES):
        for file in [files[order.pop()] for _ in range(count)]:
            copy = file.with_name(f"x-{name}-{file.name}")
            if name == "exact":
                shutil.copy(file, copy)
            else:
                change, quality = CHANGES[name]
                change(Image.open(file).convert("RGB")).save(copy, quality=quality)
            first, second = sorted(str(path.relative_to(folder)) for path in (file, copy))
            planted[first, second] = name
    return planted


@pytest.fixture(scope="module")
def flowers(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of each of four flowers."""
    folder = tmp_path_factory.mktemp("flowers") / "flowers"
    for source in sorted((shared_data / "flowers102").iterdir())[:4]:
        shutil.copytree(source, folder / source.name)
    return folder


def test_planted_copies_are_found_and_told(flowers: Path, tmp_path: Path) -> None:
    data = shutil.copytree(flowers, tmp_path / "data")
    planted = plant(data, 3)
    moved = sorted(data.iterdir())
    shutil.copy(next(iter(sorted(moved[0].glob("image*")))), moved[1] / "wrong.jpg")
    result = regraft.inspect(data, out=tmp_path / "out", size=128, quiet=True, preview=True)
    found = pairs_of(result.duplicates)
    assert set(planted) <= found
    assert len(found) <= len(planted) + 2
    across = finding(result, "duplicates_across_classes")
    assert across is not None
    assert across.severity == "serious"
    assert {file.rpartition("/")[2] for file in across.files} > {"wrong.jpg"}
    exact = pairs_of(tuple(group for group in result.duplicates if group.kind == "exact"))
    assert {pair for pair, name in planted.items() if name == "exact"} < exact

    document = json.loads((tmp_path / "out" / "inspect.json").read_text("utf-8"))
    assert document == json.loads(json.dumps(result.to_dict()))
    assert {"kind", "files", "splits", "classes"} == set(document["duplicates"][0])
    assert {"path", "label", "suggested", "score"} < set(document["label_suspects"][0])
    assert {"id", "severity", "count", "advice"} < set(document["findings"][0])
    scores = [suspect["score"] for suspect in document["label_suspects"]]
    assert scores == sorted(scores, reverse=True)

    page = (tmp_path / "out" / "inspect.html").read_text("utf-8")
    assert "The same picture more than once" in page
    assert "data:image/webp" in page
    assert str(tmp_path) not in page, "a page tells nothing of the machine"
    assert np.asarray(Image.open(tmp_path / "out" / "preview.png")).shape[2] == 3
    with pytest.raises(OutputError, match="holds an inspection"):
        regraft.inspect(data, out=tmp_path / "out", quiet=True)
    _lists_serve_a_training(data, tmp_path / "out", planted)


def _lists_serve_a_training(data: Path, out: Path, planted: dict[tuple[str, str], str]) -> None:
    index = open_data(data, group=str(out / "groups.csv"))
    assert index.groups is not None
    group = dict(zip(index.paths, index.groups.tolist(), strict=True))
    assert all(group[first] == group[second] for first, second in planted)
    result = regraft.train(data, out=out / "model", exclude=out / "exclude.csv", size=128, quiet=True)
    with (Path(result.out) / "run" / "splits.csv").open() as file:
        learned = {row["path"] for row in csv.DictReader(file)}
    exact = [pair for pair, name in planted.items() if name == "exact"]
    assert all(len({first, second} & learned) == 1 for first, second in exact)


def test_a_list_of_other_files_is_refused(crops: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "list.csv"
    unknown.write_text("path,reason\npalace/none.jpg,gone\n")
    with pytest.raises(DataError, match=r"list.csv names 1 files that the data does not have, such as palace/none.jpg"):
        regraft.train(crops, out=tmp_path / "out", exclude=unknown, quiet=True)
    unknown.write_text("file\npalace/none.jpg\n")
    with pytest.raises(DataError, match=r"list.csv lacks the column path"):
        regraft.train(crops, out=tmp_path / "out", exclude=unknown, quiet=True)


def test_new_splits_keep_copies_on_one_side(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 20)
    for file in sorted(data.rglob("*.jpg")):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    result = regraft.train(data, out=tmp_path / "out", test_share=0.5, size=64, quiet=True)
    with (Path(result.out) / "run" / "splits.csv").open() as listed:
        split = {row["path"]: row["split"] for row in csv.DictReader(listed)}
    assert set(split.values()) == {"train", "test"}
    assert all(split[path] == split[path.replace("copy-", "")] for path in split)


def test_two_identical_classes_in_twelve_images(tmp_path: Path) -> None:
    for label in ("one", "One"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            sample_photo("china.jpg").crop((40 * number, 10, 40 * number + 200, 210)).save(
                tmp_path / "data" / label / f"{number}.jpg")
    result = regraft.inspect(tmp_path / "data", out=tmp_path / "out", quiet=True)
    same = finding(result, "same_classes")
    assert same is not None
    assert (same.severity, same.count) == ("serious", 6)
    assert finding(result, "alike_names") is not None
    assert finding(result, "few_images") is not None
    assert (result.label_suspects, result.shortcuts) == ((), ())
    assert any(text.startswith("labels:") for text in result.left_out)
    assert "Nothing was changed" in repr(result)


def test_grey_pictures_of_8_pixels_raise_no_alarm(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", "0123", 25)
    result = regraft.inspect(data, out=tmp_path / "out", size=64, quiet=True)
    assert {f.id for f in result.findings if f.severity == "serious"} == set()
    assert result.modes == {"L": 100}
    tiny = finding(result, "tiny")
    assert tiny is not None
    assert tiny.count == 100
    assert sum(suspect.likely for suspect in result.label_suspects) <= 5


def test_what_gives_a_class_away_is_told(shared_data: Path, tmp_path: Path) -> None:
    quality, size = tmp_path / "quality", tmp_path / "size"
    for source in sorted((shared_data / "eurosat").iterdir())[:4]:
        (quality / source.name).mkdir(parents=True)
        for file in sorted(source.iterdir())[:30]:
            if source.name == "Forest":
                Image.open(file).save(quality / source.name / file.name, quality=60)
            else:
                shutil.copy(file, quality / source.name)
    for source in sorted((shared_data / "clothing" / "train").iterdir())[:4]:
        (size / source.name).mkdir(parents=True)
        for file in sorted(source.iterdir())[:30]:
            if source.name == "dress":
                image = Image.open(file)
                image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(size / source.name / file.name)
            else:
                shutil.copy(file, size / source.name)
    for data, cue, label in ((quality, "JPEG quality", "Forest"), (size, "image size", "dress")):
        result = regraft.inspect(data, out=tmp_path / f"{data.name}-out", size=32, quiet=True)
        alarms = {shortcut.cue: shortcut.classes for shortcut in result.shortcuts if shortcut.alarm}
        assert label in alarms[cue]
        told = finding(result, "shortcut")
        assert told is not None
        assert told.severity == "serious"


def test_faults_of_single_files_are_told(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 20)
    (data / "palace" / "text.jpg").write_text("no picture")
    Image.new("RGB", (90, 90), (40, 90, 200)).save(data / "palace" / "blank.jpg")
    sample_photo("flower.jpg").resize((400, 60)).save(data / "flower" / "wide.jpg")
    sample_photo("flower.jpg").point(lambda value: value // 8).save(data / "flower" / "dark.jpg")
    result = regraft.inspect(data, out=tmp_path / "out", size=64, quiet=True)
    for name, file in (("unreadable", "palace/text.jpg"), ("blank", "palace/blank.jpg"),
                       ("odd_aspect", "flower/wide.jpg"), ("dark", "flower/dark.jpg")):
        told = finding(result, name)
        assert told is not None, name
        assert told.files == (file,)
    with (tmp_path / "out" / "exclude.csv").open() as listed:
        assert {row["path"] for row in csv.DictReader(listed)} >= {"palace/text.jpg", "palace/blank.jpg"}


def encoded(image: Image.Image) -> bytes:
    """A JPEG file of the picture."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=80)
    return file.getvalue()


@pytest.mark.parametrize(("place", "framed"), [((0, 0), (False, False, False, False)),
                                               ((0, 40), (False, True, False, True)),
                                               ((30, 40), (True, True, True, True))])
def test_a_frame_is_seen_and_a_plain_ground_is_none(place: tuple[int, int], framed: tuple[bool, ...]) -> None:
    photo = sample_photo("china.jpg")
    canvas = Image.new("RGB", (photo.width + 2 * place[0], photo.height + 2 * place[1]), (0, 0, 0))
    canvas.paste(photo, place)
    assert tuple(share > 0 for share in measure(encoded(canvas), Preprocessing(224)).frame) == framed
    ground = Image.new("RGB", (400, 400), (255, 255, 255))
    ground.paste(photo.resize((80, 60)), (160, 170))
    assert measure(encoded(ground), Preprocessing(224)).frame == (0, 0, 0, 0)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int) -> None:
    file = io.BytesIO()
    sample_photo("china.jpg").save(file, "jpeg", quality=quality)
    header = read_header(file.getvalue())
    assert header.jpeg_quality == pytest.approx(quality, abs=1.5)
    assert (header.format, header.width, header.height) == ("JPEG", 640, 427)


def test_groups_in_names_come_with_what_to_type(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 24)
    for file in sorted(data.rglob("*.jpg")):
        patient = int(file.stem) // 4 + (0 if file.parent.name == "palace" else 3)
        file.rename(file.with_name(f"patient_{patient:02d}_{file.name}"))
    result = regraft.inspect(data, out=tmp_path / "out", size=64, quiet=True)
    (hint,) = result.name_groups
    assert (hint.what, hint.groups, hint.images) == ("patient", 9, 48)
    assert hint.mixed is not None
    assert hint.apart is not None
    told = finding(result, "name_groups")
    assert told is not None
    assert f"--group '{hint.pattern}'" in told.advice
    groups = open_data(data, group=hint.pattern).groups
    assert groups is not None
    assert len(set(groups.tolist())) == 9


def test_without_torch_what_needs_no_features_is_told(crops: Path, tmp_path: Path) -> None:
    code = ("import sys\n"
            "class Refuse:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.partition('.')[0] in ('torch', 'torchvision', 'timm'): raise ImportError(name)\n"
            "sys.meta_path.insert(0, Refuse())\n"
            "from regraft.cli import main\n"
            f"main(['inspect', {str(crops)!r}, '--out', {str(tmp_path / 'out')!r}, '--quiet', '--json',\n"
            "      '--backbone', 'resnet18'])\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["readable"] == 40
    assert 'pip install "regraft[train]"' in document["left_out"][0]
    assert {cue["cue"] for cue in document["shortcuts"]} >= {"image size", "JPEG quality"}


def test_the_command_prints_one_document(crops: Path, tmp_path: Path) -> None:
    document = json_of("inspect", crops, "--out", tmp_path / "out", "--size", 64, "--quiet")
    assert document["images"] == 40
    assert document["files"][0] == "inspect.json"


def mislabelled(data: Path, share: float, seed: int) -> set[str]:
    """Move a share of the images to another class folder; their new paths."""
    files = sorted(file for file in data.rglob("*.jpg"))
    rng = np.random.default_rng(seed)
    planted = set()
    for row in rng.permutation(len(files))[:round(share * len(files))].tolist():
        others = sorted(f for f in files[row].parents[1].iterdir() if f.is_dir() and f != files[row].parent)
        target = others[int(rng.integers(len(others)))] / f"moved-{files[row].name}"
        files[row].rename(target)
        planted.add(str(target.relative_to(data)))
    return planted


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("cats_dogs", 0.8), ("clothing", 0.5)])
def test_wrong_labels_stand_first(shared_data: Path, tmp_path: Path, name: str, share: float) -> None:
    data = shutil.copytree(shared_data / name, tmp_path / name)
    planted = mislabelled(data, 0.05, seed=0)
    result = regraft.inspect(data, out=tmp_path / "out", quiet=True)
    first = {suspect.path for suspect in result.label_suspects[:len(result.label_suspects) // 10]}
    assert len(planted & first) >= share * len(planted)


@pytest.mark.slow
def test_wrong_labels_stand_first_among_very_many(shared_data: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are more than 5,000 images: three folds."""
    monkeypatch.setattr(inspecting, "_FEW", 50)
    monkeypatch.setattr(inspecting, "_MANY", 100)
    test_wrong_labels_stand_first(shared_data, tmp_path, "cats_dogs", 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clothing", "flowers102"])
def test_copies_planted_in_a_whole_set(shared_data: Path, tmp_path: Path, name: str) -> None:
    data = shutil.copytree(shared_data / name, tmp_path / name)
    planted = plant(data, 50)
    found = pairs_of(regraft.inspect(data, out=tmp_path / "out", quiet=True).duplicates)
    for way, least in (("exact", 1.0), ("quality", 0.99), ("half", 0.99), ("mirrored", 0.8), ("cropped", 0.8)):
        wanted = {pair for pair, name in planted.items() if name == way}
        assert len(wanted & found) >= least * len(wanted), way
    # The published sets hold a few copies of their own, which are counted against us here.
    assert len(found - set(planted)) <= 0.05 * len(found)


@pytest.mark.slow
def test_untouched_sets_raise_at_most_one_alarm(shared_data: Path) -> None:
    alarms = []
    for name in ("cats_dogs", "clothing", "eurosat", "flowers102", "hymenoptera", "mnist"):
        index = open_data(shared_data / name)
        measuring = Measuring(index, Preprocessing(224))
        measuring.look_at_all(Silent())
        found = shortcuts([measuring.seen[row] for row in range(len(index))], index.y_N, None, index.classes, 0)
        assert found
        alarms += [(name, shortcut.cue) for shortcut in found if shortcut.alarm]
    assert len(alarms) <= 1


@pytest.mark.slow
def test_three_thousand_classes_of_two_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [sample_photo(name) for name in ("china.jpg", "flower.jpg")]
    for number in range(3000):
        folder = tmp_path / "data" / f"{number:04d}"
        folder.mkdir(parents=True)
        for copy in range(2):
            x, y = int(rng.integers(0, 590)), int(rng.integers(0, 370))
            photos[copy].crop((x, y, x + 40, y + 40)).save(folder / f"{copy}.jpg")
    result = regraft.inspect(tmp_path / "data", out=tmp_path / "out", size=32, quiet=True)
    small = finding(result, "small_classes")
    assert small is not None
    assert (small.severity, small.count) == ("serious", 3000)
    assert (result.label_suspects, result.shortcuts) == ((), ())
