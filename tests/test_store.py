"""The feature store and the pass that fills it: nothing twice, nothing lost, nothing in doubt."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regraft.data.decode import read_file
from regraft.data.index import open_data
from regraft.data.view import View, view0
from regraft.engines.contract import Engine
from regraft.engines.processor import cores
from regraft.errors import DataError, StoreError, TimeLimitError
from regraft.extraction import extract as extraction
from regraft.extraction import ordered
from regraft.extraction import store as storage
from regraft.extraction.extract import Features, Route, extract, extract_by, feature_key, known_features
from regraft.extraction.ordered import ordered_map
from regraft.extraction.store import FeatureKey, FeatureStore, FileState, Space
from regraft.progress import Deadline, Silent
from regraft.records.images import ImageIndex, IndexBuilder
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from tests.conftest import write_crops

_RULES = Preprocessing(size=8)

_NEVER = Deadline(None)


class Colours:
    """A legal engine without a network: the mean colour of each image, and the mean of its rows."""

    def __init__(self, key: str = "colours", batch: int = 4) -> None:
        self.key = key
        self.batch = batch
        self.concurrent = 1
        self.readouts: tuple[Readout, ...] = (Readout("rows", "rows", "none", 8), Readout("mean", "mean", "none", 3))
        self.runs: list[int] = []

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert 1 <= len(pixels_BHWC) <= self.batch
        self.runs.append(len(pixels_BHWC))
        x = pixels_BHWC.astype(np.float32)
        return np.concatenate([x.mean((2, 3)), x.mean((1, 2))], 1)


class Failing(Colours):
    """Raises, or gives numbers that are none, from the given run on."""

    def __init__(self, after: int, error: Exception | None) -> None:
        super().__init__()
        self.after, self.error = after, error

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = super().run(pixels_BHWC)
        if len(self.runs) > self.after:
            if self.error is not None:
                raise self.error
            features[0, 0] = np.nan
        return features


def write_pictures(folder: Path, count: int, start: int = 0) -> ImageIndex:
    """Two classes of small pictures, no two alike; in odd sizes, so that preprocessing has something to do."""
    for number in range(start, start + count):
        target = folder / "ab"[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (11, 13, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{number:05d}.png")
    return open_data(folder)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written just now count as old; a test of its own looks at fresh ones."""
    monkeypatch.setattr(storage, "_RACY_NS", -3_600 * 10**9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store of one test lies."""
    return tmp_path / "store"


def run_pass(folder: Path, index: ImageIndex, engine: Engine | None = None, rules: Preprocessing = _RULES, *,
             weights: str = "w", deadline: Deadline = _NEVER, share: float = 0.0,
             ) -> tuple[Features, NDArray[np.float32]]:
    """One pass as a command makes it: its own connection, its own space; all features of the readable images."""
    used = engine if engine is not None else Colours()
    with FeatureStore(folder) as store, store.space(feature_key(rules, weights, used)) as space:
        features = extract(index, space, used, rules, Silent(), deadline, share)
        return features, features.read(np.arange(len(features.rows)), [r.name for r in used.readouts])


def counts(features: Features) -> tuple[int, int]:
    return features.computed, features.reused


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whoever opens a file fails; ``undo()`` ends it."""
    def refuse(path: Path) -> bytes:
        raise AssertionError(f"{path} was read")

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "read_file", refuse)
        yield patched


# -- several engines -------------------------------------------------------------------------------


def test_each_image_takes_its_route_unless_the_other_has_it(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 22)
    engines = [Colours("one"), Colours("two", 3)]
    engines[0].concurrent = 3
    route_N = np.arange(22) % 2
    with FeatureStore(folder) as store, ExitStack() as spaces:
        keys = [feature_key(_RULES, "w", engine) for engine in engines]
        routes = [Route(spaces.enter_context(store.space(key)), engine)
                  for key, engine in zip(keys, engines, strict=True)]
        first = extract_by(index, routes, route_N, _RULES, Silent(), _NEVER, 0.0)
        assert counts(first) == (22, 0)
        assert first.engines(np.arange(22)) == {"one": 11, "two": 11}
        assert [sum(engine.runs) for engine in engines] == [11, 11]
        again = extract_by(index, routes, 1 - route_N, _RULES, Silent(), _NEVER, 0.0)
        assert counts(again) == (0, 22)
        (tmp_path / "data").rename(tmp_path / "moved")
        for known, number in zip(known_features(open_data(tmp_path / "moved"), store, keys), (0, 1), strict=True):
            np.testing.assert_array_equal(known, route_N == number)
        read = first.read(np.arange(22)[::-1], ["mean"])
    _, alone = run_pass(tmp_path / "alone", open_data(tmp_path / "moved"))
    np.testing.assert_array_equal(read, alone[::-1, 8:])


# -- nothing is computed twice ---------------------------------------------------------------------


