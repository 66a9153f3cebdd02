"""``train``: images to index, splits, features, head, figures, model folder."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft import evaluation, model
from regraft.data import index as data_index
from regraft.data import lists, splits
from regraft.data.copies import numbered, same_files
from regraft.data.view import deep_range_of, view_key
from regraft.engines.contract import ANSWER_PRECISION
from regraft.engines.light import does_without_torch
from regraft.errors import MissingExtraError, RegraftError, StoppedError, UsageError
from regraft.extraction.alignment import aligned
from regraft.extraction.extract import Features, Route, Rows, extract_by, feature_key, recalled
from regraft.extraction.store import FeatureStore
from regraft.heads import choose
from regraft.heads.dense import Head
from regraft.heads.linear import Blocks, LinearHead, apart, fit_head
from regraft.networks.lite import load_lite
from regraft.progress import Deadline, Progress
from regraft.records.decisions import DecisionRule, Wanted
from regraft.records.heads import Choice
from regraft.records.images import Finding, ImageIndex, Quarantined
from regraft.records.model import ModelRecord, OwnNetwork
from regraft.records.networks import InputSpec, Readout
from regraft.records.plan import Run
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Evaluation, FeatureCount, TrainResult
from regraft.review.feature_map import feature_map, map_rows
from regraft.runs.answers import answers_of, write_answers
from regraft.runs.engines import Work, engines_for
from regraft.runs.folder import RunFolder, claim, fresh_folder
from regraft.runs.gather import MAP
from regraft.runs.report import write_page
from regraft.runs.selftests import kept_self_test
from regraft.runs.settling import Held, Settled, settle_held, with_unknown
from regraft.runs.wanted import wanted
from regraft.settings import (
    DEFAULT_BACKBONE,
    FeaturesSettings,
    InspectSettings,
    PageKind,
    TrainSettings,
    seconds,
    size_in_bytes,
)

#: With fewer images to learn from, one validation split says too little: figures come from cross-validation.
CROSS_VALIDATED_BELOW = 2_000
_FOLDS = 5

#: With fewer, it is done twice over: other folds, other answers.
_REPEATED_BELOW = 500

#: The readout that the map of a run shows: what the network's own head reads.
MAPPED = "last"

#: How the answers for test images came about.
OF_TEST = "never used for fitting or choosing"

#: Settings that decide where and how fast, not what comes out: an unfinished run may be continued with others.
_OPERATIONAL = ("out", "force", "resume", "store", "store_limit", "device", "engine", "workers", "time_limit", "quiet",
                "hooks", "plan", "report")

_Prepared = TypeVar("_Prepared")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Before:
    """What belongs to a training that begins now: since when, in monotonic seconds, and features computed for it."""

    began: float
    computed: int

    @classmethod
    def nothing(cls) -> Before:
        """Of a training that begins by itself."""
        return cls(time.monotonic(), 0)

    def counted(self, features: Features) -> FeatureCount:
        """Features that the training as a whole computed, and found in the store."""
        # Of many images those learned from may be read in another precision than was looked at: none is reused then.
        return FeatureCount(features.computed + self.computed, max(features.reused - self.computed, 0))

    def seconds(self) -> float:
        """Wall time of the whole so far."""
        return round(time.monotonic() - self.began, 3)


def train(settings: TrainSettings, progress: Progress) -> TrainResult:
    """Run one training; see :func:`regraft.train`."""
    return run(settings, progress, prepare, _train)


def train_on(index: ImageIndex, settings: TrainSettings, also: Mapping[str, Any], progress: Progress,
             before: Before | None = None) -> TrainResult:
    """Train on images that are divided already; ``also`` is recorded with the settings."""
    return run(settings, progress, lambda _: index, _train, also, before)


def run(settings: TrainSettings, progress: Progress, prepare: Callable[[TrainSettings], _Prepared],
        train: Callable[[TrainSettings, _Prepared, RunFolder, Progress, Deadline, Before], _Result],
        also: Mapping[str, Any] = MappingProxyType({}), before: Before | None = None) -> _Result:
    """Prepare the data, claim the output folder, train in it."""
    before = before or Before.nothing()
    prepared = prepare(settings)  # before anything is written: unusable data leaves no trace
    with claimed(settings, progress, also) as (folder, deadline):
        return train(settings, prepared, folder, progress, deadline, before)


@contextmanager
def claimed(settings: TrainSettings, progress: Progress, also: Mapping[str, Any],
            ) -> Iterator[tuple[RunFolder, Deadline]]:
    """The output folder, claimed for these settings (and ``also``); what is stopped says how to go on."""
    deadline = Deadline(None if settings.time_limit is None else seconds(settings.time_limit))
    out = Path(settings.out).expanduser() if settings.out else fresh_folder(Path(str(settings.data)).stem)
    with claim(out, decisive(settings, also), settings.force, settings.resume) as folder:
        if folder.continued:
            progress.say(f"continuing in {out}")
        try:
            yield folder, deadline
        except StoppedError as stop:
            raise type(stop)(f"{stop}; continue with the same command and --out {out}") from None
        keep_page(folder.out, settings.report, progress)


def keep_page(out: Path, kind: PageKind, progress: Progress) -> None:
    """Write the page; a model without one is a model, so what is missing for it is said and no more."""
    if kind == "none":
        return
    try:
        write_page(out, progress, private=kind == "no-images")
    except (RegraftError, OSError) as error:
        progress.say(f"no page is written: {error}")


def decisive(settings: TrainSettings, also: Mapping[str, Any]) -> dict[str, Any]:
    """The settings (and ``also``) that decide what comes out: a run is continued with the same ones alone."""
    kept = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name not in _OPERATIONAL}
    if settings.module is not None:
        from regraft.networks.own import own_label

        kept["module"] = own_label(settings.module)
    return {**kept, **also}


def _train(settings: TrainSettings, index: ImageIndex, folder: RunFolder, progress: Progress, deadline: Deadline,
           before: Before) -> TrainResult:
    tell_images(index, folder, progress)
    network, rules = network_and_rules(settings, index, "training")
    tell_network(network, progress)
    folds = number_of_folds(settings, index)
    plan = Run(settings.strategy, network.name, network.digest, rules, network.readouts, folds, repeats(index),
                settings.seed, index.split_counts())
    folder.write("plan.json", plan)
    with FeatureStore(settings.store) as store:
        with ExitStack() as spaces:
            work = Work(network.name, network.module, network.digest, network.readouts, rules)
            learns_N = _learns(index, folds)
            memories = recalled(index, store, view_key(rules))
            engines = engines_for(work, index, learns_N, store, settings.engine, settings.device, progress, memories)
            routes = [Route(spaces.enter_context(store.space(feature_key(rules, network.digest, engine))), engine)
                      for engine in dict.fromkeys(engines)]
            route_N = np.where(learns_N, 0, len(routes) - 1)
            features = extract_by(index, routes, route_N, rules, progress, deadline, settings.max_quarantined,
                                  memories=memories)
            folder.write_quarantine(features.quarantined)
            features = aligned(features, index, routes[-1], rules, progress, deadline)
            fitted = fit(index, features, network.readouts, plan, progress, deadline, wanted(settings, index.classes))
            fitted = _with_precision(fitted, index, features, folds)
            keep_map(folder, index, features, MAPPED, settings.seed)
        trim(store, size_in_bytes(settings.store_limit), progress)
    settled = fitted.settled
    record = ModelRecord(
        classes=index.classes, strategy=settings.strategy, backbone=network.name, weights_digest=network.digest,
        licence=network.licence, preprocessing=rules, readouts=network.readouts, head=fitted.head.settings,
        training_counts=tuple(int(c) for c in fitted.training_counts),
        own=own_record(settings, network.module, network.readouts, rules), **settled.recorded)
    model.save(folder.out, record, network.state(), fitted.head, fitted.seen, settled.known, settings.module,
               partial(kept_self_test, weights=network.digest, store=store.folder))
    keep_answers(folder, index, features, settled.held, fitted.P_test)
    result = TrainResult(
        out=str(folder.out), strategy=settings.strategy, backbone=network.name,
        features=before.counted(features), quarantined=len(features.quarantined),
        validation=fitted.validation, test=fitted.test, seconds=before.seconds(),
        head=fitted.choice, findings=(*index.findings, *network.findings, *fitted.findings),
        conversions=dict(features.notes), engines=features.engines(np.arange(len(features.rows))))
    folder.write("record.json", {"format_version": 1, "result": result.to_dict(), "tried": fitted.choice.tried,
                                 "environment": environment()})
    return result


def tell_images(index: ImageIndex, folder: RunFolder, progress: Progress) -> None:
    """Say what was seen in the data, and write the splits down."""
    for finding in index.findings:
        progress.say(str(finding))
    progress.say(repr(index))
    splits.write_splits(index, folder.path / "splits.csv")


def tell_network(network: Any, progress: Progress) -> None:
    """Say what the user should know about the starting weights."""
    for finding in network.findings:
        progress.say(str(finding))


def own_record(settings: TrainSettings, module: Any, readouts: Sequence[Readout], rules: Preprocessing,
               ) -> OwnNetwork | None:
    """How to know the caller's own network again; None for a named one."""
    if settings.module is None:
        return None
    from regraft.networks import own

    return own.own_record(module, readouts, rules.size)


