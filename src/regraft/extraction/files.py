"""Files of features: HDF5, NumPy, Parquet and safetensors, written whole and read row by row; nothing is unpickled.

Four columns and a few texts, the same in every format: ``features`` (float32 [N, ...]), ``labels`` (int32 [N], into
``classes``), ``paths``, ``splits`` and ``digests`` (uint8 [N, 16], of the pixels). A file made elsewhere needs
``features`` and ``labels`` only.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.data.index import SPLIT_NAMES
from regraft.errors import DataError, MissingExtraError, RegraftError, UsageError
from regraft.records.base import shown
from regraft.records.features import FeatureOrigin
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, IndexBuilder
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing

_FORMAT = 1

#: Endings, and the format that each means.
ENDINGS = {".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".parquet": "parquet", ".safetensors": "safetensors"}

#: What features are called that a file says nothing of.
UNKNOWN_LAYER = "features"

#: Bytes of features that are held at a time.
_BLOCK_BYTES = 16 * 2**20

#: Bytes of a chunk of HDF5, and of what an attribute may hold.
_CHUNK_BYTES = 2**20
_ATTRIBUTE_BYTES = 60_000

#: Bytes a row may take besides its numbers: label, split, digest, and its path in 4 bytes a character.
_ROW_BYTES = 512

_DIGEST_BYTES = 16

Blocks = Iterable[NDArray[np.float32]]


@dataclass(frozen=True)
class Columns:
    """What stands beside the features of N images: labels int32 [N], splits int8 [N], paths, digests uint8 [N, 16]."""

    labels_N: NDArray[np.int32]
    splits_N: NDArray[np.int8]
    paths: Sequence[str]
    digests_NB: NDArray[np.uint8]

    def split_names(self) -> list[str]:
        """The name of each image's split, empty without one."""
        return ["" if split == NO_SPLIT else SPLITS[split] for split in self.splits_N]


def format_of(path: Path) -> str:
    """The format that a file's ending means; raises UsageError for another.

    Raises MissingExtraError where the format's library is not installed.
    """
    found = ENDINGS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"{shown(path.name)} has no ending that says how to write features; take one of "
                         f"{', '.join(ENDINGS)}")
    if found == "hdf5":
        _h5py()
    elif found == "parquet":
        _parquet()
    return found


def forecast(most: int, shape: tuple[int, ...], path: Path, counted: bool) -> int:
    """Bytes that writing takes at most; ``counted`` says whether the number of rows is known before the first.

    HDF5 grows by row; the other formats state their number first, so uncounted rows are laid beside them before.
    """
    numbers = most * math.prod(shape) * 4
    return numbers * (1 if counted or format_of(path) == "hdf5" else 2) + most * _ROW_BYTES + 2**16


def write(path: Path, kind: str, blocks: Blocks, most: int, shape: tuple[int, ...], *, counted: bool,
          columns: Callable[[], Columns], classes: Sequence[str], origin: FeatureOrigin) -> None:
    """Write blocks of features float32 [n, *shape], at most ``most`` rows (exactly, where ``counted``).

    ``columns`` is asked once the blocks are at their end.
    """
    about = _texts(origin, classes, shape)
    if kind == "hdf5":
        _write_hdf5(path, blocks, most, shape, columns, about)
    elif counted:
        _COUNTED[kind](path, blocks, most, shape, columns(), about)
    else:
        with _laid_down(blocks, shape, path.parent) as (rows, again):
            _COUNTED[kind](path, again, rows, shape, columns(), about)


@contextmanager
def _laid_down(blocks: Blocks, shape: tuple[int, ...], folder: Path) -> Iterator[tuple[int, Blocks]]:
    """The number of rows of the blocks, and the blocks again, from a file that vanishes."""
    with tempfile.TemporaryFile(dir=folder) as file:
        rows = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").data)
            rows += len(block)
        file.seek(0)
        yield rows, _from_stream(file, np.dtype("<f4"), rows, shape)


