"""The pictures of a training: drawn from real records, readable, nothing on top of anything else."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from PIL import Image

import regraft
from regraft.errors import MissingExtraError
from regraft.records.results import Compared, Comparison, Majority, TrainResult
from regraft.report import bars, curves
from regraft.report.sheet import Picture, apart, drawing

THREE = """
name = "three phases"
[head]
reads = "last"
start = "random"
[[phases]]
name = "head"
learns = "head"
epochs = 1
[[phases]]
name = "größer $x_1$"
learns = "head"
epochs = 1
[[phases]]
name = "第三段階 & <last>"
learns = "head"
epochs = 28
"""


@pytest.fixture(scope="module")
def three(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A training of three phases and 30 epochs, on real pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "plan.toml").write_text(THREE, "utf-8")
    result = regraft.train(crops, plan=folder / "plan.toml", out=folder / "model", quiet=True)
    assert isinstance(result, TrainResult)
    return result


def phases_of(result: TrainResult, wanted: int) -> TrainResult:
    """The same training as if it had ended after so many phases."""
    names = list(dict.fromkeys(epoch.phase for epoch in result.epochs))[:wanted]
    return replace(result, epochs=tuple(epoch for epoch in result.epochs if epoch.phase in names))


def words(picture: Picture) -> str:
    """All texts of the SVG."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", picture.svg.decode("utf-8"), flags=re.S)
    return "\n".join(found).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def assert_readable(figure: Any) -> None:
    """No text leaves the sheet, none lies on another."""
    with drawing():
        figure.canvas.draw()  # which puts the labels of axes in their places
        renderer = figure.canvas.get_renderer()
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if on_axis(text)]
    width, height = figure.bbox.width, figure.bbox.height
    assert len(boxes) > 5
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, f"{one!r} lies on {other!r}"


def on_axis(text: Any) -> bool:
    """Whether a text is drawn: labels of ticks beyond the axis' ends are not."""
    for axis in (axis for axes in text.figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if text in (tick.label1, tick.label2):
                return bool(low <= tick.get_loc() <= high)
    return True


def test_a_training_leaves_its_curves(three: TrainResult) -> None:
    folder = Path(three.out) / "run"
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.size[0] == 1600
        assert 1000 < picture.size[1] < 1600
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or ()) > 20
    assert 20_000 < (folder / "curves.png").stat().st_size < 500_000
    text = (folder / "curves.svg").read_text("utf-8")
    assert text.startswith("<?xml")
    assert len(text) < 200_000
    drawn = curves.curves(three)
    assert drawn is not None
    assert drawn.svg == (folder / "curves.svg").read_bytes()  # the same record gives the same bytes
    assert drawn.png == (folder / "curves.png").read_bytes()
    assert three.validation is not None
    assert three.probe is not None
    assert len((folder / "phases.jsonl").read_text("utf-8").splitlines()) == 3
    for expected in ("head", "größer $x_1$", "第三段階 & <last>", "three phases, efficientnet_lite0", "training",
                     "validation", f"frozen probe {three.probe.accuracy.value:.1%}",
                     f"frozen probe {three.probe.log_loss:.3f}", "always flower 50.0%", "accuracy", "loss", "epoch",
                     f"{three.validation.n} validation images"):
        assert expected in words(drawn)
    chosen = [epoch for epoch in three.epochs if epoch.best][-1]
    assert f"◆ chosen epoch: {chosen.number};" in words(drawn)


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_no_text_lies_on_another(three: TrainResult, phases: int) -> None:
    assert_readable(curves.figure(phases_of(three, phases)))


def unlike(result: TrainResult) -> Iterator[TrainResult]:
    """The same training with what users may have named, and with curves on top of each other or far apart."""
    validation, probe = result.validation, result.probe
    assert validation is not None
    assert probe is not None
    nasty = "Schnee\n\x07\udc80 \u202e 雪 $\\frac{1}{2}$ <b>&amp;" + 40 * "très long "
    named = {epoch.phase: f"{number} {nasty}" for number, epoch in enumerate(result.epochs)}
    yield replace(result, strategy=nasty, backbone=nasty,
                  epochs=tuple(replace(e, phase=named[e.phase]) for e in result.epochs),
                  validation=replace(validation, majority=Majority(nasty, 0.9)))
    same = [replace(e, train_loss=None if e.train_loss is None else 0.5, train_accuracy=None if e.train_loss is None
                    else 0.9, validation_loss=0.5, validation_accuracy=0.9) for e in result.epochs]
    level = replace(probe, accuracy=replace(probe.accuracy, low=0.8, value=0.9, high=1.0), log_loss=0.5)
    yield replace(result, epochs=tuple(same), probe=level, validation=replace(validation, majority=Majority("a", 0.9)))
    yield replace(result, epochs=(replace(same[0], validation_loss=400.0), *same[1:]))
    yield replace(result, epochs=tuple(replace(e, validation_loss=0.0, train_loss=0.0) for e in same), probe=None)
    yield replace(result, validation=probe)  # the frozen probe is kept
    yield replace(result, validation=None, probe=None)
    yield replace(result, epochs=result.epochs[:1])
    # Short phases in a row, at the beginning and at the end of a long one.
    yield replace(result, epochs=tuple(replace(e, phase=f"phase number {min(n, 4)}") for n, e in
                                       enumerate(result.epochs)))
    yield replace(result, epochs=tuple(replace(e, phase=f"phase number {max(n, len(result.epochs) - 3)}") for n, e in
                                       enumerate(result.epochs)))