def prepare(settings: TrainSettings) -> ImageIndex:
    """The images in their final splits: opened, joined with the test data, limited, grouped, divided."""
    return divide(open_images(settings), settings)


def open_images(settings: TrainSettings) -> ImageIndex:
    """The images, joined with those of ``--test``."""
    opening: dict[str, Any] = {"layout": settings.layout, "follow_links": settings.follow_links,
                               "label_separator": settings.label_separator if settings.labels == "several" else None}
    index = data_index.open_data(settings.data, **opening)
    if settings.exclude is not None:
        index = lists.excluded(index, Path(settings.exclude))
    if settings.test is not None:
        if len(index.rows("test")):
            raise UsageError(f"{settings.data} has {len(index.rows('test')):,} test images of its own; leave --test "
                             "away, or give its training folder alone")
        index = data_index.join(index, _test_images(settings.test, opening), splits.TEST)
    return index


def divide(index: ImageIndex, settings: TrainSettings, by_split: bool = False) -> ImageIndex:
    """The images limited, grouped and in their final splits; ``by_split`` asks for a validation split in any case."""
    data_index.require_classes(index)
    wanted(settings, index.classes)  # before anything is written: what can't be wanted leaves no trace
    if settings.limit is not None:
        index = splits.limited(index, settings.limit, settings.seed)
    if settings.group is not None:
        index = data_index.with_groups(index, settings.group)
    if settings.splits is not None:
        index = splits.apply_splits(index, Path(settings.splits))
    test_share = None if settings.no_test or settings.test is not None else settings.test_share
    copies_N = same_files(index) if settings.splits is None and index.groups is None else None
    index = splits.complete(index, validation_share=None, test_share=test_share, seed=settings.seed,
                            copies_N=copies_N)
    if by_split or number_of_folds(settings, index) is None:
        index = splits.complete(index, validation_share=settings.validation_share, test_share=None,
                                seed=settings.seed, copies_N=copies_N)
    if test_share is not None and not len(index.rows("test")):
        reason = "each group holds a whole class" if index.groups is not None else "no class has images to spare"
        index = index.with_findings(Finding("no_test", 1, f"no image could be held out as test: {reason}"))
    return index.with_findings(*splits.check_classes(index))


