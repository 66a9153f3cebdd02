"""The one pass: files to view 0 to the frozen network to rows of the store. Nothing is computed twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import read_file
from regraft.data.view import view0, view_key
from regraft.engines.contract import Engine
from regraft.engines.processor import cores
from regraft.errors import DataError, ImageError
from regraft.extraction.forward import Forward
from regraft.extraction.ordered import ordered_map
from regraft.extraction.store import FeatureKey, FeatureStore, FileState, Memory, Space
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.images import ImageIndex, Quarantined
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing

#: Images between two commits to the store: what a killed pass computes again at most.
_FLUSH = 64

#: Files looked up in the store at a time.
_RECALL = 8192

#: Files that the store does not know by name that are looked into before an engine is chosen.
_LOOKED = 64

#: Files whose bytes are looked up together: first some, to see whether files were moved at all.
_FIRST_LOT, _LOT = 32, 512

#: Looks at a file's row and bytes on their way through the pass.
Watch = Callable[[int, bytes], None]


class Readable(Protocol):
    """Features of N images, wherever they come from."""

    def read(self, which: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:
        """Joined readouts of the given positions (0..N-1), float32 [M, D]."""


class Rows(Readable, Protocol):
    """Features of N images that a head can be fitted on, see :class:`Features`."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of the index that each image has, int64 [N], ascending."""

    @property
    def digests(self) -> tuple[bytes, ...]:
        """16 bytes for each; equal ones mean equal images."""

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Images of the index that have no features, with the reason."""

    def width(self, readout: str) -> int:
        """How many numbers a readout has."""


@dataclass(frozen=True)
class Route:
    """A way that images can take: through an engine into its space.

    An engine may give more than the space takes: what follows goes into the space ``beside`` it, where there is one.
    """

    space: Space
    engine: Engine
    beside: Space | None = None

    def missing(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those digests of which something has no row yet. Safe to call from any thread."""
        missing = self.space.missing(digests)
        return missing if self.beside is None else missing | self.beside.missing(digests)

    def append(self, digests: Sequence[bytes], features_ND: NDArray[np.float32]) -> None:
        """Add what the engine gave of N images, float32 [N, D].

        Raises OverflowError where the space's numbers are too small for it. Beside it such rows are left out: whoever
        wants them computes them in larger numbers.
        """
        width = self.space.key.dim
        self.space.append(digests, features_ND[:, :width])
        if self.beside is not None:
            with suppress(OverflowError):
                self.beside.append(digests, features_ND[:, width:])


