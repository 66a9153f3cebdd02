"""Views: seeded, the same in any order and thread, each transform as it is named, mistakes told in one line."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regraft.data.view import view0, view_key
from regraft.errors import DataError, ImageError, MissingExtraError, SettingsError, UsageError
from regraft.records.preprocessing import Preprocessing
from regraft.records.views import (
    PRESETS,
    TRANSFORMS,
    Augmentation,
    ColourJitter,
    Grey,
    HorizontalFlip,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    Step,
    Transform,
    augmentation,
)
from regraft.settings import declared
from regraft.training.transforms import Draw, crop_box, narrowest_side
from regraft.training.views import CustomAugmentation, Views, preview
from tests.conftest import sample_photo
from tests.hostile import encoded, oriented

RULES = Preprocessing(64)

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo_bytes() -> bytes:
    return encoded(sample_photo("china.jpg"), "JPEG", quality=92)


def views_of(*texts: str, rules: Preprocessing = RULES, seed: int = 0) -> Views:
    return Views(augmentation(texts), rules, seed)


def pixels(views: Views, data: bytes | Path, k: int) -> Pixels:
    return views.pixels(data, k, view0(data, views.rules).digest)


# -- the same call, the same pixels ------------------------------------------------------------------------

EVERYTHING = views_of(*TRANSFORMS)


def test_order_and_threads_change_nothing(photo_bytes: bytes, crops: Path) -> None:
    files: list[bytes | Path] = [photo_bytes, *sorted(crops.rglob("*.jpg"))[:3]]
    calls = [(data, k) for data in files for k in range(8)]
    first = {number: pixels(EVERYTHING, *call) for number, call in enumerate(calls)}
    order = np.random.default_rng(0).permutation(len(calls)).tolist()
    with ThreadPoolExecutor(4) as executor:
        again = dict(zip(order, executor.map(lambda number: pixels(EVERYTHING, *calls[number]), order), strict=True))
    for number, expected in first.items():
        np.testing.assert_array_equal(again[number], expected)


def test_another_process_gives_the_same(photo_bytes: bytes, tmp_path: Path) -> None:
    file = tmp_path / "china.jpg"
    file.write_bytes(photo_bytes)
    code = ("import hashlib, sys; from pathlib import Path\n"
            "import torch; torch.manual_seed(5); torch.set_num_threads(2)\n"
            "from tests.test_views import EVERYTHING, pixels\n"
            "seen = hashlib.sha256()\n"
            "for k in (3, 2, 1): seen.update(pixels(EVERYTHING, Path(sys.argv[1]), k).tobytes())\n"
            "print(seen.hexdigest(), EVERYTHING.key(3))\n")
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    here = hashlib.sha256(b"".join(pixels(EVERYTHING, file, k).tobytes() for k in (3, 2, 1)))
    assert done.stdout.split() == [here.hexdigest(), EVERYTHING.key(3)]


def test_global_random_states_are_left_alone(photo_bytes: bytes) -> None:
    def states() -> tuple[bytes, str, object]:
        return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()

    before = states()
    for k in range(1, 30):
        pixels(EVERYTHING, photo_bytes, k)
    assert states() == before


@pytest.mark.parametrize("name", TRANSFORMS)
def test_numbers_seeds_and_images_differ(name: str, photo_bytes: bytes) -> None:
    """Of a chance of one half or less too, some of 40 views differ from view 0, and another seed changes others."""
    views, other = views_of(name), views_of(name, seed=1)
    base, digest = view0(photo_bytes, RULES).pixels, view0(photo_bytes, RULES).digest
    changed = [(views.pixels(photo_bytes, k, digest) != base).any() for k in range(1, 41)]
    assert any(changed)
    assert any((views.pixels(photo_bytes, k, digest) != other.pixels(photo_bytes, k, digest)).any()
               for k in range(1, 41))
    assert any((views.pixels(photo_bytes, k, digest) != views.pixels(photo_bytes, k, bytes(16))).any()
               for k in range(1, 41))


def test_view_0_is_the_evaluation_view(photo_bytes: bytes) -> None:
    np.testing.assert_array_equal(pixels(EVERYTHING, photo_bytes, 0), view0(photo_bytes, RULES).pixels)
    assert EVERYTHING.key(0) == view_key(RULES)
    np.testing.assert_array_equal(pixels(views_of(), photo_bytes, 3), view0(photo_bytes, RULES).pixels)


def test_keys_name_what_decides_the_pixels() -> None:
    base = views_of("rotation", "grey")
    others = [views_of("rotation", "grey", seed=1), views_of("rotation(degrees=16)", "grey"), views_of("rotation"),
              views_of("grey", "rotation"), views_of("rotation", "grey", rules=replace(RULES, fit="squash")),
              views_of("rotation", "grey", rules=replace(RULES, pad_colour=(0, 0, 0)))]
    keys = [base.key(1), base.key(2), *(views.key(1) for views in others)]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in keys)
    # Mean and std act after the pixels.
    assert views_of("rotation", "grey", rules=replace(RULES, mean=(0.4, 0.4, 0.4))).key(1) == base.key(1)
    assert views_of("rotation(degrees=15, fill=reflect)", "grey(p=0.1)").key(1) == base.key(1)


def test_a_crop_comes_first_wherever_it_stands(photo_bytes: bytes) -> None:
    first, last = views_of("random_resized_crop", "rotation"), views_of("rotation", "random_resized_crop")
    assert first.key(1) == last.key(1)
    np.testing.assert_array_equal(pixels(first, photo_bytes, 1), pixels(last, photo_bytes, 1))


# -- what each transform does ------------------------------------------------------------------------------


def test_flips_are_exact(photo_bytes: bytes) -> None:
    base = view0(photo_bytes, RULES).pixels
    np.testing.assert_array_equal(pixels(views_of("horizontal_flip(p=1)"), photo_bytes, 1), base[:, ::-1])
    np.testing.assert_array_equal(pixels(views_of("vertical_flip(p=1)"), photo_bytes, 1), base[::-1])
    for name in ("horizontal_flip", "vertical_flip", "grey", "random_erasing"):
        np.testing.assert_array_equal(pixels(views_of(f"{name}(p=0)"), photo_bytes, 1), base)
    flipped = sum((pixels(views_of("horizontal_flip"), photo_bytes, k) != base).any() for k in range(1, 201))
    assert 70 <= flipped <= 130  # of 200 with p = 0.5: 4.2 standard deviations


def test_rotation_by_reflection_has_no_empty_corners() -> None:
    """A bright picture stays bright everywhere; with the pad colour the corners are of it."""
    bright = np.full((64, 64, 3), 200, np.uint8)
    bright[::4] = 250
    reflected = views_of("rotation(degrees=180)", rules=replace(RULES, crop_fraction=1.0))
    padded = views_of("rotation(degrees=180, fill=pad)",
                      rules=replace(RULES, crop_fraction=1.0, pad_colour=(1, 2, 3)))
    corners = []
    for k in range(1, 30):
        assert reflected.pixels(bright, k, bytes(16)).min() >= 200
        corners.append(tuple(padded.pixels(bright, k, bytes(16))[0, 0]))
    assert corners.count((1, 2, 3)) >= 20


def test_rotation_turns_by_the_angle_about_the_centre() -> None:
    """A dot right of the centre is found at the angle drawn, which lies within the bounds."""
    dotted = np.zeros((65, 65, 3), np.uint8)
    dotted[30:35, 50:55] = 255
    views = views_of("rotation(degrees=30)", rules=Preprocessing(65, crop_fraction=1.0))
    found = []
    for k in range(1, 60):
        grey = views.pixels(dotted, k, bytes(16))[..., 0].astype(float)
        y, x = (float((grey * axis).sum() / grey.sum()) - 32 for axis in np.mgrid[:65, :65])
        assert np.hypot(x, y) == pytest.approx(20, abs=0.7)
        angle = np.degrees(np.arctan2(-y, x))
        assert angle == pytest.approx(Draw(0, k, bytes(16)).uniform(-30, 30), abs=1.5)
        found.append(angle)
    assert min(found) < -22
    assert max(found) > 22


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_tiny_squares_come_through(size: int, photo_bytes: bytes) -> None:
    views = views_of(*TRANSFORMS, rules=Preprocessing(size))
    for k in range(1, 20):
        assert pixels(views, photo_bytes, k).shape == (size, size, 3)


@settings(deadline=None)
@given(width=st.integers(1, 5000), height=st.integers(1, 5000), low=st.floats(0.01, 1), span=st.floats(0, 1),
       ratio=st.floats(1, 10), seed=st.integers(0, 2**31))
def test_a_crop_lies_inside_and_within_its_bounds(width: int, height: int, low: float, span: float, ratio: float,
                                                  seed: int) -> None:
    step = RandomResizedCrop(low, low + (1 - low) * span, ratio)
    left, top, right, bottom = crop_box(width, height, step, Draw(seed, 1, bytes(16)))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = right - left, bottom - top
    assert 1 / ratio * 0.999 <= across / down <= ratio * 1.001
    share = across * down / (width * height)
    assert share <= step.scale_high * 1.001
    if max(width, height) / min(width, height) <= ratio:
        assert share >= step.scale_low * 0.999
    assert min(across, down) >= narrowest_side(width, height, step) * 0.999 or share < step.scale_low


def test_a_crop_sees_what_view_0_cuts_off() -> None:
    """The picture's red left edge lies outside view 0; crops of most of the area see it, seldom cut it off."""
    wide = np.zeros((100, 200, 3), np.uint8)
    wide[:, :40, 0] = 255
    assert view0(wide, RULES).pixels[..., 0].max() == 0
    views = views_of("random_resized_crop(scale_low=0.9, ratio=2)")
    assert sum(views.pixels(wide, k, bytes(16))[..., 0].max() == 255 for k in range(1, 21)) == 20


