"""File bytes to pixels: hostile files, turns, depth, bombs, mutations, and the geometry of view 0."""

from __future__ import annotations

import functools
import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regraft.data import decode as decoding
from regraft.data.decode import decode, deep_extremes, read_file
from regraft.data.view import estimate_deep_range, view0, view_key
from regraft.errors import ImageError, SettingsError
from regraft.records.preprocessing import Preprocessing
from tests.hostile import (
    encoded,
    icon,
    long_gif,
    long_tiff,
    looping_tiff,
    mutations,
    oriented,
    photo,
    png,
    png16,
    png_chunk,
    write_hostile,
)

RULES = Preprocessing(32)

#: Unscaled: the whole picture, pixel by pixel, where it is square and of this size.
WHOLE = Preprocessing(64, fit="squash", jpeg_scale_margin=None)


def _outcome(source: bytes | Path | Image.Image) -> tuple[str, str, bytes]:
    """What became of it, what was said, and the digest of its pixels."""
    try:
        view = view0(source, RULES)
    except ImageError as error:
        return "quarantined", error.reason, b""
    return "converted" if view.notes else "ok", " | ".join(view.notes), view.digest


# -- D1: hostile files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Any]]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("told", [0, 3, 10, 11, 5_000])
def test_a_file_is_read_to_its_end_whatever_its_length_was(tmp_path: Path, told: int) -> None:
    """It may grow or shrink between a look at it and reading it."""
    (tmp_path / "file").write_bytes(b"0123456789")
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert decoding._whole(handle, told) == b"0123456789"
    finally:
        os.close(handle)


def test_every_hostile_file_has_its_expected_end(hostile: list[tuple[Path, Any]]) -> None:
    assert len({path.name for path, _ in hostile}) == len(hostile) >= 60
    wrong = []
    for path, file in hostile:
        outcome, said, _ = _outcome(path)
        if outcome != file.outcome or file.says not in said or (said == "") != (outcome == "ok"):
            wrong.append((file.name, file.outcome, file.says, outcome, said))
    assert wrong == []


def test_path_bytes_and_open_image_give_the_same_pixels(hostile: list[tuple[Path, Any]]) -> None:
    compared = 0
    for path, file in hostile:
        from_path = _outcome(path)
        assert _outcome(file.data) == from_path, file.name
        if file.lossless and file.outcome != "quarantined":
            with Image.open(io.BytesIO(file.data)) as image:
                assert _outcome(image) == from_path, file.name
            compared += 1
    assert compared >= 50


def test_a_damaged_picture_that_is_open_is_an_image_error() -> None:
    with (
        Image.open(io.BytesIO(encoded(photo(), "JPEG")[:-400])) as image,
        pytest.raises(ImageError, match=r"is damaged .*truncated"),
    ):
        view0(image, RULES)


def test_pillows_warnings_change_nothing(hostile: list[tuple[Path, Any]]) -> None:
    # Under -W error a warning becomes an exception inside Pillow: no file may end otherwise for it.
    files = [*(file.data for _, file in hostile), png(10_000, 9_000, 8, 0, b""), *mutations(200, seed=1)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lenient = [_outcome(data) for data in files]
    assert len({str(warning.message) for warning in caught}) >= 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strict = [_outcome(data) for data in files]
    assert [new for new, old in zip(strict, lenient, strict=True) if new != old] == []


@pytest.mark.parametrize(("make", "reason"), [
    (lambda folder: folder, "is no regular file"),
    (lambda folder: folder / "missing.png", "does not exist"),
    (lambda folder: folder / "a\0b.png", "can't be read (embedded null byte)"),
    (lambda folder: folder / ("x" * 300), "can't be read (File name too long)"),
    (lambda folder: _fifo(folder / "pipe.png"), "is no regular file"),
    (lambda folder: _sparse(folder / "large.png"), "has 536,870,913 bytes, more than 536,870,912"),
])
def test_what_is_no_readable_file_says_why(tmp_path: Path, make: Any, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_file(make(tmp_path))
    assert caught.value.reason == reason


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(512 * 2**20 + 1)
    return path


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(photo(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match=r"can't be read \(Permission denied\)"):
        read_file(path)


@pytest.mark.parametrize("array", [
    np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32),
    np.zeros((0, 8, 3), np.uint8),
], ids=lambda array: f"{array.dtype}{array.shape}")
def test_an_array_of_another_kind_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"is no picture; give uint8 \[height, width, 3\]") as caught:
        view0(array, RULES)
    assert f"{array.dtype} {list(array.shape)}" in caught.value.reason


def test_an_array_is_treated_like_its_png() -> None:
    assert _outcome(encoded(photo(), "PNG"))[2] == view0(np.asarray(photo()), RULES).digest


# -- D2: turns -----------------------------------------------------------------------------------------


def _blocks() -> Image.Image:
    """16 flat blocks, no two alike: JPEG keeps flat blocks exactly, turned or not."""
    levels = np.asarray(photo().convert("L").resize((4, 4)), np.int32) // 16 * 16
    return Image.fromarray(np.kron(levels, np.ones((16, 16), np.int32)).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(("format_", "options"), [
    ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"quality": 100, "subsampling": 0}),
    ("WEBP", {"lossless": True}),
])
def test_eight_orientations_are_one_upright_picture(format_: str, options: dict[str, Any]) -> None:
    picture = _blocks()
    upright = np.asarray(picture)
    turns = [upright, upright[::-1], upright[:, ::-1], upright.transpose(1, 0, 2)]
    assert len({turn.tobytes() for turn in turns}) == 4
    for orientation in range(1, 9):
        view = view0(oriented(picture, orientation, format_, **options), WHOLE)
        assert np.array_equal(view.pixels, upright), orientation
        assert view.notes == (() if orientation == 1 else ("turned by EXIF",))


