"""The feature store: content-addressed, shared by all runs of a user, in few large memory-mapped shards.

A *space* holds the features of one (view, weights, readouts, engine and precision); in it, a row belongs to
the digest of the pixels the network saw. A table of files remembers which digest a path had at which size and
time, and a table of contents which digest the bytes of a file had, so that unchanged files are not read again
and moved or renamed ones are not decoded again. An SQLite database holds the tables; rows live in flat
files. Rows are written and flushed before the transaction that names them is committed: a killed
process leaves at most bytes that nothing points to, and what a crash of the machine takes from a shard is
forgotten when its space is opened, and computed again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock
import numpy as np
import platformdirs
from numpy.typing import NDArray

from regraft.errors import StoreError
from regraft.records.base import Record
from regraft.records.networks import Readout

_FORMAT = 1

#: Rows take whole words of this many bytes, whatever their numbers are.
_WORD = 4

#: How numbers are kept. numpy has no bfloat16: it is the upper half of a float32.
_KEPT: dict[str, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}

Numbers = Literal["float32", "float16", "bfloat16"]

#: The folder in the store for what is known of the engines of a network, and the network written down for them.
#: Files in it begin with the digest of the network's tensors, so many digits of it.
ENGINES, ENGINES_DIGITS = "engines", 16

#: Bytes after which a shard is full.
_SHARD_BYTES = 256 * 2**20

#: What shards are called: the start of their space's name, and chance.
_SHARD_NAME = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}\.f32")

#: A file changed less than this long before it was looked at may change again within the clock's tick.
_RACY_NS = 2_000_000_000

#: Values in one query: SQLite's oldest limit is 999.
_CHUNK = 900

#: A space that holds at most so many times the rows that are asked for is read as a whole.
_SCANNED = 4

#: What SQLite says of a damaged database; anything else may pass by itself.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (format_version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spaces (
    id TEXT PRIMARY KEY, about TEXT NOT NULL, dim INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, space TEXT NOT NULL, file TEXT NOT NULL, rows INTEGER NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    space TEXT NOT NULL, digest BLOB NOT NULL, shard INTEGER NOT NULL, row INTEGER NOT NULL,
    PRIMARY KEY (space, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_by_shard ON rows (shard);
CREATE TABLE IF NOT EXISTS files (
    path BLOB NOT NULL, view TEXT NOT NULL, size INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, notes TEXT NOT NULL, PRIMARY KEY (path, view)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (
    content BLOB NOT NULL, view TEXT NOT NULL, digest BLOB NOT NULL, notes TEXT NOT NULL,
    PRIMARY KEY (content, view)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class FeatureKey(Record):
    """What decides features besides pixels: the name of a space.

    ``view`` is :func:`regraft.data.view.view_key`, ``weights`` the digest of the network with its tensors,
    ``engine`` the engine's key with device and precision, ``mean`` and ``std`` what it normalises with, ``numbers``
    how its rows are kept.
    """

    view: str
    weights: str
    readouts: tuple[Readout, ...]
    engine: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    numbers: Numbers = "float32"

    @functools.cached_property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def dim(self) -> int:
        """Numbers in a row."""
        return sum(readout.dim for readout in self.readouts)

    @property
    def words(self) -> int:
        """Words of 4 bytes that a row takes."""
        return row_bytes(self.dim, self.numbers) // _WORD


def row_bytes(dim: int, numbers: Numbers) -> int:
    """Bytes that a row of so many numbers takes: whole words."""
    return -(-dim * np.dtype(_KEPT[numbers]).itemsize // _WORD) * _WORD


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a file: the digest of its pixels under a view, and notes on its decoding."""

    digest: bytes
    notes: tuple[str, ...]


class FileState(NamedTuple):
    """A path with the size (bytes) and time of change (ns) it had when looked at.

    The time is the later of the content's and the file's own: another file moved here keeps its content's time.
    ``settled`` says whether a later change would surely show in these.
    """

    path: bytes
    size: int
    changed_ns: int
    settled: bool

    @classmethod
    def of(cls, path: str | Path) -> FileState | None:
        """The state of a path, or None where there is no such file."""
        now = time.time_ns()
        try:
            status = os.stat(path)  # noqa: PTH116 - text or path, a million times
            name = os.fsencode(path if os.path.isabs(path) else os.path.abspath(path))  # noqa: PTH117
        except (OSError, ValueError):  # A table may name what no system allows as a path.
            return None
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        return cls(name, status.st_size, changed, changed < now - _RACY_NS)