def test_a_whole_crop_is_the_squashed_picture(photo_bytes: bytes) -> None:
    whole = pixels(views_of("random_resized_crop(scale_low=1, ratio=10)"), photo_bytes, 1)
    squashed = view0(photo_bytes, replace(RULES, fit="squash")).pixels
    assert np.abs(whole.astype(int) - squashed).mean() < 2


def test_large_jpegs_are_decoded_small_enough_to_stay_sharp() -> None:
    """Decoded at a fraction or in full, a crop looks the same."""
    large = encoded(sample_photo("flower.jpg").resize((2560, 1708)), "JPEG", quality=95)
    small, full = RULES, replace(RULES, jpeg_scale_margin=None)
    for k in range(1, 6):
        one = views_of("random_resized_crop(scale_low=0.5)", rules=small).pixels(large, k, bytes(16))
        other = views_of("random_resized_crop(scale_low=0.5)", rules=full).pixels(large, k, bytes(16))
        assert np.abs(one.astype(int) - other).mean() < 3


def test_colours(photo_bytes: bytes) -> None:
    base = view0(photo_bytes, RULES).pixels.astype(int)
    grey = pixels(views_of("grey(p=1)"), photo_bytes, 1)
    assert (grey == grey[..., :1]).all()
    np.testing.assert_allclose(grey[..., 0], base @ [0.299, 0.587, 0.114], atol=1)
    bright = "colour_jitter(brightness=0.5, contrast=0, saturation=0)"
    factors = [pixels(views_of(bright), photo_bytes, k).astype(int)[base.max(2) < 120].mean() / base[
        base.max(2) < 120].mean() for k in range(1, 30)]
    assert 0.49 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.51
    still = pixels(views_of("colour_jitter(brightness=0, contrast=0, saturation=0)"), photo_bytes, 1)
    np.testing.assert_array_equal(still, base)
    hue = pixels(views_of("colour_jitter(brightness=0, contrast=0, saturation=0, hue=0.5)"), photo_bytes, 1)
    assert np.abs(hue.max(2).astype(int) - base.max(2)).mean() < 2  # HSV's value stays