def _texts(origin: FeatureOrigin, classes: Sequence[str], shape: tuple[int, ...]) -> dict[str, str]:
    """Everything about the features as texts; lists and records as JSON."""
    return {
        "format_version": str(_FORMAT), "classes": json.dumps([_clean(c) for c in classes], ensure_ascii=False),
        "backbone": origin.backbone, "weights_digest": origin.weights_digest, "licence": origin.licence or "",
        "layer": origin.layer, "node": origin.node, "pooling": origin.pooling, "shape": json.dumps(shape),
        "engine": origin.engine, "preprocessing": json.dumps(origin.preprocessing.to_dict()),
    }


def _clean(text: str) -> str:
    """A text that every format can hold: bytes that are no text are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# -- writing ---------------------------------------------------------------------------------------


def _write_hdf5(path: Path, blocks: Blocks, most: int, shape: tuple[int, ...], columns: Callable[[], Columns],
                about: Mapping[str, str]) -> None:
    h5py = _h5py()
    text = h5py.string_dtype()
    rows = max(1, min(most, _CHUNK_BYTES // (4 * math.prod(shape))))
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (most, *shape), "<f4", chunks=(rows, *shape),
                                       maxshape=(None, *shape))
        at = 0
        for block in blocks:
            features[at:at + len(block)] = block
            at += len(block)
        features.resize(at, 0)
        beside = columns()
        file["labels"] = beside.labels_N
        file["digests"] = beside.digests_NB
        file.create_dataset("paths", data=[_clean(p) for p in beside.paths], dtype=text)
        file.create_dataset("splits", data=beside.split_names(), dtype=text)
        for name, value in about.items():
            if name == "classes":
                names = json.loads(value)
                # A list of texts takes 16 bytes each in an attribute, and an attribute holds 64 KiB.
                if 16 * len(names) < _ATTRIBUTE_BYTES:
                    file.attrs.create("classes", names, dtype=text)
                else:
                    file.create_dataset("classes", data=names, dtype=text)
            else:
                file.attrs[name] = value


def _write_npz(path: Path, blocks: Blocks, rows: int, shape: tuple[int, ...], columns: Columns,
               about: Mapping[str, str]) -> None:
    layout = np.lib.format
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            layout.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, *shape)})
            for block in blocks:
                file.write(np.ascontiguousarray(block, "<f4").data)
        arrays: dict[str, NDArray[Any]] = {
            "labels": columns.labels_N, "digests": columns.digests_NB,
            "paths": np.array([_clean(p) for p in columns.paths], np.str_),
            "splits": np.array(columns.split_names(), np.str_),
            "classes": np.array(json.loads(about["classes"]), np.str_),
            **{name: np.array(value, np.str_) for name, value in about.items() if name != "classes"},
        }
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                layout.write_array(file, array, allow_pickle=False)


def _write_parquet(path: Path, blocks: Blocks, rows: int, shape: tuple[int, ...], columns: Columns,
                   about: Mapping[str, str]) -> None:
    pa, parquet = _parquet()
    classes = json.loads(about["classes"])
    width = math.prod(shape)
    # One column of lists of one length: a column a number would be thousands, each with its own pages and statistics.
    schema = pa.schema([
        ("features", pa.list_(pa.float32(), width)), ("label", pa.string()), ("path", pa.string()),
        ("split", pa.string()), ("digest", pa.binary(_DIGEST_BYTES))], dict(about))
    labels, splits = columns.labels_N, columns.split_names()
    with parquet.ParquetWriter(path, schema) as writer:
        at = 0
        for block in blocks:
            part = slice(at, at + len(block))
            writer.write_table(pa.table([
                pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(block, np.float32).ravel()), width),
                pa.array([classes[label] for label in labels[part]], pa.string()),
                pa.array([_clean(p) for p in columns.paths[part]], pa.string()),
                pa.array(splits[part], pa.string()),
                pa.array([row.tobytes() for row in columns.digests_NB[part]], pa.binary(_DIGEST_BYTES)),
            ], schema=schema))
            at += len(block)


def _write_safetensors(path: Path, blocks: Blocks, rows: int, shape: tuple[int, ...], columns: Columns,
                       about: Mapping[str, str]) -> None:
    """This format holds no texts: paths are UTF-8 end to end, with the end of each; splits are -1, 0, 1 or 2."""
    paths = [_clean(p).encode() for p in columns.paths]
    tensors: dict[str, NDArray[Any]] = {
        "labels": columns.labels_N.astype("<i4"), "path_ends": np.cumsum([len(p) for p in paths], dtype="<i8"),
        "splits": columns.splits_N, "digests": columns.digests_NB, "paths": np.frombuffer(b"".join(paths), np.uint8),
    }
    kinds = {"<i4": "I32", "<i8": "I64", "|i1": "I8", "|u1": "U8"}
    at = rows * math.prod(shape) * 4
    header: dict[str, Any] = {"__metadata__": dict(about), "features": {
        "dtype": "F32", "shape": [rows, *shape], "data_offsets": [0, at]}}
    for name, tensor in tensors.items():
        header[name] = {"dtype": kinds[tensor.dtype.str], "shape": list(tensor.shape),
                        "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").data)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)


_COUNTED: dict[str, Callable[[Path, Blocks, int, tuple[int, ...], Columns, Mapping[str, str]], None]] = {
    "npz": _write_npz, "parquet": _write_parquet, "safetensors": _write_safetensors,
}


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """What a format gives of a file; None where the file does not say."""

    shape: tuple[int, ...]  # of all features, images first
    blocks: Callable[[], Iterator[NDArray[Any]]]
    labels: NDArray[Any]
    classes: Sequence[str] | None
    paths: Sequence[str] | None
    splits: NDArray[np.int8] | None
    digests: NDArray[np.uint8] | None
    about: Mapping[str, str]


class FeatureFile:
    """A file of features, opened: its images as an index, its features row by row. Made by :func:`open_features`.

    ``origin`` is what made the features, None where the file does not say.
    """

    def __init__(self, path: Path, opened: _Opened, index: ImageIndex, origin: FeatureOrigin | None) -> None:
        self.path = path
        self.index = index
        self.origin = origin
        self._opened = opened
        dim = math.prod(opened.shape[1:])
        self.readout = Readout(UNKNOWN_LAYER, "", "none", dim) if origin is None else origin.readout(dim)

    def rows_of(self, index: ImageIndex) -> NDArray[np.int64]:
        """Where the images of an index made from :attr:`index` lie in the file, int64 [M]."""
        row_of = {path: row for row, path in enumerate(self.index.paths)}
        return np.fromiter((row_of[path] for path in index.paths), np.int64, len(index))

    def read(self, rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features of rows, flattened, float32 [M, D]; raises DataError for a number that is not finite."""
        out = np.empty((len(rows_M), self.readout.dim), np.float32)
        order = np.argsort(rows_M, kind="stable")
        ordered, at = rows_M[order], 0
        for block in self._blocks():
            first, last = np.searchsorted(ordered, (at, at + len(block)))
            out[order[first:last]] = block[ordered[first:last] - at]
            at += len(block)
        bad = np.flatnonzero(~np.isfinite(out).all(1))
        if len(bad):
            raise DataError(f"{shown(self.path.name)}: the features of {shown(self.index.paths[int(rows_M[bad[0]])])} "
                            f"hold a number that is not finite ({len(bad):,} such rows); mend them or leave them out")
        return out

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """16 bytes for each image: of its pixels, or of its features where the file does not know the pixels."""
        if self._opened.digests is not None:
            return tuple(row.tobytes() for row in self._opened.digests)
        return tuple(hashlib.sha256(row.tobytes()).digest()[:_DIGEST_BYTES]
                     for block in self._blocks() for row in block)

    @property
    def knows_pixels(self) -> bool:
        """Whether :attr:`digests` are of pixels."""
        return self._opened.digests is not None

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        with _told(self.path):
            for block in self._opened.blocks():
                yield np.ascontiguousarray(block, np.float32).reshape(len(block), -1)


