"""Who is held out: properties over many label and group patterns, missing classes, and splits.csv."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from regraft.data.copies import same_files
from regraft.data.index import open_data
from regraft.data.splits import apply_splits, check_classes, complete, folds, holdout, limited, write_splits
from regraft.errors import DataError
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, IndexBuilder

Labels = NDArray[np.int32]
Groups = NDArray[np.int32] | None


@st.composite
def images(draw: st.DrawFn) -> tuple[Labels, Groups]:
    """Labels of up to 60 images, most classes small, and for half of them groups that know nothing of labels."""
    number = draw(st.integers(1, 60))
    classes = draw(st.integers(1, 8))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=number, max_size=number))
    groups = draw(st.none() | st.lists(st.integers(0, draw(st.integers(1, 30))), min_size=number, max_size=number))
    return np.array(labels, np.int32), None if groups is None else np.array(groups, np.int32)


def _whole(groups_N: Groups, part_N: NDArray[Any]) -> bool:
    """Whether each group lies on one side."""
    if groups_N is None:
        return True
    return all(len(np.unique(part_N[groups_N == group])) == 1 for group in np.unique(groups_N))


# -- one part held out ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(images(), st.floats(0, 1), st.integers(0, 2**31))
def test_a_holdout_leaves_every_class_in_training(data: tuple[Labels, Groups], share: float, seed: int) -> None:
    y_N, groups_N = data
    held_N = holdout(y_N, groups_N, share, seed)
    assert held_N.shape == y_N.shape
    assert held_N.dtype == bool
    assert _whole(groups_N, held_N)
    assert set(y_N[~held_N]) == set(y_N)
    assert np.array_equal(held_N, holdout(y_N, groups_N, share, seed))
    counts, taken = np.bincount(y_N), np.bincount(y_N[held_N], minlength=int(y_N.max()) + 1)
    wanted = np.minimum(np.floor(share * counts + 0.5), np.maximum(counts - 1, 0))
    if groups_N is None:
        assert np.array_equal(taken, wanted)
    else:
        # Whole groups may miss the share, but never by more than holding out nothing would.
        assert np.abs(taken - wanted).sum() <= wanted.sum()


def test_a_holdout_differs_with_the_seed() -> None:
    y_N = np.repeat(np.arange(4, dtype=np.int32), 50)
    held = [holdout(y_N, None, 0.2, seed) for seed in (0, 1)]
    assert not np.array_equal(held[0], held[1])
    assert [np.bincount(y_N[part]).tolist() for part in held] == [[10] * 4] * 2


@pytest.mark.parametrize(("count", "share", "held"), [
    (1, 0.2, 0), (1, 1.0, 0), (2, 0.2, 0), (2, 0.25, 1), (3, 0.2, 1), (5, 0.2, 1), (10, 0.2, 2), (10, 1.0, 9),
    (10, 0.0, 0),
])
def test_the_last_image_of_a_class_stays_in_training(count: int, share: float, held: int) -> None:
    assert holdout(np.zeros(count, np.int32), None, share, 0).sum() == held


def test_many_groups_come_close_to_the_share() -> None:
    rng = np.random.default_rng(0)
    groups_N = rng.integers(0, 200, 2000).astype(np.int32)
    y_N = rng.integers(0, 5, 2000).astype(np.int32)
    taken = np.bincount(y_N[holdout(y_N, groups_N, 0.2, 0)]) / np.bincount(y_N)
    assert np.abs(taken - 0.2).max() < 0.05


# -- folds ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(images(), st.integers(2, 6), st.integers(0, 2**31))
def test_folds_leave_every_class_in_every_training(data: tuple[Labels, Groups], number: int, seed: int) -> None:
    y_N, groups_N = data
    fold_N = folds(y_N, groups_N, number, seed)
    assert fold_N.dtype == np.int8
    assert fold_N.min() >= -1
    assert fold_N.max() < number
    assert _whole(groups_N, fold_N)
    assert np.array_equal(fold_N, folds(y_N, groups_N, number, seed))
    for fold in range(number):
        assert set(y_N[fold_N != fold]) == set(y_N)
    if groups_N is None:
        counts = np.bincount(y_N)
        # Only what is alone in its class is never held out; the others are dealt evenly.
        assert np.array_equal(fold_N == -1, counts[y_N] == 1)
        for label in np.flatnonzero(counts > 1):
            dealt = np.bincount(fold_N[y_N == label], minlength=number)
            assert dealt.max() - dealt.min() <= 1
        dealt = np.bincount(fold_N[fold_N >= 0], minlength=number)
        assert dealt.max() - dealt.min() <= 1


def test_folds_differ_with_the_seed() -> None:
    y_N = np.repeat(np.arange(3, dtype=np.int32), 20)
    groups_N = np.arange(60, dtype=np.int32) // 2
    for groups in (None, groups_N):
        assert not np.array_equal(folds(y_N, groups, 5, 0), folds(y_N, groups, 5, 1))


def test_grouped_folds_are_even() -> None:
    rng = np.random.default_rng(0)
    groups_N = rng.integers(0, 200, 2000).astype(np.int32)
    # Groups lean to a class, as patients do.
    y_N = ((groups_N + (rng.random(2000) < 0.3)) % 5).astype(np.int32)
    fold_N = folds(y_N, groups_N, 5, 0)
    assert (fold_N >= 0).all()
    for label in range(5):
        shares = np.bincount(fold_N[y_N == label], minlength=5) / (y_N == label).sum()
        assert np.abs(shares - 0.2).max() < 0.03


def test_a_group_alone_in_its_class_is_never_held_out() -> None:
    y_N = np.array([0, 0, 1, 1, 1, 1], np.int32)
    groups_N = np.array([7, 7, 7, 8, 9, 9], np.int32)
    fold_N = folds(y_N, groups_N, 2, 0)
    assert (fold_N[:3] == -1).all()
    assert sorted(set(fold_N[3:])) == [0, 1]


# -- an index with splits ------------------------------------------------------------------------------


def make_index(rows: list[tuple[str, str, int]], groups: list[int] | None = None, roots: int = 1) -> ImageIndex:
    """Path, label and split of each image."""
    builder = IndexBuilder([f"/root{number}" for number in range(roots)])
    for number, (path, label, split) in enumerate(rows):
        builder.add(path, (label,), split, number % roots)
    index = builder.build()
    return index if groups is None else replace(index, groups=np.array(groups, np.int32))


def unsplit(number: int, split: int = NO_SPLIT) -> list[tuple[str, str, int]]:
    return [(f"{label}/{i}.jpg", label, split) for label in ("cat", "dog") for i in range(number)]


def counts(index: ImageIndex) -> tuple[int, ...]:
    return tuple(index.split_counts().values())


@pytest.mark.parametrize(("rows", "validation", "test", "expected"), [
    (unsplit(50), 0.2, 0.2, (64, 16, 20)),
    (unsplit(50), None, 0.2, (80, 0, 20)),
    (unsplit(50), 0.2, None, (80, 20, 0)),
    (unsplit(50), None, None, (100, 0, 0)),
    # What the data has already is left as it is, and the rest is taken from training alone.
    (unsplit(50, 0) + unsplit(5, 2), 0.2, 0.2, (80, 20, 10)),
    (unsplit(50, 0) + unsplit(5, 1), 0.2, 0.2, (80, 10, 20)),
    (unsplit(50, 0) + unsplit(5, 1) + unsplit(5, 2), 0.2, 0.2, (100, 10, 10)),
    (unsplit(50) + unsplit(5, 2), 0.2, 0.2, (80, 20, 10)),
])
def test_missing_splits_are_taken_from_training(
        rows: list[tuple[str, str, int]], validation: float | None, test: float | None,
        expected: tuple[int, ...]) -> None:
    index = make_index(rows)
    completed = complete(index, validation_share=validation, test_share=test, seed=0)
    assert counts(completed) == expected
    given_N = index.splits >= 1
    assert np.array_equal(completed.splits[given_N], index.splits[given_N])
    assert completed.paths == index.paths
    assert np.array_equal(completed.y_N, index.y_N)
    again = complete(index, validation_share=validation, test_share=test, seed=0)
    assert np.array_equal(again.splits, completed.splits)


def test_completing_keeps_groups_whole() -> None:
    groups = [number // 4 for number in range(100)]
    completed = complete(make_index(unsplit(50), groups), validation_share=0.2, test_share=0.2, seed=3)
    assert min(counts(completed)) > 5
    assert _whole(completed.groups, completed.splits)


def test_a_class_of_one_image_stays_in_training() -> None:
    index = make_index([*unsplit(10), ("owl/1.jpg", "owl", NO_SPLIT)])
    completed = complete(index, validation_share=0.2, test_share=0.2, seed=0)
    assert int(completed.splits[-1]) == 0
    findings = list(check_classes(completed))
    assert [finding.text for finding in findings] == [
        "1 classes have no image in validation; its figures say nothing about them: 'owl'",
        "1 classes have no image in test; its figures say nothing about them: 'owl'"]


@pytest.mark.parametrize(("rows", "says"), [
    (unsplit(2, 0) + unsplit(2, 1) + unsplit(2, 2), []),
    (unsplit(2, 0), []),
    ([*unsplit(2, 0), *unsplit(2, 2), ("ant/1", "ant", 0)], ["1 classes have no image in test; its figures say nothing "
                                                              "about them: 'ant'"]),
    ([*unsplit(2, 0), ("a\nt/1", "a\nt", 2)], "'a\\nt' has images in test but none to learn from; add"),
    ([*unsplit(2, 0), ("ant/1", "ant", 1)], "'ant' has images in validation but none to learn from"),
    ([*unsplit(2, 0), ("ant/1", "ant", 1), ("bee/1", "bee", 1), ("bee/2", "bee", 2)],
     "'ant', 'bee' have images in validation but none to learn from"),
    ([*unsplit(2, 0), *((f"{i}/1", f"class {i}", 2) for i in range(8))],
     "'class 4' and 3 more have images in test but none to learn from"),
])
def test_a_class_missing_from_a_split_is_told_or_refused(
        rows: list[tuple[str, str, int]], says: str | list[str]) -> None:
    index = make_index(rows)
    if isinstance(says, list):
        assert [finding.text for finding in check_classes(index)] == says
        return
    with pytest.raises(DataError) as caught:
        list(check_classes(index))
    assert says in str(caught.value)
    assert "or take the class away" in str(caught.value)


def test_a_class_whose_images_are_all_unreadable_is_refused() -> None:
    index = make_index([*unsplit(2, 0), ("ant/1", "ant", 0)])
    with pytest.raises(DataError, match="'ant' has no images that can be read; add some, or take the class away"):
        list(check_classes(index.take(np.arange(4))))


@pytest.mark.parametrize("shared", ["train", "test"])
def test_labels_never_shift_with_what_a_split_lacks(shared: str) -> None:
    split = SPLITS.index(shared)
    index = make_index([("a/1", "a", 0), ("b/1", "b", 0), ("c/1", "c", 0), ("b/2", "b", split), ("c/2", "c", split)])
    rows = index.rows(shared)
    assert [index.labels(int(row))[0] for row in rows] == [index.paths[int(row)][0] for row in rows]
    taken = index.take(rows)
    assert taken.classes == ("a", "b", "c")
    assert [taken.labels(row)[0] for row in range(len(taken))] == [path[0] for path in taken.paths]


def test_a_limit_takes_as_many_of_each_class_and_split() -> None:
    index = make_index(unsplit(20, 0) + unsplit(3, 1) + unsplit(20))
    limited_ = limited(index, 5, seed=0)
    assert len(limited_) == 2 * (5 + 3 + 5)
    assert limited_.class_counts().tolist() == [13, 13]
    assert set(limited_.paths) <= set(index.paths)
    assert limited_.findings[-1].text == "26 of 86 images are used (--limit 5)"
    assert limited(index, 5, seed=0).paths == limited_.paths
    assert limited(index, 5, seed=1).paths != limited_.paths
    assert len(limited(index, 100, seed=0)) == len(index)


# -- splits.csv ----------------------------------------------------------------------------------------

ODD = ["new\nline", "com,ma", 'quo"te', "bytes\udce9", "\r", " edges ", "é", "emoji 🐱", "semi;colon", "plain"]


def test_written_splits_are_read_back(tmp_path: Path) -> None:
    rows = [(f"{name}/{i}.jpg", name, (-1, 0, 1, 2)[i % 4]) for name in ODD for i in range(4)]
    index = make_index(rows, groups=[i // 2 for i in range(len(rows))], roots=2)
    write_splits(index, tmp_path / "splits.csv")
    blank = index.with_splits(np.full(len(index), NO_SPLIT, np.int8))
    applied = apply_splits(blank, tmp_path / "splits.csv")
    assert np.array_equal(applied.splits, index.splits)
    assert applied.findings == ()
    with (tmp_path / "splits.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        written = list(csv.DictReader(file))
    assert [row["path"] for row in written] == list(index.paths)
    assert [row["label"] for row in written] == [name for name in ODD for _ in range(4)]
    assert [row["split"] for row in written[:4]] == ["", "train", "validation", "test"]
    assert [row["group"] for row in written[:4]] == ["0", "0", "1", "1"]


@settings(max_examples=50, deadline=None)  # Busy machines stall.
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(-1, 2)),
                min_size=1, max_size=20, unique_by=lambda row: row[0]))
def test_any_path_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    file = tmp_path_factory.mktemp("splits") / "splits.csv"
    index = make_index([(path, "cat", split) for path, split in rows])
    write_splits(index, file)
    assert np.array_equal(apply_splits(index.with_splits(np.zeros(len(index), np.int8)), file).splits, index.splits)


def test_a_hand_written_file_needs_path_and_split_only(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("\ufeffsplit,path\ntest,cat/0.jpg\ntrain,dog/0.jpg\nvalidation,gone.jpg\n", encoding="utf-8")
    index = apply_splits(make_index(unsplit(1)), file)
    assert index.splits.tolist() == [2, 0]
    assert [finding.text for finding in index.findings] == ["1 rows of mine.csv name no image of the data"]


@pytest.mark.parametrize(("text", "says"), [
    ("path,split\ncat/0.jpg,test\ndog/0.jpg,\n", None),
    ("path,split\ncat/0.jpg,test\n", "1 images do not stand in mine.csv, such as dog/0.jpg; add them to it, or give"),
    ("file,split\ncat/0.jpg,test\n", "mine.csv lacks the columns path; a run writes it as splits.csv"),
    ("", "mine.csv lacks the columns path, split; a run writes it as splits.csv"),
    ("path,split\ncat/0.jpg,d\x1bev\n",
     "mine.csv, line 2: 'd\\x1bev' is no split; train, validation, test or empty is allowed"),
    ("path,split\ncat/0.jpg,test\ndog/0.jpg\n", "mine.csv, line 3: '' is no split; train"),
    ("path,split\nc\nat,test\n", "mine.csv, line 2: '' is no split; train"),
    ("path,split\ncat/0.jpg,test\ndog/0.jpg,test\ncat/0.jpg,train\n",
     "mine.csv, line 4: cat/0.jpg is in another split already; leave one row"),
    ('path,split\n"' + "x" * 200_000, "mine.csv is no readable table (field larger than field limit"),
])
def test_splits_that_do_not_fit_the_data_are_refused(tmp_path: Path, text: str, says: str | None) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(text)
    index = make_index(unsplit(1))
    if says is None:
        assert apply_splits(index, file).splits.tolist() == [2, NO_SPLIT]
        return
    with pytest.raises(DataError) as caught:
        apply_splits(index, file)
    assert says in str(caught.value)


def test_a_missing_file_of_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\\nwhere.csv can't be read \(No such file or directory\)"):
        apply_splits(make_index(unsplit(1)), tmp_path / "no\nwhere.csv")


def test_copies_have_all_bytes_in_common(tmp_path: Path) -> None:
    """A BMP begins with its lowest rows: two of these end alike and are other pictures."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (64, 64, 3), np.uint8)
    lower, upper = first.copy(), first.copy()
    lower[-8:], upper[:8] = 0, 0
    for name, pixels in (("a", first), ("b", lower), ("c", first), ("d", upper), ("e", first[:32])):
        folder = tmp_path / ("odd" if name in "ace" else "even")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}.bmp")
    index = open_data(tmp_path)
    numbers = same_files(index)
    assert numbers is not None
    of = {Path(path).stem: number for path, number in zip(index.paths, numbers.tolist(), strict=True)}
    assert of["a"] == of["c"]
    assert len(set(of.values())) == 4
    (tmp_path / "odd" / "c.bmp").unlink()
    assert same_files(open_data(tmp_path)) is None