def test_erasing_fills_a_rectangle_with_the_pad_colour() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    views = views_of("random_erasing(p=1)", rules=replace(RULES, pad_colour=(9, 8, 7)))
    for k in range(1, 40):
        erased = (views.pixels(white, k, bytes(16)) == (9, 8, 7)).all(2)
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        assert erased[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].all()
        assert 0.01 <= erased.mean() <= 0.35


def test_trivial_augment_draws_all_its_operations(photo_bytes: bytes) -> None:
    rules = replace(RULES, pad_colour=(255, 0, 255))
    views, base = views_of("trivial_augment", rules=rules), view0(photo_bytes, rules).pixels
    seen = [pixels(views, photo_bytes, k) for k in range(1, 201)]
    unchanged = sum((found == base).all() for found in seen)
    filled = sum((found == (255, 0, 255)).all(2).any() for found in seen)
    posterized = sum(set(np.unique(found)) <= set(range(0, 256, 4)) for found in seen)
    assert 5 <= unchanged <= 60  # the identity, and each operation at strength 0
    assert 35 <= filled <= 110  # 5 of 14 shift, shear or turn
    assert posterized >= 3
    assert len({found.tobytes() for found in seen}) > 120


# -- real files ----------------------------------------------------------------------------------------------


def test_an_image_turned_by_exif_is_the_upright_one() -> None:
    upright = sample_photo("flower.jpg").resize((128, 96))
    plain, digest = encoded(upright, "PNG"), view0(upright, RULES).digest
    for orientation in range(2, 9):
        turned = oriented(upright, orientation, "PNG")
        for k in (1, 2, 3):
            np.testing.assert_array_equal(EVERYTHING.pixels(turned, k, digest), EVERYTHING.pixels(plain, k, digest))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("folder", ["cats_dogs/train", "mnist/train"])