def test_no_text_lies_on_another_whatever_is_drawn(three: TrainResult) -> None:
    for result in unlike(three):
        assert_readable(curves.figure(result))
        drawn = curves.curves(result)
        assert drawn is not None
        drawn.svg.decode("utf-8")
        assert Image.open(BytesIO(drawn.png)).size[0] == 1600


def test_one_loss_far_above_the_others_does_not_press_them_flat(three: TrainResult) -> None:
    first, *rest = three.epochs
    figure = curves.figure(replace(three, epochs=(replace(first, validation_loss=400.0), *rest)))
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    assert [axes.get_yscale() for axes in curves.figure(three).axes] == ["linear", "linear"]


def test_without_epochs_there_are_no_curves(trained: TrainResult) -> None:
    assert curves.curves(trained) is None
    assert not (Path(trained.out) / "run" / "curves.png").exists()


def test_drawing_leaves_matplotlib_as_it_was(three: TrainResult, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # whose state is the caller's
    with matplotlib.rc_context():
        matplotlib.rcParams["font.size"] = 31.0
        before = dict(dict.items(matplotlib.rcParams))  # as they are stored: asking for the backend loads one
        drawn = curves.curves(three)
        assert dict(dict.items(matplotlib.rcParams)) == before
    assert drawn == curves.curves(three)  # and what the caller has set changes no picture


def test_without_matplotlib_the_training_goes_well(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str], three: TrainResult) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="drawing"):
        curves.curves(three)
    (tmp_path / "plan.toml").write_text(THREE, "utf-8")
    regraft.train(crops, plan=tmp_path / "plan.toml", out=tmp_path / "out", set=["phases.*.epochs=1"])
    assert "no curves are drawn: " in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "run" / "curves.png").exists()


# -- bars ------------------------------------------------------------------------------------------


def row(result: TrainResult, plan: str, first: float | None) -> Compared:
    assert result.validation is not None
    return Compared(plan, result.out, result.backbone, 1281, 30, 30.0, first, result.validation.accuracy, None,
                    result.seconds, {"accuracy": "91-94 %"})


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_bars_name_every_plan_and_the_baseline(three: TrainResult, share: float) -> None:
    rows = (row(three, "one", 0.31), row(three, "plan 日本 $x$ & <b> " + 30 * "long ", 0.72), row(three, "last", None))
    comparison = Comparison("out", {"train": 20, "validation": 10}, rows, Majority("flower & 花", share), None, 3.0, "")
    drawn = bars.bars(comparison)
    assert Image.open(BytesIO(drawn.png)).size == (1600, round(200 * (0.62 + 0.62 * 3 + 1.1)))
    for expected in ("one", "plan 日本 $x$ & <b>", "last", "efficientnet_lite0", "31.0%", "95 % interval",
                     f"always flower & 花 {share:.1%}", repr(rows[0].validation), "after the first epoch"):
        assert expected in words(drawn)
    assert_readable(bars.figure(comparison))


def test_bars_without_figures(three: TrainResult) -> None:
    nothing = replace(row(three, "one", None), validation=None)
    assert_readable(bars.figure(Comparison("out", {}, (nothing,), None, None, 0.0, "")))


@pytest.mark.parametrize(("places", "expected"), [
    ([], []), ([1.0], [1.0]), ([1.0, 1.0], [0.0, 1.0]), ([3.0, 1.0], [3.0, 1.0]), ([9.9, 9.8, 9.7], [9.9, 8.9, 7.9]),
    ([12.0, -5.0], [10.0, 0.0]), ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0]),
])
def test_places_move_apart_as_little_as_needed(places: list[float], expected: list[float]) -> None:
    assert apart(places, 1.0, 0.0, 10.0) == pytest.approx(expected)