def test_a_turned_picture_is_cropped_after_the_turn() -> None:
    wide = photo(128, 64)
    expected = view0(encoded(wide, "PNG"), RULES).pixels
    assert np.array_equal(view0(oriented(wide, 6, "PNG"), RULES).pixels, expected)


# -- D3: depth -----------------------------------------------------------------------------------------


def _ramp(highest: int) -> NDArray[np.uint16]:
    levels = np.rint(np.linspace(0, highest, 256)).astype(np.uint16)
    return np.tile(levels, (256, 1))


@pytest.mark.parametrize("highest", [65535, 4095])
@pytest.mark.parametrize("kind", ["png", "tif", "integer.tif", "float.tif"])
def test_a_deep_ramp_keeps_its_levels(tmp_path: Path, highest: int, kind: str) -> None:
    ramp = _ramp(highest)
    path = tmp_path / f"ramp.{kind}"
    images = {
        "png": lambda: png16(ramp[:, :, None]),
        "tif": lambda: encoded(Image.fromarray(ramp), "TIFF"),
        "integer.tif": lambda: encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        "float.tif": lambda: encoded(Image.fromarray(ramp.astype(np.float32)), "TIFF"),
    }
    path.write_bytes(images[kind]())
    estimated = estimate_deep_range([path])
    assert estimated is not None
    assert list(estimated) == [0, highest]
    rules = Preprocessing(256, fit="squash", deep_range=estimated)
    assert len(np.unique(view0(path, rules).pixels)) >= 250
    if highest == 65535 and kind != "float.tif":
        assert len(np.unique(view0(path, replace(rules, deep_range=None)).pixels)) >= 250


def test_deep_rgb_keeps_its_levels() -> None:
    rules = Preprocessing(256, fit="squash")
    view = view0(png16(np.repeat(_ramp(65535)[:, :, None], 3, 2)), rules)
    assert len(np.unique(view.pixels)) >= 250
    assert view.notes == ("16 bits or more",)


def test_what_is_no_number_in_a_deep_image_is_black_or_white() -> None:
    values = np.full((64, 64), 0.5, np.float32)
    values[0], values[1], values[2] = np.nan, np.inf, -np.inf
    pixels = view0(encoded(Image.fromarray(values), "TIFF"), WHOLE).pixels
    assert [int(pixels[row, 0, 0]) for row in range(4)] == [0, 255, 0, 128]