def _test_images(data: str | Path, opening: dict[str, Any]) -> ImageIndex:
    """All images of a test folder, or only its test split where it has splits."""
    index = data_index.open_data(data, **opening)
    rows = index.rows("test")
    return index.take(rows) if len(rows) else index


def number_of_folds(settings: TrainSettings, index: ImageIndex) -> int | None:
    """Folds of the cross-validation, or None where a validation split decides."""
    learnable = len(index) - len(index.rows("test"))
    return settings.folds or (_FOLDS if learnable < CROSS_VALIDATED_BELOW else None)


def repeats(index: ImageIndex) -> int:
    """How often images are cross-validated: of few, one division into folds says less."""
    return 2 if len(index) - len(index.rows("test")) < _REPEATED_BELOW else 1


def _learns(index: ImageIndex, folds: int | None) -> NDArray[np.bool_]:
    """Which images are learned from: those of figures, which the answer's precision is for, are the others."""
    held = (splits.TEST,) if folds is not None else (splits.TEST, splits.VALIDATION)
    learns_N: NDArray[np.bool_] = ~np.isin(index.splits, held)
    return learns_N


def network_and_rules(settings: TrainSettings | FeaturesSettings | InspectSettings, index: ImageIndex, what: str,
                      layers: bool = False) -> tuple[Any, Preprocessing]:
    """The backbone of the settings, and how it is to see the images; raises MissingExtraError, naming ``what``.

    With ``layers`` a module of PyTorch's, which alone can be read anywhere.
    """
    network = _network(settings, what, layers)
    learn = np.flatnonzero(index.splits != splits.TEST)
    return network, preprocessing(settings, network.input, deep_range_of(index, learn))