def test_real_engine(crops: Path, folder: Path) -> None:
    """Real crops through a real network: what is recalled is what was computed, to the last bit."""
    from regraft.engines.pytorch import PyTorchEngine
    from regraft.networks.build import load_backbone

    network = load_backbone("efficientnet_lite0", size=64)
    rules = Preprocessing(size=64)
    engine = PyTorchEngine(network.module, network.readouts, rules, "cpu")
    index = open_data(crops)
    first, computed = run_pass(folder, index, engine, rules, weights=network.digest)
    again, recalled = run_pass(folder, index, engine, rules, weights=network.digest)
    assert counts(first) == (40, 0)
    assert counts(again) == (0, 40)
    np.testing.assert_array_equal(recalled, computed)
    assert computed.shape == (40, sum(readout.dim for readout in network.readouts))
    few, of_few = run_pass(folder, index.take(np.array([31, 4, 17])), engine, rules, weights=network.digest)
    assert counts(few) == (0, 3)
    np.testing.assert_array_equal(of_few, computed[[31, 4, 17]])


def test_the_second_pass_reads_and_computes_nothing(tmp_path: Path, folder: Path,
                                                    request: pytest.FixtureRequest) -> None:
    index = write_pictures(tmp_path / "data", 50)
    engine = Colours()
    first, computed = run_pass(folder, index, engine)
    assert counts(first) == (50, 0)
    assert sum(engine.runs) == 50
    assert engine.runs[:-1] == [4] * 12, "batches are full but for the last"
    request.getfixturevalue("unreadable")
    again, recalled = run_pass(folder, index, engine)
    assert counts(again) == (0, 50)
    assert sum(engine.runs) == 50
    np.testing.assert_array_equal(recalled, computed)


def test_rows_come_in_the_order_of_the_index(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 30)
    _, direct = run_pass(folder, index, Colours(batch=1))
    order = np.random.default_rng(0).permutation(30)
    _, shuffled = run_pass(tmp_path / "other", index.take(order), Colours(batch=7))
    np.testing.assert_array_equal(shuffled, direct[order])


def moved(data: Path) -> None:
    (data / "a").rename(data / "c")


def renamed(data: Path) -> None:
    for number, file in enumerate(sorted((data / "a").iterdir())):
        file.rename(file.with_name(f"x{9 - number}.png"))


def copied(data: Path) -> None:
    for file in sorted((data / "a").iterdir()):
        shutil.copy(file, data / "b")


def touched(data: Path) -> None:
    for number, file in enumerate(sorted(data.rglob("*.png"))):
        os.utime(file, (number, number))


@pytest.mark.parametrize("change", [moved, renamed, copied, touched])
def test_what_keeps_the_bytes_is_not_even_decoded(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                  change: Callable[[Path], None]) -> None:
    def refuse(data: bytes, rules: Preprocessing) -> View:
        raise AssertionError("a file was decoded")

    data = tmp_path / "data"
    run_pass(folder, write_pictures(data, 20))
    change(data)
    index = open_data(data)
    with monkeypatch.context() as patched:
        patched.setattr(extraction, "view0", refuse)
        features, found = run_pass(folder, index)
    assert features.computed == 0
    _, fresh = run_pass(tmp_path / "fresh", index)
    np.testing.assert_array_equal(found, fresh)


def test_swapped_files_of_one_size_and_time_are_told_apart(tmp_path: Path, folder: Path) -> None:
    """Their size and the time of their contents stay the same under either name."""
    data = tmp_path / "data"
    index = write_pictures(data, 4)
    one, two, aside = data / "a" / "00000.png", data / "b" / "00001.png", data / "aside"
    size = max(one.stat().st_size, two.stat().st_size)
    for file in (one, two):
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        os.utime(file, (1, 1))
    _, before = run_pass(folder, index)
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    features, after = run_pass(folder, index)
    assert features.computed == 0
    rows = [index.paths.index("a/00000.png"), index.paths.index("b/00001.png")]
    np.testing.assert_array_equal(after[rows], before[rows[::-1]])
    assert not np.array_equal(after[rows], before[rows])


def test_what_changes_pixels_is_computed(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 20)
    _, before = run_pass(folder, index)
    file = index.file(7)
    with Image.open(file) as image:
        Image.fromarray(255 - np.asarray(image)).save(file)
    features, after = run_pass(folder, index)
    assert counts(features) == (1, 19)
    assert not np.array_equal(after[7], before[7])
    np.testing.assert_array_equal(np.delete(after, 7, 0), np.delete(before, 7, 0))