@dataclass(frozen=True)
class Features:
    """Rows of the store for the readable images of an index.

    Attributes
    ----------
    spaces:
        What the rows are read from: a space each of the engines that computed them.
    of_N:
        Which of the spaces each of the N readable images is in, int64 [N].
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
    shifts:
        What is added to the rows of a space, by readout; see :func:`regraft.extraction.alignment.aligned`.
    """

    spaces: tuple[Space, ...]
    of_N: NDArray[np.int64]
    rows: NDArray[np.int64]
    digests: tuple[bytes, ...]
    quarantined: tuple[Quarantined, ...]
    computed: int
    reused: int
    notes: Counter[str] = field(default_factory=Counter)
    shifts: Mapping[Space, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)

    def read(self, which: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:
        """Joined readouts of the given positions (0..N-1), float32 [M, D]."""
        if len(self.spaces) == 1:
            return self.spaces[0].read(self._located_N2[which], readouts)
        read_MD = np.empty((len(which), sum(map(self.width, readouts))), np.float32)
        for number, space in enumerate(self.spaces):
            there = np.flatnonzero(self.of_N[which] == number)
            rows = space.read(self._located_N2[which[there]], readouts)
            if shift := self.shifts.get(space):
                rows += np.concatenate([shift[name] for name in readouts])
            read_MD[there] = rows
        return read_MD

    def width(self, readout: str) -> int:
        """How many numbers a readout has."""
        return self.spaces[0].width(readout)

    def engines(self, which: NDArray[np.int64]) -> dict[str, int]:
        """How many of the given positions each engine computed, by its key; engines of none are left out."""
        counts = np.bincount(self.of_N[which], minlength=len(self.spaces))
        return {space.key.engine: int(count) for space, count in zip(self.spaces, counts, strict=True) if count}

    @cached_property
    def _located_N2(self) -> NDArray[np.int64]:
        """Where each row lies, looked up once: nothing of an open space moves."""
        located_N2 = np.empty((len(self.digests), 2), np.int64)
        for number, space in enumerate(self.spaces):
            there = np.flatnonzero(self.of_N == number)
            located_N2[there] = space.locate([self.digests[int(row)] for row in there])
        return located_N2


@dataclass(frozen=True)
class _Seen:
    """What one worker found out about one file."""

    row: int
    state: FileState | None = None
    content: bytes = b""
    memory: Memory | None = None
    there: int | None = None  # the route that has features of it already
    pixels: NDArray[np.uint8] | None = None
    error: str | None = None


def feature_key(rules: Preprocessing, weights: str, engine: Engine, readouts: Sequence[Readout] = ()) -> FeatureKey:
    """The space that an engine's features of a network's weights under a preprocessing belong to.

    With ``readouts``, the first of what the engine gives, those alone.
    """
    return FeatureKey(view_key(rules), weights, tuple(readouts) or engine.readouts, engine.key, rules.mean, rules.std)


def extract(index: ImageIndex, space: Space, engine: Engine, rules: Preprocessing, progress: Progress,
            deadline: Deadline, max_quarantined: float, watch: Watch | None = None) -> Features:
    """Make sure that the store holds the features of every readable image of the index.

    With ``watch``, every file is read, known or not, and its row and bytes are handed over, from several threads; an
    ImageError that it raises counts as the file's own.

    Raises DataError if more than the share ``max_quarantined`` can't be read, and TimeLimitError at the
    deadline; what is computed until then stays in the store.
    """
    return extract_by(index, [Route(space, engine)], np.zeros(len(index), np.int64), rules, progress, deadline,
                      max_quarantined, watch)


def extract_by(index: ImageIndex, routes: Sequence[Route], route_N: NDArray[np.int64], rules: Preprocessing,
               progress: Progress, deadline: Deadline, max_quarantined: float, watch: Watch | None = None,
               memories: Sequence[Memory | None] | None = None) -> Features:
    """The same by several routes of one store: ``route_N`` says which route computes each of the index's N images.

    An image that another of the routes has features of already is not computed again. ``memories`` are what
    :func:`recalled` gave a moment ago, for who needs it besides.
    """
    view = view_key(rules)
    known: list[tuple[Memory, int] | None] = [None] * len(index)
    if watch is None:
        known = _known(recalled(index, routes[0].space.store, view) if memories is None else memories, routes, route_N)
    done = [None if found is None else found[0] for found in known]
    of_N = np.array([-1 if found is None else found[1] for found in known], np.int64)
    todo = [row for row, memory in enumerate(done) if memory is None]
    errors: dict[int, str] = {}
    with workers() as pool, progress.task("reading images" if todo else "images known", len(index)) as task:
        task.advance(len(index) - len(todo))
        if watch is None:
            for moved in _moved(index, todo, routes, route_N, view, pool):
                for row, (memory, route) in moved.items():
                    done[row], of_N[row] = memory, route
                task.advance(len(moved))
                deadline.check(lambda: "no features were computed yet")
            todo = [row for row in todo if done[row] is None]
        run = _Pass(routes, view, pool)

        def look(row: int) -> _Seen:
            return _look(row, index.place(row), rules, view, run, int(route_N[row]), watch)

        with closing(ordered_map(look, todo, pool=pool)) as seen_in_order:
            try:
                for seen in seen_in_order:
                    if seen.error is not None:
                        errors[seen.row] = seen.error
                    else:
                        done[seen.row], of_N[seen.row] = run.take(seen, int(route_N[seen.row]))
                    task.advance()
                    if deadline.passed:
                        run.finish()
                        deadline.check(lambda: f"the features of {sum(m is not None for m in done):,} of "
                                       f"{len(index):,} images are kept; the same command goes on from there")
                run.finish()
            finally:
                run.salvage()
    rows = np.array([row for row, memory in enumerate(done) if memory is not None], np.int64)
    kept = [memory for memory in done if memory is not None]
    quarantined = tuple(Quarantined(index.paths[row], reason) for row, reason in sorted(errors.items()))
    refuse_too_many(quarantined, len(index), max_quarantined)
    notes = Counter(_kind(note) for memory in kept for note in memory.notes)
    return Features(tuple(route.space for route in routes), of_N[rows], rows, tuple(m.digest for m in kept),
                    quarantined, run.computed, len(kept) - run.computed, notes)


def extract_view(files: Sequence[Path], digests: Sequence[bytes], route: Route,
                 pixels: Callable[[bytes, bytes], NDArray[np.uint8]], title: str, progress: Progress,
                 deadline: Deadline) -> int:
    """Make sure that a route's space holds one view of each image; returns how many were computed.

    ``digests`` name the images, ``pixels`` makes the view of (a file's bytes, its digest). Raises ImageError for
    a file that can't be read any more, OverflowError where the space's numbers are too small for the activations.
    """
    missing = route.missing(digests)
    todo = [(file, digest) for digest, file in dict(zip(digests, files, strict=True)).items() if digest in missing]
    rows: list[tuple[bytes, NDArray[np.float32]]] = []

    def write() -> None:
        if rows:
            route.append([digest for digest, _ in rows], np.stack([row for _, row in rows]))
            rows.clear()

    def look(item: tuple[Path, bytes]) -> tuple[bytes, NDArray[np.uint8]]:
        file, digest = item
        return digest, pixels(read_file(file), digest)

    if not todo:
        return 0
    with (workers() as pool, progress.task(title, len(todo)) as task,
          closing(ordered_map(look, todo, pool=pool)) as seen_in_order):
        forward: Forward[bytes] = Forward(route.engine, pool)
        for digest, view in seen_in_order:
            forward.put(digest, view)
            rows += forward.ready()
            if len(rows) >= _FLUSH:
                write()
            task.advance()
            deadline.check(lambda: "what was computed of the views is kept")
        rows += forward.finish()
        write()
    return len(todo)


def recalled(index: ImageIndex, store: FeatureStore, view: str) -> list[Memory | None]:
    """What the store remembers of each unchanged file of an index under a view; None for the others."""
    files = index.places()
    found: list[Memory | None] = []
    while states := [FileState.of(file) for file in islice(files, _RECALL)]:
        found += store.recall_files(states, view)
    return found


def _known(memories: Sequence[Memory | None], routes: Sequence[Route], route_N: NDArray[np.int64],
           ) -> list[tuple[Memory, int] | None]:
    """What needs no work: memory and route of each unchanged file whose pixels have features, None for the others."""
    digests = [m.digest for m in memories if m is not None]
    missing = [route.missing(digests) for route in routes]
    done: list[tuple[Memory, int] | None] = []
    for memory, own in zip(memories, route_N.tolist(), strict=True):
        have = [] if memory is None else [n for n, of in enumerate(missing) if memory.digest not in of]
        done.append(None if memory is None or not have else (memory, own if own in have else have[0]))
    return done


def _moved(index: ImageIndex, todo: Sequence[int], routes: Sequence[Route], route_N: NDArray[np.int64], view: str,
           pool: Executor) -> Iterator[dict[int, tuple[Memory, int]]]:
    """Memory and route of files that lie elsewhere than they did, by their bytes, lot by lot.

    Ends with the first lot that is new in the main: the pass itself looks at each file as closely, one by one.
    """
    store = routes[0].space.store
    if not any(store.holds(route.space.key) for route in routes):
        return
    start, lot = 0, _FIRST_LOT
    while start < len(todo):
        rows = todo[start:start + lot]
        per_thread = -(-len(rows) // cores())
        parts = [rows[at:at + per_thread] for at in range(0, len(rows), per_thread)]
        looked = [file for part in pool.map(lambda part: _contents(index, part), parts) for file in part]
        memories = store.recall_contents([content for _, _, content in looked], view)
        known = _known(memories, routes, route_N[[row for row, _, _ in looked]])
        found = [(file, route) for file, route in zip(looked, known, strict=True) if route is not None]
        store.remember([(state, content, memory) for (_, state, content), (memory, _) in found], view)
        yield {row: known for (row, _, _), known in found}
        if 2 * len(found) < len(rows):
            return
        start, lot = start + lot, _LOT


def _contents(index: ImageIndex, rows: Sequence[int]) -> list[tuple[int, FileState, bytes]]:
    """Row, state and SHA-256 of files; those that can't be read are left out."""
    found = []
    for row in rows:
        place = index.place(row)
        with suppress(ImageError):
            state = FileState.of(place)  # before reading, as in the pass
            content = hashlib.sha256(read_file(place)).digest()
            if state is not None:
                found.append((row, state, content))
    return found


def known_features(index: ImageIndex, store: FeatureStore, keys: Sequence[FeatureKey],
                   memories: Sequence[Memory | None] | None = None) -> list[NDArray[np.bool_]]:
    """Of which images each space has features, bool [N] for each of the keys, without reading all files.

    ``memories`` are what :func:`recalled` gave, where that is known.

    Of files that the store does not know by name, such as moved ones, some are looked into; the others are taken to
    be like their neighbours.
    """
    view = keys[0].view
    memories = recalled(index, store, view) if memories is None else list(memories)
    strange = [row for row, memory in enumerate(memories) if memory is None]
    if strange and any(store.holds(key) for key in keys):
        step = -(-len(strange) // _LOOKED)
        looked = _contents(index, strange[::step])
        found = dict(zip([row for row, _, _ in looked], store.recall_contents([c for *_, c in looked], view),
                         strict=True))
        for i, row in enumerate(strange):
            memories[row] = found.get(strange[i // step * step])
    digests = [m.digest for m in memories if m is not None]
    known = []
    for key in keys:
        missing = store.missing(key, digests)
        known.append(np.array([m is not None and m.digest not in missing for m in memories], np.bool_))
    return known


def _look(row: int, file: str, rules: Preprocessing, view: str, run: _Pass, route: int,
          watch: Watch | None) -> _Seen:
    """Read one file, and decode it unless its bytes are known. Runs in a worker thread."""
    try:
        state = FileState.of(file)  # Before reading: what changes meanwhile then shows in the next pass.
        data = read_file(file)
        if watch is not None:
            watch(row, data)
        content = hashlib.sha256(data).digest()
        [memory] = run.store.recall_contents([content], view)
        there = None if memory is None else run.found(memory.digest, route)
        if there is not None:
            return _Seen(row, state, content, memory, there)
        decoded = view0(data, rules)
        return _Seen(row, state, content, Memory(decoded.digest, decoded.notes), pixels=decoded.pixels)
    except ImageError as error:
        return _Seen(row, error=error.reason)


class _Pass:
    """Takes pictures to their engines and features to the store."""

    def __init__(self, routes: Sequence[Route], view: str, pool: Executor) -> None:
        self.store = routes[0].space.store
        self.computed = 0
        self._routes = routes
        self._view = view
        self._forward: list[Forward[bytes]] = [Forward(route.engine, pool) for route in routes]
        self._rows: list[list[tuple[bytes, NDArray[np.float32]]]] = [[] for _ in routes]
        self._known: list[tuple[FileState, bytes, Memory]] = []
        self._fresh: dict[bytes, int] = {}  # the route of each picture taken in this pass
        self._pending: set[bytes] = set()  # those of them that the store has not yet

    def found(self, digest: bytes, route: int) -> int | None:
        """The route, this one before others, that has features of these pixels, or has them on their way."""
        if digest in self._fresh:
            return self._fresh[digest]
        others = (n for n in range(len(self._routes)) if n != route)
        return next((n for n in (route, *others) if not self._routes[n].missing([digest])), None)

    def take(self, seen: _Seen, route: int) -> tuple[Memory, int]:
        """Accept one readable file; its memory, and the route that its features are of."""
        assert seen.memory is not None
        digest = seen.memory.digest
        there = self.found(digest, route) if seen.there is None else seen.there
        if there is None:
            assert seen.pixels is not None
            there = self._fresh[digest] = route
            self._pending.add(digest)
            self._forward[route].put(digest, seen.pixels)
            self._gather(Forward.ready)
        if seen.state is not None:
            self._known.append((seen.state, seen.content, seen.memory))
        if sum(map(len, self._rows)) >= _FLUSH or len(self._known) >= 4 * _FLUSH:
            self._write()
        return seen.memory, there

    def finish(self) -> None:
        """Run what waits, write what is computed."""
        self._gather(Forward.finish)
        self._write()

    def salvage(self) -> None:
        """Write what is computed; after a failure too, so that no work of the network is lost."""
        self._gather(Forward.salvage)
        self._write()

    def _gather(self, take: Callable[[Forward[bytes]], list[tuple[bytes, NDArray[np.float32]]]]) -> None:
        for rows, forward in zip(self._rows, self._forward, strict=True):
            new = take(forward)
            rows += new
            self.computed += len(new)

    def _write(self) -> None:
        for route, rows in zip(self._routes, self._rows, strict=True):
            if rows:
                route.append([digest for digest, _ in rows], np.stack([row for _, row in rows]))
                self._pending.difference_update(digest for digest, _ in rows)
                rows.clear()
        # A file whose pixels still wait for the network is remembered with a later batch.
        ready = [known for known in self._known if known[2].digest not in self._pending]
        if ready:
            self.store.remember(ready, self._view)
            self._known = [known for known in self._known if known[2].digest in self._pending]


@contextmanager
def workers() -> Iterator[Executor]:
    """One thread a core; what waits when it is left is never begun."""
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="regraft-decode")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _kind(note: str) -> str:
    """The kind of a note: the number of frames in it is not one."""
    return "first of several frames" if note.startswith("first of") else note


def refuse_too_many(quarantined: tuple[Quarantined, ...], total: int, share: float) -> None:
    """Raise DataError if more than a share of all images can't be read."""
    if len(quarantined) > share * total:
        examples = "; ".join(f"{shown(q.path)} {q.reason}" for q in quarantined[:3])
        raise DataError(f"{len(quarantined):,} of {total:,} images can't be read, more than the allowed share of "
                        f"{share:g}: {examples}; mend them or raise --max-quarantined")
