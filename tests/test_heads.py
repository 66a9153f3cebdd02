"""Heads on several readouts: what they share, which one is chosen, what is known of images they do not know."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.decisions import fitting
from regraft.decisions.fitting import compare_kinds, fit_known
from regraft.decisions.novelty import unsureness
from regraft.heads.choose import Candidate, OneClass, choose, divide, drawn, fit_many, held_out, score, search
from regraft.heads.linear import Blocks, Standardisation, fit_head
from regraft.heads.shared import Shared, join
from regraft.heads.solver import TOLERANCE, OneOf, softmax
from regraft.records.heads import HeadSettings, Weighting

CLASSES = 4


def readouts(n: int = 120, seed: int = 0, spread: float = 1.0) -> tuple[Blocks, NDArray[np.int32]]:
    """Two stages of 30 and 60 numbers, ``last`` of 200 and the ``logits`` of 40, of classes that overlap."""
    rng = np.random.default_rng(seed)
    y_N = (np.arange(n) % CLASSES).astype(np.int32)
    blocks = {}
    for name, width, signal in (("stage1", 30, 0.2), ("stage2", 60, 0.4), ("last", 200, 0.5), ("logits", 40, 0.5)):
        centres = np.random.default_rng(width).standard_normal((CLASSES, width))
        blocks[name] = (3 + signal * centres[y_N] + spread * rng.standard_normal((n, width))).astype(np.float32)
    return blocks, y_N


NAMES = ("stage1", "stage2", "last", "logits")
TRAIN, HELD = np.arange(80), np.arange(80, 120)


@pytest.mark.parametrize("weighting", ["equal", "by_width"])
@pytest.mark.parametrize("names", [("last",), ("last", "stage2"), NAMES])
def test_joined_readouts_are_standardised_as_heads_see_them(names: tuple[str, ...], weighting: Weighting) -> None:
    blocks, _ = readouts()
    joined = Shared(blocks, NAMES, TRAIN, HELD, products=False).joined(names, weighting)
    standard = Standardisation.of({name: blocks[name][TRAIN] for name in names}, names, weighting)
    np.testing.assert_allclose(joined.train_NR, standard.apply(blocks, names, TRAIN), atol=1e-5)
    np.testing.assert_allclose(joined.held_MR, standard.apply(blocks, names, HELD), atol=1e-5)


@pytest.mark.parametrize("weighting", ["equal", "by_width"])
@pytest.mark.parametrize("names", [("last",), ("last", "stage2", "logits"), ("stage1",)])
def test_products_give_the_scores_that_rows_give(names: tuple[str, ...], weighting: Weighting) -> None:
    blocks, y_N = readouts()
    targets = OneOf(y_N[TRAIN], CLASSES)
    P = []
    for products in (False, True):
        joined = Shared(blocks, NAMES, TRAIN, HELD, products).joined(names, weighting)
        assert joined.products == (products and names != ("stage1",))  # with more images than numbers, rows are less
        *_, fit = joined.problem(targets).path((1e-2, 1e-3), TOLERANCE)
        P.append(softmax(joined.held_MR @ fit.V_RK + fit.b_K))
    np.testing.assert_allclose(P[0], P[1], atol=1e-3)


@pytest.mark.parametrize("names", [("last",), ("stage1",)])
def test_the_nearest_mean_is_the_same_from_products(names: tuple[str, ...]) -> None:
    blocks, y_N = readouts()
    scores = []
    for products in (False, True):
        joined = Shared(blocks, names, TRAIN, HELD, products).joined(names, "equal")
        V_RK, b_K = joined.nearest_mean(y_N[TRAIN], CLASSES)
        scores.append(joined.held_MR @ V_RK + b_K)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_of_heads_that_do_as_well_the_smaller_one_is_taken() -> None:
    blocks, y_N = readouts(200, spread=0.05)  # all readouts tell all images apart
    task, division = OneClass(y_N, CLASSES), (np.arange(120), np.arange(120, 200))
    offered = [Candidate(("last", "stage2"), "equal"), Candidate(("last",)), Candidate(("stage2",))]
    found = search(blocks, task, offered, [division], "a test", None, 0)
    assert found.choice.chosen.readouts == ("stage2",)
    assert found.choice.tried[0].log_loss <= min(t.log_loss for t in found.choice.tried)


def test_a_path_ends_where_weaker_strengths_do_worse() -> None:
    blocks, y_N = readouts(spread=4.0)
    rng = np.random.default_rng(0)
    y_N = rng.permutation(y_N).astype(np.int32)  # nothing to learn: the strongest is best
    joined = join(blocks, ("last",), "equal", TRAIN, HELD)
    candidate = Candidate(("last",))
    found = score(OneClass(y_N, CLASSES), joined, (TRAIN, HELD), candidate, (1e-1, 1e-3, 1e-5, 1e-7), None)
    assert [t.settings.strength for t in found.tried] == [1e-1, 1e-3]
    assert found.fit is not None
    assert found.fit.strength == 1e-1
    every = list(held_out(OneOf(y_N[TRAIN], CLASSES), joined, candidate, (1e-1, 1e-3, 1e-5, 1e-7)))
    assert len(every) == 4


def test_what_is_compared_is_the_mean_over_all_divisions() -> None:
    blocks, y_N = readouts(300, spread=3.0)
    divisions, task = divide(y_N, None, 3, 0), OneClass(y_N, CLASSES)
    found = choose(blocks, y_N, CLASSES, divisions, "folds", NAMES, refine=False)
    candidate = Candidate(found.choice.chosen.readouts, found.choice.chosen.weighting)
    tried = {t.settings.strength: t for t in found.choice.tried
             if (t.settings.readouts, t.settings.weighting) == (candidate.readouts, candidate.weighting)}
    alone = []
    for division in divisions:
        joined = join(blocks, candidate.readouts, candidate.weighting, *division)
        alone.append({t.settings.strength: t.log_loss for t in score(
            task, joined, division, candidate, (1e-3, 1e-4, 1e-5, 1e-6), None).tried})
    everywhere = set.intersection(*map(set, alone))
    assert set(tried) == everywhere  # some divisions end sooner than others
    for strength in everywhere:
        assert tried[strength].log_loss == pytest.approx(np.mean([of[strength] for of in alone]), rel=1e-3)


def test_without_refining_the_strength_is_one_of_the_path() -> None:
    blocks, y_N = readouts(300)
    found = choose(blocks, y_N, CLASSES, divide(y_N, None, 3, 0), "folds", NAMES, refine=False)
    assert found.choice.chosen.strength in (1e-3, 1e-4, 1e-5, 1e-6)


def test_a_fit_on_many_images_finds_its_own_strength() -> None:
    blocks, y_N = readouts(900, spread=2.0)
    names, learn, held = ("last", "stage2"), np.arange(600), np.arange(600, 900)
    joined = np.concatenate([blocks[name] for name in names], 1)
    widths = {name: blocks[name].shape[1] for name in names}
    losses = {}
    for start in (1e-1, 1e-5):
        chosen = HeadSettings("logistic_regression", names, "equal", start)
        head = fit_many(joined[learn], y_N[learn], joined[held], y_N[held], CLASSES, widths, chosen, 0.5)
        P = head.probabilities(joined[held])
        losses[start] = -np.log(P[np.arange(300), y_N[held]]).mean()
        # It goes on by thirds, or three times, from what it was given for half of the images.
        steps = np.log(head.settings.strength / (start * 0.5**0.5)) / np.log(3)
        assert steps == pytest.approx(round(steps), abs=1e-6)
        assert abs(round(steps)) <= 3
        plain = fit_head({name: blocks[name][learn] for name in names}, y_N[learn], CLASSES, head.settings)
        apart = np.abs(P - plain.probabilities(joined[held]))  # that fit goes a tenth of the way further
        assert apart.mean() < 1e-3
        assert apart.max() < 0.05
    assert losses[1e-1] < np.log(CLASSES)


@pytest.mark.parametrize("weighting", ["equal", "by_width"])
def test_kinds_of_novelty_are_compared_by_heads_that_never_saw_a_class(weighting: Weighting) -> None:
    blocks, y_N = readouts(400, spread=0.7)
    settings = HeadSettings("logistic_regression", ("last", "logits"), weighting, 1e-4)
    areas = compare_kinds(blocks, settings, y_N, CLASSES, np.arange(250), np.arange(250, 400))
    assert set(areas) == {"relative_mahalanobis", "softmax", "energy"}
    assert all(0.6 < area <= 1 for area in areas.values())
    shuffled = np.random.default_rng(0).permutation(y_N).astype(np.int32)
    chance = compare_kinds(blocks, settings, shuffled, CLASSES, np.arange(250), np.arange(250, 400))
    assert all(0.35 < area < 0.65 for area in chance.values())


def test_classes_without_images_have_no_mean() -> None:
    blocks, y_N = readouts()
    known = fit_known(blocks, ("last",), np.where(y_N == 3, 2, y_N).astype(np.int32))
    assert known.means.shape[0] == 3


def test_a_threshold_is_of_the_models_own_head_where_it_saw_no_held_out_image(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, y_N = readouts(400)
    settings = HeadSettings("logistic_regression", ("last",), "equal", 1e-3)
    own = fit_head({"last": blocks["last"][:250]}, y_N[:250], CLASSES, settings)
    areas = {"relative_mahalanobis": 0.5, "softmax": 0.5, "energy": 0.9}
    monkeypatch.setattr(fitting, "compare_kinds", lambda *_: areas)
    rows, held = np.arange(100), np.arange(250, 400)  # asked with a part of what it learned from
    unknown, known = fitting.fit_unknown(blocks, settings, y_N, CLASSES, rows, [(rows, held)], 2.0, 0.95, own)
    assert unknown is not None
    assert known is None
    scores_M = np.sort(unsureness("energy", own.tempered(2.0).logits(blocks["last"][held])))
    assert unknown.threshold == pytest.approx(scores_M[int(np.ceil(151 * 0.95)) - 1])
    without, _ = fitting.fit_unknown(blocks, settings, y_N, CLASSES, rows, [(rows, held)], 2.0, 0.95)
    assert without is not None
    assert without.threshold != unknown.threshold


@pytest.mark.parametrize(("classes", "rows"), [(2, 1_000), (83, 1_000), (100, 1_200), (1_000, 2_000)])
def test_of_many_classes_more_images_are_drawn(classes: int, rows: int) -> None:
    assert drawn(classes) == rows
