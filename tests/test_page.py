"""The page of a run: what it says is true, what it shows can't run, and people can read it."""

from __future__ import annotations

import base64
import getpass
import hashlib
import itertools
import json
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import regraft
from regraft import evaluation
from regraft.errors import TimeLimitError, UsageError
from regraft.heads.linear import LinearHead
from regraft.records.answers import Answers
from regraft.records.base import shown
from regraft.records.page import Pictures
from regraft.records.predicted import row
from regraft.records.results import Prediction, Predictions, TrainResult
from regraft.records.texts import Texts
from regraft.report.card import MARK
from regraft.report.page import run_page
from regraft.review.answers import review
from regraft.review.feature_map import feature_map, map_rows
from regraft.runs.gather import gather, without_places
from regraft.runs.prediction_table import write_table
from tests.conftest import write_crops

CHROMIUM = Path("/usr/bin/chromium")

#: Names of classes and files that would do harm, if any door took them for more than text.
HOSTILE = ("<script>window.ran = 1<", "=HYPERLINK(1)", "\"onmouseover='window.ran=1'", "שלום مرحبا 你好", "{{ 7 * 7 }}")


class Elements(HTMLParser):
    """Names and attributes of all elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def text_of(page: str | Path) -> str:
    return Path(page).read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")


def page_of(out: str | Path) -> str:
    return text_of(Path(out) / "run" / "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A model of classes and files with the worst names that a file system takes."""
    folder = tmp_path_factory.mktemp("hostile")
    crops = write_crops(folder / "crops", 10)
    pictures = [*sorted((crops / "palace").iterdir()), *sorted((crops / "flower").iterdir())]
    for at, name in enumerate(HOSTILE):
        target = folder / "data" / name
        target.mkdir(parents=True)
        for number, picture in enumerate(pictures[at::len(HOSTILE)]):
            shutil.copy(picture, target / f"+{number}'\"><img src=x onerror=window.ran=1>.jpg")
    (folder / "data" / HOSTILE[1] / "@broken.jpg").write_bytes(b"no picture")
    result = regraft.train(folder / "data", out=folder / "model", max_quarantined=0.5, quiet=True)
    assert isinstance(result, TrainResult)
    return result


def test_the_page_tells_what_the_record_says(trained: TrainResult) -> None:
    page = page_of(trained.out)
    assert trained.test is not None
    assert f"{100 * trained.test.accuracy.value:.1f} %" in page
    assert f"{100 * trained.test.accuracy.low:.1f} % to" in page
    assert f"Of {trained.test.n:,} images kept aside for the end" in page
    assert "regraft train crops" in page
    assert "efficientnet_lite0" in page
    assert "Apache-2.0" in page
    for section in ("figures", "confusion", "mistakes", "examples", "looks", "calibration", "map", "data", "again"):
        assert f'<section id="{section}"' in page


def test_nothing_but_its_own_style_and_script_is_let_in(trained: TrainResult) -> None:
    page = page_of(trained.out)
    elements = Elements(page).found
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        blocks = re.findall(f"<{kind}>(.*?)</{kind}>", page, flags=re.S)
        digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        assert len(digests) == 1
        assert f"{kind}-src 'sha256-{digests[0]}'" in policy
    assert not [a for _, a in elements if "style" in a or any(name.startswith("on") for name in a)]
    assert {(a.get("src") or "data:")[:5] for _, a in elements} == {"data:"}


def test_pictures_have_a_text_and_headings_an_order(trained: TrainResult) -> None:
    elements = Elements(page_of(trained.out)).found
    assert [a for tag, a in elements if tag == "img" and not a.get("alt")] == []
    assert [a for tag, a in elements if tag == "svg" and not ("aria-label" in a or "aria-hidden" in a)] == []
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_no_place_and_no_name_of_user_or_machine_is_told(trained: TrainResult, hostile: TrainResult) -> None:
    for result in (trained, hostile):
        for text in (page_of(result.out), (Path(result.out) / "README.md").read_text("utf-8")):
            told = re.sub(r'<style>.*?</style>|="data:[^"]*"', "", text, flags=re.S)
            assert str(Path(result.out).parent) not in told
            for name in (platform.node(), getpass.getuser()):
                assert not re.search(rf"\b{re.escape(name)}\b", told)
    assert without_places("no /mnt/me/data/x.jpg, no C:\\Users\\me\\f.png; run/x and 1/2 stay") == (
        "no x.jpg, no f.png; run/x and 1/2 stay")