def test_real_sets_under_every_preset(shared_data: Path, folder: str, preset: str) -> None:
    files = sorted((shared_data / folder).rglob("*.jpg")) or sorted((shared_data / folder).rglob("*.png"))
    views = views_of(preset, "trivial_augment", rules=Preprocessing(96))
    for file in files[:: len(files) // 8]:
        base, found = view0(file, views.rules), [pixels(views, file, k) for k in range(1, 5)]
        assert all(view.shape == (96, 96, 3) and view.dtype == np.uint8 for view in found)
        assert len({view.tobytes() for view in (base.pixels, *found)}) >= 4
        if folder.startswith("mnist"):  # Grey stays grey.
            assert all((view.max(2).astype(int) - view.min(2) <= 1).all() for view in found)


def test_unreadable_files_say_so() -> None:
    for views in (EVERYTHING, views_of("grey"), Views(CustomAugmentation(lambda p, _: p), RULES, 0)):
        with pytest.raises(ImageError, match="is no image of a known format"):
            views.pixels(b"no picture", 1, bytes(16))


def test_preview_is_a_grid_of_views(photo_bytes: bytes) -> None:
    grid = preview(photo_bytes, EVERYTHING)
    assert (grid.size, grid.mode) == ((200, 200), "RGB")
    np.testing.assert_array_equal(np.asarray(grid)[68:132, 136:200], pixels(EVERYTHING, photo_bytes, 6))
    assert preview(photo_bytes, EVERYTHING, 2).size == (132, 64)
    assert preview(photo_bytes, EVERYTHING, 5).size == (200, 132)
    with pytest.raises(UsageError, match="count: 0 is not allowed; it must be at least 1"):
        preview(photo_bytes, EVERYTHING, 0)


def test_wrong_calls_are_told(photo_bytes: bytes) -> None:
    with pytest.raises(UsageError, match="view -1 is not allowed; views are numbered from 0"):
        EVERYTHING.pixels(photo_bytes, -1, bytes(16))
    with pytest.raises(UsageError, match="digest: 3 bytes given; it must be the 16"):
        EVERYTHING.pixels(photo_bytes, 1, b"abc")


def test_without_torchvision_the_missing_extra_is_named(photo_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(MissingExtraError, match=re.escape('install it with: pip install "regraft[train]"')):
        pixels(EVERYTHING, photo_bytes, 1)


# -- functions of one's own ----------------------------------------------------------------------------------


def noisy(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    pixels[:8] = generator.integers(0, 256, pixels[:8].shape, np.uint8)
    return pixels


def test_a_function_of_ones_own(photo_bytes: bytes) -> None:
    views = Views(CustomAugmentation(noisy, "1"), RULES, 0)
    base = view0(photo_bytes, RULES).pixels
    one = pixels(views, photo_bytes, 1)
    np.testing.assert_array_equal(one[8:], base[8:])
    assert (one[:8] != base[:8]).any()
    np.testing.assert_array_equal(pixels(views, photo_bytes, 1), one)
    assert (pixels(views, photo_bytes, 2) != one).any()
    np.testing.assert_array_equal(pixels(views, photo_bytes, 0), base)


def test_only_a_versioned_function_can_be_kept() -> None:
    named, nameless = CustomAugmentation(noisy, "1"), CustomAugmentation(noisy)
    assert (Views(named, RULES, 0).cacheable, Views(nameless, RULES, 0).cacheable, EVERYTHING.cacheable) == (
        True, False, True)
    assert Views(named, RULES, 0).key(1) != Views(CustomAugmentation(noisy, "2"), RULES, 0).key(1)
    assert Views(nameless, RULES, 0).key(0) == view_key(RULES)
    with pytest.raises(UsageError, match=r"tests\.test_views\.noisy has no version, so its views can't be kept; give "):
        Views(nameless, RULES, 0).key(1)
    with pytest.raises(SettingsError, match="version: ' ' is not allowed"):
        CustomAugmentation(noisy, " ")


def small(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    return pixels[:32]


def floating(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    return pixels / 255  # type: ignore[return-value]


def nothing(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(("function", "told"), [
    (small, "gives uint8 [32, 64, 3]; it must give uint8 [64, 64, 3]"),
    (floating, "gives float64 [64, 64, 3]; it must give uint8 [64, 64, 3]"),
    (nothing, "gives NoneType; it must give a numpy array, uint8 [64, 64, 3]"),
])
def test_a_wrong_answer_names_the_function(function: object, told: str, photo_bytes: bytes) -> None:
    views = Views(CustomAugmentation(function), RULES, 0)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        pixels(views, photo_bytes, 1)
    assert str(caught.value) == f"tests.test_views.{function.__name__} {told}"  # type: ignore[attr-defined]


# -- texts and tables ----------------------------------------------------------------------------------------


def steps() -> st.SearchStrategy[Step]:
    """Any step with any options."""
    def of(kind: type[Step]) -> st.SearchStrategy[Step]:
        options: dict[str, st.SearchStrategy[object]] = {}
        for item in declared(kind):
            low = item.setting.ge if item.setting.ge is not None else item.setting.gt
            options[item.name] = (st.sampled_from(item.choices) if item.choices else st.floats(
                low, item.setting.le, exclude_min=item.setting.ge is None))
        drawn: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({}, optional=options)
        ordered = drawn.filter(lambda given: bool(given.get("scale_low", 0.08) <= given.get("scale_high", 1)))
        return ordered.map(lambda given: kind(**given))

    return st.sampled_from(sorted(TRANSFORMS)).flatmap(lambda name: of(TRANSFORMS[name]))


@settings(deadline=None)
@given(st.lists(steps(), max_size=5))
def test_every_way_of_writing_an_augmentation_reads_back(chosen: list[Step]) -> None:
    crops = [place for place, step in enumerate(chosen) if isinstance(step, RandomResizedCrop)]
    kept = tuple(step for place, step in enumerate(chosen) if place not in crops[1:])
    given_ = Augmentation(kept)
    assert augmentation(given_.to_text()) == given_
    tables = json.loads(given_.to_json())
    assert augmentation(tables["steps"]) == given_
    assert Augmentation.from_dict(tables) == given_
    assert [Transform.from_dict(step.to_dict()) for step in kept] == list(kept)
    quoted = ", ".join(json.dumps(text) for text in given_.to_text())
    assert augmentation(tomllib.loads(f"augment = [{quoted}]")["augment"]) == given_


def test_the_text_is_the_shortest() -> None:
    given_ = Augmentation((HorizontalFlip(), Rotation(20), Rotation(15, "pad"), Grey(1), ColourJitter(hue=0.05)))
    assert given_.to_text() == ("horizontal_flip", "rotation(degrees=20)", "rotation(fill=pad)", "grey(p=1)",
                                "colour_jitter(hue=0.05)")
    assert repr(given_) == ", ".join(given_.to_text())
    assert repr(Augmentation()) == "no augmentation"
    assert augmentation([" rotation( degrees = 20 ) ", {"name": "grey", "p": 1}]) == Augmentation((
        Rotation(20.0), Grey(1.0)))


def test_presets() -> None:
    assert augmentation("light") == augmentation(["horizontal_flip", "random_resized_crop(scale_low=0.6)"])
    assert augmentation(["published-cats-dogs"]).to_text() == ("horizontal_flip", "rotation(degrees=72)")
    assert augmentation(["published-cats-dogs", "grey"]).steps[-1] == Grey()
    assert {type(step) for step in PRESETS["published-flowers"].steps} == {ColourJitter, HorizontalFlip, Rotation,
                                                                            RandomResizedCrop}


KNOWN = ", ".join((*TRANSFORMS, *PRESETS))


@pytest.mark.parametrize(("value", "told"), [
    ("rotate", f"no transform is called 'rotate'; did you mean 'rotation'?; there are {KNOWN}"),
    ("rotation(degree=3)", "no option is called 'degree'; did you mean 'degrees'?; rotation takes degrees, fill"),
    ("rotation(degrees=400)", "rotation: degrees: 400.0 is not allowed; it must be at least 0 and at most 180"),
    ("rotation(fill=black)", "rotation: fill: 'black' is not allowed; it must be one of reflect, pad"),
    ("rotation(20)", "'rotation(20)': '20' is no option; write it as rotation(degrees=20)"),
    ("rotation(degrees=20", "'rotation(degrees=20' is no transform; write it as rotation(degrees=20)"),
    ("rotation(degrees=1, degrees=2)", "'rotation(degrees=1, degrees=2)': degrees is given twice; once is allowed"),
    ("grey(p=nan)", "grey: p: nan is not allowed; it must be at least 0 and at most 1"),
    ("grey(p=half)", "grey: p: 'half' is not allowed; it must be a number at least 0 and at most 1"),
    ({"name": "grey", "p": True}, "grey: p: True is not allowed; it must be a number at least 0 and at most 1"),
    ({"name": "grey", "p": 10**400}, "grey: p: inf is not allowed; it must be at least 0 and at most 1"),
    ({"name": "grey", "p": [1]}, "grey: p: [1] is not allowed; it must be a number at least 0 and at most 1"),
    ({"p": 1}, "{'p': 1} is no transform; write it as 'rotation(degrees=20)' or {name = \"rotation\", degrees = 20}"),
    (3, "3 is no transform; write it as 'rotation(degrees=20)' or {name = \"rotation\", degrees = 20}"),
    ("trivial_augment(n=1)", "no option is called 'n'; trivial_augment takes none"),
    ("random_resized_crop(scale_low=0)",
     "random_resized_crop: scale_low: 0.0 is not allowed; it must be more than 0 and at most 1"),
    ("random_resized_crop(scale_low=0.9, scale_high=0.5)",
     "random_resized_crop: scale_low: 0.9 is not allowed; it must be at most scale_high, 0.5"),
    ("light(p=1)",
     "light: a preset takes no options, p given; it is horizontal_flip, random_resized_crop(scale_low=0.6)"),
])
def test_mistakes_are_told(value: object, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        augmentation(["grey", value])  # type: ignore[list-item]
    assert caught.value.problems == (f"augment, step 2: {told}",)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        augmentation(["rotate", "rotation(degrees=-1, fill=black, colour=3)", "grey(p=2)"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "augment, step 1", "augment, step 2", "augment, step 2", "augment, step 2", "augment, step 3"]


def test_mistakes_in_records_are_told() -> None:
    with pytest.raises(SettingsError, match="random_resized_crop: given 2 times; it comes off the file, so at most"):
        augmentation(["light", "light"])
    with pytest.raises(SettingsError, match="steps: 'grey' is no transform"):
        Augmentation(("grey",))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="p: 2 is not allowed; it must be at least 0 and at most 1"):
        RandomErasing(2)
    for values, told in (({"steps": [{"name": "grey", "p": 3}]}, "Augmentation: augment, step 1: grey: p: 3.0 is not"),
                         ({"stps": []}, "Augmentation: {'stps': []} is no augmentation; give {'steps': [...]}")):
        with pytest.raises(DataError, match=re.escape(told)):
            Augmentation.from_dict({"format_version": 1, **values})
    with pytest.raises(DataError, match="is no Grey"):
        Grey.from_dict(Rotation().to_dict())


# -- the page ------------------------------------------------------------------------------------------------


def test_every_transform_and_preset_is_documented() -> None:
    def options(name: str) -> str:
        return "; ".join(f"`{item.name}` = {item.default:.4g}" if isinstance(item.default, float) else
                         f"`{item.name}` = {item.default}" for item in declared(TRANSFORMS[name])) or "none"

    page = (Path(__file__).parents[1] / "docs" / "augmentation.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \|$", page, flags=re.M))
    transforms = {name: options(name) for name in TRANSFORMS}
    presets = {name: ", ".join(f"`{text}`" for text in preset.to_text()) for name, preset in PRESETS.items()}
    assert rows == {**transforms, **presets}