def test_the_deep_range_is_estimated_over_deep_grey_files_only(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    deep.write_bytes(png16(_ramp(4095)[:, :, None]))
    flat = tmp_path / "flat.tif"
    flat.write_bytes(encoded(Image.fromarray(np.full((8, 8), 7, np.uint16)), "TIFF"))
    nothing = tmp_path / "nan.tif"
    nothing.write_bytes(encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"))
    eight, broken = tmp_path / "eight.png", tmp_path / "broken.png"
    eight.write_bytes(encoded(photo(), "PNG"))
    broken.write_bytes(deep.read_bytes()[:80])
    assert estimate_deep_range([eight, broken, nothing, tmp_path / "missing.png"]) is None
    assert estimate_deep_range([flat]) is None
    assert estimate_deep_range([eight, deep, broken]) == (0, 4095)
    assert deep_extremes(flat) == (7, 7)


# -- D4: bombs -----------------------------------------------------------------------------------------


def _one_colour(side: int) -> bytes:
    """A whole PNG of one colour, grey: its scanlines are never in memory at once."""
    packer = zlib.compressobj(1)
    rows = bytes((side + 1) * 100)
    data = b"".join([*(packer.compress(rows) for _ in range(side // 100)), packer.flush()])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


_MEASURE = """
import json, resource, sys, time
from pathlib import Path
from regraft.data.view import view0
from regraft.errors import ImageError
from regraft.records.preprocessing import Preprocessing
rules = Preprocessing(32)
view0(Path(sys.argv[1]), rules)  # Pillow's plugins are loaded by now.
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
results = {}
for name in sys.argv[2:]:
    before, start = peak(), time.perf_counter()
    try:
        view0(Path(name), rules)
        reason = None
    except ImageError as error:
        reason = error.reason
    results[Path(name).name] = [reason, time.perf_counter() - start, (peak() - before) / 1024]
print(json.dumps(results))
"""


def test_bombs_are_refused_at_once_and_in_little_memory(tmp_path: Path) -> None:
    bombs = {
        "400-megapixels.png": (_one_colour(20_000), "more than 80,000,000 pixels"),
        "100-megapixels.png": (_one_colour(10_000), "10,000 x 10,000 pixels, more than 80,000,000"),
        "icon.ico": (icon(_one_colour(10_000), 256), "10,000 x 10,000 pixels, more than 80,000,000"),
        "header.png": (png(60_000, 60_000, 8, 2, b""), "more than 80,000,000 pixels"),
        "film.gif": (long_gif(10_000), "more than 1,000 frames"),
        "long-film.gif": (long_gif(1_000_000), "more than 1,000 frames"),
        "pages.tif": (long_tiff(1_000_000), "more than 1,000 frames"),
        "loop.tif": (looping_tiff(), "chain of pages loops"),
        "loop-big.tif": (looping_tiff(big=True), "chain of pages loops"),
    }
    harmless = tmp_path / "harmless.webp"
    harmless.write_bytes(encoded(photo(), "WEBP"))
    for name, (data, _) in bombs.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURE, harmless, *(tmp_path / name for name in bombs)],
        capture_output=True, text=True, check=True, timeout=120)
    results = json.loads(done.stdout)
    for name, (_, reason) in bombs.items():
        said, seconds, megabytes = results[name]
        assert reason in (said or ""), (name, said)
        # The bar is one second; three on a machine that does other things too.
        assert seconds < 3, (name, seconds)
        assert megabytes < 200, (name, megabytes)


# -- D5: mutations -------------------------------------------------------------------------------------

_FUZZ = """
import collections, json, sys, time
from regraft.data.view import view0
from regraft.errors import ImageError
from regraft.records.preprocessing import Preprocessing
from tests.hostile import mutations
rules, ends, escaped, slowest = Preprocessing(32), collections.Counter(), [], 0.0
for number, data in enumerate(mutations(int(sys.argv[1]), seed=20261122)):
    start = time.perf_counter()
    try:
        ends["converted" if view0(data, rules).notes else "ok"] += 1
    except ImageError as error:
        ends["quarantined" if error.reason else "unexplained"] += 1
    except BaseException as error:
        escaped.append([number, repr(error)])
    slowest = max(slowest, time.perf_counter() - start)
print(json.dumps({"ends": ends, "escaped": escaped, "slowest": slowest}))
"""


@pytest.mark.parametrize("number", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_mutated_files_only_image_errors_escape(number: int) -> None:
    # In a process of its own: a crash or a hang in a decoder's C code is a failure, not the end of the tests.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _FUZZ, str(number)], capture_output=True, text=True,
                          check=False, timeout=60 + number * 0.1, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["escaped"] == []
    assert result["slowest"] < 5
    assert sum(result["ends"].values()) == number
    # Both ends are met, so the mutations neither spare everything nor destroy everything.
    assert result["ends"]["quarantined"] > number * 0.1
    assert result["ends"]["ok"] + result["ends"]["converted"] > number * 0.1


# -- view 0 --------------------------------------------------------------------------------------------


def _thirds(width: int, height: int) -> Image.Image:
    """Black, grey, white from left to right: shows which part of a picture is kept."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 3:] = 128
    pixels[:, 2 * width // 3:] = 255
    return Image.fromarray(pixels)


@functools.cache
def _seen(fit: Literal["crop", "pad", "squash"], width: int, height: int, fraction: float) -> NDArray[np.uint8]:
    rules = Preprocessing(30, fit=fit, crop_fraction=fraction, interpolation="bilinear", pad_colour=(1, 2, 3))
    return view0(_thirds(width, height), rules).pixels


@pytest.mark.parametrize(("fit", "width", "height", "fraction", "row"), [
    # Of 90 x 30 the central square is the grey third alone.
    ("crop", 90, 30, 1.0, [128] * 30),
    # Of a square, half the side about the centre: columns 22.5 to 67.5 of 90, grey from 30 to 60.
    ("crop", 90, 90, 0.5, [0] * 5 + [128] * 20 + [255] * 5),
    ("squash", 90, 30, 1.0, [0] * 10 + [128] * 10 + [255] * 10),
    ("squash", 30, 90, 0.5, [0] * 10 + [128] * 10 + [255] * 10),
    ("pad", 90, 30, 1.0, [0] * 10 + [128] * 10 + [255] * 10),
    ("pad", 90, 90, 1.0, [0] * 10 + [128] * 10 + [255] * 10),
])
def test_what_is_kept(
        fit: Literal["crop", "pad", "squash"], width: int, height: int, fraction: float, row: list[int]) -> None:
    pixels = _seen(fit, width, height, fraction)
    assert pixels.shape == (30, 30, 3)
    assert pixels.dtype == np.uint8
    middle = pixels[15, :, 0].astype(int)
    # The filter mixes neighbours along the edges between the thirds.
    flat = np.flatnonzero(np.convolve(np.abs(np.diff(row, prepend=row[0], append=row[-1])), [1, 1, 1, 1])[1:-3] == 0)
    assert np.abs(middle - row)[flat].max() <= 1
    assert len(flat) >= 15


def test_pad_puts_bars_of_its_colour_around_the_whole_picture() -> None:
    pixels = _seen("pad", 90, 30, 1.0)
    assert (pixels[:10] == (1, 2, 3)).all()
    assert (pixels[20:] == (1, 2, 3)).all()
    assert (pixels[10:20, -5:] == 255).all()
    tall = view0(photo(30, 90), Preprocessing(30, fit="pad", pad_colour=(9, 9, 9))).pixels
    assert (tall[:, :10] == 9).all()
    assert not (tall[:, 10:20] == 9).all()


def test_transparent_pixels_show_the_background() -> None:
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    assert (view0(clear, WHOLE).pixels == 255).all()
    assert (view0(clear, replace(WHOLE, background=(1, 2, 3))).pixels == (1, 2, 3)).all()


def test_a_jpeg_is_decoded_smaller_and_stays_close() -> None:
    data = encoded(photo(640, 427), "JPEG", quality=95)
    rules = Preprocessing(64)
    full = view0(data, replace(rules, jpeg_scale_margin=None)).pixels.astype(int)
    close = view0(data, rules).pixels.astype(int)
    assert not np.array_equal(full, close)
    assert np.abs(full - close).mean() < 2
    # A margin the picture can't give is the full decode.
    assert np.array_equal(view0(data, replace(rules, jpeg_scale_margin=7.0)).pixels, full)


@pytest.mark.parametrize(("fit", "width", "height", "size", "scale"), [
    ("crop", 640, 427, 64, 2),  # 373 pixels are kept, 128 are needed: half, not a quarter
    ("crop", 640, 427, 40, 4),
    ("crop", 427, 640, 40, 4),
    ("squash", 640, 427, 100, 2),
    ("pad", 640, 427, 80, 4),  # the long side decides
    ("squash", 640, 428, 107, 2),  # exactly the margin
    ("squash", 640, 427, 107, 1),  # one pixel less
    ("crop", 640, 427, 200, 1),
])
def test_the_scale_of_a_jpeg_keeps_the_margin(
        monkeypatch: pytest.MonkeyPatch, fit: Literal["crop", "pad", "squash"], width: int, height: int, size: int,
        scale: int) -> None:
    decoded: list[tuple[int, int]] = []

    def spy(data: bytes, rules: Preprocessing, draft: Any) -> Any:
        done = decode(data, rules, draft)
        decoded.append(done.image.size)
        return done

    monkeypatch.setattr("regraft.data.view.decode", spy)
    view0(encoded(photo(width, height), "JPEG"), Preprocessing(size, fit=fit))
    assert decoded == [(-(-width // scale), -(-height // scale))]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (1, 500), (500, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_tiny_pictures_are_enlarged(fit: Literal["crop", "pad", "squash"], width: int, height: int) -> None:
    pixels = view0(photo(width, height), Preprocessing(48, fit=fit)).pixels
    assert pixels.shape == (48, 48, 3)
    if (width, height) == (1, 1):
        assert (pixels == np.asarray(photo(1, 1))[0, 0]).all()


def test_grey_is_three_equal_channels_and_cmyk_is_close_to_its_colours() -> None:
    grey = view0(encoded(photo().convert("L"), "PNG"), RULES).pixels
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    colours = view0(photo(), RULES).pixels.astype(int)
    cmyk = view0(encoded(photo().convert("CMYK"), "JPEG", quality=100), RULES).pixels.astype(int)
    assert np.abs(colours - cmyk).mean() < 3


def test_threads_give_the_same_pixels(hostile: list[tuple[Path, Any]]) -> None:
    files = [path for path, _ in hostile] * 3
    alone = [_outcome(path) for path in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_outcome, files)) == alone


def test_the_key_of_a_view_changes_with_all_that_decides_pixels() -> None:
    changes: list[dict[str, Any]] = [
        {"size": 33}, {"fit": "pad"}, {"crop_fraction": 1.0}, {"interpolation": "lanczos"}, {"jpeg_scale_margin": None},
        {"background": (0, 0, 0)}, {"pad_colour": (0, 0, 0)}, {"deep_range": (0.0, 1.0)},
    ]
    keys = {view_key(RULES), *(view_key(replace(RULES, **change)) for change in changes)}
    assert len(keys) == 1 + len(changes)
    assert view_key(replace(RULES, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))) == view_key(RULES)
    assert Preprocessing.from_dict(json.loads(json.dumps(RULES.to_dict()))) == RULES


@pytest.mark.parametrize(("values", "says"), [
    ({"size": 1}, None),
    ({"size": 0}, "size: 0 is not allowed; it must be 1 to 4096 pixels"),
    ({"size": 5000}, "size: 5000 is not allowed; it must be 1 to 4096 pixels"),
    ({"crop_fraction": 1.0}, None),
    ({"crop_fraction": 0.0}, "crop_fraction: 0.0 is not allowed; it must lie in (0, 1]"),
    ({"jpeg_scale_margin": 1.0}, None),
    ({"jpeg_scale_margin": 0.5}, "jpeg_scale_margin: 0.5 would enlarge; at least 1, or None"),
    ({"deep_range": (-1.0, 1.0)}, None),
    ({"deep_range": (1.0, 1.0)}, "deep_range: (1.0, 1.0) is empty; black must lie below white"),
    ({"deep_range": (0.0, float("inf"))}, "black must lie below white, both finite"),
    ({"deep_range": (float("nan"), 1.0)}, "black must lie below white, both finite"),
    ({"max_pixels": 0}, "max_pixels: 0 is not allowed; it must be 1 to 178956970"),
    ({"max_pixels": 10**9}, "max_pixels: 1000000000 is not allowed; it must be 1 to 178956970"),
    ({"max_frames": 0}, "max_frames: 0 is not allowed; it must be at least 1"),
    ({"background": (0, 0, 256)}, "background: (0, 0, 256) is not allowed; red, green and blue lie in 0 to 255"),
    ({"pad_colour": (-1, 0, 0)}, "pad_colour: (-1, 0, 0) is not allowed; red, green and blue lie in 0 to 255"),
    ({"std": (1.0, 0.0, 1.0)}, "std: (1.0, 0.0, 1.0) must be positive"),
    ({"size": 0, "max_frames": 0}, "; max_frames: 0 is not allowed"),
])
def test_rules_out_of_range_are_named(values: dict[str, Any], says: str | None) -> None:
    if says is None:
        Preprocessing(**{"size": 32, **values})
        return
    with pytest.raises(SettingsError) as caught:
        Preprocessing(**{"size": 32, **values})
    assert says in str(caught.value)