@dataclass(frozen=True, repr=False)
class SpaceUse(Record):
    """One space: what it belongs to, how much it holds."""

    id: str
    about: dict[str, Any]
    images: int
    bytes: int
    in_use: bool


@dataclass(frozen=True, repr=False)
class StoreUse(Record):
    """What the store holds and what was cleared."""

    folder: str
    bytes: int
    files: int
    spaces: tuple[SpaceUse, ...]
    cleared_bytes: int = 0

    def __repr__(self) -> str:
        lines = [f"feature store {self.folder}: {self.bytes / 2**20:,.1f} MiB, {self.files:,} files remembered"]
        for space in self.spaces:
            dims = sum(readout["dim"] for readout in space.about["readouts"])
            lines.append(f"  {space.id[:8]}  {space.images:>9,} images x {dims:,}  {space.bytes / 2**20:>9,.1f} MiB  "
                         f"{space.about['engine']}{'  in use' if space.in_use else ''}")
        if self.cleared_bytes:
            lines.append(f"cleared {self.cleared_bytes / 2**20:,.1f} MiB")
        return "\n".join(lines)


def default_folder() -> Path:
    """REGRAFT_STORE, or a folder in the user's cache."""
    return Path(os.environ.get("REGRAFT_STORE") or platformdirs.user_cache_path("regraft") / "features")