def _network(settings: TrainSettings | FeaturesSettings | InspectSettings, what: str, layers: bool) -> Any:
    own = settings.module is not None or settings.weights is not None
    if not (own or layers) and does_without_torch(settings.backbone or DEFAULT_BACKBONE, settings.device,
                                                  settings.engine):
        return _without_torch(settings, what)
    try:
        from regraft.networks.own import load_network
    except ImportError:
        return _without_torch(settings, what)
    return load_network(settings)


def _without_torch(settings: TrainSettings | FeaturesSettings | InspectSettings, what: str) -> Any:
    """A bundled backbone in its own weights; raises MissingExtraError, naming ``what``, for anything else."""
    if settings.module is not None or settings.weights is not None:
        raise MissingExtraError(f"{what} with weights of your own", "train")
    return load_lite(settings.backbone or DEFAULT_BACKBONE, what)


def preprocessing(settings: TrainSettings | FeaturesSettings | InspectSettings, spec: InputSpec,
                  deep_range: tuple[float, float] | None) -> Preprocessing:
    """View 0 as the backbone was trained to see, with the settings' changes."""
    red, green, blue = (round(255 * mean) for mean in spec.mean)
    return Preprocessing(
        size=settings.size or spec.size, fit=settings.fit, crop_fraction=spec.crop_fraction,
        interpolation=spec.interpolation, pad_colour=(red, green, blue), deep_range=deep_range,
        mean=spec.mean, std=spec.std)


@dataclass(frozen=True)
class Fitted:
    """A head and its figures; ``seen`` are the images it was fitted and chosen on.

    ``head`` is as it was fitted; figures and ``P_test`` are of the calibrated one.
    """

    head: LinearHead
    choice: Choice
    validation: Evaluation | None
    test: Evaluation | None
    seen: model.SeenImages
    training_counts: NDArray[np.int64]
    findings: tuple[Finding, ...]
    settled: Settled
    P_test: NDArray[np.float64] | None


def fit(index: ImageIndex, features: Rows, readouts: Sequence[Readout], plan: Run, progress: Progress,
        deadline: Deadline, wish: Wanted, only: tuple[str, ...] = (), final: bool = True) -> Fitted:
    """Choose and fit the head, settle what is ``wish``ed for, measure it; positions count the readable images.

    With ``only``, the head reads these readouts, and its strength alone is chosen. Without ``final``, the test is not
    looked at, nor what is unknown measured.
    """
    readable = index.take(features.rows)
    data_index.require_classes(readable)
    gone = tuple(splits.check_classes(readable))
    test = readable.rows("test")
    names = [readout.name for readout in readouts]
    held_out: NDArray[np.int64] | int
    if plan.folds is not None:
        learn, held_out = np.flatnonzero(readable.splits != splits.TEST), plan.folds
        head, choice, held = _by_folds(readable, features, learn, names, plan.folds, plan, progress, only)
        seen = seen_images(features, learn, learn[:0])
    else:
        learn, held_out = readable.rows("train"), readable.rows("validation")
        head, choice, held = _by_split(readable, features, learn, held_out, names, plan, progress, only)
        seen = seen_images(features, learn, held_out)
    deadline.check(lambda: "all features are kept, the head is not")
    settled = settle_held(wish, readable, held)
    if final:
        settled = with_unknown(settled, wish, readable, features, head, learn, held_out, plan.seed)
    counts = readable.class_counts(learn)
    majority = int(counts.argmax())
    validation = None if settled.held is None else judge_held(readable, settled.held, majority, settled.rule)
    P_test = test_probabilities(head, settled, features, test) if len(test) and final else None
    figures = None if P_test is None else judge_test(index, features, P_test, seen, majority, settled.rule)
    return Fitted(head, choice, validation, figures, seen, counts,
                  tuple(f for f in gone if f not in index.findings), settled, P_test)