def test_hostile_names_are_texts(hostile: TrainResult) -> None:
    page = page_of(hostile.out)
    elements = Elements(page).found
    assert [tag for tag, _ in elements].count("script") == 1
    assert [a for _, a in elements if "onerror" in a or "onmouseover" in a] == []
    assert "{{ 7 * 7 }}" in page
    assert "49" not in re.findall(r"<bdi>([^<]*)</bdi>", page)
    card = (Path(hostile.out) / "README.md").read_text("utf-8")
    assert "<script>" not in card
    assert "&lt;script&gt;" in card


def test_no_cell_of_a_table_is_a_formula(hostile: TrainResult, tmp_path: Path) -> None:
    listed = (Path(hostile.out) / "run" / "quarantine.csv").read_text("utf-8").splitlines()
    assert any("broken.jpg" in line for line in listed)
    answers = Predictions(tuple(Prediction(name, name, 1.0, {name: 1.0}) for name in ("=1+1", "+a", "-b", "@c", "\td",
                                                                                     "e=f")))
    write_table(tmp_path / "t.csv", (row(answer, "digest") for answer in answers))
    rows = (tmp_path / "t.csv").read_text("utf-8").splitlines()[1:]
    assert [line.partition(",")[0] for line in rows] == ["'=1+1", "'+a", "'-b", "'@c", "'\td", "e=f"]
    assert not [line for line in [*listed, *rows] if line[0] in "=+-@\t\r"]


def test_a_private_page_shows_no_picture_and_no_file(trained: TrainResult, tmp_path: Path) -> None:
    result = regraft.write_report(trained.out, out=tmp_path / "page.html", no_images=True, quiet=True)
    page = text_of(result.page)
    assert "data:image" not in page
    assert ".jpg" not in page.replace("new.jpg", "")
    assert "of run/splits.csv" in page