def is_feature_file(data: str | Path) -> bool:
    """Whether training data is a file of features; a Parquet file is one if it says so, else a table of images."""
    path = Path(data).expanduser()
    ending = path.suffix.lower()
    if ending not in ENDINGS or not path.is_file():
        return False
    if ending != ".parquet":
        return True
    try:
        _, parquet = _parquet()
        return b"weights_digest" in (parquet.read_schema(path).metadata or {})
    except (MissingExtraError, OSError, ValueError):  # The table's reader tells what is wrong.
        return False


def open_features(path: Path) -> FeatureFile:
    """Open a file of features, of ours or another's.

    Another's needs ``features`` ([N, D], or more dimensions, which are flattened) and ``labels`` (whole numbers,
    texts, or one-hot rows); ``classes``, ``paths`` and ``splits`` are used where they are there. Raises DataError.
    """
    kind = format_of(path)
    with _told(path):
        opened = _OPENERS[kind](path)
        version = opened.about.get("format_version")
        if version not in (None, str(_FORMAT)):
            raise DataError(f"{shown(path.name)} has format_version {version!r}; this Regraft reads {_FORMAT}")
        index = _index(path, opened)
        origin = _origin(opened.about)
    return FeatureFile(path, opened, index, origin)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into one line."""
    try:
        yield
    except RegraftError:
        raise
    except Exception as error:  # The libraries of the formats raise many types for a damaged file.
        reason = str(error).strip().splitlines()
        raise DataError(f"{shown(path.name)} is no readable file of features "
                        f"({reason[0] if reason else type(error).__name__})") from None


def _origin(about: Mapping[str, str]) -> FeatureOrigin | None:
    if "weights_digest" not in about:
        return None
    return FeatureOrigin.from_dict({
        "format_version": 1, "licence": about["licence"] or None,
        "preprocessing": Preprocessing.from_dict(json.loads(about["preprocessing"])),
        **{name: about[name] for name in ("backbone", "weights_digest", "layer", "node", "pooling", "engine")}})


def _index(path: Path, opened: _Opened) -> ImageIndex:
    name, rows = shown(path.name), opened.shape[0]
    if len(opened.shape) < 2 or not all(opened.shape):
        raise DataError(f"{name}: features {list(opened.shape)} are no rows of numbers; [images, numbers] is needed")
    labels, classes = _labels(name, opened.labels, opened.classes)
    lengths = {"labels": len(labels), "paths": rows if opened.paths is None else len(opened.paths),
               "splits": rows if opened.splits is None else len(opened.splits),
               "digests": rows if opened.digests is None else len(opened.digests)}
    wrong = [f"{count:,} {what}" for what, count in lengths.items() if count != rows]
    if wrong:
        raise DataError(f"{name} has {rows:,} rows of features but {', '.join(wrong)}; one each is needed")
    digests = opened.digests
    if digests is not None and (digests.dtype != np.uint8 or digests.shape[1:] != (_DIGEST_BYTES,)):
        raise DataError(f"{name}: digests must be uint8 [images, {_DIGEST_BYTES}]")
    paths = [f"row {row}" for row in range(rows)] if opened.paths is None else opened.paths
    if len(set(paths)) != rows:
        raise DataError(f"{name} lists a path more than once; leave one row an image")
    if opened.splits is not None and not NO_SPLIT <= opened.splits.min() <= opened.splits.max() < len(SPLITS):
        raise DataError(f"{name}: splits must be {', '.join(SPLITS)} or empty")
    builder = IndexBuilder([str(path.resolve())])
    for row, file in enumerate(paths):
        builder.add(file, (classes[labels[row]],), NO_SPLIT if opened.splits is None else int(opened.splits[row]))
    return builder.build(classes=classes)


def _labels(name: str, labels: NDArray[Any], classes: Sequence[str] | None) -> tuple[NDArray[np.int64], list[str]]:
    """The number of each image's class, and the names of the classes."""
    one_hot = labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iufb"
    if one_hot and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
        labels = labels.argmax(1)
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    if labels.ndim != 1:
        raise DataError(f"{name}: labels {list(labels.shape)} are not one label an image, nor one-hot rows")
    if labels.dtype.kind in "US":
        names = sorted(set(labels.tolist())) if classes is None else list(classes)
        number = {label: i for i, label in enumerate(names)}
        strange = sorted(set(labels.tolist()) - number.keys())
        if strange:
            raise DataError(f"{name}: the label {shown(strange[0])!r} is none of the file's classes")
        return np.array([number[label] for label in labels.tolist()], np.int64), names
    if labels.dtype.kind not in "iufb" or not (labels == np.floor(labels)).all():
        raise DataError(f"{name}: labels of type {labels.dtype} are no whole numbers or texts")
    whole = labels.astype(np.int64)
    if classes is None:
        values, found = np.unique(whole, return_inverse=True)
        return found.astype(np.int64), [str(value) for value in values]
    if len(set(classes)) != len(classes):
        raise DataError(f"{name} names a class more than once")
    if len(whole) and not 0 <= whole.min() <= whole.max() < len(classes):
        raise DataError(f"{name}: labels lie in {whole.min()}..{whole.max()}, its classes in 0..{len(classes) - 1}")
    return whole, list(classes)


