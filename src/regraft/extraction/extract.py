"""The one pass: files to view 0 to the frozen network to rows of the store. Nothing is computed twice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import read_file
from regraft.data.view import view0, view_key
from regraft.engines.contract import Engine
from regraft.errors import DataError, ImageError
from regraft.extraction.store import FeatureKey, FileState, Memory, Space
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.images import ImageIndex, Quarantined
from regraft.records.preprocessing import Preprocessing

#: Images between two commits to the store: what a killed pass computes again at most.
_FLUSH = 64

#: Files looked up in the store at a time.
_RECALL = 8192

#: Decoded images that may wait for the network, for each decoding thread: bounds memory.
_QUEUE = 8

#: Looks at a file's row and bytes on their way through the pass.
Watch = Callable[[int, bytes], None]

_T = TypeVar("_T")
_R = TypeVar("_R")


class Rows(Protocol):
    """Features of N images that a head can be fitted on, wherever they come from; see :class:`Features`."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of the index that each image has, int64 [N], ascending."""

    @property
    def digests(self) -> tuple[bytes, ...]:
        """16 bytes for each; equal ones mean equal images."""

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Images of the index that have no features, with the reason."""

    def read(self, which: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:
        """Joined readouts of the given positions (0..N-1), float32 [M, D]."""

    def width(self, readout: str) -> int:
        """How many numbers a readout has."""


@dataclass(frozen=True)
class Features:
    """Rows of the store for the readable images of an index.

    Attributes
    ----------
    rows:
        Row of the index that each of the N readable images has, int64 [N], ascending.
    digests:
        Digest of the pixels of each, N times 16 bytes.
    quarantined:
        The others, with the reason.
    computed, reused:
        Images that went through the network in this pass, and images that did not need to.
    notes:
        How often each kind of conversion was needed.
    """

    space: Space
    rows: NDArray[np.int64]
    digests: tuple[bytes, ...]
    quarantined: tuple[Quarantined, ...]
    computed: int
    reused: int
    notes: Counter[str] = field(default_factory=Counter)

    def read(self, which: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:
        """Joined readouts of the given positions (0..N-1), float32 [M, D]."""
        return self.space.read(self._located_N2[which], readouts)

    def width(self, readout: str) -> int:
        """How many numbers a readout has."""
        return self.space.width(readout)

    @cached_property
    def _located_N2(self) -> NDArray[np.int64]:
        """Where each row lies, looked up once: nothing of an open space moves."""
        return self.space.locate(self.digests)


@dataclass(frozen=True)
class _Seen:
    """What one worker found out about one file."""

    row: int
    state: FileState | None = None
    content: bytes = b""
    memory: Memory | None = None
    pixels: NDArray[np.uint8] | None = None
    error: str | None = None


def feature_key(rules: Preprocessing, weights: str, engine: Engine) -> FeatureKey:
    """The space that an engine's features of a network's weights under a preprocessing belong to."""
    return FeatureKey(view_key(rules), weights, engine.readouts, engine.key, rules.mean, rules.std)


def extract(index: ImageIndex, space: Space, engine: Engine, rules: Preprocessing, progress: Progress,
            deadline: Deadline, max_quarantined: float, watch: Watch | None = None) -> Features:
    """Make sure that the store holds the features of every readable image of the index.

    With ``watch``, every file is read, known or not, and its row and bytes are handed over, from several threads; an
    ImageError that it raises counts as the file's own.

    Raises DataError if more than the share ``max_quarantined`` can't be read, and TimeLimitError at the
    deadline; what is computed until then stays in the store.
    """
    view = view_key(rules)
    done = _known(index, space, view) if watch is None else [None] * len(index)
    todo = [row for row, memory in enumerate(done) if memory is None]
    run = _Pass(space, engine, view)
    errors: dict[int, str] = {}

    def look(row: int) -> _Seen:
        return _look(row, index.file(row), rules, view, run, watch)

    with (progress.task("reading images" if todo else "images known", len(index)) as task,
          closing(ordered_map(look, todo)) as seen_in_order):
        task.advance(len(index) - len(todo))
        try:
            for seen in seen_in_order:
                if seen.error is not None:
                    errors[seen.row] = seen.error
                else:
                    done[seen.row] = run.take(seen)
                task.advance()
                if deadline.passed:
                    run.finish()
                    deadline.check(lambda: f"the features of {sum(m is not None for m in done):,} of {len(index):,} "
                                   "images are kept; the same command goes on from there")
            run.finish()
        finally:
            run.write()
    rows = np.array([row for row, memory in enumerate(done) if memory is not None], np.int64)
    kept = [memory for memory in done if memory is not None]
    quarantined = tuple(Quarantined(index.paths[row], reason) for row, reason in sorted(errors.items()))
    refuse_too_many(quarantined, len(index), max_quarantined)
    notes = Counter(_kind(note) for memory in kept for note in memory.notes)
    return Features(space, rows, tuple(m.digest for m in kept), quarantined, run.computed, len(kept) - run.computed,
                    notes)


def extract_view(files: Sequence[Path], digests: Sequence[bytes], space: Space, engine: Engine,
                 pixels: Callable[[bytes, bytes], NDArray[np.uint8]], title: str, progress: Progress,
                 deadline: Deadline) -> int:
    """Make sure that a space holds one view of each image; returns how many were computed.

    ``digests`` name the images, ``pixels`` makes the view of (a file's bytes, its digest). Raises ImageError for
    a file that can't be read any more, OverflowError where the space's numbers are too small for the activations.
    """
    missing = space.missing(digests)
    todo = [(file, digest) for digest, file in dict(zip(digests, files, strict=True)).items() if digest in missing]
    waiting: list[tuple[bytes, NDArray[np.uint8]]] = []
    rows: list[tuple[bytes, NDArray[np.float32]]] = []

    def run() -> None:
        rows.extend(zip((digest for digest, _ in waiting), run_finite(engine, np.stack([p for _, p in waiting])),
                        strict=True))
        waiting.clear()

    def write() -> None:
        if rows:
            space.append([digest for digest, _ in rows], np.stack([row for _, row in rows]))
            rows.clear()

    def look(item: tuple[Path, bytes]) -> tuple[bytes, NDArray[np.uint8]]:
        file, digest = item
        return digest, pixels(read_file(file), digest)

    if not todo:
        return 0
    with progress.task(title, len(todo)) as task, closing(ordered_map(look, todo)) as seen_in_order:
        for item in seen_in_order:
            waiting.append(item)
            if len(waiting) == engine.batch:
                run()
            if len(rows) >= _FLUSH:
                write()
            task.advance()
            deadline.check(lambda: "what was computed of the views is kept")
        if waiting:
            run()
        write()
    return len(todo)


def _known(index: ImageIndex, space: Space, view: str) -> list[Memory | None]:
    """What needs no work: the memory of each unchanged file whose pixels have features, None for the others."""
    done: list[Memory | None] = []
    files = (os.path.join(index.roots[root], path)  # noqa: PTH118 - a Path for each of a million takes seconds
             for root, path in zip(index.root_ids.tolist(), index.paths, strict=True))
    while states := [FileState.of(file) for file in islice(files, _RECALL)]:
        memories = space.store.recall_files(states, view)
        missing = space.missing([m.digest for m in memories if m is not None])
        done += [m if m is not None and m.digest not in missing else None for m in memories]
    return done


def _look(row: int, file: Path, rules: Preprocessing, view: str, run: _Pass, watch: Watch | None) -> _Seen:
    """Read one file, and decode it unless its bytes are known. Runs in a worker thread."""
    try:
        state = FileState.of(file)  # Before reading: what changes meanwhile then shows in the next pass.
        data = read_file(file)
        if watch is not None:
            watch(row, data)
        content = hashlib.sha256(data).digest()
        memory = run.space.store.recall_content(content, view)
        if memory is not None and not run.needs(memory.digest):
            return _Seen(row, state, content, memory)
        decoded = view0(data, rules)
        return _Seen(row, state, content, Memory(decoded.digest, decoded.notes), decoded.pixels)
    except ImageError as error:
        return _Seen(row, error=error.reason)


class _Pass:
    """Gathers batches for the engine and rows for the store."""

    def __init__(self, space: Space, engine: Engine, view: str) -> None:
        self.space = space
        self.computed = 0
        self._engine = engine
        self._view = view
        self._batch: dict[bytes, NDArray[np.uint8]] = {}
        self._rows: list[tuple[bytes, NDArray[np.float32]]] = []
        self._known: list[tuple[FileState, bytes, Memory]] = []
        self._fresh: set[bytes] = set()

    def needs(self, digest: bytes) -> bool:
        """Whether these pixels have no features yet, in the store or on their way there."""
        return digest not in self._fresh and bool(self.space.missing([digest]))

    def take(self, seen: _Seen) -> Memory:
        """Accept one readable file; runs the network once a batch is full."""
        assert seen.memory is not None
        digest = seen.memory.digest
        if seen.pixels is not None and self.needs(digest):
            self._fresh.add(digest)
            self._batch[digest] = seen.pixels
            if len(self._batch) == self._engine.batch:
                self._run()
        if seen.state is not None:
            self._known.append((seen.state, seen.content, seen.memory))
        if len(self._rows) >= _FLUSH or len(self._known) >= 4 * _FLUSH:
            self.write()
        return seen.memory

    def finish(self) -> None:
        """Run what waits, write what is computed."""
        if self._batch:
            self._run()
        self.write()

    def _run(self) -> None:
        features = run_finite(self._engine, np.stack(list(self._batch.values())))
        self._rows += zip(self._batch, features, strict=True)
        self.computed += len(self._batch)
        self._batch = {}

    def write(self) -> None:
        """Write what is computed; after a failure too, so that no work of the network is lost."""
        if self._rows:
            self.space.append([digest for digest, _ in self._rows], np.stack([row for _, row in self._rows]))
            self._rows = []
        # A file whose pixels still wait for the network is remembered with the next batch.
        ready = [known for known in self._known if known[2].digest not in self._batch]
        if ready:
            self.space.store.remember(ready, self._view)
            self._known = [known for known in self._known if known[2].digest in self._batch]


def run_finite(engine: Engine, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The engine's features of a batch, float32 [B, D]; raises DataError where a number is not finite."""
    features_BD = engine.run(pixels_BHWC)
    if not np.isfinite(features_BD).all():
        raise DataError("the network gives numbers that are not finite; its weights do not fit this preprocessing "
                        "or are damaged")
    return features_BD


def ordered_map(function: Callable[[_T], _R], items: Sequence[_T], workers: int | None = None,
                ahead: int | None = None) -> Generator[_R]:
    """Results in order, computed by one thread a core (or ``workers``; 0 for none), a bounded number ahead."""
    workers = _cores() if workers is None else workers
    if workers == 0:
        yield from map(function, items)
        return
    ahead = workers * _QUEUE if ahead is None else ahead
    waiting: deque[Future[_R]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="regraft-decode")
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    """Cores this process may run on; a container may have fewer than the machine."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _kind(note: str) -> str:
    """The kind of a note: the number of frames in it is not one."""
    return "first of several frames" if note.startswith("first of") else note


def refuse_too_many(quarantined: tuple[Quarantined, ...], total: int, share: float) -> None:
    """Raise DataError if more than a share of all images can't be read."""
    if len(quarantined) > share * total:
        examples = "; ".join(f"{shown(q.path)} {q.reason}" for q in quarantined[:3])
        raise DataError(f"{len(quarantined):,} of {total:,} images can't be read, more than the allowed share of "
                        f"{share:g}: {examples}; mend them or raise --max-quarantined")
