"""The doors in Python: a function for each command, with the same settings. Wiring only.

Each bears its command's name but two: ``regraft settings`` is :func:`explain`, as :mod:`regraft.settings` is the
module that declares them, and ``regraft runs`` is :func:`list_runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import MissingExtraError, UsageError
from regraft.progress import Progress, Silent, default
from regraft.settings import (
    AdviseSettings,
    BackbonesSettings,
    BundleSettings,
    CompareSettings,
    DemoSettings,
    DoctorSettings,
    EvaluateSettings,
    ExportSettings,
    FeaturesSettings,
    FetchSettings,
    InspectSettings,
    PlanSettings,
    PredictSettings,
    RankSettings,
    RecipesSettings,
    ReportSettings,
    RunsSettings,
    ServeSettings,
    SettingsSettings,
    StoreSettings,
    TrainSettings,
    UpdateSettings,
    VerifySettings,
    size_in_bytes,
    takes,
)

if TYPE_CHECKING:
    from regraft.demonstration import DemoResult
    from regraft.extraction.store import StoreUse
    from regraft.model import Model
    from regraft.records.advice import Advice
    from regraft.records.deploying import BundleResult, Verification
    from regraft.records.described import DescribedPlan, Plans, Recipes, SettingRows
    from regraft.records.doctor import Doctor
    from regraft.records.features import FeatureExport
    from regraft.records.images import ImageIndex
    from regraft.records.inspection import Inspection
    from regraft.records.networks import BackboneDetail, Backbones, Fetched
    from regraft.records.page import ReportResult
    from regraft.records.pairing import PairedComparison
    from regraft.records.plan import Plan
    from regraft.records.ranking import Ranking
    from regraft.records.results import Comparison, Evaluation, ExportResult, Predictions, TrainResult
    from regraft.records.runs import Runs
    from regraft.records.serving import ServeResult
    from regraft.records.training import Epoch, PhaseForecast
    from regraft.records.update import UpdateResult


def _progress(quiet: bool) -> Progress:
    return Silent() if quiet else default()


@takes(TrainSettings)
def train(settings: TrainSettings) -> TrainResult | Any:  # Any: mostly it is no Comparison, and callers know which
    """Make a classifier of labelled images; say how good it is.

    The result names the folder (``out``) and holds the figures of validation and test. Where ``plan`` stands for
    several plans, ``out`` holds a model folder for each, and the result is a ``Comparison``. With
    ``labels="several"``, images of a table have any number of labels, and the result is a ``LabelsResult``.

    Raises
    ------
    DataError
        The images can't be used as they are.
    SettingsError, UsageError
        The call is wrong.
    OutputError
        ``out`` is finished already, in use or not writable.
    BackboneError
        The backbone's weights can't be had or do not fit.
    TimeLimitError
        The time limit was reached; what is computed is kept.
    """
    from regraft.extraction.files import is_feature_file

    progress = _progress(settings.quiet)
    of_file = is_feature_file(settings.data)
    if settings.strategy == "auto" and (of_file or settings.labels == "several"):
        settings = replace(settings, strategy="features")  # there is no network to learn, or no plan for these labels
    if settings.labels == "several":
        from regraft.runs.train_labels import train as several

        return several(settings, progress)
    if of_file:
        from regraft.runs.train_file import train as run
    elif plans := _plans(settings):
        return _by_steps(plans)(settings, progress)
    elif settings.strategy == "auto":
        return _by_choice(settings, progress)
    else:
        from regraft.runs.train import train as run
    return run(settings, progress)


def _plans(settings: TrainSettings) -> tuple[Plan, ...]:
    """The plans of a training by steps; none where the backbone stays frozen and the head is solved."""
    from regraft.records.plan import BackbonePlan, PreprocessingPlan
    from regraft.strategy.changing import override
    from regraft.strategy.library import load_plans
    from regraft.strategy.presets import strategy_plan

    if settings.plan is not None:
        plans = load_plans(settings.plan)
    elif settings.strategy not in ("features", "auto"):
        plans = (strategy_plan(settings.strategy, BackbonePlan(), PreprocessingPlan()),)
    elif settings.set:
        raise UsageError("--set changes a plan; name one with --plan or --strategy")
    else:
        return ()
    return tuple(override(plan, settings.set) for plan in plans)


def _by_choice(settings: TrainSettings, progress: Progress) -> TrainResult | Any:
    """Train as a first look suggests; the forecast is told first."""
    from regraft.runs.auto import settled

    found = settled(settings, progress)
    if found.settings.strategy != "features":
        from regraft.records.plan import BackbonePlan, PreprocessingPlan
        from regraft.strategy.presets import strategy_plan

        try:
            from regraft.runs.steps import train as by_steps
        except ImportError:  # it was begun where PyTorch is
            raise MissingExtraError("training by steps", "train") from None
        plan = strategy_plan(found.settings.strategy, BackbonePlan(), PreprocessingPlan(), found.augment)
        return by_steps(found.settings, plan, progress, found.before)
    from regraft.runs.train import train, train_on

    if found.index is None:
        return train(found.settings, progress)
    return train_on(found.index, found.settings, {}, progress, found.before)


def _by_steps(plans: tuple[Plan, ...]) -> Callable[[TrainSettings, Progress], TrainResult | Comparison]:
    try:
        from regraft.runs.compare import compare
        from regraft.runs.steps import train as run
    except ImportError:
        raise MissingExtraError("training by steps", "train") from None
    if len(plans) == 1:
        return lambda settings, progress: run(settings, plans[0], progress)
    return lambda settings, progress: compare(settings, plans, progress)


@takes(TrainSettings)
def iter_epochs(settings: TrainSettings) -> Iterator[PhaseForecast | Epoch | TrainResult]:
    """Train by a plan, epoch by epoch: yields each phase's forecast, each epoch's record, and the result last.

    Takes what ``train`` takes; ``plan`` or a ``strategy`` other than features must be given. Whoever stops
    iterating finds a checkpoint of the last whole epoch.
    """
    from regraft.strategy.library import load_plan

    if settings.plan is not None:
        load_plan(settings.plan)  # raises where the name stands for several
    plans = _plans(settings)
    if not plans:
        raise UsageError("there are no epochs without a plan; name one with plan= or strategy=")
    try:
        from regraft.runs.steps import events
    except ImportError:
        raise MissingExtraError("training by steps", "train") from None
    return events(settings, plans[0], _progress(settings.quiet))


@takes(InspectSettings)
def inspect(settings: InspectSettings) -> Inspection:
    """Look for what is wrong with the images before training on them; change nothing.

    Copies, doubtful labels, pictures that show little, traces that give a class away, groups in file names: each with
    what to do about it. ``out`` holds the same as JSON and as a page, and lists that ``train`` takes.

    Raises DataError where no class can be told, BackboneError, OutputError where ``out`` holds something else.
    """
    from regraft.runs.inspect import inspect as run

    return run(settings, _progress(settings.quiet))


@takes(RankSettings)
def rank(settings: RankSettings) -> Ranking:
    """Find the network that suits labelled images best, without computing all of them with each.

    Networks are compared on 256 images, the better half on 1,024; the features of the one to take are then in the
    store in full. Test images are not looked at.

    Raises
    ------
    DataError
        The images can't be used, or none can be held out.
    UsageError, UnknownNameError
        No network is named or at hand, or a name does not exist.
    BackboneError
        A network's weights can't be had or do not fit.
    OutputError
        ``out`` can't be written.
    TimeLimitError
        The time limit was reached; the features so far are kept.
    """
    from regraft.runs.rank import rank as run

    return run(settings, _progress(settings.quiet))


@takes(AdviseSettings)
def advise(settings: AdviseSettings) -> Advice:
    """Say how to train on labelled images, and why: from measurements on them, before training.

    Test images are not looked at. The plan goes to ``out`` where that is given, with a picture of accuracy against
    the depth of the cut beside it.

    Raises
    ------
    DataError
        The images can't be used, or none can be held out.
    UnknownNameError, BackboneError
        The network does not exist, or its weights can't be had or do not fit.
    OutputError
        ``out`` is there already or can't be written.
    MissingExtraError
        The extra ``train`` is not installed.
    """
    try:
        from regraft.runs.advise import advise as run
    except ImportError:
        raise MissingExtraError("advice", "train") from None
    return run(settings, _progress(settings.quiet))


@takes(FeaturesSettings)
def features(settings: FeaturesSettings) -> FeatureExport:
    """Write what one layer of a frozen backbone gives for each image to a file.

    HDF5, NumPy's npz, Parquet or safetensors, by the file's ending, with labels, class names, paths and splits.
    ``train`` learns from such a file without running the network again.

    Raises DataError for unusable images, UnknownNameError for an unknown layer, BackboneError, OutputError where
    the file exists, can't be written or does not fit on the disk.
    """
    from regraft.runs.features import features as run

    return run(settings, _progress(settings.quiet))


@takes(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> Evaluation | Any:  # Any: of several labels a LabelsEvaluation
    """Measure a model on labelled images.

    The figures say how many of the images served for fitting or choosing the model. Of a model of several labels an
    image they are a ``LabelsEvaluation``.

    Raises ModelError (TamperedError) for an unusable model, DataError for unusable images.
    """
    from regraft.runs.evaluate import evaluate as run

    return run(settings, _progress(settings.quiet))


@takes(PredictSettings)
def predict(settings: PredictSettings) -> Predictions | Any:  # Any: with `out` it is a PredictedFile
    """Answer images with a model.

    Label and probabilities of each, in input order. An unreadable image is an answer with its ``error``; the
    others are answered. With ``out`` the answers are in that file alone, and the result counts them; interrupted, the
    same call goes on from there, as it does with ``csv``.

    Raises
    ------
    ModelError, TamperedError
        The model can't be used.
    DataError
        A folder holds no pictures.
    SettingsError
        ``out`` has another ending than .csv, .parquet or .jsonl.
    OutputError
        A file can't be written, or another one has its place.
    """
    from regraft.runs.predict import predict as run

    quiet = settings.quiet or _is_few(settings.paths)
    return run(settings, load(settings.model, module=settings.module), _progress(quiet))


def _is_few(paths: str | Path | Sequence[str | Path]) -> bool:
    """A handful of files needs no progress; a folder may hold any number."""
    listed = [paths] if isinstance(paths, str | Path) else paths
    return len(listed) < 20 and not any(Path(path).is_dir() for path in listed)


def load(path: str | Path, *, module: object = None) -> Model | Any:  # Any: an OnnxModel
    """Load a model folder, or a ``.onnx`` file that :func:`export` wrote, which comes as a ``runtime.OnnxModel``.

    Both answer images with ``predict``. Of a folder, every file that decides answers is checked first.

    ``module`` is the torch module that the model was trained with, where it was given as one; it stays as it is, and a
    copy of it takes the model's weights.

    Raises ModelError where there is no finished model or the module is another network, BackboneError where the
    weights do not fit it, TamperedError where a byte was changed.
    """
    from regraft.runtime import is_onnx, load_onnx

    if is_onnx(path):
        return load_onnx(path, module)
    from regraft.model import load as run

    return run(path, module)


@takes(ExportSettings)
def export(settings: ExportSettings) -> ExportResult:
    """Write a model as one ONNX file from pixels to probabilities, or for OpenVINO, PyTorch or timm.

    The file is compared with the model on images of the training first, and written only where both answer alike. With
    ``precision`` fp16 or int8 answers change; the result says by how much.

    Raises
    ------
    ModelError, TamperedError
        The model can't be used.
    ExportError
        The network can't be translated, there are no images to compare on, the file does not agree, or fp16 or int8
        costs more than a hundredth of accuracy.
    SettingsError
        ``out`` does not end as the format's files do, or ``precision`` goes with another format than ``onnx``.
    OutputError
        ``out`` can't be written.
    MissingExtraError
        The extra ``export`` is not installed, or for OpenVINO and timm the extra ``train``.
    """
    from regraft.runs.export import export as run

    return run(settings, _progress(settings.quiet))


@takes(ReportSettings)
def write_report(settings: ReportSettings) -> ReportResult:
    """Write the page of a run: one file with its figures, mistakes and pictures, for people to look at.

    ``train`` does so at its end. Of a run that did not finish, the page says so and shows what there is.

    Raises UsageError where there is no run, DataError where its records can't be understood, OutputError where the
    page can't be written, MissingExtraError where the extra ``train`` is not installed.
    """
    from regraft.runs.report import report as run

    return run(settings, _progress(settings.quiet))


@takes(CompareSettings)
def compare(settings: CompareSettings) -> PairedComparison:
    """Compare two models on the same images: difference in accuracy, with interval, and McNemar's test.

    Without images, the answers that both trainings kept for their test images are compared; these must be the same
    images.

    Raises ModelError (TamperedError) for an unusable model, DataError where the answers can't be read or are of other
    images, or for unusable images.
    """
    from regraft.runs.pairing import compare as run

    return run(settings, _progress(settings.quiet))


@takes(UpdateSettings)
def update(settings: UpdateSettings) -> UpdateResult:
    """Train a model anew with further images, and replace it where the new one is not worse.

    Old test images stay test images; both models are compared on them and on the new ones. What is not promoted stays
    in a folder of its own, and the model is not touched. The command then ends with exit code 3.

    Raises
    ------
    ModelError
        The model can't be used.
    DataError
        The images can't be used, or the old ones are not found.
    UsageError
        The model is of a kind that can't be updated, or nothing is new.
    OutputError
        ``out`` holds something else, or a folder can't be written.
    TimeLimitError
        The time limit was reached; what is computed is kept.
    """
    from regraft.runs.update import update as run

    return run(settings, _progress(settings.quiet))


@takes(RunsSettings)
def list_runs(settings: RunsSettings) -> Runs:
    """List runs with plan, figures and time; unfinished ones with how far they are.

    Raises DataError where there is no such folder.
    """
    from regraft.runs.listing import list_runs as run

    return run(Path(settings.folder).expanduser())


@takes(ServeSettings)
def serve(settings: ServeSettings) -> ServeResult:
    """Answer pictures over HTTP, with a page to try the model, until stopped.

    An exported file needs no PyTorch. Of a model folder its export is served; where it has none, it is made first.
    Returns once Ctrl-C or SIGTERM has come and every request that was let in is answered.

    Raises
    ------
    SettingsError
        The address is in use or can't be had, or is open to others without a name and a token.
    ModelError, TamperedError
        The model can't be used.
    ExportError
        The folder holds no export and none can be made.
    MissingExtraError
        The extra ``serve`` is not installed.
    """
    from regraft.runs.serve import serve as run

    return run(settings, _progress(settings.quiet))


@takes(VerifySettings)
def verify(settings: VerifySettings) -> Verification:
    """Check that a model is whole and answers here what it answered where it was made.

    Digests of all files that decide answers are compared, then the answers for recorded pictures. What differs is in
    the result's ``errors``; on the command line the exit code is then 1.

    Raises ModelError (TamperedError) where there is no model, or what tells of its files was changed,
    MissingExtraError where its network needs PyTorch.
    """
    from regraft.runs.verify import verify as run

    return run(settings, _progress(settings.quiet))


@takes(BundleSettings)
def bundle(settings: BundleSettings) -> BundleResult:
    """Make a folder that brings a model to a machine without a connection.

    The exported model with its self-test, the packages that run it, a script that installs them, verifies and serves,
    and a Containerfile. Where a model folder holds no export, it is made first.

    Raises
    ------
    ModelError, TamperedError
        The model can't be used, or does not answer here what it answered where it was made.
    ExportError
        The folder holds no export and none can be made.
    OutputError
        ``out`` is there already, or can't be written.
    BundleError
        The packages can't be had.
    """
    from regraft.runs.bundle import bundle as run

    return run(settings, _progress(settings.quiet))


@takes(BackbonesSettings)
def backbones(settings: BackbonesSettings) -> Backbones | BackboneDetail:
    """List pre-trained networks, or tell all about one: where it is read, and where it can be cut.

    Raises UnknownNameError with the nearest names.
    """
    from regraft.networks import catalogue
    from regraft.records.networks import Backbones

    if settings.name is None or any(c in settings.name for c in "*?["):
        found, more = catalogue.search(settings.name, settings.offline)
        return Backbones(tuple(found), more)
    catalogue.resolve(settings.name)
    from regraft.networks.build import describe

    return describe(settings.name, settings.all)


@takes(FetchSettings)
def fetch(settings: FetchSettings) -> Fetched:
    """Write a backbone's weights to a file for a machine without a connection.

    They are taken from this machine where they lie on it, else downloaded; the result names the line to type on
    the other machine. ``regraft backbones fetch NAME --to DIR`` is the same command.

    Raises UnknownNameError for an unknown backbone, BackboneError where its weights can't be had, OutputError
    where the folder can't be written.
    """
    from regraft.runs.fetch import fetch as run

    return run(settings)


@takes(StoreSettings)
def store(settings: StoreSettings) -> StoreUse:
    """Tell what the feature store holds; clear or shrink it.

    What a running command uses stays.

    Raises StoreError where the store can't be used.
    """
    from regraft.extraction.store import FeatureStore

    limit = 0 if settings.clear else None if settings.store_limit is None else size_in_bytes(settings.store_limit)
    with FeatureStore(settings.store) as opened:
        return opened.use(0 if limit is None else opened.trim(limit))


@takes(DoctorSettings)
def doctor(settings: DoctorSettings) -> Doctor:
    """Tell what this machine has: processor, GPU, engines, feature store, and which engines were chosen.

    Raises StoreError where the store can't be used.
    """
    from regraft.runs.doctor import doctor as run

    return run(settings)


@takes(DemoSettings)
def demo(settings: DemoSettings) -> DemoResult:
    """Train and try a model on 1,797 real hand-written digits.

    The pictures come with scikit-learn; nothing is downloaded.
    """
    from regraft.demonstration import demonstrate

    return demonstrate(settings, train, evaluate, predict)


@takes(RecipesSettings)
def recipes(settings: RecipesSettings) -> Recipes:
    """List the recipes: plans that follow published walk-throughs, with their published figures.

    Raises UnknownNameError with the nearest names.
    """
    from regraft.strategy.describing import list_recipes

    return list_recipes(settings.name)


@takes(PlanSettings)
def plan(settings: PlanSettings) -> Plans:
    """Show what a plan would do, without running it; write it to a file.

    What learns, where the network is cut and at which rates is counted in its network, which needs no weights; with
    images, disk and time are forecast.

    Raises
    ------
    UnknownNameError
        No recipe has that name; the nearest are named.
    SettingsError
        The plan's file or ``set`` holds mistakes; all are named.
    DataError
        The images can't be used.
    OutputError
        ``out`` is there already or can't be written.
    """
    from regraft.data.index import open_data, require_classes
    from regraft.records.described import Plans
    from regraft.records.plan import Plan
    from regraft.strategy.changing import override
    from regraft.strategy.library import load_plans
    from regraft.strategy.writing import save_plan

    plans = (Plan(),) if settings.plan is None else load_plans(settings.plan)
    named = () if settings.backbone is None else (f"backbone.name={settings.backbone}",)
    plans = tuple(override(one, [*named, *settings.set]) for one in plans)
    index = data = None
    if settings.data is not None:
        data = str(settings.data)
        index = open_data(data, layout=settings.layout, follow_links=settings.follow_links)
        require_classes(index)
    if settings.out is not None and len(plans) > 1:
        raise UsageError(f"{settings.plan} stands for {len(plans)} recipes, and --out is one file; give one of "
                         + ", ".join(one.name for one in plans))
    foresee = _foresee()
    described = tuple(foresee(one, index, data) for one in plans)
    if settings.out is None:
        return Plans(described)
    return Plans(described, str(save_plan(plans[0], settings.out, force=settings.force)))


def _foresee() -> Callable[[Plan, ImageIndex | None, str | None], DescribedPlan]:
    """What tells of a plan: with figures of its network where the packages for it are installed."""
    try:
        from regraft.runs.planned import foresee
    except ImportError:
        from regraft.strategy.describing import describe

        missing = str(MissingExtraError("figures of the network", "train"))
        return lambda plan, index, data: describe(plan, (), index, data, notes=(missing,))
    return foresee


@takes(SettingsSettings)
def explain(settings: SettingsSettings) -> SettingRows:
    """Explain every setting of every command and of a plan's tables, or those that a word names.

    Raises UnknownNameError with the nearest names.
    """
    from regraft.strategy.explaining import explain as run

    return run(settings.word)
