"""Training by steps through the public doors: equal twice, equal after a stop, equal from the store and without."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import regraft
from regraft.errors import DataError, OutputError, SettingsError, TrainingError
from regraft.records.plan import BackbonePlan, HeadPlan, Phase, Plan, PreprocessingPlan
from regraft.records.results import TrainResult
from regraft.records.training import Epoch
from regraft.strategy.writing import to_toml
from tests.conftest import write_crops
from tests.doors import regraft_cli

#: A network that is traced in a moment; everything behind its first block learns.
_SMALL = Plan(
    "small", preprocessing=PreprocessingPlan(size=64), backbone=BackbonePlan("plain:cnn", start="random"),
    head=HeadPlan(start="random"),
    phases=(Phase("later layers", ("blocks.1", "blocks.2", "dense", "head"), epochs=3, batch=8, views=2, rate=1e-3,
                  augment=("horizontal_flip", "random_resized_crop(scale_low=0.6, scale_high=1)")),))

#: What makes a pre-trained network of it, the solved head at its start.
_PRETRAINED = ("backbone.name=efficientnet_lite0", "backbone.start=pretrained", "head.start=solved",
               'phases.0.learns=["stages[-2:]", "head"]')


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crops(tmp_path_factory.mktemp("crops"), 30)


@pytest.fixture(scope="module")
def undisturbed(crops: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return partial(crops, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture(scope="module", autouse=True)
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small plan as a file: what a plan trains is kept even where the probe does better."""
    file = tmp_path_factory.mktemp("plans") / "plan.toml"
    file.write_text(to_toml(_SMALL))
    _PLAN.append(file)
    return file


_PLAN: list[Path] = []


def partial(data: Path, out: Path, *changes: str, **settings: Any) -> TrainResult:
    result = regraft.train(data, plan=_PLAN[-1], set=changes, out=out, quiet=True, **settings)
    assert isinstance(result, TrainResult)
    return result


def stopped_at(number: int, data: Path, out: Path) -> None:
    """Leave a run that was stopped after an epoch."""

    def stop(event: object) -> None:
        if isinstance(event, Epoch) and event.number == number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partial(data, out, hooks=regraft.Hooks(on_event=stop))