def test_probabilities(head: Head, settled: Settled, features: Rows, test: NDArray[np.int64]) -> NDArray[np.float64]:
    """What the saved model will answer for the test images, float64 [N, K]."""
    return head.tempered(settled.temperature).probabilities(features.read(test, head.settings.readouts))


def judge_held(readable: ImageIndex, held: Held, majority: int, rule: DecisionRule | None) -> Evaluation:
    """Figures of held-out answers."""
    return evaluation.judge(held.P_MK, readable.y_N[held.rows_M], readable.classes, split="validation",
                            method=held.method, majority=majority, repeats=held.repeats, images_N=held.rows_M,
                            note=held.note, rule=rule)


def keep_answers(folder: RunFolder, index: ImageIndex, features: Rows, held: Held | None,
                 P_test: NDArray[np.float64] | None) -> None:
    """Write down what was answered for held-out and test images; of repeated answers the means."""
    answers = []
    if held is not None:
        rows_N, P_NK = held.means()
        method = held.method + ("; means over the repeats" if held.repeats > 1 else "")
        answers.append(answers_of(index, features.rows[rows_N], P_NK, "validation", method))
    if P_test is not None:
        test = index.take(features.rows).rows("test")
        answers.append(answers_of(index, features.rows[test], P_test, "test", OF_TEST))
    write_answers(folder.path, answers)


def keep_map(folder: RunFolder, index: ImageIndex, features: Rows, readout: str, seed: int) -> None:
    """Write down where the images lie on a plane of one readout's features."""
    positions_N = map_rows(len(features.rows), features.width(readout), seed)
    rows_N = features.rows[positions_N]
    labels = tuple(index.classes[k] for k in index.y_N[rows_N])
    folder.write(MAP, feature_map(features.read(positions_N, [readout]), rows_N, labels))


def _with_precision(fitted: Fitted, index: ImageIndex, features: Features, folds: int | None) -> Fitted:
    """The same, where its figures say so if not all of their features are of the answer's precision."""
    splits_N = index.splits[features.rows]
    held = splits_N != splits.TEST if folds is not None else splits_N == splits.VALIDATION

    def told(figures: Evaluation | None, which_N: NDArray[np.bool_]) -> Evaluation | None:
        engines = features.engines(np.flatnonzero(which_N))
        other = sum(count for engine, count in engines.items() if not engine.endswith(f"-{ANSWER_PRECISION}"))
        if figures is None or not other:
            return figures
        share = "features" if other == which_N.sum() else f"features of {other:,} of the images"
        return dataclasses.replace(figures, method=f"{figures.method}; {share} in bf16")

    return dataclasses.replace(fitted, validation=told(fitted.validation, held),
                               test=told(fitted.test, splits_N == splits.TEST))


def judge_test(index: ImageIndex, features: Rows, P_NK: NDArray[np.float64], seen: model.SeenImages, majority: int,
               rule: DecisionRule | None) -> Evaluation:
    """Figures of the readable test images, whose probabilities these are; to be asked for once."""
    readable = index.take(features.rows)
    test = readable.rows("test")
    twins = seen.count(features.digests[i] for i in test)
    return evaluation.judge(
        P_NK, readable.y_N[test], index.classes, split="test", method=OF_TEST,
        majority=majority, seen=twins, unreadable=unreadable(index, features, "test"), rule=rule,
        note=f"{twins:,} of them are pixel for pixel the same as an image that was learned from" if twins else "")


def unreadable(index: ImageIndex, features: Rows, split: str) -> list[Quarantined]:
    """Images of a split that have no features, with the reason."""
    of_split = {index.paths[int(row)] for row in index.rows(split)}
    return [quarantined for quarantined in features.quarantined if quarantined.path in of_split]


def blocks_of(features: Rows, rows: NDArray[np.int64], names: Sequence[str]) -> Blocks:
    """Each readout's features of the given positions; all are read at once, as they lie beside each other."""
    return apart(features.read(rows, names), {name: features.width(name) for name in names})