def _split_numbers(names: Iterable[str]) -> NDArray[np.int8]:
    number = {"": NO_SPLIT, **SPLIT_NAMES}
    return np.array([number.get(name.lower(), len(SPLITS)) for name in names], np.int8)


def _rows_at_a_time(shape: Sequence[int]) -> int:
    return max(1, _BLOCK_BYTES // max(1, 4 * math.prod(shape[1:])))


def _from_stream(file: IO[bytes], dtype: np.dtype[Any], rows: int, shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Blocks of rows that lie one after another in a stream; raises DataError where it ends early."""
    size = dtype.itemsize * math.prod(shape)
    step = _rows_at_a_time((rows, *shape))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = file.read(count * size)
        if len(data) < count * size:
            raise DataError(f"the features end after row {start + len(data) // size:,} of {rows:,}: the file is "
                            "damaged")
        yield np.frombuffer(data, dtype).reshape(count, *shape)


def _numeric(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiub":
        raise DataError(f"features of type {dtype} are no numbers")


def _open_hdf5(path: Path) -> _Opened:
    h5py = _h5py()
    with h5py.File(path, "r") as file:
        columns = {name: file[name] for name in ("features", "labels", "paths", "splits", "digests", "classes")
                   if isinstance(file.get(name), h5py.Dataset)}
        _require(path, columns, list(file))
        _numeric(columns["features"].dtype)
        shape = tuple(columns["features"].shape)
        arrays = {name: _h5_array(h5py, column) for name, column in columns.items() if name != "features"}
        about = {name: value for name, value in file.attrs.items() if isinstance(value, str)}
        classes = file.attrs.get("classes", arrays.get("classes"))

    def blocks() -> Iterator[NDArray[Any]]:
        with h5py.File(path, "r") as file:
            step = _rows_at_a_time(shape)
            for start in range(0, shape[0], step):
                yield file["features"][start:start + step]

    return _Opened(shape, blocks, arrays["labels"], None if classes is None else [_as_text(c) for c in classes],
                   _texts_of(arrays.get("paths")), _splits_of(arrays.get("splits")), arrays.get("digests"), about)


def _h5_array(h5py: Any, column: Any) -> NDArray[Any]:
    if h5py.check_string_dtype(column.dtype) is not None:
        return np.array([_as_text(value) for value in column[()].ravel()], np.str_)
    array: NDArray[Any] = column[()]
    return array


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _texts_of(array: NDArray[Any] | None) -> list[str] | None:
    return None if array is None else [_as_text(value) for value in array.tolist()]


def _splits_of(array: NDArray[Any] | None) -> NDArray[np.int8] | None:
    if array is None or array.dtype.kind in "iu":
        return array
    return _split_numbers(_as_text(value) for value in array.tolist())


def _require(path: Path, there: Iterable[str], found: Sequence[str]) -> None:
    missing = [name for name in ("features", "labels") if name not in there]
    if missing:
        raise DataError(f"{shown(path.name)} has no {' and no '.join(missing)}; it has "
                        f"{', '.join(map(shown, found[:8])) or 'nothing'}, and features and labels are needed")


def _open_npz(path: Path) -> _Opened:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        _require(path, names, names)
        arrays = {name: _npz_array(archive, name) for name in names if name != "features"}
        with archive.open("features.npy") as file:
            shape, fortran, dtype = _npy_header(file)
    _numeric(dtype)

    def blocks() -> Iterator[NDArray[Any]]:
        with zipfile.ZipFile(path) as archive:
            if fortran:  # Columns lie one after another: no row can be read without all of them.
                yield _npz_array(archive, "features")
                return
            with archive.open("features.npy") as file:
                _npy_header(file)
                yield from _from_stream(file, dtype, shape[0], shape[1:])

    about = {name: str(array) for name, array in arrays.items() if array.ndim == 0 and array.dtype.kind == "U"}
    return _Opened(shape, blocks, arrays["labels"], _texts_of(arrays.get("classes")), _texts_of(arrays.get("paths")),
                   _splits_of(arrays.get("splits")), arrays.get("digests"), about)


def _npz_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    layout = np.lib.format
    version = layout.read_magic(file)
    read = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _open_parquet(path: Path) -> _Opened:
    _, parquet = _parquet()
    table = parquet.ParquetFile(path)
    about = {key.decode(): value.decode() for key, value in (table.schema_arrow.metadata or {}).items()
             if not key.startswith(b"ARROW")}
    beside = table.read(columns=["label", "path", "split", "digest"]).to_pydict()
    shape = (table.metadata.num_rows, *json.loads(about["shape"]))

    def blocks() -> Iterator[NDArray[Any]]:
        for batch in parquet.ParquetFile(path).iter_batches(_rows_at_a_time(shape), columns=["features"]):
            yield batch.column(0).flatten().to_numpy().reshape(-1, *shape[1:])

    digests = np.frombuffer(b"".join(beside["digest"]), np.uint8).reshape(-1, _DIGEST_BYTES)
    return _Opened(shape, blocks, np.array(beside["label"], np.str_), json.loads(about["classes"]), beside["path"],
                   _split_numbers(beside["split"]), digests, about)


def _open_safetensors(path: Path) -> _Opened:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = list(file.keys())
        _require(path, names, names)
        about = dict(file.metadata() or {})
        shape = tuple(file.get_slice("features").get_shape())
        arrays = {name: file.get_tensor(name) for name in ("labels", "splits", "digests", "paths", "path_ends")
                  if name in names}

    def blocks() -> Iterator[NDArray[Any]]:
        with safe_open(path, "np") as file:
            features, step = file.get_slice("features"), _rows_at_a_time(shape)
            for start in range(0, shape[0], step):
                yield features[start:min(start + step, shape[0])]

    paths = None
    if "paths" in arrays and "path_ends" in arrays:
        data, ends = arrays["paths"].tobytes(), arrays["path_ends"].tolist()
        paths = [data[a:b].decode("utf-8", "replace") for a, b in zip([0, *ends], ends, strict=False)]
    return _Opened(shape, blocks, arrays["labels"], json.loads(about["classes"]) if "classes" in about else None,
                   paths, arrays.get("splits"), arrays.get("digests"), about)


_OPENERS: dict[str, Callable[[Path], _Opened]] = {
    "hdf5": _open_hdf5, "npz": _open_npz, "parquet": _open_parquet, "safetensors": _open_safetensors,
}


class _HDF5(Protocol):
    """What is used of h5py, which comes without types."""

    File: Any
    Dataset: Any
    string_dtype: Any
    check_string_dtype: Any


def _h5py() -> _HDF5:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("HDF5", "hdf5") from None
    module: _HDF5 = h5py
    return module


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("Parquet", "parquet") from None
    return pyarrow, pyarrow.parquet
