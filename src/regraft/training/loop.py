"""The one loop: phases in order, whatever learns, wherever the batches come from.

Everything random is drawn from the seed, the phase and the epoch, so a training that was stopped goes on as if it
never had been.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.engines.allocation import keep_freed_memory
from regraft.errors import TrainingError
from regraft.metrics import log_loss
from regraft.networks.graph import Suffix
from regraft.progress import Deadline, Progress
from regraft.records.plan import Phase
from regraft.records.training import Epoch, PhaseForecast
from regraft.training.arithmetic import Arithmetic
from regraft.training.batches import Batch, Batches
from regraft.training.checkpoint import optimiser_tensors, read_checkpoint, restore_optimiser, write_checkpoint
from regraft.training.head import TrainableHead, class_scores
from regraft.training.hooks import Hooks
from regraft.training.portions import Portions
from regraft.training.rates import Group, make_optimiser, set_rates

#: Images of a validation batch.
_VALIDATED = 64


@dataclass(frozen=True)
class Stage:
    """A phase, made ready: what is run, what learns, where the batches come from.

    ``modules`` are those that are put into training mode; ``names`` the backbone's tensors that may change.
    """

    phase: Phase
    forecast: PhaseForecast
    groups: Sequence[Group]
    suffix: Suffix | None
    modules: Sequence[nn.Module]
    names: Sequence[str]
    learns_head: bool
    train: Batches
    validation: Batches
    arithmetic: Arithmetic


@dataclass
class _State:
    """Where a training is. ``best`` holds the tensors of the best epoch of the phase that runs."""

    phase: int = 0
    epoch: int = 0  # finished epochs of the phase
    number: int = 0  # finished epochs in all
    step: int = 0  # finished steps in all
    batch: int = 0  # finished batches of the epoch that runs
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss, hits, images of that epoch
    score: tuple[float, float] | None = None
    since_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


class Loop:
    """Runs phases on one network and head; iterate over :meth:`run` for a record an epoch.

    ``stage`` makes a phase ready when it begins: what lies before its cut may have learned in the one before.
    ``y_N`` are labels of the training rows, ``y_held_M`` of the validation rows.
    """

    def __init__(self, phases: Sequence[Phase], stage: Callable[[Phase], Stage], network: nn.Module,
                 head: TrainableHead, y_N: NDArray[np.int32], y_held_M: NDArray[np.int32], seed: int, folder: Path,
                 files: Callable[[NDArray[np.int64]], list[str]], deadline: Deadline, progress: Progress,
                 hooks: Hooks, device: str) -> None:
        self.phases = phases
        self.network = network
        self.head = head
        self.stopped = ""
        self._stage = stage
        self._y_N, self._y_held_M = y_N, y_held_M
        self._seed = seed
        self._folder = folder
        self._files = files
        self._deadline = deadline
        self._progress = progress
        self._hooks = hooks
        self._device = device
        self._portions = Portions(progress.say)
        self._state = _State()
        self._ever: set[str] = set()  # tensors of the network that some phase so far may change
        self._last: Stage | None = None  # the phase that runs, or ran last
        self._told_to_stop: BaseException | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every epoch's record so far, as plain values."""
        return self._state.history

    @property
    def changes_network(self) -> bool:
        """Whether some phase that has begun may change tensors of the network."""
        return bool(self._ever)

    def interrupt(self, reason: BaseException) -> None:
        """Write a checkpoint after the step that runs, then raise ``reason``."""
        self._told_to_stop = reason

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> Iterator[PhaseForecast | Epoch]:
        """Train; network and head are left at the best epoch of the last phase, on the device they learned on."""
        keep_freed_memory()
        for module in (self.network, self.head):
            module.to(self._device)
        found = read_checkpoint(self._folder, self._progress.say)
        if found is not None:
            yield from self._continue(*found)
        while self._state.phase < len(self.phases) and not self.stopped:
            stage = self._last = self._stage(self.phases[self._state.phase])
            self._ever |= set(stage.names)
            yield stage.forecast
            self._tell(stage.forecast)
            yield from self._run_phase(stage, found)
            found = None
        self._put(self._state.best)

    def _continue(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Iterator[Epoch]:
        self._state = _State(**{**facts["state"], "score": _pair(facts["state"]["score"])})
        self._state.best = _under(tensors, "best.")
        self._put(_under(tensors, "now."))
        self._ever = set(facts["ever"])
        self._progress.say(f"going on after {self._state.step:,} steps")
        yield from (Epoch.from_dict(record) for record in self._state.history)

    def _run_phase(self, stage: Stage, found: tuple[dict[str, Tensor], dict[str, Any]] | None) -> Iterator[Epoch]:
        state, phase = self._state, stage.phase
        optimiser = self._optimiser(stage)
        average = self._learning(stage) if phase.ema is not None else {}
        average = {name: tensor.detach().clone() for name, tensor in average.items()}
        if found is not None:
            restore_optimiser(optimiser, _under(found[0], "optimiser."))
            average.update(_under(found[0], "average."))
            torch.set_rng_state(found[0]["random"])
        order = self._order(phase, state.epoch)
        steps_an_epoch = max(1, math.ceil(len(order) / phase.batch / phase.accumulate))
        total = max(1, round(phase.epochs * steps_an_epoch))
        self._frozen(stage)
        with self._progress.task(phase.name, total) as task:
            if not state.epoch and not state.batch:
                yield self._epoch_done(stage, average, 0.0, time.monotonic(), None)
            task.advance(min(total, state.epoch * steps_an_epoch + state.batch // phase.accumulate))
            while state.epoch * steps_an_epoch < total and not self.stopped:
                left = total - state.epoch * steps_an_epoch
                yield self._run_epoch(stage, optimiser, average, min(left, steps_an_epoch), steps_an_epoch, total, task)
                if phase.patience is not None and state.since_best >= phase.patience:
                    self._progress.say(f"{phase.name}: no better for {phase.patience} epochs")
                    break
        state.phase += 1
        state.epoch = state.since_best = 0
        if state.phase < len(self.phases) and not self.stopped:
            if average:
                self._put(average)
            # The next phase goes on from where this one ended; which epoch is best is asked anew.
            state.best, state.score = {}, None
            self._save(optimiser, {})

    def _run_epoch(self, stage: Stage, optimiser: torch.optim.Optimizer, average: dict[str, Tensor], steps: int,
                   an_epoch: int, total: int, task: Any) -> Epoch:
        state, phase = self._state, stage.phase
        started = time.monotonic()
        order = self._order(phase, state.epoch)
        batches = [order[i:i + phase.batch] for i in range(0, len(order), phase.batch)][:steps * phase.accumulate]
        todo = batches[state.batch:]
        if not state.batch:
            torch.manual_seed(_number(self._seed, state.phase, state.epoch))
        views = [self._views(stage, rows) for rows in todo]
        factor = 1.0
        batches_left = stage.train.epoch(todo, views)
        with contextlib.closing(batches_left), self._listening():  # type: ignore[type-var]
            for batch in batches_left:
                last = (state.batch + 1) % phase.accumulate == 0 or state.batch + 1 == len(batches)
                at = state.epoch * an_epoch + state.batch // phase.accumulate
                factor = set_rates(optimiser, phase, at, total, an_epoch)
                self._step(stage, optimiser, batch, average, last)
                state.batch += 1
                if last:
                    state.step += 1
                    task.advance()
                if self._told_to_stop is not None:
                    self._save(optimiser, average)
                    raise self._told_to_stop
                if self._deadline.passed:
                    self.stopped = "the time limit was reached"
                    break
        state.epoch += 1
        state.number += 1
        state.batch = 0
        record = self._epoch_done(stage, average, phase.rate * factor, started, state.sums)
        state.sums = [0.0, 0.0, 0.0]
        self._save(optimiser, average)
        return record

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM wait for the step that runs, so that a checkpoint is written; a second does not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def listen(number: int, frame: Any) -> None:
            handler = before[signal.Signals(number)]
            try:
                if callable(handler):
                    handler(number, frame)
                else:
                    raise SystemExit(128 + number)
            except BaseException as reason:
                if self._told_to_stop is not None:
                    raise
                self.interrupt(reason)

        for number in before:
            signal.signal(number, listen)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _step(self, stage: Stage, optimiser: torch.optim.Optimizer, batch: Batch, average: dict[str, Tensor],
              last: bool) -> None:
        phase, state = stage.phase, self._state
        labels = torch.from_numpy(self._y_N[batch.rows].astype(np.int64))
        batch, others, share = self._mixed(phase, batch)
        targets = [(labels, share), *([] if others is None else [(labels[others], 1 - share)])]
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        found = self._portions.run(len(labels), parameters,
                                   lambda part: self._gradient(stage, batch, targets, part))
        value, hits = (sum(numbers) for numbers in zip(*found, strict=True))
        if last:
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, phase.clip or math.inf))
        if not math.isfinite(value) or (last and not math.isfinite(norm)):
            optimiser.zero_grad()
            what = "loss" if not math.isfinite(value) else "gradient"
            raise TrainingError(
                f"the {what} is no number at step {state.step + 1} of {phase.name}, images "
                f"{', '.join(self._files(batch.rows)[:3])}{', ...' if len(batch.rows) > 3 else ''}; nothing of it is "
                f"kept. Try a smaller rate (now {phase.rate:g}), or clip")
        if last:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            self._follow(phase, stage, average)
        for i, number in enumerate((value * len(labels), hits, len(labels))):
            state.sums[i] += number

    def _gradient(self, stage: Stage, batch: Batch, targets: Sequence[tuple[Tensor, float]], part: slice,
                  ) -> tuple[float, float]:
        """Add a part's share of the batch's gradient; its share of the loss, and how many answers are right.

        ``targets`` are labels of the whole batch, each with its share of the loss.
        """
        for module in stage.modules:
            module.training = True
        self.head.train()
        try:
            taken = Batch(batch.rows[part], batch.activation[part], batch.frozen[part])
            logits = self._logits(stage, taken, learning=True)
        finally:
            self._frozen(stage)
        targets = [(labels[part].to(logits.device), share) for labels, share in targets]
        losses = [share * self._loss(stage.phase, logits, labels) for labels, share in targets]
        loss = torch.stack(losses).sum() * (len(logits) / len(batch.rows))
        torch.autograd.backward(loss / stage.phase.accumulate)
        return float(loss.detach()), float((class_scores(logits.detach()).argmax(1) == targets[0][0]).sum())

    def _logits(self, stage: Stage, batch: Batch, learning: bool) -> Tensor:
        logits: Tensor = self.head(self._features(stage, batch, learning))
        return logits

    def _features(self, stage: Stage, batch: Batch, learning: bool) -> Tensor:
        """What the head reads of a batch, [B, D]."""
        features = [batch.frozen.to(self._device)] if batch.frozen.shape[1] else []
        if stage.suffix is not None:
            x = batch.activation.to(self._device)
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            with stage.arithmetic.learning() if learning else contextlib.nullcontext():
                features.append(stage.suffix(x))
        return torch.cat(features, 1)

    def _loss(self, phase: Phase, logits: Tensor, labels: Tensor) -> Tensor:
        if self._hooks.loss is not None:
            return self._hooks.loss(class_scores(logits), labels)
        weights = None
        if phase.class_weights == "balanced":
            counts = np.bincount(self._y_N, minlength=max(2, logits.shape[1]))
            weights = torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32,
                                   device=logits.device)
        if phase.loss == "binary":
            smooth = labels.float() * (1 - phase.label_smoothing) + phase.label_smoothing / 2
            each = None if weights is None else weights[labels]
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], smooth, each)
        return nn.functional.cross_entropy(logits, labels, weights, label_smoothing=phase.label_smoothing)

    def _mixed(self, phase: Phase, batch: Batch) -> tuple[Batch, Tensor | None, float]:
        """Mixup or CutMix of a batch with a shuffled copy of itself: what to mix labels with, and the share kept."""
        if not phase.mixup and not phase.cutmix:
            return batch, None, 1.0
        state = self._state
        rng = np.random.default_rng(_number(self._seed, state.phase, state.epoch, state.batch))
        others = torch.from_numpy(rng.permutation(len(batch.rows)))
        cut = phase.cutmix > 0 and (not phase.mixup or rng.random() < 0.5)
        alpha = phase.cutmix if cut else phase.mixup
        share = float(rng.beta(alpha, alpha))
        if not cut:
            mixed = [share * t + (1 - share) * t[others] for t in (batch.activation, batch.frozen)]
            return Batch(batch.rows, *mixed), others, share
        x = batch.activation.clone()
        if x.ndim != 4 or batch.frozen.shape[1]:
            raise TrainingError("cutmix needs pictures, so everything must learn from the first layer on; use mixup")
        height, width = x.shape[2:]
        h, w = (round(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        x[:, :, top:top + h, left:left + w] = x[others, :, top:top + h, left:left + w]
        return Batch(batch.rows, x, batch.frozen), others, 1 - h * w / (height * width)

    def _follow(self, phase: Phase, stage: Stage, average: dict[str, Tensor]) -> None:
        """Move the average of the weights along; early on it follows faster."""
        if phase.ema is None:
            return
        decay = min(phase.ema, (1 + self._state.step) / (10 + self._state.step))
        with torch.no_grad():
            for name, tensor in self._learning(stage).items():
                if tensor.is_floating_point():
                    average[name].lerp_(tensor, 1 - decay)
                else:
                    average[name].copy_(tensor)

    # -- validation --------------------------------------------------------------------------------

    def _epoch_done(self, stage: Stage, average: dict[str, Tensor], rate: float, started: float,
                    sums: list[float] | None) -> Epoch:
        state = self._state
        now = {name: tensor.detach().clone() for name, tensor in self._learning(stage).items()} if average else {}
        self._put(average)
        P = self.validate(stage)
        loss = log_loss(P, self._y_held_M)
        accuracy = float((P.argmax(1) == self._y_held_M).mean())
        score = (accuracy, -loss)
        best = state.score is None or score > state.score
        state.since_best = 0 if best else state.since_best + 1
        if best:
            state.score = score
            state.best = {name: tensor.detach().clone() for name, tensor in self._all().items()}
        self._put(now)
        learned = None if sums is None or not sums[2] else (sums[0] / sums[2], sums[1] / sums[2], int(sums[2]))
        record = Epoch(stage.phase.name, state.number, state.step, None if learned is None else learned[0],
                       None if learned is None else learned[1], loss, accuracy, rate,
                       round(time.monotonic() - started, 3), 0 if learned is None else learned[2], best)
        state.history.append(record.to_dict())
        self._tell(record)
        return record

    @torch.no_grad()
    def validate(self, stage: Stage) -> NDArray[np.float64]:
        """Probabilities float64 [M, K] of the validation rows, in fp32: the model answers so."""
        found = [class_scores(self._logits(stage, batch, learning=False)).cpu().double().softmax(1).numpy()
                 for batch in self._as_they_are(stage, stage.validation, np.arange(len(self._y_held_M)))]
        joined: NDArray[np.float64] = np.concatenate(found)
        if not np.isfinite(joined).all():
            raise TrainingError(f"the network's answers are no numbers after {stage.phase.name}; try a smaller rate")
        return joined

    @torch.no_grad()
    def features(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """What the head reads of training rows as they are, float32 [N, D], in fp32.

        Of what the last phase keeps, with the network as it is now; None where it keeps nothing, or was over before.
        """
        stage = self._last
        if stage is None or not stage.forecast.cached:
            return None
        return np.concatenate([self._features(stage, batch, learning=False).cpu().numpy()
                               for batch in self._as_they_are(stage, stage.train, rows)])

    def _as_they_are(self, stage: Stage, images: Batches, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """Rows of images in view 0, for a network that does not learn now."""
        self._frozen(stage)
        batches = [rows[i:i + _VALIDATED] for i in range(0, len(rows), _VALIDATED)]
        return images.epoch(batches, [np.zeros_like(batch) for batch in batches])

    # -- what changes ------------------------------------------------------------------------------

    def _frozen(self, stage: Stage) -> None:
        for module in stage.modules:
            module.training = False
        self.head.eval()

    def _optimiser(self, stage: Stage) -> torch.optim.Optimizer:
        learning = {name for group in stage.groups for name in group.names}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in learning)
        self.head.requires_grad_(stage.learns_head)
        optimiser = make_optimiser(stage.phase, stage.groups, self.network, self.head, stage.learns_head)
        if self._hooks.optimiser is not None:
            groups = [{k: g[k] for k in ("params", "lr", "base", "weight_decay")} for g in optimiser.param_groups]
            optimiser = self._hooks.optimiser(groups)
            for group in optimiser.param_groups:
                group.setdefault("base", group["lr"])
        return optimiser

    def _learning(self, stage: Stage) -> dict[str, Tensor]:
        """Tensors that the phase may change."""
        whole = self.network.state_dict(keep_vars=False)
        return {**{f"network.{name}": whole[name] for name in stage.names},
                **{f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}}

    def _all(self) -> dict[str, Tensor]:
        """Tensors that any phase so far may have changed."""
        whole = self.network.state_dict()
        return {**{f"network.{name}": whole[name] for name in sorted(self._ever)},
                **{f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}}

    @torch.no_grad()
    def _put(self, tensors: dict[str, Tensor]) -> None:
        own = {**{f"network.{name}": t for name, t in self.network.state_dict().items()},
               **{f"head.{name}": t for name, t in self.head.state_dict().items()}}
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    # -- order and chance --------------------------------------------------------------------------

    def _order(self, phase: Phase, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch, in order."""
        if self._hooks.sampler is not None:
            return np.asarray(self._hooks.sampler(self._y_N, epoch, self._seed), np.int64)
        rng = np.random.default_rng(_number(self._seed, self._state.phase, epoch))
        if phase.sampling == "balanced":
            counts = np.bincount(self._y_N)
            weights = (1 / counts[counts > 0].size) / counts[self._y_N]
            return rng.choice(len(self._y_N), len(self._y_N), p=weights / weights.sum())
        return rng.permutation(len(self._y_N))

    def _views(self, stage: Stage, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """In which view each image comes: the image as it is and its kept views in turn, or a fresh view each epoch."""
        if not stage.phase.augment and self._hooks.augmentation is None:
            return np.zeros_like(rows)
        views = stage.forecast.views  # fewer than the phase asks for where the disk has no room
        if not views:
            return np.full_like(rows, 1 + self._state.number)
        return (rows + self._state.epoch) % (views + 1)

    def _tell(self, event: PhaseForecast | Epoch) -> None:
        if self._hooks.on_event is not None and self._hooks.on_event(event) is False:
            self.stopped = "the caller ended it"

    def _save(self, optimiser: torch.optim.Optimizer, average: dict[str, Tensor]) -> None:
        state = self._state
        facts = {name: getattr(state, name) for name in
                 ("phase", "epoch", "number", "step", "batch", "sums", "score", "since_best", "history")}
        tensors = {**{f"now.{k}": v for k, v in self._all().items()},
                   **{f"best.{k}": v for k, v in state.best.items()},
                   **{f"average.{k}": v for k, v in average.items()},
                   **{f"optimiser.{k}": v for k, v in optimiser_tensors(optimiser).items()},
                   "random": torch.get_rng_state()}
        write_checkpoint(self._folder, tensors, {"state": facts, "ever": sorted(self._ever)})


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values[0]), float(values[1]))


def _number(*parts: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