def _by_folds(readable: ImageIndex, features: Rows, learn: NDArray[np.int64], names: Sequence[str], folds: int,
              plan: Run, progress: Progress, only: tuple[str, ...]) -> tuple[LinearHead, Choice, Held | None]:
    """Few images: cross-validation measures the whole procedure, the head is fitted on all of them."""
    y, classes = readable.y_N[learn], len(readable.classes)
    groups = numbered([features.digests[row] for row in learn]) if readable.groups is None else readable.groups[learn]
    names = only or names
    blocks = blocks_of(features, learn, names)
    divisions = choose.divide(y, groups, folds, plan.seed)
    by = f"{len(divisions)}-fold cross-validation"
    progress.say(f"choosing the head by {by}")
    found = choose.choose(blocks, y, classes, divisions, by, names, only=only, seed=plan.seed)
    choice = found.choice
    head = fit_head({n: blocks[n] for n in choice.chosen.readouts}, y, classes, choice.chosen, start=found.start)
    if not divisions:
        return head, choice, None
    with progress.task("cross-validating", len(divisions) * plan.repeats) as task:
        answers = choose.cross_validate(blocks, y, groups, classes, names, number=folds, repeats=plan.repeats,
                                        seed=plan.seed, done=task.advance, only=only)
    held = np.concatenate([rows for rows, _ in answers])
    never = len(learn) - len(np.unique(held))
    note = (f"{never:,} images are the only ones of their class (or group) and were never held out" if never else "")
    times = ", 2 times" if plan.repeats == 2 else ""
    return head, choice, Held(
        learn[held], np.concatenate([P for _, P in answers]),
        f"{folds}-fold cross-validation{times}, every choice made inside the fold", plan.repeats, note)


def _by_split(readable: ImageIndex, features: Rows, learn: NDArray[np.int64], held: NDArray[np.int64],
              names: Sequence[str], plan: Run, progress: Progress, only: tuple[str, ...],
              ) -> tuple[LinearHead, Choice, Held]:
    """Many images: one validation split chooses; readouts on a part of the images, the strength on all."""
    y_N, classes = readable.y_N, len(readable.classes)
    by = "the validation split"
    progress.say(f"choosing the head by {by}")
    few = choose.choosing_rows(y_N, learn, plan.seed, choose.drawn(classes))
    few_held = choose.choosing_rows(y_N, held, plan.seed, choose.JUDGED)
    both = np.concatenate([few, few_held])
    division = (np.arange(len(few)), np.arange(len(few), len(both)))
    measured_anew = len(few) < len(learn)
    found = choose.choose(blocks_of(features, both, only or names), y_N[both], classes, [division], by, names,
                          only=only, seed=plan.seed, refine=not measured_anew, drawn_from=y_N[learn])
    choice, chosen = found.choice, found.choice.chosen
    if measured_anew:
        widths = {name: features.width(name) for name in chosen.readouts}
        head = choose.fit_many(features.read(learn, chosen.readouts), y_N[learn], features.read(held, chosen.readouts),
                               y_N[held], classes, widths, chosen, len(few) / len(learn), found.start)
        choice = dataclasses.replace(choice, chosen=head.settings)
    else:
        head = fit_head(blocks_of(features, learn, chosen.readouts), y_N[learn], classes, chosen, start=found.start)
    P = head.probabilities(features.read(held, chosen.readouts))
    return head, choice, Held(held, P, "held out from fitting, used for choosing")


def seen_images(features: Rows, learn: NDArray[np.int64], held: NDArray[np.int64]) -> model.SeenImages:
    """Images that were learned from, and images that were chosen on."""
    return model.SeenImages(frozenset(features.digests[i] for i in learn),
                            frozenset(features.digests[i] for i in held))


def trim(store: FeatureStore, limit: int, progress: Progress) -> None:
    """Shrink the store to its limit, and say so."""
    freed = store.trim(limit)
    if freed:
        progress.say(f"feature store: {freed / 2**20:,.0f} MiB of the least recently used features deleted")


def environment() -> dict[str, str]:
    """Versions that decide figures; no names of users or machines."""
    packages = ("regraft", "numpy", "scipy", "Pillow", "scikit-learn", "torch", "torchvision", "timm", "openvino",
                "onnxruntime")
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **found}