def test_the_same_pixels_in_another_file_format_are_computed_once(tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "data"
    write_pictures(data, 6)
    for file in list((data / "a").iterdir()):
        with Image.open(file) as image:
            image.save(data / "b" / f"{file.stem}.bmp")
            shutil.copy(file, data / "b" / f"copy {file.name}")
    features, found = run_pass(folder, index := open_data(data))
    assert len(index) == 12
    assert counts(features) == (6, 6)
    assert len(found) == 12
    assert len(set(features.digests)) == 6


def test_fresh_files_are_looked_at_again(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may change once more within the clock's tick: same size, same time, other bytes."""
    monkeypatch.setattr(storage, "_RACY_NS", 2_000_000_000)
    index = write_pictures(tmp_path / "data", 5)
    run_pass(folder, index)
    read: list[str] = []

    def watched(path: str) -> bytes:
        read.append(path)
        return read_file(path)

    monkeypatch.setattr(extraction, "read_file", watched)
    features, _ = run_pass(folder, index)
    assert counts(features) == (0, 5), "the contents are known"
    assert len(read) == 5, "but had to be looked at"


def test_fresh_is_measured_when_looked_at_not_when_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_RACY_NS", 2_000_000_000)
    file = tmp_path / "x"
    file.touch()
    fresh = FileState.of(file)
    assert fresh is not None
    assert not fresh.settled
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3_000_000_000)
    later = FileState.of(file)
    assert later is not None
    assert later.settled


def test_many_moved_files_are_looked_up_together(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                 ) -> None:
    index = write_pictures(tmp_path / "data", 80)
    _, before = run_pass(folder, index)
    (tmp_path / "data").rename(tmp_path / "moved")
    index = open_data(tmp_path / "moved")
    Path(index.file(3)).unlink()  # since the folder was looked at
    monkeypatch.setattr(extraction, "_look", lambda row, *_: extraction._Seen(row, error=f"row {row} was looked at"))
    features, after = run_pass(folder, index, share=0.1)
    assert counts(features) == (0, 79)
    assert [q.reason for q in features.quarantined] == ["row 3 was looked at"]
    assert np.array_equal(after, np.delete(before, 3, 0))


def test_new_files_beside_known_ones_are_read_once_but_for_a_few(tmp_path: Path, folder: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    run_pass(folder, write_pictures(tmp_path / "data", 4))
    read: Counter[str] = Counter()

    def counting(path: str) -> bytes:
        read[path] += 1
        return read_file(path)

    monkeypatch.setattr(extraction, "read_file", counting)
    features, _ = run_pass(folder, write_pictures(tmp_path / "new", 60, start=100))
    assert counts(features) == (60, 0)
    assert sorted(read.values()) == [1] * 28 + [2] * 32  # those first looked at in vain


@pytest.mark.parametrize("asked", [3, 300])
def test_few_rows_are_asked_for_and_many_read_as_a_whole(folder: Path, asked: int, monkeypatch: pytest.MonkeyPatch,
                                                         ) -> None:
    digests = [number.to_bytes(16) for number in range(400)]
    with FeatureStore(folder) as store, store.space(key_of()) as space:
        space.append(digests, np.arange(400 * space.key.dim, dtype=np.float32).reshape(400, -1))
        other = [(1_000 + number).to_bytes(16) for number in range(asked)]
        selected: list[int] = []
        select = store._select

        def counting(query: str, first: str, values: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
            selected.append(len(values))
            return select(query, first, values)

        monkeypatch.setattr(store, "_select", counting)
        assert store.missing(space.key, [*digests[:asked], *other]) == set(other)
        assert bool(selected) == (asked == 3)
        assert space.locate(digests[:asked][::-1])[:, 1].tolist() == list(range(asked))[::-1]


@pytest.mark.parametrize("path", ["no such file", "a null \0 byte", "x" * 5000])
def test_no_state_of_what_is_no_file(path: str) -> None:
    assert FileState.of(path) is None


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is taken before, so the next pass sees that it is another."""
    index = write_pictures(tmp_path / "data", 2)
    other = write_pictures(tmp_path / "other", 2, start=100)

    def read_and_change(path: str) -> bytes:
        content = read_file(path)
        if path == index.place(0):
            Path(path).write_bytes(other.file(0).read_bytes())
        return content

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "read_file", read_and_change)
        _, before = run_pass(folder, index)
    features, after = run_pass(folder, index)
    assert counts(features) == (1, 1)
    assert not np.array_equal(before[0], after[0])


# -- spaces ----------------------------------------------------------------------------------------


def key_of(**changes: Any) -> FeatureKey:
    return replace(feature_key(_RULES, "w", Colours()), **changes)


@pytest.mark.parametrize("changes", [
    {"view": "other"}, {"weights": "other"}, {"engine": "other"}, {"mean": (0.4, 0.5, 0.5)}, {"std": (0.4, 0.5, 0.5)},
    {"readouts": (Readout("mean", "mean", "none", 3),)}, {"readouts": Colours().readouts[::-1]},
])
def test_whatever_decides_features_is_another_space(changes: dict[str, Any]) -> None:
    assert key_of(**changes).id != key_of().id
    assert key_of().id == key_of().id
    assert FeatureKey.from_dict(key_of(**changes).to_dict()) == key_of(**changes)


@pytest.mark.parametrize(("engine", "rules", "weights"), [
    (Colours("other"), _RULES, "w"), (Colours(), replace(_RULES, fit="pad"), "w"), (Colours(), _RULES, "other"),
    (Colours(), replace(_RULES, mean=(0.1, 0.2, 0.3)), "w"),
])
def test_another_space_is_computed_anew(tmp_path: Path, folder: Path, engine: Colours, rules: Preprocessing,
                                        weights: str) -> None:
    index = write_pictures(tmp_path / "data", 6)
    run_pass(folder, index)
    assert counts(run_pass(folder, index, engine, rules, weights=weights)[0]) == (6, 0)
    assert counts(run_pass(folder, index)[0]) == (0, 6)
    with FeatureStore(folder) as store:
        assert [space.images for space in store.use().spaces] == [6, 6]


def test_columns(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 9)
    engine = Colours()
    with FeatureStore(folder) as store, store.space(feature_key(_RULES, "w", engine)) as space:
        features = extract(index, space, engine, _RULES, Silent(), _NEVER, 0)
        everything = features.read(np.arange(9), ["rows", "mean"])
        which = np.array([5, 0, 5, 8])
        np.testing.assert_array_equal(features.read(which, ["mean"]), everything[which, 8:])
        np.testing.assert_array_equal(features.read(which, ["rows"]), everything[which, :8])
        np.testing.assert_array_equal(features.read(which, ["mean", "rows"]),
                                      np.roll(everything[which], 3, axis=1))
        nothing = features.read(which[:0], ["mean"])
        assert nothing.shape == (0, 3)
        assert features.read(which, []).shape == (4, 0)
        with pytest.raises(KeyError):
            features.read(which, ["no such readout"])
        with pytest.raises(StoreError, match="vanished"):
            space.locate([b"0" * 16])


def rows_of(space: Space) -> list[tuple[Any, ...]]:
    return space.store._db.execute("SELECT digest, shard, row FROM rows").fetchall()


def test_a_row_is_written_once(folder: Path) -> None:
    values = np.arange(44, dtype=np.float32).reshape(4, 11)
    digests = [bytes([i] * 16) for i in (1, 2, 1, 3)]
    with FeatureStore(folder) as store, store.space(key_of()) as space:
        space.append(digests, values)
        space.append(digests[:2], values[:2] + 100)
        assert len(rows_of(space)) == 3
        assert store.use().spaces[0].images == 3
        found = space.read(space.locate([digests[1], digests[3], digests[1]]), ["rows", "mean"])
        np.testing.assert_array_equal(found, values[[1, 3, 1]])
        assert space.missing([*digests, b"new"]) == {b"new"}


def test_many_values_in_one_question(folder: Path) -> None:
    digests = [i.to_bytes(16, "big") for i in range(2500)]
    values = np.arange(2500 * 11, dtype=np.float32).reshape(-1, 11)
    with FeatureStore(folder) as store, store.space(key_of()) as space:
        space.append(digests, values)
        assert space.missing(digests) == set()
        np.testing.assert_array_equal(space.read(space.locate(digests[::-1]), ["rows", "mean"]), values[::-1])


def test_several_shards(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_pictures(tmp_path / "data", 50)
    _, one = run_pass(tmp_path / "one", index)
    monkeypatch.setattr(storage, "_SHARD_BYTES", 7 * 11 * 4)
    _, many = run_pass(folder, index)
    np.testing.assert_array_equal(many, one)
    sizes = sorted(file.stat().st_size for file in folder.glob("*.f32"))
    assert sizes == [1 * 11 * 4, *[7 * 11 * 4] * 7]
    run_pass(folder, write_pictures(tmp_path / "data", 6, start=50))
    assert sorted(f.stat().st_size for f in folder.glob("*.f32")) == [7 * 11 * 4] * 8, "the last is filled first"


# -- files that can't be read ----------------------------------------------------------------------


def test_unreadable_files_are_set_aside(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 20)
    _, whole = run_pass(tmp_path / "whole", index)
    index.file(3).write_bytes(b"this is text")
    index.file(11).unlink()
    index.file(19).write_bytes(index.file(19).read_bytes()[:60])
    for _ in range(2):
        features, found = run_pass(folder, index, share=0.15)
        assert [q.path for q in features.quarantined] == [index.paths[row] for row in (3, 11, 19)]
        assert features.quarantined[0].reason.startswith("is no image")
        assert features.quarantined[1].reason == "does not exist"
        assert features.rows.tolist() == [row for row in range(20) if row not in (3, 11, 19)]
        np.testing.assert_array_equal(found, whole[features.rows])
    assert counts(features) == (0, 17)
    with pytest.raises(DataError, match=r"3 of 20 images can't be read, more than the allowed share of 0\.1: "):
        run_pass(folder, index, share=0.1)


def test_a_mended_file_is_read(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 6)
    content = index.file(2).read_bytes()
    index.file(2).write_bytes(b"")
    assert counts(run_pass(folder, index, share=1)[0]) == (5, 0)
    index.file(2).write_bytes(content)
    assert counts(run_pass(folder, index)[0]) == (1, 5)


def test_names_that_no_encoding_explains(tmp_path: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    data = tmp_path / "data"
    write_pictures(data, 4)
    (data / "a" / "00000.png").rename(data / "a" / os.fsdecode(b"\xff\xfe.png"))
    index = open_data(data)
    assert any("\udcff" in path for path in index.paths)
    assert counts(run_pass(folder, index)[0]) == (4, 0)
    request.getfixturevalue("unreadable")
    assert counts(run_pass(folder, index)[0]) == (0, 4)


def test_a_table_may_name_anything(tmp_path: Path, folder: Path) -> None:
    builder = IndexBuilder([str(tmp_path)])
    for path in ("a\0b.png", "x" * 4000, "."):
        builder.add(path, ("a",), -1)
    features, _ = run_pass(folder, builder.build([]), share=1)
    assert len(features.quarantined) == 3


def test_conversions_are_counted_when_recalled_too(tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "data"
    write_pictures(data, 4)
    Image.fromarray(np.eye(9, dtype=np.uint8) * 200).save(data / "a" / "grey.png")
    for _ in range(2):
        assert run_pass(folder, open_data(data))[0].notes == {"grey": 1}


# -- stopping and failing --------------------------------------------------------------------------


class Ticking:
    """A clock that goes on by one at every look."""

    def __init__(self) -> None:
        self._ticks = itertools.count()

    def __call__(self) -> float:
        return float(next(self._ticks))


def test_the_deadline_keeps_what_is_done(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 40)
    with pytest.raises(TimeLimitError, match="the features of 10 of 40 images are kept"):
        run_pass(folder, index, deadline=Deadline(10, Ticking()))
    assert counts(run_pass(folder, index)[0]) == (30, 10), "the message told the truth"


def test_features_that_are_no_numbers_are_refused(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 40)
    engine = Failing(after=3, error=None)
    with pytest.raises(DataError, match="not finite"):
        run_pass(folder, index, engine)
    assert len(engine.runs) == 4, "the network is not asked again"
    features, found = run_pass(folder, index)
    assert counts(features) == (28, 12), "what came before is kept"
    assert np.isfinite(found).all()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failing_engine_loses_no_work(tmp_path: Path, folder: Path, error: Exception) -> None:
    index = write_pictures(tmp_path / "data", 40)
    with pytest.raises(type(error)):
        run_pass(folder, index, Failing(after=5, error=error))
    assert counts(run_pass(folder, index)[0]) == (20, 20)


def test_a_bug_in_a_worker_does_not_hang(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_pictures(tmp_path / "data", 60)
    bad = index.file(30).read_bytes()

    def broken(data: bytes, rules: Preprocessing) -> View:
        if data == bad:
            raise ZeroDivisionError("a bug")
        return view0(data, rules)

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "view0", broken)
        with pytest.raises(ZeroDivisionError):
            run_pass(folder, index)
    assert not [t for t in threading.enumerate() if t.name.startswith("regraft-decode")], "no worker is left"
    features, _ = run_pass(folder, index)
    assert features.reused >= 28
    assert features.computed + features.reused == 60


def test_ordered_map_is_ordered_and_bounded() -> None:
    """However slow its reader, few results wait for it."""
    started: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        time.sleep(0.0002 * (item % 3))
        return item * item

    ahead = cores() * ordered._QUEUE
    for position, result in enumerate(ordered_map(work, range(300))):
        assert result == position * position
        assert len(started) <= position + ahead
    assert len(started) == 300
    assert list(ordered_map(work, [])) == []


def test_ordered_map_stops_with_its_reader() -> None:
    seen: list[int] = []
    results = ordered_map(lambda item: seen.append(item), range(1000))
    next(results)
    results.close()
    assert len(seen) <= cores() * ordered._QUEUE + 1


# -- processes -------------------------------------------------------------------------------------

_PASS = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from regraft.data.index import open_data
    from regraft.extraction import extract as extraction
    from regraft.extraction import store as storage
    from tests.test_store import Colours, run_pass

    class Slow(Colours):
        def run(self, pixels_BHWC):
            time.sleep(float(sys.argv[3]))
            return super().run(pixels_BHWC)

    storage._RACY_NS = -3_600 * 10**9
    extraction._FLUSH = 8
    features, _ = run_pass(Path(sys.argv[1]), open_data(sys.argv[2]), Slow())
    print(features.computed, features.reused)
""")


def start_pass(folder: Path, data: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that runs one pass, with a pause before each batch."""
    return subprocess.Popen([sys.executable, "-c", _PASS, str(folder), str(data), str(seconds)], text=True,
                            cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stored(folder: Path) -> int:
    """Rows that the store in a folder holds, 0 while there is none."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'index.sqlite'}?mode=ro", uri=True)) as db:
            count = int(db.execute("SELECT COUNT(*) FROM rows").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    return count


def assert_sound(folder: Path) -> None:
    """Every row lies in its shard, at a place of its own."""
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        places = db.execute("SELECT shard, row FROM rows").fetchall()
        assert len(places) == len(set(places))
        for shard, file, rows in db.execute("SELECT id, file, rows FROM shards"):
            assert sorted(row for s, row in places if s == shard) == list(range(rows))
            assert (folder / file).stat().st_size >= rows * 11 * 4


@pytest.mark.parametrize("wait_for", [1, 40])
def test_a_killed_pass_goes_on_where_it_was(tmp_path: Path, folder: Path, wait_for: int) -> None:
    index = write_pictures(tmp_path / "data", 120)
    process = start_pass(folder, tmp_path / "data", 0.02)
    limit = time.monotonic() + 60
    while stored(folder) < wait_for and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was in the middle"
    before = stored(folder)
    assert wait_for <= before < 120
    features, found = run_pass(folder, index)
    assert counts(features) == (120 - before, before)
    _, undisturbed = run_pass(tmp_path / "undisturbed", index)
    np.testing.assert_array_equal(found, undisturbed)
    assert_sound(folder)


def test_two_processes_fill_one_store(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 120)
    processes = [start_pass(folder, tmp_path / "data", 0.005) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        computed, reused = map(int, out.split())
        assert computed + reused == 120
    features, found = run_pass(folder, index)
    assert counts(features) == (0, 120)
    _, undisturbed = run_pass(tmp_path / "undisturbed", index)
    np.testing.assert_array_equal(found, undisturbed)
    assert stored(folder) == 120
    assert_sound(folder)


def test_many_threads_open_one_fresh_store(folder: Path) -> None:
    """The first of all commands may be started twice."""
    failures: list[Exception] = []

    def fill(number: int) -> None:
        try:
            with FeatureStore(folder) as store, store.space(key_of()) as space:
                space.append([bytes([number, i] * 8) for i in range(5)], np.full((5, 11), number, np.float32))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(folder) == 60
    assert_sound(folder)


_HOLD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from regraft.extraction.store import FeatureStore
    from tests.test_store import key_of
    with FeatureStore(Path(sys.argv[1])) as store, store.space(key_of(weights=sys.argv[2])):
        print("open", flush=True)
        sys.stdin.read()
""")


def hold_space(folder: Path, weights: str) -> subprocess.Popen[str]:
    """A process that has a space open."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder), weights], text=True,
                               cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_what_a_living_process_uses_is_not_cleared(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 10)
    for weights in ("used", "idle"):
        run_pass(folder, index, weights=weights)
    process = hold_space(folder, "used")
    try:
        with FeatureStore(folder) as store:
            assert {s.about["weights"]: s.in_use for s in store.use().spaces} == {"used": True, "idle": False}
            assert store.trim(0) == 10 * 11 * 4
            assert [s.about["weights"] for s in store.use().spaces] == ["used"]
        assert counts(run_pass(folder, index, weights="used")[0]) == (0, 10)
        process.kill()
        process.communicate()
        assert len(list((folder / "leases").iterdir())) == 1, "a killed process leaves its lease behind"
        with FeatureStore(folder) as store:
            assert not store.use().spaces[0].in_use, "which counts no more"
            assert store.trim(0) == 10 * 11 * 4
            assert store.use().spaces == ()
        assert list((folder / "leases").iterdir()) == []
    finally:
        process.kill()
        process.communicate()


def test_a_space_that_is_open_and_empty_survives_clearing(tmp_path: Path, folder: Path) -> None:
    """A pass that has only just begun: what it then writes must be counted, or no limit would ever reach it."""
    index = write_pictures(tmp_path / "data", 4)
    engine = Colours()
    with FeatureStore(folder) as mine, mine.space(feature_key(_RULES, "w", engine)) as space:
        with FeatureStore(folder) as other:
            other.trim(0)
        extract(index, space, engine, _RULES, Silent(), _NEVER, 0)
        assert [s.images for s in mine.use().spaces] == [4]
    with FeatureStore(folder) as store:
        assert store.trim(0) == 4 * 11 * 4


# -- size ------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 10)
    each = 10 * 11 * 4
    for weights in ("first", "second", "third"):
        run_pass(folder, index, weights=weights)
    run_pass(folder, index, weights="first")
    with FeatureStore(folder) as store:
        assert store.use().bytes == 3 * each
        assert store.trim(3 * each) == 0
        assert store.trim(3 * each - 1) == each
        assert {s.about["weights"] for s in store.use().spaces} == {"first", "third"}
        assert store.trim(each) == each
        assert {s.about["weights"] for s in store.use().spaces} == {"first"}
        assert len(list(folder.glob("*.f32"))) == 1
    assert counts(run_pass(folder, index, weights="first")[0]) == (0, 10)
    assert counts(run_pass(folder, index, weights="second")[0]) == (10, 0)


def test_only_full_shards_that_are_too_many_go(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SHARD_BYTES", 10 * 11 * 4)
    index = write_pictures(tmp_path / "data", 30)
    _, before = run_pass(folder, index)
    with FeatureStore(folder) as store:
        assert store.trim(25 * 11 * 4) == 10 * 11 * 4
        assert store.use().spaces[0].images == 20
    features, after = run_pass(folder, index)
    assert counts(features) == (10, 20)
    np.testing.assert_array_equal(after, before)


def test_clearing_leaves_no_names(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 5)
    run_pass(folder, index)
    run_pass(folder, index, rules=replace(_RULES, fit="pad"))
    (folder / "0123456789ab-01234567.f32").write_bytes(b"left by a process that died")
    (folder / "mine.f32").write_bytes(b"a stranger's")
    with FeatureStore(folder) as store:
        assert store.use().files == 10
        assert store.trim(0) == 2 * 5 * 11 * 4
        use = store.use(2 * 5 * 11 * 4)
        assert (use.bytes, use.files, use.spaces) == (0, 0, ())
        assert "cleared" in repr(use)
        assert store.trim(0) == 0
    assert [file.name for file in folder.glob("*.f32")] == ["mine.f32"]
    assert b"00000.png" not in b"".join(file.read_bytes() for file in folder.glob("index.sqlite*"))
    assert counts(run_pass(folder, index)[0]) == (5, 0)


def test_views_without_features_are_forgotten(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 5)
    run_pass(folder, index, rules=replace(_RULES, fit="pad"))
    run_pass(folder, index)
    with FeatureStore(folder) as store:
        store.trim(5 * 11 * 4)
        assert store.use().files == 5


def test_use_tells_what_there_is(tmp_path: Path, folder: Path) -> None:
    run_pass(folder, write_pictures(tmp_path / "data", 5))
    with FeatureStore(folder) as store:
        use = store.use()
        assert (use.files, use.bytes, use.cleared_bytes) == (5, 5 * 11 * 4, 0)
        assert "5 images x 11" in repr(use)
        assert "colours" in repr(use)
        with store.space(key_of()):
            assert repr(store.use()).endswith("in use")


# -- damage ----------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[StoreError], folder: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


@pytest.mark.parametrize("damage", [
    lambda content: b"no database at all, but long enough to be looked at as one" * 20,
    lambda content: content[:100] + bytes(len(content) - 100),
    lambda content: content[:4096] + b"\xff" * (len(content) - 4096),
], ids=["text", "zeros", "pages"])
def test_a_damaged_index_says_what_to_do(tmp_path: Path, folder: Path, damage: Any) -> None:
    index = write_pictures(tmp_path / "data", 30)
    run_pass(folder, index)
    file = folder / "index.sqlite"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StoreError, match="delete that folder, or take another with --store DIR") as caught:
        run_pass(folder, index)
    one_line(caught, folder)
    shutil.rmtree(folder)
    assert counts(run_pass(folder, index)[0]) == (30, 0)


def test_another_format_is_refused(folder: Path) -> None:
    with FeatureStore(folder) as store:
        store._db.execute("UPDATE about SET format_version = 99")
    with pytest.raises(StoreError, match="format_version 99, this Regraft reads 1") as caught:
        FeatureStore(folder)
    one_line(caught, folder)


@pytest.mark.parametrize("kept", [0, 1, 10, 29])
def test_what_a_crash_took_from_a_shard_is_computed_anew(tmp_path: Path, folder: Path, kept: int) -> None:
    index = write_pictures(tmp_path / "data", 30)
    _, before = run_pass(folder, index)
    [shard] = folder.glob("*.f32")
    if kept:
        os.truncate(shard, kept * 11 * 4 + 3)
    else:
        shard.unlink()
    features, after = run_pass(folder, index)
    assert counts(features) == (30 - kept, kept)
    np.testing.assert_array_equal(after, before)
    assert_sound(folder)


def test_a_shard_cut_off_while_in_use(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 10)
    engine = Colours()
    with FeatureStore(folder) as store, store.space(feature_key(_RULES, "w", engine)) as space:
        features = extract(index, space, engine, _RULES, Silent(), _NEVER, 0)
        [shard] = folder.glob("*.f32")
        os.truncate(shard, 100)
        with pytest.raises(StoreError, match="was cut off while in use; run the command again") as caught:
            features.read(np.arange(10), ["mean"])
        one_line(caught, folder)
    assert counts(run_pass(folder, index)[0]) == (8, 2)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder(tmp_path: Path, folder: Path) -> None:
    index = write_pictures(tmp_path / "data", 4)
    run_pass(folder, index)
    folder.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="--store DIR") as caught:
            run_pass(folder, index)
        one_line(caught, folder)
    finally:
        folder.chmod(0o700)
    assert counts(run_pass(folder, index)[0]) == (0, 4)


def test_a_file_in_the_folders_place(folder: Path) -> None:
    folder.write_bytes(b"")
    with pytest.raises(StoreError, match="--store DIR") as caught:
        FeatureStore(folder)
    one_line(caught, folder)


def test_a_full_disk(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_pictures(tmp_path / "data", 150)
    really, calls = os.fsync, itertools.count()

    def full(handle: int) -> None:
        if next(calls) >= 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"No space left on device; [0-9,]+ bytes are free") as caught:
            run_pass(folder, index)
    one_line(caught, folder)
    assert_sound(folder)
    features, found = run_pass(folder, index)
    assert 0 < features.reused < 150
    assert sum(counts(features)) == 150
    _, undisturbed = run_pass(tmp_path / "undisturbed", index)
    np.testing.assert_array_equal(found, undisturbed)


def test_a_full_disk_under_the_index(folder: Path) -> None:
    """SQLite itself runs out of space and rolls back by itself."""
    with FeatureStore(folder) as store, store.space(key_of()) as space:
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        digests = [i.to_bytes(16, "big") for i in range(5000)]
        with pytest.raises(StoreError, match=r"disk is full.*try again, or take another") as caught:
            space.append(digests, np.zeros((5000, 11), np.float32))
        one_line(caught, folder)
        store._db.execute("PRAGMA max_page_count = 1000000")
        assert space.missing(digests) == set(digests)
        space.append(digests, np.ones((5000, 11), np.float32))
        assert space.missing(digests) == set()


def test_no_file_stays_open(tmp_path: Path, folder: Path) -> None:
    """A store that can't be opened is closed again; warnings of open databases are errors here."""
    import gc

    folder.mkdir()
    (folder / "index.sqlite").write_bytes(b"no database at all" * 100)
    for _ in range(3):
        with pytest.raises(StoreError):
            FeatureStore(folder)
    gc.collect()


# -- speed -----------------------------------------------------------------------------------------


def test_unchanged_files_are_recalled_fast(tmp_path: Path, folder: Path, unreadable: pytest.MonkeyPatch) -> None:
    """20,000 of them in well under a second of one core; a generous bound, for machines that do other things too."""
    data = tmp_path / "data" / "a"
    data.mkdir(parents=True)
    builder = IndexBuilder([str(tmp_path / "data")])
    known = []
    for number in range(20_000):
        name = data / f"{number}.png"
        name.touch()
        builder.add(f"a/{number}.png", ("a",), -1)
        state = FileState.of(name)
        assert state is not None
        digest = number.to_bytes(16, "big")
        known.append((state, digest, storage.Memory(digest, ("grey",))))
    index, engine = builder.build([]), Colours()
    key = feature_key(_RULES, "w", engine)
    with FeatureStore(folder) as store, store.space(key) as space:
        store.remember(known, key.view)
        space.append([digest for _, digest, _ in known], np.zeros((20_000, 11), np.float32))
        started = time.process_time()
        features = extract(index, space, engine, _RULES, Silent(), _NEVER, 0)
        for _ in range(5):
            features.read(np.arange(20_000), ["mean"])
        used = time.process_time() - started
    assert counts(features) == (0, 20_000)
    assert used < 3


def test_crops_of_one_photo_are_told_apart(tmp_path: Path, folder: Path) -> None:
    """Real pictures that share most of their pixels."""
    index = open_data(write_crops(tmp_path / "crops", 5, seed=3))
    features, _ = run_pass(folder, index)
    assert len(set(features.digests)) == 10


def test_what_small_numbers_can_not_hold_is_left_out_beside_the_features(tmp_path: Path) -> None:
    engine = Colours()
    with FeatureStore(tmp_path) as store, ExitStack() as spaces:
        keys = [feature_key(_RULES, "w", engine, (readout,)) for readout in engine.readouts]
        narrow, beside = (spaces.enter_context(store.space(key))
                          for key in (keys[0], replace(keys[1], numbers="float16")))
        route = Route(narrow, engine, beside)
        rows_ND = np.arange(22, dtype=np.float32).reshape(2, 11)
        route.append([b"a" * 16], rows_ND[:1])
        route.append([b"b" * 16], rows_ND[1:] * 1e5)
        assert route.missing([b"a" * 16, b"b" * 16, b"c" * 16]) == {b"b" * 16, b"c" * 16}
        assert not narrow.missing([b"a" * 16, b"b" * 16])
        np.testing.assert_array_equal(narrow.read(narrow.locate([b"b" * 16]), ["rows"]), rows_ND[1:, :8] * 1e5)
        np.testing.assert_array_equal(beside.read(beside.locate([b"a" * 16]), ["mean"]), rows_ND[:1, 8:])