def weights(out: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    folder = Path(out)
    return {**load_file(folder / "backbone.safetensors"), **load_file(folder / "head.safetensors")}


def assert_equal_models(a: str | Path, b: str | Path) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


def figures(epochs: tuple[Epoch, ...]) -> list[tuple[float | None, ...]]:
    return [(e.train_loss, e.train_accuracy, e.validation_loss, e.validation_accuracy) for e in epochs]


# -- what comes out --------------------------------------------------------------------------------


def test_a_training_leaves_a_model_its_history_and_its_plan(undisturbed: TrainResult, crops: Path) -> None:
    out = Path(undisturbed.out)
    lines = [json.loads(line) for line in (out / "run" / "history.jsonl").read_text().splitlines()]
    assert [Epoch.from_dict(line) for line in lines] == list(undisturbed.epochs)
    assert [e.number for e in undisturbed.epochs] == [0, 1, 2, 3]
    assert 'name = "small"' in (out / "run" / "plan.toml").read_text()
    assert not (out / "run" / "checkpoints").exists()
    answers = regraft.predict(out, sorted(crops.glob("flower/*.jpg"))[:4], quiet=True)
    assert [a.error for a in answers] == [None] * 4


def test_the_head_starts_where_the_probe_is(crops: Path, tmp_path: Path) -> None:
    result = partial(crops, tmp_path / "out", *_PRETRAINED, "phases.0.epochs=1")
    start = result.epochs[0]
    assert result.probe is not None
    assert start.train_loss is None
    assert start.validation_accuracy == pytest.approx(result.probe.accuracy.value)
    # In the half precision of what is kept, and before the probabilities are calibrated, which only lowers their loss.
    assert result.probe.log_loss - 0.02 <= start.validation_loss <= result.probe.log_loss + 0.2


def test_smoothed_labels_soften_the_head_that_a_training_starts_from(crops: Path, tmp_path: Path) -> None:
    """Else the first thing that stages learn is to make a sure head less sure."""
    changes = (*_PRETRAINED[:3], "phases.0.learns=[\"head\"]", "phases.0.epochs=1", "phases.0.rate=1e-7")
    plain, smoothed = (partial(crops, tmp_path / f"out-{share}", *changes, f"phases.0.label_smoothing={share}")
                       for share in (0, 0.3))
    starts = [result.epochs[0] for result in (plain, smoothed)]
    assert starts[0].validation_accuracy == starts[1].validation_accuracy
    assert starts[1].validation_loss > starts[0].validation_loss + 0.05
    # Labels of 0.85 and 0.15 leave every head their entropy at least; a sure head would have several times that.
    least = -(0.85 * np.log(0.85) + 0.15 * np.log(0.15))
    assert smoothed.epochs[1].train_loss is not None
    assert least <= smoothed.epochs[1].train_loss < least + 0.2


def test_what_is_frozen_stays_as_it_was(undisturbed: TrainResult) -> None:
    from regraft.networks.build import load_backbone

    before, after = load_backbone("plain:cnn", size=64, random=0).state(), weights(undisturbed.out)
    changed = {name for name, tensor in before.items() if not np.array_equal(tensor.numpy(), after[name])}
    assert changed == {name for name in before if name.startswith(("blocks.1", "blocks.2", "dense"))}


def test_a_strategy_keeps_the_probe_where_it_does_better(crops: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"quiet": True, "set": (
        "preprocessing.size=64", "phases.0.batch=8", "phases.0.rate=0.05", "phases.0.epochs=1", "head.start=random")}
    kept = regraft.train(crops, strategy="full", out=tmp_path / "strategy", **settings)
    assert isinstance(kept, TrainResult)
    assert kept.probe is not None
    assert kept.decision.endswith("the frozen probe is kept")
    assert kept.validation == kept.probe
    assert kept.head.chosen.kind != "trained"
    evaluated = regraft.evaluate(tmp_path / "strategy", crops, quiet=True)
    assert evaluated.seen_in_training > 0
    explicit = partial(crops, tmp_path / "plan", *_PRETRAINED, "phases.0.rate=0.05", "phases.0.epochs=1",
                       "phases.0.learns=all", "head.start=random")
    assert "the frozen probe did better" in explicit.decision
    assert explicit.head.chosen.kind == "trained"


# -- equal, whatever happens on the way ------------------------------------------------------------


def test_twice_the_same_with_and_without_workers(undisturbed: TrainResult, crops: Path, tmp_path: Path) -> None:
    again = partial(crops, tmp_path / "again", workers=0)
    assert_equal_models(undisturbed.out, again.out)
    assert figures(again.epochs) == figures(undisturbed.epochs)


def test_fresh_views_do_not_depend_on_workers(crops: Path, tmp_path: Path) -> None:
    one, two = (partial(crops, tmp_path / str(workers), "phases.0.views=0", "phases.0.epochs=2", workers=workers)
                for workers in (0, 2))
    assert_equal_models(one.out, two.out)


def test_another_seed_is_another_training(undisturbed: TrainResult, crops: Path, tmp_path: Path) -> None:
    other = partial(crops, tmp_path / "other", "phases.0.epochs=1", seed=1)
    assert figures(other.epochs)[1] != figures(undisturbed.epochs)[1]


def test_stopped_between_epochs_and_resumed_is_the_same(undisturbed: TrainResult, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped_at(2, crops, out)
    assert list((out / "run" / "checkpoints").iterdir())
    resumed = partial(crops, out, resume=True)
    assert_equal_models(undisturbed.out, out)
    assert figures(resumed.epochs) == figures(undisturbed.epochs)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
        undisturbed: TrainResult, crops: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    stopped_at(3, crops, out)
    older, newest = sorted((out / "run" / "checkpoints").iterdir())
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    regraft.train(crops, plan=_PLAN[-1], out=out)
    assert f"the checkpoint {newest.name} is damaged; going back to the one before it" in capfd.readouterr().err
    assert older.name != newest.name
    assert_equal_models(undisturbed.out, out)


def test_resume_with_other_settings_says_which(crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped_at(1, crops, out)
    with pytest.raises(OutputError, match=r"begun with other settings \(.*seed: 0, now 3"):
        partial(crops, out, seed=3)
    anew = partial(crops, out, "phases.0.epochs=1", seed=3, force=True)
    assert [e.number for e in anew.epochs] == [0, 1]
    with pytest.raises(OutputError, match="holds no unfinished run to resume"):
        partial(crops, tmp_path / "nothing", resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_writes_a_checkpoint_within_an_epoch(
        undisturbed: TrainResult, crops: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    changes = [word for change in ("phases.0.epochs=400",) for word in ("--set", change)]
    command = [sys.executable, "-m", "regraft.cli", "train", str(crops), "--plan", str(_PLAN[-1]), "--out", str(out),
               *changes]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    history = out / "run" / "history.jsonl"
    while process.poll() is None and not (history.exists() and history.read_text().count("\n") > 4):
        time.sleep(0.05)
    told = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert time.monotonic() - told < 20
    assert len(list((out / "run" / "checkpoints").glob("*.safetensors"))) == 2
    assert not list((out / "run" / "checkpoints").glob("*.half"))
    resumed = regraft_cli(*command[3:])
    assert resumed.returncode == 0, resumed.stderr
    whole = regraft_cli(*command[3:-len(changes) - 1], tmp_path / "whole", *changes)
    assert whole.returncode == 0, whole.stderr
    assert_equal_models(out, tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_checkpoint_that_can_not_be_written_leaves_the_one_before(crops: Path, tmp_path: Path) -> None:
    import resource

    out = tmp_path / "out"
    command = [sys.executable, "-m", "regraft.cli", "train", str(crops), "--plan", str(_PLAN[-1]), "--out", str(out)]

    def full() -> None:  # Python ignores the signal; a write past the limit fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    done = subprocess.run([*command], preexec_fn=full, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"error: the checkpoint of [\d,]+ bytes can't be written to .*; [\d,]+ bytes are free",
                     done.stderr)
    assert not list((out / "run" / "checkpoints").iterdir())
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr


# -- kept and fresh --------------------------------------------------------------------------------


def losses(data: Path, out: Path, *changes: str) -> list[float]:
    """Training loss of each of 21 epochs of one step."""
    result = partial(data, out, "phases.0.batch=64", "phases.0.epochs=21", "phases.0.precision=fp32",
                     "phases.0.optimiser=sgd", "phases.0.rate=0.01", *changes)
    assert result.epochs[-1].step == 21
    return [e.train_loss for e in result.epochs if e.train_loss is not None]


def test_kept_activations_train_as_fresh_ones_do(crops: Path, tmp_path: Path) -> None:
    fresh = losses(crops, tmp_path / "fresh", "phases.0.cached=never")
    whole = losses(crops, tmp_path / "whole", "phases.0.cached=always", "phases.0.store_as=float32")
    half = losses(crops, tmp_path / "half", "phases.0.cached=always")
    assert np.abs(np.subtract(fresh, whole)).max() < 1e-4
    assert 0 < np.abs(np.subtract(fresh, half)).max() < 0.05


def test_the_first_pass_brings_what_is_kept_of_the_images_as_they_are(
        crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as a pass of its own through what lies before the cut, where the features were known."""
    known = tmp_path / "known"
    regraft.train(crops, backbone="efficientnet_lite0", size=64, out=tmp_path / "features", store=known, quiet=True)
    changes = (*_PRETRAINED, "phases.0.epochs=1")
    capsys.readouterr()
    apart = regraft.train(crops, plan=_PLAN[-1], set=changes, out=tmp_path / "apart", store=known, report="none")
    assert "later layers: frozen part: 38 of 38" in capsys.readouterr().err
    at_once = regraft.train(crops, plan=_PLAN[-1], set=changes, out=tmp_path / "at-once", report="none",
                            store=tmp_path / "empty")
    assert "frozen part" not in capsys.readouterr().err
    assert isinstance(apart, TrainResult)
    assert isinstance(at_once, TrainResult)
    assert (apart.features.reused, at_once.features.computed) == (60, 60)
    np.testing.assert_allclose(np.array(figures(apart.epochs)[1:], float), np.array(figures(at_once.epochs)[1:], float),
                               atol=1e-3)


def test_a_head_that_reads_other_layers_answers_as_it_learned(crops: Path, tmp_path: Path) -> None:
    """Its columns lie as the network makes them, however they are named; and stages are counted without them."""
    result = partial(crops, tmp_path / "out", *_PRETRAINED[:2], 'phases.0.learns=["stages[-2:]", "head"]',
                     'head.reads=["last", "stage2/mean", "stage3"]', "phases.0.epochs=2")
    best = [epoch for epoch in result.epochs if epoch.best][-1]
    assert result.head.chosen.readouts == ("stage2/mean", "stage3", "last")
    assert result.validation is not None
    assert result.validation.accuracy.value == pytest.approx(best.validation_accuracy)
    other = partial(crops, tmp_path / "other", *_PRETRAINED[:2], 'phases.0.learns=["stages[-2:]", "head"]',
                    'head.reads=["last"]', "phases.0.epochs=1")
    learned, of_other = (_learned(one.out) for one in (result, other))
    assert learned == of_other


def _learned(out: str) -> set[str]:
    """Tensors of a model that are no longer the bundled network's."""
    from regraft.networks.build import load_backbone

    before = load_backbone("efficientnet_lite0").module.state_dict()
    after = load_file(Path(out) / "backbone.safetensors")
    return {name for name, tensor in before.items() if not np.array_equal(tensor.numpy(), after[name])}


def test_an_image_that_is_gone_at_the_end_is_named(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "crops", 30)

    def take(event: object) -> None:
        if isinstance(event, Epoch) and event.number == 1:
            for file in data.rglob("*.jpg"):
                file.unlink()

    with pytest.raises(DataError, match=r"was read before and can't be now \(.*\); put it back, and go on") as told:
        partial(data, tmp_path / "out", *_PRETRAINED, "phases.0.epochs=1", hooks=regraft.Hooks(on_event=take))
    assert str(tmp_path / "out") in str(told.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


# -- what can't be done ----------------------------------------------------------------------------


def test_every_mistake_of_a_plan_at_once(crops: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "bad"\n[head]\nstart = "solvd"\n[[phases]]\nname = "a"\nlearns = ["head"]\nepoch = 3\n'
                    'rate = -1\n[[phases]]\nname = "b"\nlearns = ["head"]\nbatch = "many"\n')
    with pytest.raises(SettingsError) as caught:
        regraft.train(crops, plan=plan, out=tmp_path / "out", quiet=True)
    said = "\n".join(caught.value.problems)
    for part in ("head.start", "did you mean 'epochs'?", "phases.0.rate", "phases.1.batch"):
        assert part in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "error", "message"), [
    (("phases.0.learns=[\"blocks.9\"]",), regraft.errors.UnknownNameError,
     "no module of the network is called 'blocks.9'"),
    ((*_PRETRAINED, "phases.0.learns=[\"head\"]", "phases.0.batch_norm=training"), TrainingError,
     "but no batch norm learns"),
    (("phases.0.learns=[\"all\"]", "phases.0.cached=always"), TrainingError, "cached = \"always\" is impossible"),
])
def test_what_can_not_be_done_is_said(crops: Path, tmp_path: Path, changes: tuple[str, ...], error: type[Exception],
                                      message: str) -> None:
    with pytest.raises(error, match=message):
        partial(crops, tmp_path / "out", *changes)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_loss_that_is_no_number_stops_within_the_step(crops: Path, tmp_path: Path) -> None:
    import torch

    steps = []

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        steps.append(len(labels))
        return scores.sum() * (float("nan") if len(steps) == 3 else 1e-3)

    with pytest.raises(TrainingError, match=r"the loss is no number at step 3 of later layers, images (flower|palace)"):
        partial(crops, tmp_path / "out", hooks=regraft.Hooks(loss=loss))
    assert len(steps) == 3
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_store_too_small_says_how_many_bytes_are_missing(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"takes [\d,]+ bytes, [\d,]+ more than there is room for"):
        partial(crops, tmp_path / "out", "phases.0.cached=always", store_limit="1K")
    fewer = partial(crops, tmp_path / "fewer", "phases.0.epochs=1", store_limit="1K")
    assert fewer.epochs[-1].number == 1


def test_hooks_take_the_place_of_the_loops_own_parts(crops: Path, tmp_path: Path) -> None:
    import torch

    called: set[str] = set()

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        called.add("loss")
        return torch.nn.functional.cross_entropy(scores, labels)

    def optimiser(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        called.add("optimiser")
        return torch.optim.SGD(groups, lr=1e-3)

    def sampler(labels: np.ndarray[Any, Any], epoch: int, seed: int) -> np.ndarray[Any, Any]:
        called.add("sampler")
        return np.arange(len(labels))[::-1]

    def stop(event: object) -> bool:
        called.add("event")
        return not (isinstance(event, Epoch) and event.number == 1)

    result = partial(crops, tmp_path / "out", hooks=regraft.Hooks(stop, loss, optimiser, sampler))
    assert called == {"loss", "optimiser", "sampler", "event"}
    assert result.epochs[-1].number == 1
    with pytest.raises(SettingsError, match=r"hooks: dict is not allowed; it must be regraft\.Hooks"):
        partial(crops, tmp_path / "other", hooks={})


def test_epochs_one_by_one(undisturbed: TrainResult, crops: Path, tmp_path: Path) -> None:
    events = list(regraft.iter_epochs(crops, plan=_PLAN[-1], out=tmp_path / "out", quiet=True))
    assert figures(tuple(e for e in events if isinstance(e, Epoch))) == figures(undisturbed.epochs)
    assert isinstance(events[-1], TrainResult)
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("changes", [
    ("phases.0.mixup=0.4",), ("phases.0.ema=0.9",), ("phases.0.sampling=balanced", "phases.0.class_weights=balanced"),
    ("phases.0.accumulate=2", "phases.0.clip=1.0"), (*_PRETRAINED, "phases.0.batch_norm=training"),
    ("phases.0.optimiser=rmsprop", "phases.0.schedule=step", "phases.0.warmup=0.2"),
    ("head.one_logit=true", "phases.0.loss=binary"), ("phases.0.law=linear", "phases.0.patience=1"),
    ("phases.0.learns=all", "phases.0.cutmix=1.0", "head.reads=[\"last\"]"),
    ("head.hidden=[16]", "head.activation=sigmoid", "head.dropout=[0.1,0.2]"),
])
def test_every_way_to_learn_runs(crops: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    result = partial(crops, tmp_path / "out", "phases.0.epochs=2", *changes)
    assert all(e.train_loss is None or np.isfinite(e.train_loss) for e in result.epochs)
    model = regraft.load(result.out)
    [answer] = model.predict(sorted(crops.glob("palace/*.jpg"))[0])
    assert answer.error is None


# -- too little memory -----------------------------------------------------------------------------


class Scarce:
    """Cross-entropy on a machine that has room for so many images at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.done: list[int] = []

    def __call__(self, scores: Any, labels: Any) -> Any:
        import torch

        if len(labels) > self.room:
            raise torch.OutOfMemoryError(f"{len(labels)} images")
        self.done.append(len(labels))
        return torch.nn.functional.cross_entropy(scores, labels)


def test_a_batch_too_large_for_memory_is_worked_through_in_parts(crops: Path, tmp_path: Path) -> None:
    changes = ("phases.0.epochs=1", "phases.0.accumulate=2", "phases.0.optimiser=sgd", "phases.0.augment=[]",
               *_PRETRAINED)
    roomy, scarce = Scarce(8), Scarce(3)
    whole, parts = (partial(crops, tmp_path / name, *changes, hooks=regraft.Hooks(loss=loss))
                    for name, loss in (("whole", roomy), ("parts", scarce)))
    assert sum(scarce.done) == sum(roomy.done) == whole.epochs[-1].images == parts.epochs[-1].images
    assert max(scarce.done) == 2
    for name, tensor in weights(whole.out).items():
        np.testing.assert_allclose(weights(parts.out)[name], tensor, atol=1e-5, err_msg=name)
    with pytest.raises(TrainingError, match="memory ran out with 1 of 8 images at a time; take a smaller batch"):
        partial(crops, tmp_path / "none", *changes, hooks=regraft.Hooks(loss=Scarce(0)))