class FeatureStore:
    """The store in one folder. Use it as a context manager; several processes may share a folder."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else default_folder()
        self._lock = threading.RLock()
        with self._guard():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "leases").mkdir(exist_ok=True)
            self._db = sqlite3.connect(self.folder / "index.sqlite", timeout=60, isolation_level=None,
                                       check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._guard():
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            with self._transaction():
                for statement in _SCHEMA.strip().split(";\n"):
                    self._db.execute(statement)
                if self._db.execute("SELECT COUNT(*) FROM about").fetchone()[0] == 0:
                    self._db.execute("INSERT INTO about VALUES (?)", (_FORMAT,))
            (version,) = self._db.execute("SELECT format_version FROM about").fetchone()
        if version != _FORMAT:
            raise StoreError(f"the store {self.folder} has format_version {version}, this Regraft reads {_FORMAT}; "
                             "take another folder with --store")

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn what SQLite and the file system raise into one line."""
        try:
            yield
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
            raise StoreError(f"the feature store {self.folder} can't be used ({error}); "
                             f"{'delete that folder' if damaged else 'try again'}, or take another with --store DIR"
                             ) from None
        except OSError as error:
            free = f"; {shutil.disk_usage(self.folder).free:,} bytes are free" if self.folder.exists() else ""
            raise StoreError(f"the feature store {self.folder} can't be written ({error.strerror or error}{free}); "
                             "take another with --store DIR") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:  # A signal may raise as soon as the transaction has begun.
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back when the disk is full.
                    self._db.execute("ROLLBACK")
                raise

    def _select(self, query: str, first: str, values: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query that ends in ``= ? AND column IN``, for any number of values."""
        for start in range(0, len(values), _CHUNK):
            chunk = values[start:start + _CHUNK]
            with self._guard(), self._lock:
                rows = self._db.execute(f"{query} ({','.join('?' * len(chunk))})", (first, *chunk)).fetchall()
            yield from rows

    def _rows_of(self, query: str, first: str, column: str, values: Sequence[bytes], held: int,
                 ) -> Iterable[tuple[Any, ...]]:
        """Rows of a query that ends in ``= ?``: those of some values of a column, and perhaps of others.

        ``held`` is how many rows there are at most. Reading few more than are asked for, from end to end, takes a
        fraction of the time of asking for each.
        """
        if held > _SCANNED * len(values):
            return self._select(f"{query} AND {column} IN", first, values)
        with self._guard(), self._lock:
            return self._db.execute(query, (first,)).fetchall()

    def _number(self, query: str, value: str | int) -> int:
        """The one number that a query gives."""
        with self._guard(), self._lock:
            return int(self._db.execute(query, (value,)).fetchone()[0])

    # -- what is remembered of files ---------------------------------------------------------------

    def recall_files(self, states: Sequence[FileState | None], view: str) -> list[Memory | None]:
        """What is remembered of unchanged files, None for the others."""
        paths = [state.path for state in states if state is not None]
        held = self._number("SELECT COUNT(*) FROM (SELECT 1 FROM files LIMIT ?)", _SCANNED * len(paths) + 1)
        found = {(path, size, changed): (digest, notes) for path, size, changed, digest, notes in self._rows_of(
            "SELECT path, size, changed_ns, digest, notes FROM files WHERE view = ?", view, "path", paths, held)}
        kept = [None if s is None else found.get((s.path, s.size, s.changed_ns)) for s in states]
        return [None if row is None else Memory(row[0], _notes(row[1])) for row in kept]

    def recall_contents(self, contents: Sequence[bytes], view: str) -> list[Memory | None]:
        """What is remembered of files with these SHA-256, wherever they lie now. Safe to call from any thread."""
        found = {content: Memory(digest, _notes(notes)) for content, digest, notes in self._select(
            "SELECT content, digest, notes FROM contents WHERE view = ? AND content IN", view, contents)}
        return [found.get(content) for content in contents]

    def remember(self, known: Sequence[tuple[FileState, bytes, Memory]], view: str) -> None:
        """Keep the memory of files: state, SHA-256 of the bytes, digest of the pixels."""
        files = [(s.path, view, s.size, s.changed_ns, m.digest, json.dumps(m.notes)) for s, _, m in known if s.settled]
        contents = [(content, view, m.digest, json.dumps(m.notes)) for _, content, m in known]
        with self._guard(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", files)
            self._db.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", contents)

    # -- spaces ------------------------------------------------------------------------------------

    def holds(self, key: FeatureKey) -> bool:
        """Whether there are any features in a space."""
        with self._guard(), self._lock:
            return self._db.execute("SELECT 1 FROM rows WHERE space = ? LIMIT 1", (key.id,)).fetchone() is not None

    def missing(self, key: FeatureKey, digests: Sequence[bytes]) -> set[bytes]:
        """Those digests that have no row in a space yet. Safe to call from any thread."""
        wanted = set(digests)
        return wanted - self._places(key.id, wanted).keys()

    def _places(self, space: str, digests: Collection[bytes]) -> dict[bytes, tuple[int, int]]:
        """Shard and row of those digests that have one in a space, and perhaps of others."""
        held = self._number("SELECT COALESCE(SUM(rows), 0) FROM shards WHERE space = ?", space)
        return {digest: (shard, row) for digest, shard, row in self._rows_of(
            "SELECT digest, shard, row FROM rows WHERE space = ?", space, "digest", list(digests), held)}

    @contextmanager
    def space(self, key: FeatureKey) -> Iterator[Space]:
        """Open, or begin, a space; while it is open nothing of it is cleared."""
        lease = filelock.FileLock(self.folder / "leases" / f"{key.id}-{os.getpid()}-{secrets.token_hex(4)}.lock")
        try:
            # Within the transaction, nobody can take the lease for one of a dead process before it is held.
            with self._guard(), self._transaction():
                lease.acquire()
                self._db.execute("INSERT OR IGNORE INTO spaces VALUES (?, ?, ?)",
                                 (key.id, json.dumps(key.to_dict()), key.words))
                self._forget_lost(key)
            yield Space(self, key)
        finally:
            lease.release()
            Path(lease.lock_file).unlink(missing_ok=True)

    def _forget_lost(self, key: FeatureKey) -> None:
        """Forget rows whose bytes are gone: a crash of the machine or a stranger's hand cut their shard off."""
        shards = self._db.execute("SELECT id, file, rows FROM shards WHERE space = ?", (key.id,)).fetchall()
        for shard, file, rows in shards:
            path = self.folder / file
            whole = path.stat().st_size // (key.words * _WORD) if path.is_file() else 0
            if whole < rows:
                self._db.execute("DELETE FROM rows WHERE shard = ? AND row >= ?", (shard, whole))
                self._db.execute("UPDATE shards SET rows = ? WHERE id = ?", (whole, shard))
                path.touch()

    def _in_use(self, space: str) -> bool:
        """Whether a living process has the space open; leases of dead ones are removed. Only in a transaction."""
        used = False
        for file in (self.folder / "leases").glob(f"{space}-*.lock"):
            lock = filelock.FileLock(file)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                used = True
            else:
                lock.release()
                file.unlink(missing_ok=True)
        return used

    # -- size --------------------------------------------------------------------------------------

    def use(self, cleared_bytes: int = 0) -> StoreUse:
        """What the store holds now."""
        with self._guard(), self._transaction():
            spaces = self._db.execute(
                "SELECT s.id, s.about, s.dim, COALESCE(SUM(h.rows), 0) FROM spaces s LEFT JOIN shards h "
                "ON h.space = s.id GROUP BY s.id ORDER BY MAX(h.used) DESC").fetchall()
            (files,) = self._db.execute("SELECT COUNT(*) FROM files").fetchone()
            used = tuple(SpaceUse(id_, json.loads(about), rows, rows * dim * _WORD, self._in_use(id_))
                         for id_, about, dim, rows in spaces)
            return StoreUse(str(self.folder), sum(u.bytes for u in used), files, used, cleared_bytes)

    def trim(self, limit: int) -> int:
        """Delete least recently used shards until at most ``limit`` bytes of features are left.

        Shards of spaces in use stay, even over the limit. Returns the bytes deleted.
        """
        freed = 0
        with self._guard(), self._transaction():
            shards = self._db.execute("SELECT h.id, h.space, h.rows * s.dim * ? FROM shards h JOIN spaces s "
                                      "ON s.id = h.space ORDER BY h.used, h.id", (_WORD,)).fetchall()
            total = sum(size for *_, size in shards)
            spaces = self._db.execute("SELECT id, about FROM spaces").fetchall()
            in_use = {space: self._in_use(space) for space, _ in spaces} if total > limit or not limit else {}
            for shard, space, size in shards:
                if total - freed <= limit:
                    break
                if not in_use[space]:
                    self._db.execute("DELETE FROM rows WHERE shard = ?", (shard,))
                    self._db.execute("DELETE FROM shards WHERE id = ?", (shard,))
                    freed += size
            if in_use:
                self._forget_empty({space: json.loads(about)["view"] for space, about in spaces}, in_use)
            # Files that no shard names: of those just deleted, and of processes that died while deleting.
            named = {file for (file,) in self._db.execute("SELECT file FROM shards")}
            removed = [f for f in self.folder.iterdir() if _SHARD_NAME.fullmatch(f.name) and f.name not in named]
            removed += self._unused_engines()
        with self._guard():
            for file in removed:
                file.unlink(missing_ok=True)
            if limit == 0:
                with self._lock:
                    self._db.execute("VACUUM")
        return freed

    def _unused_engines(self) -> list[Path]:
        """What is kept for the engines of networks of which there is no space any more."""
        kept = {json.loads(about)["weights"][:ENGINES_DIGITS] for (about,) in self._db.execute(
            "SELECT about FROM spaces")}
        return [file for file in (self.folder / ENGINES).glob("*") if file.name[:ENGINES_DIGITS] not in kept]

    def _forget_empty(self, views: Mapping[str, str], in_use: Mapping[str, bool]) -> None:
        """Forget spaces without features, and the files seen through views that no space has any more."""
        full = {space for (space,) in self._db.execute("SELECT DISTINCT space FROM shards")}
        left = {space for space in views if space in full or in_use[space]}
        for space in views.keys() - left:
            self._db.execute("DELETE FROM spaces WHERE id = ?", (space,))
        kept = {views[space] for space in left}
        known = {view for (view,) in self._db.execute("SELECT view FROM files UNION SELECT view FROM contents")}
        for view in known - kept:
            self._db.execute("DELETE FROM files WHERE view = ?", (view,))
            self._db.execute("DELETE FROM contents WHERE view = ?", (view,))


class Space:
    """Rows of one :class:`FeatureKey`; made by :meth:`FeatureStore.space`."""

    def __init__(self, store: FeatureStore, key: FeatureKey) -> None:
        self.store = store
        self.key = key
        ends = np.cumsum([readout.dim for readout in key.readouts])
        starts = ends - [readout.dim for readout in key.readouts]
        self._full = max(1, _SHARD_BYTES // (key.words * _WORD))  # rows of a full shard
        self._columns = {r.name: slice(int(a), int(b)) for r, a, b in zip(key.readouts, starts, ends, strict=True)}

    def missing(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those digests that have no row yet. Safe to call from any thread."""
        return self.store.missing(self.key, digests)

    def append(self, digests: Sequence[bytes], features_ND: NDArray[np.float32]) -> None:
        """Add rows: N digests, float32 [N, D]. Flushed to disk before they can be found.

        Digests that have a row keep it: another process may have been faster. Raises OverflowError for a number
        that float16 can't hold.
        """
        db = self.store._db
        with self.store._guard(), self.store._transaction():
            new = self.missing(digests)
            waiting = [(digest, i) for digest, i in {d: i for i, d in enumerate(digests)}.items() if digest in new]
            while waiting:
                shard, file, rows = self._open_shard()
                now, waiting = waiting[:self._full - rows], waiting[self._full - rows:]
                with (self.store.folder / file).open("r+b") as handle:
                    handle.seek(rows * self.key.words * _WORD)
                    handle.write(self._packed(features_ND[[i for _, i in now]]).data)
                    handle.flush()
                    os.fsync(handle.fileno())
                db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)",
                               [(self.key.id, d, shard, rows + n) for n, (d, _) in enumerate(now)])
                db.execute("UPDATE shards SET rows = ?, used = ? WHERE id = ?", (rows + len(now), time.time(), shard))

    def _packed(self, X_ND: NDArray[np.float32]) -> NDArray[np.generic]:
        """Rows as they are kept, filled up to whole words."""
        rows = np.zeros((len(X_ND), self._slots), _KEPT[self.key.numbers])
        if self.key.numbers == "bfloat16":
            bits = np.ascontiguousarray(X_ND, np.float32).view(np.uint32)
            # To the nearest, and to the even one of two that are equally near.
            rows[:, :self.key.dim] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        else:
            if self.key.numbers == "float16" and not np.abs(X_ND).max(initial=0) <= np.finfo(np.float16).max:
                raise OverflowError("a number is too large for float16")
            rows[:, :self.key.dim] = X_ND
        return rows

    @property
    def _slots(self) -> int:
        """Numbers a row has room for."""
        return self.key.words * _WORD // np.dtype(_KEPT[self.key.numbers]).itemsize

    def _open_shard(self) -> tuple[int, str, int]:
        """Number, file and rows of the shard to append to, a fresh one if all are full."""
        db = self.store._db
        last: tuple[int, str, int] | None = db.execute(
            "SELECT id, file, rows FROM shards WHERE space = ? AND rows < ? ORDER BY id DESC LIMIT 1",
            (self.key.id, self._full)).fetchone()
        if last is not None:
            return last
        file = f"{self.key.id[:12]}-{secrets.token_hex(4)}.f32"
        (self.store.folder / file).touch()
        made = db.execute("INSERT INTO shards (space, file, rows, used) VALUES (?, ?, 0, ?)",
                          (self.key.id, file, time.time()))
        return int(made.lastrowid or 0), file, 0

    def locate(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Shard and row of each digest, int64 [N, 2]; raises StoreError where one is missing."""
        places = self.store._places(self.key.id, set(digests))
        try:
            found = np.array([places[digest] for digest in digests], np.int64).reshape(-1, 2)
        except KeyError:
            raise StoreError("features vanished from the store while in use; run the command again") from None
        with self.store._guard(), self.store._transaction():
            self.store._db.executemany("UPDATE shards SET used = ? WHERE id = ?",
                                       [(time.time(), int(shard)) for shard in np.unique(found[:, 0])])
        return found

    def width(self, readout: str) -> int:
        """How many numbers a readout has."""
        column = self._columns[readout]
        return column.stop - column.start

    def read(self, located_N2: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:
        """The joined readouts of located rows, float32 [N, D], in their order."""
        columns = [self._columns[name] for name in readouts]
        out = np.empty((len(located_N2), sum(c.stop - c.start for c in columns)), np.float32)
        for shard in np.unique(located_N2[:, 0]):
            of_shard = np.flatnonzero(located_N2[:, 0] == shard)
            rows = self._map(int(shard))
            at = 0
            for column in columns:
                width = column.stop - column.start
                # Column after column in blocks: no copy larger than a block besides the result.
                for block in np.array_split(of_shard, max(1, len(of_shard) // 1024)):
                    part = rows[located_N2[block, 1], column]
                    if self.key.numbers == "bfloat16":
                        part = (part.astype(np.uint32) << 16).view(np.float32)
                    out[block, at:at + width] = part
                at += width
        return out

    def _map(self, shard: int) -> NDArray[Any]:
        with self.store._guard():
            with self.store._lock:
                file, rows = self.store._db.execute("SELECT file, rows FROM shards WHERE id = ?", (shard,)).fetchone()
            path = self.store.folder / file
            if not path.is_file() or path.stat().st_size < rows * self.key.words * _WORD:
                raise StoreError(f"the shard {path} was cut off while in use; run the command again, what is missing "
                                 "is computed anew")
            return np.memmap(path, _KEPT[self.key.numbers], "r", shape=(rows, self._slots))


@functools.lru_cache(maxsize=256)
def _notes(text: str) -> tuple[str, ...]:
    """Notes as they are kept; most files have the same few."""
    return tuple(json.loads(text))
