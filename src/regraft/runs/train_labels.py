"""``train --labels several``: a head of independent answers on frozen features, with a threshold for each label."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regraft import evaluation, model
from regraft.data import index as data_index
from regraft.data import splits
from regraft.data.copies import numbered
from regraft.decisions.calibration import fit_label_temperature, tempered_labels
from regraft.decisions.labels import DEFAULT_THRESHOLD, LEAST_POSITIVES, f1_threshold
from regraft.extraction.extract import Features, extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.heads import choose_labels as choose
from regraft.heads.independent import IndependentHead, fit_independent
from regraft.progress import Deadline, Progress
from regraft.records.decisions import LabelRule
from regraft.records.heads import Choice
from regraft.records.images import ImageIndex
from regraft.records.labels import LabelCurves, LabelsEvaluation, LabelsResult
from regraft.records.model import ModelRecord
from regraft.records.plan import Run
from regraft.review.answers import label_curves
from regraft.runs.engines import Work, answer_engine
from regraft.runs.folder import RunFolder
from regraft.runs.gather import CURVES
from regraft.runs.selftests import kept_self_test
from regraft.runs.settling import Held
from regraft.runs.train import (
    OF_TEST,
    Before,
    blocks_of,
    environment,
    network_and_rules,
    number_of_folds,
    own_record,
    prepare,
    repeats,
    run,
    seen_images,
    tell_images,
    tell_network,
    trim,
    unreadable,
)
from regraft.settings import TrainSettings, size_in_bytes


def train(settings: TrainSettings, progress: Progress) -> LabelsResult:
    """Run one training; see :func:`regraft.train`."""
    return run(settings, progress, prepare, _train)


def _train(settings: TrainSettings, index: ImageIndex, folder: RunFolder, progress: Progress, deadline: Deadline,
           before: Before) -> LabelsResult:
    tell_images(index, folder, progress)
    network, rules = network_and_rules(settings, index, "training")
    tell_network(network, progress)
    plan = Run(settings.strategy, network.name, network.digest, rules, network.readouts,
               number_of_folds(settings, index), repeats(index), settings.seed, index.split_counts())
    folder.write("plan.json", plan)
    with FeatureStore(settings.store) as store:
        with ExitStack() as spaces:
            work = Work(network.name, network.module, network.digest, network.readouts, rules)
            engine = answer_engine(work, index, store, settings.engine, settings.device, progress)
            space = spaces.enter_context(store.space(feature_key(rules, network.digest, engine)))
            features = extract(index, space, engine, rules, progress, deadline, settings.max_quarantined)
            folder.write_quarantine(features.quarantined)
            fitted = _fit(index, features, plan, settings.label_separator, progress, deadline)
        trim(store, size_in_bytes(settings.store_limit), progress)
    record = ModelRecord(
        classes=index.classes, strategy=settings.strategy, backbone=network.name, weights_digest=network.digest,
        licence=network.licence, preprocessing=rules, readouts=network.readouts, head=fitted.head.settings,
        training_counts=tuple(int(c) for c in fitted.training_counts),
        own=own_record(settings, network.module, network.readouts, rules), temperature=fitted.temperature,
        task="several_labels", labels=fitted.rule)
    model.save(folder.out, record, network.state(), fitted.head, fitted.seen,
               self_test=partial(kept_self_test, weights=network.digest, store=store.folder))
    result = LabelsResult(
        out=str(folder.out), strategy=settings.strategy, backbone=network.name,
        features=before.counted(features), quarantined=len(features.quarantined),
        validation=fitted.validation, test=fitted.test, seconds=before.seconds(),
        head=fitted.choice.chosen, chosen_by=fitted.choice.by, thresholds_by=fitted.rule.chosen_by,
        findings=(*index.findings, *network.findings), conversions=dict(features.notes))
    if fitted.curves is not None:
        folder.write(CURVES, fitted.curves)
    folder.write("record.json", {"format_version": 1, "result": result.to_dict(), "tried": fitted.choice.tried,
                                 "environment": environment()})
    return result


@dataclass(frozen=True)
class _Fitted:
    """A head as it was fitted, and what follows from its held-out and test answers, which are calibrated."""

    head: IndependentHead
    choice: Choice
    temperature: float
    rule: LabelRule
    validation: LabelsEvaluation | None
    test: LabelsEvaluation | None
    curves: LabelCurves | None
    seen: model.SeenImages
    training_counts: NDArray[np.int64]


def _fit(index: ImageIndex, features: Features, plan: Run, separator: str, progress: Progress, deadline: Deadline,
         ) -> _Fitted:
    """Choose and fit the head, then temperature and thresholds on held-out answers; look at the test once."""
    readable = index.take(features.rows)
    data_index.require_classes(readable)
    tuple(splits.check_classes(readable))  # raises where unreadable files leave a label nothing to learn from
    Y_NK, test = readable.Y_NK, readable.rows("test")
    names = [readout.name for readout in plan.readouts]
    if plan.folds is not None:
        learn, held_out = np.flatnonzero(readable.splits != splits.TEST), np.empty(0, np.int64)
        head, choice, held = _by_folds(readable, features, Y_NK, learn, names, plan, plan.folds, progress)
    else:
        learn, held_out = readable.rows("train"), readable.rows("validation")
        head, choice, held = _by_split(features, Y_NK, learn, held_out, names, plan, progress)
    deadline.check(lambda: "all features are kept, the head is not")
    temperature = 1.0 if held is None else fit_label_temperature(held.P_MK, Y_NK[held.rows_M], held.repeats)
    if held is not None:
        held = replace(held, P_MK=tempered_labels(held.P_MK, temperature))
    rule = _rule(held, Y_NK, separator)
    seen = seen_images(features, learn, held_out)
    validation = None if held is None else evaluation.judge_labels(
        held.P_MK, Y_NK[held.rows_M], readable.classes, rule.thresholds, split="validation", method=held.method,
        repeats=held.repeats, images_N=held.rows_M, note=held.note)
    tested, curves = None, None
    if held is not None:
        curves = LabelCurves("validation", label_curves(readable.classes, held.P_MK, Y_NK[held.rows_M]))
    if len(test):
        P_test = head.tempered(temperature).probabilities(features.read(test, head.settings.readouts))
        twins = seen.count(features.digests[i] for i in test)
        tested = evaluation.judge_labels(
            P_test, Y_NK[test], readable.classes, rule.thresholds, split="test", method=OF_TEST, seen=twins,
            unreadable=unreadable(index, features, "test"),
            note=f"{twins:,} of them are pixel for pixel the same as an image that was learned from" if twins else "")
        curves = LabelCurves("test", label_curves(readable.classes, P_test, Y_NK[test]))
    return _Fitted(head, choice, temperature, rule, validation, tested, curves, seen, readable.class_counts(learn))


def _rule(held: Held | None, Y_NK: NDArray[np.bool_], separator: str) -> LabelRule:
    """The threshold of each label with the highest F1 on held-out answers, of repeated ones on their means."""
    labels = Y_NK.shape[1]
    if held is None:
        return LabelRule((DEFAULT_THRESHOLD,) * labels, f"{DEFAULT_THRESHOLD} for each label: no image could be held "
                         "out to choose them on", separator)
    rows_N, P_NK = held.means()
    rare = int((Y_NK[rows_N].sum(0) < LEAST_POSITIVES).sum())
    return LabelRule(
        tuple(f1_threshold(P_NK[:, k], Y_NK[rows_N, k]) for k in range(labels)),
        "the highest F1 of each label on held-out images"
        + (f"; {DEFAULT_THRESHOLD} for {rare:,} labels that fewer than {LEAST_POSITIVES} of them have" if rare else ""),
        separator)


#: What held-out figures at thresholds that were chosen on the same images must say.
_FLATTERED = "the thresholds were chosen on these images, so figures at the thresholds flatter a little"


def _by_folds(readable: ImageIndex, features: Features, Y_NK: NDArray[np.bool_], learn: NDArray[np.int64],
              names: Sequence[str], plan: Run, folds: int, progress: Progress,
              ) -> tuple[IndependentHead, Choice, Held | None]:
    """Few images: cross-validation measures the whole procedure, the head is fitted on all of them."""
    groups = numbered([features.digests[row] for row in learn]) if readable.groups is None else readable.groups[learn]
    blocks = blocks_of(features, learn, names)
    divisions = choose.divide(Y_NK[learn], groups, folds, plan.seed)
    by = f"{len(divisions)}-fold cross-validation"
    progress.say(f"choosing the head by {by}")
    found = choose.choose(blocks, Y_NK[learn], divisions, by, names, seed=plan.seed)
    head = fit_independent(blocks, Y_NK[learn], found.choice.chosen, start=found.start)
    if not divisions:
        return head, found.choice, None
    with progress.task("cross-validating", len(divisions) * plan.repeats) as task:
        answers = choose.cross_validate(blocks, Y_NK[learn], groups, names, number=folds, repeats=plan.repeats,
                                        seed=plan.seed, done=task.advance)
    held = np.concatenate([rows for rows, _ in answers])
    times = ", 2 times" if plan.repeats == 2 else ""
    return head, found.choice, Held(
        learn[held], np.concatenate([P for _, P in answers]),
        f"{folds}-fold cross-validation{times}, every choice but the thresholds made inside the fold", plan.repeats,
        _FLATTERED)


def _by_split(features: Features, Y_NK: NDArray[np.bool_], learn: NDArray[np.int64], held: NDArray[np.int64],
              names: Sequence[str], plan: Run, progress: Progress) -> tuple[IndependentHead, Choice, Held]:
    """Many images: one validation split chooses, on a part of the images; the fit takes all."""
    by = "the validation split"
    progress.say(f"choosing the head by {by}")
    few, few_held = (choose.choosing_rows(Y_NK, rows, plan.seed) for rows in (learn, held))
    both = np.concatenate([few, few_held])
    division = (np.arange(len(few)), np.arange(len(few), len(both)))
    found = choose.choose(blocks_of(features, both, names), Y_NK[both], [division], by, names, seed=plan.seed)
    if len(few) < len(learn):
        every = np.concatenate([learn, held])
        division = (np.arange(len(learn)), np.arange(len(learn), len(every)))
        found = choose.strengthened(blocks_of(features, every, found.choice.chosen.readouts), Y_NK[every], division,
                                    found)
    chosen = found.choice.chosen
    head = fit_independent(blocks_of(features, learn, chosen.readouts), Y_NK[learn], chosen, start=found.start)
    P = head.probabilities(features.read(held, chosen.readouts))
    return head, found.choice, Held(held, P, "held out from fitting, used for choosing", note=_FLATTERED)
