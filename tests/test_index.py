"""Opening data: folders as they are found in the world, tables, named sets, groups, a million paths."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.data import listing
from regraft.data.index import join, open_data, require_classes, with_groups
from regraft.data.view import view0
from regraft.errors import DataError, ImageError, MissingExtraError, UnknownNameError, UsageError
from regraft.records.images import NO_SPLIT, Finding, ImageIndex, IndexBuilder, Quarantined
from regraft.records.preprocessing import Preprocessing
from regraft.records.texts import Texts
from tests.hostile import encoded, photo

PICTURE = encoded(photo(16, 12), "JPEG")


def lay_out(root: Path, *paths: str) -> Path:
    """Write one small photograph under each path."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PICTURE)
    return root


def found(index: ImageIndex) -> dict[str, Finding]:
    return {finding.kind: finding for finding in index.findings}


def labelled(index: ImageIndex) -> dict[str, str]:
    return {path: index.labels(row)[0] for row, path in enumerate(index.paths)}


# -- D6: names and folders -----------------------------------------------------------------------------


def test_leftovers_of_systems_are_no_class_and_no_image(tmp_path: Path) -> None:
    lay_out(
        tmp_path, "cat/1.jpg", "dog/1.jpg", ".ipynb_checkpoints/x.jpg", "__MACOSX/cat/1.jpg", "cat/.DS_Store",
        "cat/._1.jpg", "cat/Thumbs.db", "cat/.ipynb_checkpoints/1-checkpoint.jpg", "dog/__MACOSX/1.jpg",
        "cat/desktop.ini", "@eaDir/1.jpg", "dog/@eaDir/1.jpg", "lost+found/1.jpg", "$RECYCLE.BIN/1.jpg", "top.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "README").write_text("no picture")
    (tmp_path / "empty").mkdir()
    index = open_data(tmp_path)
    assert list(index.paths) == ["cat/1.jpg", "dog/1.jpg"]
    assert index.classes == ("cat", "dog")
    findings = found(index)
    assert findings["outside_classes"].text == "1 images lie in no class folder and are not used"
    assert findings["outside_classes"].examples == ("top.jpg",)
    assert findings["empty_classes"].text == "1 folders hold no images and are no class here: empty"
    assert findings["ignored_files"].text == "2 files are no pictures and were ignored (no ending 1, .txt 1)"
    assert len(findings) == 3


def test_pictures_are_known_by_their_ending_or_without_one_by_their_start(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/x.JPG", "a/y.jpeg", "a/bare", "a/z.tar.png", "b/phone.heic", "b/drawing.svg", "b/1.data")
    assert list(open_data(tmp_path).paths) == [
        "a/bare", "a/x.JPG", "a/y.jpeg", "a/z.tar.png", "b/drawing.svg", "b/phone.heic"]


NAMES = [
    "a space", " edges ", "-leading dash", "--help", "emoji 🐱", "עברית", "عربي", "\u202egnp.exe", "new\nline",
    "tab\tand\rreturn", "x" * 200, "Cat", "cat", "semi;colon", "com,ma", 'quo"te', "back\\slash", "ünï", "100%", "#1",
    "bytes\udce9",
]


def test_odd_names_are_classes_in_a_stable_order(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        lay_out(tmp_path, f"{name}/{name}.jpg", f"{name}/{number}.jpg")
    index = open_data(tmp_path)
    names = [unicodedata.normalize("NFC", name) for name in NAMES]
    assert index.classes == tuple(sorted(names))
    assert len(index) == 2 * len(NAMES)
    assert labelled(index) == {f"{name}/{file}.jpg": unicodedata.normalize("NFC", name)
                               for number, name in enumerate(NAMES) for file in (name, number)}
    for row in range(len(index)):
        assert index.file(row).read_bytes() == PICTURE
    again = open_data(tmp_path)
    assert again.paths == index.paths
    assert np.array_equal(again.y_N, index.y_N)


def test_alike_names_are_told_and_kept_apart(tmp_path: Path) -> None:
    index = open_data(lay_out(tmp_path, "Cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog /2.jpg"))
    assert index.classes == ("Cat", "cat", "dog", "dog ")
    assert [finding.text for finding in index.findings] == [
        "classes 'Cat' and 'cat' differ only by case or spaces; they are kept apart",
        "classes 'dog' and 'dog ' differ only by case or spaces; they are kept apart"]


def test_composed_and_decomposed_accents_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    index = open_data(lay_out(tmp_path, f"{composed}/1.jpg", f"{decomposed}/2.jpg", "tea/1.jpg"))
    assert index.classes == (composed, "tea")
    assert index.class_counts().tolist() == [2, 1]
    # The files keep the names they have.
    assert all(index.file(row).is_file() for row in range(3))
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\n1.jpg,{composed}\n2.jpg,{decomposed}\n", encoding="utf-8")
    assert open_data(table).classes == (composed,)


@pytest.mark.parametrize(("paths", "says"), [
    ((), "no class folder with images in it was found"),
    (("1.jpg", "2.jpg"), "2 images lie in it, but in no class folder; make one folder a class"),
    (("train/1.jpg", "val/2.jpg"), "2 images lie in it, but in no class folder; make one folder a class"),
    (("new\nline.txt/1.txt",), "no class folder with images in it was found"),
])
def test_no_class_is_an_error(tmp_path: Path, paths: tuple[str, ...], says: str) -> None:
    lay_out(tmp_path / "a\nb", *paths)
    (tmp_path / "a\nb").mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "a\nb")
    assert says in str(caught.value)
    assert "a\\nb" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_class_is_an_error_where_two_are_needed(tmp_path: Path) -> None:
    one = open_data(lay_out(tmp_path / "one", "ca\nt/1.jpg"))
    with pytest.raises(DataError, match=r"holds images of 1 class: ca\\nt; a classifier needs images of at least 2"):
        require_classes(one)
    require_classes(one, at_least=1)
    require_classes(open_data(lay_out(tmp_path / "two", "cat/1.jpg", "dog/1.jpg")))


def test_names_are_shown_escaped(tmp_path: Path) -> None:
    lay_out(tmp_path, "CA\nT/1.jpg", "ca\nt/1.jpg", "dog/1.jpg", "dog/x.a\nb")
    (tmp_path / "emp\x1b[31mty").mkdir()
    texts = [finding.text for finding in open_data(tmp_path).findings]
    assert len(texts) == 3
    assert all(text.isprintable() for text in texts)
    assert repr(Quarantined("a\nb.jpg", "is empty")) == "a\\nb.jpg: is empty"


# -- D7: what is no plain file -------------------------------------------------------------------------


def test_links_that_loop_are_walked_once(tmp_path: Path) -> None:
    lay_out(tmp_path, "cat/1.jpg", "cat/sub/2.jpg", "dog/1.jpg")
    (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "sub" / "up").symlink_to("..")
    # Through a link to the root, dogs would be cats.
    (tmp_path / "cat" / "root").symlink_to(tmp_path)
    (tmp_path / "cat" / "nowhere").symlink_to("nowhere")
    (tmp_path / "cat" / "nowhere.jpg").symlink_to("nowhere.jpg")
    for follow_links in (False, True):
        index = open_data(tmp_path, follow_links=follow_links)
        assert labelled(index) == {
            "cat/1.jpg": "cat", "cat/nowhere.jpg": "cat", "cat/sub/2.jpg": "cat", "dog/1.jpg": "dog"}
    with pytest.raises(ImageError, match=r"can't be read|does not exist"):
        view0(tmp_path / "cat" / "nowhere.jpg", Preprocessing(8))


def test_links_among_folders_do_not_multiply(tmp_path: Path) -> None:
    lay_out(tmp_path, *(f"cat/{name}/1.jpg" for name in "abcdefghijklmn"), "dog/1.jpg")
    for name in "abcdefghijklmn":
        for other in "abcdefghijklmn":
            (tmp_path / "cat" / name / f"to-{other}").symlink_to(tmp_path / "cat" / other)
    assert len(open_data(tmp_path)) == 15


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    lay_out(tmp_path, "cat/1.jpg", "dog/1.jpg", ".pool/more/3.jpg")
    (tmp_path / "cat" / "2.jpg").symlink_to("1.jpg")
    (tmp_path / "dog" / "more").symlink_to(tmp_path / ".pool" / "more")
    (tmp_path / "dog" / "again").symlink_to(tmp_path / ".pool" / "more")
    assert list(open_data(tmp_path).paths) == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/again/3.jpg"]


def test_links_out_of_the_root_are_followed_on_request(tmp_path: Path) -> None:
    outside = lay_out(tmp_path / "outside", "bird/1.jpg", "more/2.jpg", "3.jpg")
    data = lay_out(tmp_path / "data", "cat/1.jpg", "dog/1.jpg")
    (data / "bird").symlink_to(outside / "bird")
    (data / "cat" / "more").symlink_to(outside / "more")
    (data / "dog" / "3.jpg").symlink_to(outside / "3.jpg")
    (data / "dog" / "everything").symlink_to(tmp_path)
    index = open_data(data)
    assert list(index.paths) == ["cat/1.jpg", "dog/1.jpg"]
    assert found(index)["outside_links"].text == (
        "4 links lead out of the folder and were not followed; --follow-links follows them")
    followed = open_data(data, follow_links=True)
    # The link to what holds the folder itself is not entered.
    assert list(followed.paths) == ["bird/1.jpg", "cat/1.jpg", "cat/more/2.jpg", "dog/1.jpg", "dog/3.jpg"]
    assert followed.findings == ()
    # The data may itself be reached by a link.
    (tmp_path / "link").symlink_to(data)
    assert list(open_data(tmp_path / "link").paths) == list(index.paths)


def test_pipes_and_vanished_files_are_listed_and_fail_alone(tmp_path: Path) -> None:
    lay_out(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")
    os.mkfifo(tmp_path / "dog" / "pipe.jpg")
    os.mkfifo(tmp_path / "dog" / "pipe")
    index = open_data(tmp_path)
    assert list(index.paths) == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/pipe.jpg"]
    (tmp_path / "cat" / "2.jpg").unlink()
    reasons = []
    for row in range(len(index)):
        try:
            view0(index.file(row), Preprocessing(8))
        except ImageError as error:
            reasons.append((index.paths[row], error.reason))
    assert reasons == [("cat/2.jpg", "does not exist"), ("dog/pipe.jpg", "is no regular file")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path, "cat/1.jpg", "cat/locked/2.jpg", "dog/1.jpg")
    (tmp_path / "cat" / "locked").chmod(0)
    try:
        index = open_data(tmp_path)
    finally:
        (tmp_path / "cat" / "locked").chmod(0o700)
    assert found(index)["unreadable_folders"].text == "1 folders can't be read"


def test_a_folder_that_vanishes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/gone/1.jpg")
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith("gone"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    index = open_data(tmp_path)
    assert list(index.paths) == ["cat/1.jpg", "dog/1.jpg"]
    assert found(index)["unreadable_folders"].examples == (str(tmp_path / "cat" / "gone"),)


def test_folders_may_be_deeper_than_calls(tmp_path: Path) -> None:
    lay_out(tmp_path, "cat/1.jpg", "dog/1.jpg")
    # Made step by step: Path.mkdir would itself call itself that often.
    home = Path.cwd()
    os.chdir(tmp_path / "cat")
    try:
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
        Path("deep.jpg").write_bytes(PICTURE)
        index = open_data(tmp_path)
        # Taken away step by step too: pytest's own clean-up of later runs calls itself once a folder.
        Path("deep.jpg").unlink()
        for _ in range(1100):
            os.chdir("..")
            Path("d").rmdir()
    finally:
        os.chdir(home)
    assert len(index) == 3
    assert index.paths[1] == "cat/" + "d/" * 1100 + "deep.jpg"


# -- layouts -------------------------------------------------------------------------------------------


SPLIT_WORDS = {
    "train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2, "Train": 0, "VAL": 1,
}


@pytest.mark.parametrize("words", [
    ("train",), ("train", "val"), ("training", "validation", "test"), ("train", "valid", "testing"), ("Train", "VAL"),
    ("test",), ("val", "test"), ("train", "training"),
])
def test_split_folders_under_all_their_names(tmp_path: Path, words: tuple[str, ...]) -> None:
    for word in words:
        lay_out(tmp_path, f"{word}/cat/1.jpg", f"{word}/dog/deep/er/2.jpg")
    index = open_data(tmp_path)
    assert index.classes == ("cat", "dog")
    assert {(path, int(split)) for path, split in zip(index.paths, index.splits, strict=True)} == {
        (f"{word}/{rest}", SPLIT_WORDS[word]) for word in words for rest in ("cat/1.jpg", "dog/deep/er/2.jpg")}
    assert repr(index).startswith(f"{2 * len(words)} images of 2 classes (")


def test_a_class_may_be_missing_from_a_split_without_shifting_labels(tmp_path: Path) -> None:
    index = open_data(lay_out(tmp_path, "train/b/1.jpg", "train/c/1.jpg", "val/a/1.jpg", "val/c/1.jpg", "test/b/1.jpg"))
    assert index.classes == ("a", "b", "c")
    assert labelled(index) == {path: path.split("/")[1] for path in index.paths}


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    index = open_data(lay_out(tmp_path, "cat/2020/may/1.jpg", "cat/2.jpg", "cat/2021/3.jpg", "dog/train/1.jpg"))
    assert labelled(index) == {
        "cat/2.jpg": "cat", "cat/2020/may/1.jpg": "cat", "cat/2021/3.jpg": "cat", "dog/train/1.jpg": "dog"}
    assert (index.splits == NO_SPLIT).all()


def test_a_mixed_layout_is_refused_and_can_be_decided(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/cat/1.jpg", "test/cat/1.jpg", "ex\ntra/1.jpg")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path)
    assert "holds split folders (test, train) and others (ex\\ntra); move the others away" in str(caught.value)
    assert "--layout classes or --layout splits" in str(caught.value)
    assert open_data(tmp_path, layout="classes").classes == ("ex\ntra", "test", "train")
    index = open_data(tmp_path, layout="splits")
    assert index.classes == ("cat",)
    assert found(index)["unused_folders"].text == "1 folders are no split and are not used: ex\\ntra"


def test_a_lone_test_folder_among_others_is_a_class(tmp_path: Path) -> None:
    lay_out(tmp_path, "test/1.jpg", "control/1.jpg")
    assert open_data(tmp_path).classes == ("control", "test")
    with pytest.raises(DataError, match="no class folder"):
        open_data(tmp_path, layout="splits")


def test_splits_are_demanded_in_vain(tmp_path: Path) -> None:
    lay_out(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(DataError, match=r"has no split folders \(train, val, test\); leave --layout away or say"):
        open_data(tmp_path, layout="splits")


@pytest.mark.parametrize(("make", "says"), [
    (lambda folder: folder / "no\nwhere", "no\\nwhere does not exist; give a folder of class folders, a CSV table"),
    (lambda folder: "", "an empty name does not exist; give a folder"),
    (lambda folder: "x" * 5000, "does not exist; give a folder"),
    (lambda folder: "~nobody-of-this-name/data", "~nobody-of-this-name/data does not exist"),
    (lambda folder: lay_out(folder, "one.jpg") / "one.jpg", "one.jpg is no folder and no table (.csv, .tsv, .parquet)"),
    (lambda folder: _pipe(folder / "pipe.csv"), "pipe.csv is no folder and no table"),
])
def test_what_can_not_be_opened_says_what_can(tmp_path: Path, make: Callable[[Path], str | Path], says: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(make(tmp_path))
    assert says in str(caught.value)


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_a_folder_may_be_named_like_a_table(tmp_path: Path) -> None:
    assert len(open_data(lay_out(tmp_path / "set.csv", "cat/1.jpg", "dog/1.jpg"))) == 2


# -- tables --------------------------------------------------------------------------------------------


ROWS = "path,label,split,patient\na/1.jpg,cat,train,p1\na/2.jpg,dog,VAL,p2\nb\\3.jpg,cat,,\n"


@pytest.mark.parametrize(("name", "data"), [
    ("t.csv", ROWS.encode()),
    ("t.CSV", ROWS.encode()),
    ("t.csv", b"\xef\xbb\xbf" + ROWS.encode()),
    ("t.csv", ROWS.replace("\n", "\r\n").encode()),
    ("t.csv", ROWS.replace(",", ";").encode()),
    ("t.csv", ROWS.replace(",", "\t").encode()),
    ("t.tsv", ROWS.replace(",", "\t").encode()),
    ("t.csv", ROWS.replace("path,label,split", " File ,Class,Subset").encode()),
    ("t.csv", ROWS.replace("path,label", "image_path,category").replace("\n", "\n\n").encode()),
    ("t.csv", ROWS.replace("cat", " cat ").encode()),
    ("t.csv", b"\n" + ROWS.encode()),
    ("t.csv", ROWS.rstrip().encode()),
    ("t.csv", ROWS.replace("a/1.jpg", '"a/1.jpg"').encode()),
])
def test_tables_of_all_kinds_are_the_same_images(tmp_path: Path, name: str, data: bytes) -> None:
    table = tmp_path / name
    table.write_bytes(data)
    index = open_data(table)
    assert list(index.paths) == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
    assert [index.labels(row) for row in range(3)] == [("cat",), ("dog",), ("cat",)]
    assert index.splits.tolist() == [0, 1, NO_SPLIT]
    assert {column: list(values) for column, values in index.columns.items()} == {"patient": ["p1", "p2", ""]}
    assert index.file(0) == tmp_path / "a" / "1.jpg"


def test_a_table_may_hold_odd_paths(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    far = str(tmp_path / "elsewhere" / "x.jpg")
    table.write_text(f'path,label\n"new\nline.jpg",a\n"com,ma.jpg",b\n{far},"two\nlines"\n-dash.jpg,a\n', newline="")
    index = open_data(table)
    assert list(index.paths) == ["new\nline.jpg", "com,ma.jpg", far, "-dash.jpg"]
    assert index.file(2) == Path(far)
    assert index.classes == ("a", "b", "two\nlines")


@pytest.mark.parametrize(("data", "says"), [
    (b"path,label\nx,a\ny,b\n", None),
    (b"", "t.csv is empty; give a header and a row for each image"),
    (b"\n\n", "t.csv is empty; give a header"),
    (b"path,label\n", "t.csv has a header but no rows; give a path and a label a row"),
    (b"name,label\nx,a\n", "t.csv has no column for a path; it has name, label, and one of path, file, filename"),
    (b"path,na\x1bme\nx,a\n", "t.csv has no column for a label; it has path, na\\x1bme, and one of label, class"),
    (b"path,label,Path\nx,a,y\n", "t.csv: columns 'path' stand more than once; rename all but one"),
    (b"path,label\nx,a\ny\n", "t.csv, line 3: 1 values for 2 columns; quote values that hold the separator"),
    (b"path,label\nx,a,b\n", "t.csv, line 2: 3 values for 2 columns"),
    (b'path,label\n"x\n1",a\n\ny,a,b\n', "t.csv, line 5: 3 values for 2 columns"),
    (b"path,label\nx,a\n ,b\n", "t.csv, line 3: the path is empty; fill it in or take the line out"),
    (b"path,label\nx,\n", "t.csv, line 2: the label is empty; fill it in or take the line out"),
    (b"path,label\nx\0y,a\n", "t.csv, line 2: the path 'x\\x00y' holds a null byte; take the line out"),
    (b"path,label,split\nx,a,d\x1bev\n", "t.csv, line 2: 'd\\x1bev' is no split; train, validation, test or empty"),
    (b"path,label\nx,a\ny,b\nx,a\n", "x is listed more than once (1 such paths); leave one row an image"),
    (b"path,label\nx,a\nx,b\ny,a\ny,a\n", "x is listed more than once (2 such paths); leave one row an image"),
    ("path,label\nx,a\ny,\xe9\n".encode("latin-1"), "t.csv, line 3: is not UTF-8; save it as CSV UTF-8"),
    ("path,label\n".encode("utf-16"), "t.csv, line 1: is not UTF-8; save it as CSV UTF-8"),
    (b'path,label\nx,a\n"' + b"y" * 200_000, "t.csv, line 3: is no readable row (field larger than field limit"),
])
def test_mistakes_in_a_table_are_named_with_their_line(tmp_path: Path, data: bytes, says: str | None) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(data)
    if says is None:
        assert len(open_data(table)) == 2
        return
    with pytest.raises(DataError) as caught:
        open_data(table)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_table_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\nx,a\n")
    table.chmod(0)
    with pytest.raises(DataError, match=r"t.csv can't be read \(Permission denied\)"):
        open_data(table)


def _parquet(table: Path, **columns: list[Any]) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    parquet.write_table(pa.table(columns), table)
    return table


def test_a_parquet_table(tmp_path: Path) -> None:
    table = _parquet(tmp_path / "t.parquet", path=["a.jpg", "b.jpg", "c.jpg"], label=["x", "y", "x"],
                     split=["train", None, "test"], age=[3, None, 5])
    index = open_data(table)
    assert list(index.paths) == ["a.jpg", "b.jpg", "c.jpg"]
    assert index.splits.tolist() == [0, NO_SPLIT, 2]
    assert list(index.columns["age"]) == ["3", "", "5"]


def test_mistakes_in_a_parquet_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"t.parquet, line 2: the label is empty"):
        open_data(_parquet(tmp_path / "t.parquet", path=["a", "b"], label=["x", None]))
    with pytest.raises(DataError, match=r"t.parquet has no column for a path; it has name, label"):
        open_data(_parquet(tmp_path / "t.parquet", name=["a"], label=["x"]))
    paths = [f"{number:05d}.jpg" for number in range(5000)]
    whole = _parquet(tmp_path / "t.parquet", path=paths, label=["x"] * 5000).read_bytes()
    broken = tmp_path / "broken.parquet"
    for data, says in ((b"path,label\n", "broken.parquet is no readable Parquet file"),
                       (whole[:4] + bytes(2000) + whole[2004:], "broken.parquet is damaged after row 0")):
        broken.write_bytes(data)
        with pytest.raises(DataError, match=says):
            open_data(broken)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'reading Parquet .* pip install "regraft\[parquet\]"'):
        open_data(broken)


# -- named sets ----------------------------------------------------------------------------------------


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for named sets, and no way to the network."""
    pytest.importorskip("torchvision")
    import urllib.request

    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("REGRAFT_DATA", str(tmp_path))
    return tmp_path


def _write_mnist(downloads: Path) -> None:
    """MNIST's own four files, of scikit-learn's real digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.zeros((60, 28, 28), np.uint8)
    images[:, 6:22, 6:22] = np.kron(digits.images[:60] * 15, np.ones((2, 2)))
    raw = downloads / "MNIST" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        number = rows.stop - rows.start
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4sIII", b"\0\0\x08\x03", number, 28, 28) + images[rows].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4sI", b"\0\0\x08\x01", number) + digits.target[rows].astype(np.uint8).tobytes())


def test_a_named_set_is_laid_out_once(data_home: Path) -> None:
    _write_mnist(data_home / "downloads")
    index = open_data("torchvision:MNIST")
    assert index.split_counts() == {"train": 40, "validation": 0, "test": 20}
    assert index.classes[:2] == ("0 - zero", "1 - one")
    assert index.roots == (str(data_home / "MNIST"),)
    assert labelled(index)["train/3 - three/000003.png"] == "3 - three"
    # The second time, torchvision's files are not needed.
    for file in (data_home / "downloads").rglob("*ubyte"):
        file.unlink()
    assert open_data("torchvision:MNIST").paths == index.paths
    assert sorted(path.name for path in data_home.iterdir()) == ["MNIST", "downloads"]


def test_a_set_with_a_validation_part_keeps_it(data_home: Path) -> None:
    # torchvision calls this part 'val' in most sets and 'valid' in some.
    raw = data_home / "downloads" / "FGVCAircraft" / "fgvc-aircraft-2013b" / "data"
    lay_out(raw / "images", *(f"{number}.jpg" for number in range(6)))
    # One picture in a mode that PNG does not hold.
    (raw / "images" / "0.jpg").write_bytes(encoded(photo().convert("CMYK"), "JPEG"))
    (raw / "variants.txt").write_text("707-320\nAn/2")
    for part, numbers in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5))):
        lines = [f"{number} {('707-320', 'An/2')[number % 2]}" for number in numbers]
        (raw / f"images_variant_{part}.txt").write_text("\n".join(lines))
    index = open_data("torchvision:FGVCAircraft")
    assert index.split_counts() == {"train": 2, "validation": 2, "test": 2}
    assert index.classes == ("707-320", "An_2")
    assert view0(index.file(0), Preprocessing(8)).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("name", ["MNISST", "ImageFolder", "FakeData", "VisionDataset", "../MNIST", ""])
def test_an_unknown_set_is_a_usage_error(data_home: Path, name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        open_data(f"torchvision:{name}")
    assert f"no torchvision data set is called {name!r}" in str(caught.value)
    assert ("did you mean 'MNIST'" in str(caught.value)) == ("MNIS" in name)
    assert list(data_home.iterdir()) == []


def test_a_failing_download_leaves_nothing_half_done(data_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        open_data("torchvision:MNIST")
    assert "torchvision:MNIST can't be had (" in str(caught.value)
    assert f"put its files under {data_home / 'downloads' / 'MNIST'} to use it without a network" in str(caught.value)
    assert [path.name for path in data_home.iterdir()] == ["downloads"]


def test_a_set_that_is_none_of_classes_is_refused(data_home: Path) -> None:
    folder = data_home / "downloads" / "OxfordIIITPet" / "oxford-iiit-pet"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"torchvision:OxfordIIITPet (can't be had|has no images)"):
        open_data("torchvision:OxfordIIITPet")


def test_a_folder_for_sets_that_can_not_be_written(data_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = data_home / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("REGRAFT_DATA", str(blocked))
    with pytest.raises(DataError, match=r"can't be written .*; set REGRAFT_DATA to a folder for data sets"):
        open_data("torchvision:MNIST")


# -- groups --------------------------------------------------------------------------------------------


TABLE = """path,label,patient,split
p1/a_1.jpg,x,ann,train
p1/a_2.jpg,y,ann,test
p2/b_1.jpg,x,bob,train
p2/b_2.jpg,y,,validation
"""


@pytest.mark.parametrize(("group", "groups", "kinds"), [
    ("patient", [0, 0, 1, 2], {"groups": 3, "ungrouped": 1, "torn_groups": 1}),
    ("parent", [0, 0, 1, 1], {"groups": 2, "torn_groups": 2}),
    (r"([ab])_\d", [0, 0, 1, 1], {"groups": 2, "torn_groups": 2}),
    (r"a_\d", [0, 1, 2, 3], {"groups": 4, "ungrouped": 2}),
    (r"(a)?_\d", [0, 0, 1, 2], {"groups": 3, "ungrouped": 2, "torn_groups": 1}),
    ("label", None, "'label' is no column (patient) and matches no path, such as 'p1/a_1.jpg'"),
    ("(", None, "'(' is no column (patient), not 'parent', and no regular expression (missing )"),
])
def test_groups(tmp_path: Path, group: str, groups: list[int] | None, kinds: Any) -> None:
    table = tmp_path / "t.csv"
    table.write_text(TABLE)
    if groups is None:
        with pytest.raises(UsageError) as caught:
            open_data(table, group=group)
        assert kinds in str(caught.value)
        return
    index = open_data(table, group=group)
    assert index.groups is not None
    assert index.groups.tolist() == groups
    assert {kind: finding.count for kind, finding in found(index).items()} == kinds
    if "torn_groups" in kinds:
        assert found(index)["torn_groups"].text.endswith(
            "lie in more than one of the given splits: figures on validation and test will look better than they are")


def test_joined_data_keep_their_labels_and_their_parents_apart(tmp_path: Path) -> None:
    first = open_data(lay_out(tmp_path / "first", "b/1.jpg", "c/1.jpg"))
    second = open_data(lay_out(tmp_path / "second", "a/1.jpg", "b/1.jpg"))
    joined = join(first, second, 2)
    assert joined.classes == ("a", "b", "c")
    assert [(joined.paths[row], joined.labels(row)[0], int(joined.splits[row])) for row in range(4)] == [
        ("b/1.jpg", "b", NO_SPLIT), ("c/1.jpg", "c", NO_SPLIT), ("a/1.jpg", "a", 2), ("b/1.jpg", "b", 2)]
    assert [joined.file(row).parents[1].name for row in range(4)] == ["first", "first", "second", "second"]
    grouped = with_groups(joined, "parent")
    assert grouped.groups is not None
    assert grouped.groups.tolist() == [0, 1, 2, 3]


def test_joined_tables_keep_the_columns_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("path,label,patient\nx,a,ann\n")
    (tmp_path / "2.csv").write_text("path,label,age\nx,b,7\n")
    joined = join(open_data(tmp_path / "1.csv"), open_data(tmp_path / "2.csv"), 2)
    assert {name: list(values) for name, values in joined.columns.items()} == {"patient": ["ann", ""]}


# -- the records ---------------------------------------------------------------------------------------


def _index(**changes: Any) -> ImageIndex:
    columns: dict[str, Any] = {
        "roots": ("/r",), "classes": ("a", "b"), "paths": Texts(["x", "y"]), "root_ids": np.zeros(2, np.uint8),
        "label_offsets": np.arange(3), "label_ids": np.array([0, 1], np.int32), "splits": np.array([0, -1], np.int8),
    }
    return ImageIndex(**{**columns, **changes})


@pytest.mark.parametrize(("changes", "says"), [
    ({}, None),
    ({"groups": np.zeros(2, np.int32)}, None),
    ({"splits": np.zeros(3, np.int8)}, "an index of 2 paths can't have columns of other lengths: {'splits': 3}"),
    ({"groups": np.zeros(1, np.int32)}, "{'groups': 1}"),
    ({"columns": {"age": Texts(["1"])}}, """{"column 'age'": 1}"""),
    ({"label_ids": np.array([0, 2], np.int32)}, "labels must lie in 0..1"),
    ({"label_ids": np.array([0, -1], np.int32)}, "labels must lie in 0..1"),
    ({"label_offsets": np.array([0, 1, 1])}, "label_offsets must lead from 0 to the number of labels, 2"),
    ({"splits": np.array([0, 3], np.int8)}, "splits must lie in -1..2"),
    ({"splits": np.array([0, -2], np.int8)}, "splits must lie in -1..2"),
    ({"root_ids": np.ones(2, np.uint8)}, "root_ids must lie in 0..0"),
])
def test_an_index_checks_its_columns(changes: dict[str, Any], says: str | None) -> None:
    if says is None:
        assert len(_index(**changes)) == 2
        return
    with pytest.raises(DataError) as caught:
        _index(**changes)
    assert says in str(caught.value)


def test_rows_of_an_index() -> None:
    builder = IndexBuilder(["/r", "/s"], ["age"])
    for number, labels in enumerate([("b",), ("a", "b"), (), ("a",)]):
        builder.add(f"{number}.jpg", labels, number % 3, number % 2, [str(number)])
    index = builder.build(classes=["b", "a", "c"])
    assert [index.labels(row) for row in range(4)] == [("b",), ("b", "a")[::-1], (), ("a",)]
    taken = index.take(np.array([3, 1, 2]))
    assert [taken.labels(row) for row in range(3)] == [("a",), ("a", "b"), ()]
    assert list(taken.columns["age"]) == ["3", "1", "2"]
    assert taken.file(0) == Path("/s/3.jpg")
    assert taken.splits.tolist() == [0, 1, 2]
    assert index.class_counts().tolist() == [2, 2, 0]
    assert index.rows("train").tolist() == [0, 3]
    with pytest.raises(DataError, match=r"1.jpg has 2 labels; here every image needs one"):
        _ = index.y_N
    with pytest.raises(UnknownNameError, match="no split is called 'val'; there are train, validation, test"):
        index.rows("val")


def test_texts_hold_what_they_are_given() -> None:
    words = ["", "a", "é", "🐱", "bytes\udce9", "new\nline", "x" * 1000]
    texts = Texts(words)
    assert list(texts) == words
    assert texts[-1] == words[-1]
    assert list(texts[1:3]) == words[1:3]
    assert list(texts.take(np.array([3, 0]))) == ["🐱", ""]
    assert texts == Texts(iter(words))
    assert texts != Texts(words[:-1])
    assert texts != words
    assert len({texts, Texts(words)}) == 1
    assert "é" in texts
    assert repr(Texts(["ab"])) == "Texts(1 texts, 18 bytes)"
    with pytest.raises(IndexError):
        texts[len(words)]


def test_many_texts_are_taken_in_any_order() -> None:
    """More than are worked on together."""
    words = [f"{number}-{'é' * (number % 7)}\udce9" for number in range(10_000)]
    texts = Texts(words)
    assert list(texts) == words
    rows = np.random.default_rng(0).permutation(10_000)
    assert list(texts.take(rows)) == [words[row] for row in rows]
    assert list(texts.take(np.array([9_999, 9_999, 0]))) == [words[9_999], words[9_999], words[0]]
    assert list(texts.take(np.array([], np.int64))) == []


def test_places_are_those_of_each_row(tmp_path: Path) -> None:
    lay_out(tmp_path / "one", "a/1.jpg", "b/2.jpg")
    lay_out(tmp_path / "two", "a/3.jpg", "b/é.jpg")
    index = join(open_data(tmp_path / "one"), open_data(tmp_path / "two"), 2)
    assert list(index.places()) == [index.place(row) for row in range(4)]
    assert index.class_counts(np.array([0, 2, 3])).tolist() == index.take(np.array([0, 2, 3])).class_counts().tolist()


@pytest.mark.parametrize("name", ["a.", "a", ".jpg", "a.b.JPG", "a .png", "a.jpg.txt"])
def test_endings_are_those_of_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    [entry] = os.scandir(tmp_path)
    assert listing._ending(entry) == Path(name).suffix.lower()


# -- D10: a million paths ------------------------------------------------------------------------------


_OPEN = """
import json, sys, time
import psutil
from regraft.data.index import open_data
before, start = psutil.Process().memory_info().rss, time.perf_counter()
index = open_data(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps([len(index), seconds, psutil.Process().memory_info().rss - before, index.nbytes]))
"""


def _write_paths(table: Path, number: int) -> int:
    """A table as long as real ones are wide; returns its bytes."""
    with table.open("w") as file:
        file.write("path,label\n")
        file.writelines(f"photos/species_{i % 1000:04d}/2026-11/IMG_{i:08d}.jpeg,species_{i % 1000:04d}\n"
                        for i in range(number))
    return table.stat().st_size


def test_many_paths_take_little_memory(tmp_path: Path) -> None:
    number = 20_000
    _write_paths(tmp_path / "t.csv", number)
    tracemalloc.start()
    try:
        index = open_data(tmp_path / "t.csv")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == number
    assert index.nbytes / number < 100
    assert held / number < 300


@pytest.mark.slow
def test_a_million_paths_open_in_seconds_and_little_memory(tmp_path: Path) -> None:
    number = 1_000_000
    _write_paths(tmp_path / "t.csv", number)
    done = subprocess.run([sys.executable, "-c", _OPEN, tmp_path / "t.csv"], capture_output=True, text=True,
                          check=True, timeout=300)
    rows, seconds, resident, held = json.loads(done.stdout)
    assert rows == number
    assert seconds < 30
    assert held / number < 300
    assert resident / number < 300