def test_images_that_have_moved_are_named_by_the_caller(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(trained.out, tmp_path / "model")
    begun = json.loads((gone / "run" / "settings.json").read_text("utf-8"))
    begun["settings"]["data"] = str(tmp_path / "nowhere")
    (gone / "run" / "settings.json").write_text(json.dumps(begun), "utf-8")
    without = regraft.write_report(gone, quiet=True)
    assert "regraft report --data" in without.notes[0]
    again = regraft.write_report(gone, data=crops, quiet=True)
    assert again.notes == ()
    assert "data:image" in page_of(gone)


def test_a_run_that_stopped_says_why(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(TimeLimitError):
        regraft.train(crops, out=tmp_path / "stopped", time_limit="0.001s", store=tmp_path / "store", quiet=True)
    result = regraft.write_report(tmp_path / "stopped", quiet=True)
    page = text_of(result.page)
    assert "This training did not finish" in page
    assert "the time limit of 0.001 s was reached" in page
    assert str(tmp_path) not in page
    assert '<section id="data"' in page  # the splits stand in splits.csv already


def test_several_runs_stand_side_by_side(trained: TrainResult, hostile: TrainResult, tmp_path: Path) -> None:
    result = regraft.write_report([trained.out, Path(hostile.out) / "run"], out=tmp_path / "both.html", quiet=True)
    page = text_of(result.page)
    assert result.runs == (str(Path(trained.out).resolve()), str(Path(hostile.out).resolve()))
    for of in (trained, hostile):
        assert of.test is not None
        assert f"{100 * of.test.accuracy.low:.1f} % to {100 * of.test.accuracy.high:.1f} %" in page


def test_a_model_without_its_run_has_a_page(tmp_path: Path) -> None:
    """It was saved before there were pages, calibration and a measure of the unknown."""
    model = shutil.copytree(Path(__file__).parent / "golden" / "old-model", tmp_path / "model")
    page = text_of(regraft.write_report(model, quiet=True).page)
    assert "The record of its training is not in its folder" in page
    assert json.loads((model / "model.json").read_text("utf-8"))["backbone"] in page


def test_what_is_no_run_is_refused(crops: Path) -> None:
    with pytest.raises(UsageError, match="holds no run; give a model folder"):
        regraft.write_report(crops)


def test_a_card_of_ones_own_stays(trained: TrainResult, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.out, tmp_path / "model")
    text = (copy / "README.md").read_text("utf-8")
    assert text.startswith("---\nlicense: apache-2.0\nlibrary_name: regraft\n")
    assert MARK in text
    (copy / "README.md").write_text("my own", "utf-8")
    result = regraft.write_report(copy, no_images=True, quiet=True)
    assert "README.md is your own and stays as it is" in result.notes
    assert (copy / "README.md").read_text("utf-8") == "my own"
    regraft.load(copy)  # the card is outside the manifest


def test_figures_for_reuse_lie_beside_the_page(trained: TrainResult) -> None:
    for name in ("confusion", "reliability", "precision-recall"):
        assert (Path(trained.out) / "run" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (Path(trained.out) / "run" / "figures" / f"{name}.svg").read_text("utf-8")


# -- what the page shows -----------------------------------------------------------------------------


def answers(P_NK: NDArray[np.float64], y_N: NDArray[np.int64]) -> Answers:
    n, k = P_NK.shape
    return Answers("validation", tuple(f"class {i}" for i in range(k)), np.arange(n),
                   Texts(f"{i}.jpg" for i in range(n)), y_N.astype(np.int32), P_NK.astype(np.float32), "held out")


def test_a_review_finds_what_is_worth_looking_at() -> None:
    found = review(answers(np.array([[.9, .1, .0], [.2, .7, .1], [.96, .02, .02], [.5, .3, .2], [.05, .9, .05]]),
                           np.array([0, 1, 1, 1, 2])))
    assert found.wrong == 3
    assert [image.row for image in found.mistakes] == [2, 4, 3]
    assert [image.row for image in found.doubtful] == [2, 4]
    assert [(pair.truth, pair.answer, pair.count, pair.of) for pair in found.pairs] == [
        ("class 1", "class 0", 2, 3), ("class 2", "class 1", 1, 1)]
    assert [image.row for image in found.sure] == [0, 1]
    assert found.unsure[0].row == 3
    assert sum(one.n for one in found.bins) == 5


def test_a_map_shows_the_first_two_components() -> None:
    from sklearn.datasets import load_iris
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    X_ND = load_iris().data.astype(np.float32)
    rows = map_rows(len(X_ND), X_ND.shape[1], 0)
    found = feature_map(X_ND[rows], rows, ("a",) * len(rows))
    pca = PCA(2).fit(StandardScaler().fit_transform(X_ND))
    expected = pca.transform(StandardScaler().fit_transform(X_ND))
    for mine, theirs in zip((found.x, found.y), expected.T, strict=True):
        assert abs(np.corrcoef(mine, theirs)[0, 1]) > 0.9999
    assert found.explained == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-4)
    assert len(map_rows(10_000, 1_000, 0)) == 2_000


def test_attribution_marks_what_the_answer_rests_on(trained: TrainResult, crops: Path) -> None:
    from regraft.attribution.gradcam import gradcam
    from regraft.data.view import view0

    model = regraft.load(trained.out)
    pixels = np.stack([view0(sorted((crops / name).iterdir())[0], model.record.preprocessing).pixels
                       for name in model.classes])
    heat = gradcam(model, pixels, np.arange(2))
    assert heat.shape[0] == 2
    assert heat.min() >= 0
    assert heat.max(axis=(1, 2)) == pytest.approx([1, 1])
    other = gradcam(model, pixels, np.array([1, 0]))
    assert np.abs(heat - other).max() > 0.5  # another class rests on something else


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_attribution_of_a_network_that_cuts_pictures_into_tokens(pool: str, crops: Path, tmp_path: Path) -> None:
    import timm
    import torch

    from regraft.attribution.gradcam import gradcam
    from regraft.data.view import view0

    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=2, num_classes=2,
                                global_pool=pool)
    out = tmp_path / "model"
    regraft.train(crops, module=network, size=64, out=out, report="none", quiet=True)
    model = regraft.load(out, module=network)
    files = [sorted((crops / name).iterdir())[0] for name in model.classes]
    pixels = np.stack([view0(file, model.record.preprocessing).pixels for file in files])
    heat = gradcam(model, pixels, np.arange(2))
    assert heat.shape == (2, 4, 4)
    assert heat.min() >= 0
    assert heat.max(axis=(1, 2)) == pytest.approx([1, 1])
    other = gradcam(model, pixels, np.array([1, 0]))
    assert np.abs(heat - other).max() > 0.5
    # Where the picture changes, what spoke changes most.
    changed = pixels.copy()
    changed[:, :16, 48:] = 255 - changed[:, :16, 48:]
    moved = np.abs(gradcam(model, changed, np.arange(2)) - heat)
    assert moved[:, 0, 3].min() > np.median(moved)


def test_class_maps_mark_what_the_score_comes_from(trained: TrainResult, crops: Path) -> None:
    from regraft.attribution.class_maps import class_maps
    from regraft.data.view import view0
    from regraft.networks.lite import LiteNetwork

    model = regraft.load(trained.out)
    network, rules = model.frozen(), model.record.preprocessing
    assert isinstance(network, LiteNetwork)
    assert isinstance(model.head, LinearHead)
    pixels = np.stack([view0(sorted((crops / name).iterdir())[1], rules).pixels for name in model.classes])
    heat = class_maps(network, rules, model.head, pixels, np.arange(2))
    assert heat.shape == (2, 28, 28)
    assert heat.min() >= 0
    assert heat.max(axis=(1, 2)) == pytest.approx([1, 1])
    for picture, heat_HW, k in zip(pixels, heat, range(2), strict=True):
        large = np.asarray(Image.fromarray(heat_HW).resize(picture.shape[:2]))
        order = np.argsort(large.ravel(), kind="stable")
        third = len(order) // 3
        margins = []
        for covered in (order[-third:], order[:third]):
            grey = picture.copy().reshape(-1, 3)
            grey[covered] = 128
            logits_K = model.head.logits(model.engine().run(grey.reshape(picture.shape)[None]))[0]
            margins.append(logits_K[k] - logits_K[1 - k])
        assert margins[0] < margins[1], "covering what is marked hurts the answer more than covering what is not"


@pytest.mark.slow
def test_a_page_of_a_thousand_classes_stays_small(trained: TrainResult) -> None:
    rng = np.random.default_rng(0)
    classes = tuple(f"class {k} of a thousand" for k in range(1000))
    y_N = rng.integers(0, 1000, 10_000).astype(np.int32)
    P_NK = rng.random((10_000, 1000), np.float32) ** 30
    P_NK[np.arange(10_000), y_N] += rng.random(10_000, np.float32)
    P_NK /= P_NK.sum(1, keepdims=True)
    paths = Texts(f"c/{i}.jpg" for i in range(10_000))
    held = Answers("test", classes, np.arange(10_000), paths, y_N, P_NK, "held out")
    figures = evaluation.judge(P_NK.astype(np.float64), y_N, classes, split="test", method="held out", majority=0)
    run = gather(Path(trained.out))
    looked = review(held)
    thumbnails = {image.row: "data:image/webp;base64," + "A" * 10_000 for image in looked.mistakes}
    page = run_page(replace(
        run, result=replace(trained, test=figures, validation=None), answers={"test": held}, reviews={"test": looked},
        counts={name: {"test": 10} for name in classes}, pictures=Pictures(thumbnails), feature_map=None))
    assert len(page.encode()) < 8e6
    assert page.count("<img") > 400


# -- in a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM} to open the page with")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in the extra test")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=str(CHROMIUM))
        yield opened
        opened.close()


def opened(browser: Any, file: Path, width: int, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page of a file at a width, and what went wrong in it."""
    page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url[:80]))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    return page, wrong


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    """Small trainings on three real sets."""
    folder = tmp_path_factory.mktemp("real")
    results = {}
    for name, limit in (("clothing", 3), ("eurosat", 6), ("flowers102", 3)):
        results[name] = regraft.train(shared_data / name, strategy="features", limit=limit, out=folder / name,
                                      quiet=True)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clothing", "eurosat", "flowers102"])
def test_a_real_page_opens_without_an_error_and_fits_every_width(browser: Any, real: dict[str, TrainResult], name: str,
                                                                 ) -> None:
    file = Path(real[name].out) / "run" / "report.html"
    for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light")):
        page, wrong = opened(browser, file, width, scheme)
        assert wrong == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => !image.complete || image.naturalWidth > 0)")
        page.context.close()


@pytest.mark.slow
def test_tables_sort_and_filters_filter(browser: Any, real: dict[str, TrainResult]) -> None:
    page, wrong = opened(browser, Path(real["clothing"].out) / "run" / "report.html", 1280)
    column = page.locator("#classes tbody tr td:nth-child(3)")
    head = page.locator("#classes thead th:nth-child(3) button")
    head.click()
    down = [float(cell.get_attribute("data-value")) for cell in column.all()]
    assert down == sorted(down, reverse=True)
    head.press("Enter")
    up = [float(cell.get_attribute("data-value")) for cell in column.all()]
    assert up == sorted(up)
    assert up != down
    cards = page.locator("#mistakes .gallery li:visible")
    page.select_option("select[name=split]", "")
    truth = page.locator("select[name=truth] option").nth(1).get_attribute("value")
    page.select_option("select[name=truth]", truth)
    assert 0 < cards.count() <= page.locator("#mistakes .gallery li").count()
    assert {card.get_attribute("data-truth") for card in cards.all()} == {truth}
    assert str(cards.count()) in page.locator(".filters output").inner_text()
    assert wrong == []


@pytest.mark.slow
def test_hostile_names_run_nothing_in_a_browser(browser: Any, hostile: TrainResult) -> None:
    page, wrong = opened(browser, Path(hostile.out) / "run" / "report.html", 1280)
    page.mouse.move(400, 400)
    assert page.evaluate("typeof window.ran") == "undefined"
    assert wrong == []
    for name in HOSTILE:
        assert page.get_by_text(shown(name)).count() > 0


@pytest.mark.slow
def test_texts_stand_out_from_their_ground(browser: Any, trained: TrainResult) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for texts, in both colour schemes."""
    for scheme in ("light", "dark"):
        page, _ = opened(browser, Path(trained.out) / "run" / "report.html", 1280, scheme)
        colours = page.evaluate("""() => {
            const style = getComputedStyle(document.documentElement);
            return Object.fromEntries(["ink", "soft", "accent", "good", "bad", "ground", "sheet"].map(
                name => [name, style.getPropertyValue("--" + name).trim()]));
        }""")
        for text in ("ink", "soft", "accent", "good", "bad"):
            for ground in ("ground", "sheet"):
                assert contrast(colours[text], colours[ground]) >= 4.5, f"{scheme}: {text} on {ground}"


def contrast(text: str, ground: str) -> float:
    """WCAG's contrast of two colours such as #1c232e."""
    def luminance(colour: str) -> float:
        full = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                  for c in (int(full[at:at + 2], 16) / 255 for at in (0, 2, 4))]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
