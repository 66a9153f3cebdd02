"""Engines beside PyTorch: the same features in any company, chosen by measurement, kept, and in touch with nobody."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import regraft  # before PyTorch, whose threads wait as it says

# isort: split
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regraft.data.index import open_data
from regraft.data.view import view0
from regraft.engines.choose import KINDS, Pair, missing, pairs, shortest
from regraft.engines.contract import Engine
from regraft.engines.measure import compare, features_of
from regraft.engines.processor import has_bf16
from regraft.engines.pytorch import PyTorchEngine
from regraft.errors import UsageError
from regraft.extraction import alignment
from regraft.extraction.alignment import aligned
from regraft.extraction.extract import Route, extract, extract_by, feature_key
from regraft.extraction.store import ENGINES, FeatureStore
from regraft.networks.build import Network, load_backbone
from regraft.networks.weights import weights_digest
from regraft.progress import Deadline, Silent
from regraft.records.engines import EngineKind
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import TrainResult
from regraft.runs import engines as choosing
from regraft.runs.engines import Work, candidates, choices, engines_for
from tests.conftest import write_crops

_SIZE = 64
_RULES = Preprocessing(size=_SIZE)
_PYTORCH, _OPENVINO, _BF16 = KINDS[0], EngineKind("openvino", "fp32"), EngineKind("openvino", "bf16")


@pytest.fixture(scope="module")
def network() -> Network:
    return load_backbone("efficientnet_lite0", size=_SIZE)


@pytest.fixture(scope="module")
def work(network: Network) -> Work:
    return Work(network.name, network.module, network.digest, network.readouts, _RULES)


@pytest.fixture(scope="module")
def photos(crops: Path) -> NDArray[np.uint8]:
    """20 crops of two photographs, uint8 [20, 64, 64, 3]."""
    return np.stack([view0(file, _RULES).pixels for file in sorted(crops.rglob("*.jpg"))[::2]])


@pytest.fixture(scope="module")
def folder(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which every candidate was measured."""
    folder = tmp_path_factory.mktemp("engines") / "store"
    data = open_data(write_crops(folder.parent / "data", 40, seed=3))
    with pytest.MonkeyPatch.context() as patch, FeatureStore(folder) as store:
        patch.setattr(choosing, "_FEW", 1)
        patch.setattr(choosing, "_WORTH", 0.0)  # whatever it costs
        patch.setattr(choosing, "LOWER_FROM", 1)
        engines_for(work, data, np.ones(len(data), np.bool_), store, "auto", "auto", Silent())
    return folder


@pytest.fixture(params=[str(kind) for kind in KINDS])
def engine(request: pytest.FixtureRequest, work: Work, folder: Path) -> Iterator[Engine]:
    kind = next(kind for kind in KINDS if str(kind) == request.param)
    if kind.precision == "bf16" and not has_bf16():
        pytest.skip("this processor does not compute in bf16")
    with FeatureStore(folder) as store:
        yield choosing.Engines(work, store, "auto", "cpu", Silent()).make(kind)


def test_bits_do_not_depend_on_company(engine: Engine, photos: NDArray[np.uint8]) -> None:
    alone = np.concatenate([engine.run(photo[None]) for photo in photos])
    np.testing.assert_array_equal(features_of(engine, photos), alone)
    chosen = np.random.default_rng(1).permutation(len(photos))[:engine.batch]
    np.testing.assert_array_equal(engine.run(photos[chosen]), alone[chosen])


def test_features_are_those_of_pytorch(engine: Engine, network: Network, photos: NDArray[np.uint8]) -> None:
    reference_ND = features_of(PyTorchEngine(network.module, network.readouts, _RULES, "cpu"), photos)
    features_ND = features_of(engine, photos)
    assert features_ND.dtype == np.float32
    if engine.key.endswith("fp32"):
        np.testing.assert_allclose(features_ND, reference_ND, atol=1e-4 * np.abs(reference_ND).max())
    else:
        figures = compare(_BF16, 1.0, features_ND, reference_ND, network.readouts)
        assert figures.cosine is not None
        assert figures.cosine > 0.98
        assert np.abs(features_ND - reference_ND).max() > 0, "these are fp32"


def test_a_candidate_that_disagrees_is_not_taken(network: Network, photos: NDArray[np.uint8]) -> None:
    reference_ND = features_of(PyTorchEngine(network.module, network.readouts, _RULES, "cpu"), photos)
    assert compare(_OPENVINO, 1.0, reference_ND, reference_ND, network.readouts).agrees
    assert "differs by" in compare(_OPENVINO, 1.0, reference_ND * 1.01, reference_ND, network.readouts).reason
    assert "cosine" in compare(_BF16, 1.0, reference_ND[::-1], reference_ND, network.readouts).reason
    broken = np.where(np.arange(reference_ND.shape[1]) == 7, np.nan, reference_ND).astype(np.float32)
    assert "not finite" in compare(_BF16, 1.0, broken, reference_ND, network.readouts).reason


def test_figures_are_never_measured_in_lower_precision() -> None:
    assert all(pair.answers.precision == "fp32" for pair in pairs(KINDS))
    assert Pair(_BF16, _OPENVINO) in pairs(KINDS)
    assert Pair(_PYTORCH, _OPENVINO) not in pairs(KINDS), "two engines of one precision in one training"


def test_what_is_known_is_not_computed_by_a_faster_engine() -> None:
    learns_N = np.array([True] * 80 + [False] * 20)
    nothing, everything = np.zeros(100, np.bool_), np.ones(100, np.bool_)
    slow = {_PYTORCH: 1.0, _OPENVINO: 0.1, _BF16: 0.05}
    kinds = list(slow)

    def seconds(kind: EngineKind, images: int) -> float:
        return slow[kind] * images

    fresh = dict.fromkeys(kinds, nothing)
    assert shortest(pairs(kinds), fresh, learns_N, seconds)[0] == Pair(_BF16, _OPENVINO)
    best, forecast = shortest(pairs(kinds), {**fresh, _PYTORCH: everything}, learns_N, seconds)
    assert (best.answers, forecast) == (_PYTORCH, 0.0)
    split = {**fresh, _BF16: learns_N, _OPENVINO: ~learns_N}
    assert missing(Pair(_BF16, _OPENVINO), split, ~learns_N) == (0, 0), "another split needs nothing either"


def test_the_choice_is_kept_with_its_figures(folder: Path, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    [choice] = choices(folder)
    assert (choice.backbone, choice.weights, choice.images) == (work.backbone, work.digest, 32)
    assert {figures.kind for figures in choice.figures} == set(candidates("auto", "cpu"))
    assert all(figures.agrees == (figures.reason == "") for figures in choice.figures)
    assert choice.answers is not None
    assert choice.answers.precision == "fp32"
    monkeypatch.setattr(choosing.Engines, "_measure", lambda *_: pytest.fail("it was measured again"))
    monkeypatch.setattr("regraft.engines.convert.convert", lambda *_: pytest.fail("it was converted again"))
    data = open_data(folder.parent / "data")
    with FeatureStore(folder) as store:
        engines_for(work, data, np.ones(len(data), np.bool_), store, "auto", "auto", Silent())
        engines_for(work, data, np.ones(len(data), np.bool_), store, "openvino", "auto", Silent())


def test_other_weights_are_compared_and_not_timed(folder: Path, work: Work, network: Network, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "store"
    shutil.copytree(folder, copy)
    [before] = choices(copy)
    module = deepcopy(work.module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    trained = replace(work, module=module, digest=weights_digest(network.architecture, module.state_dict()))
    monkeypatch.setattr(choosing, "_FEW", 1)
    monkeypatch.setattr(choosing, "_WORTH", 0.0)
    monkeypatch.setattr("regraft.engines.measure.images_per_second", lambda *_: pytest.fail("it was timed again"))
    data, progress = open_data(folder.parent / "data"), Told()
    with FeatureStore(copy) as store:
        engines_for(trained, data, np.ones(len(data), np.bool_), store, "auto", "cpu", progress)
        after = next(choice for choice in choices(copy) if choice.weights == trained.digest)
        for kind in (figures.kind for figures in after.figures):
            was, now = before.of(kind), after.of(kind)
            assert was is not None
            assert now is not None
            assert now.images_per_second == was.images_per_second
            assert now.cosine != was.cosine or kind == _PYTORCH, "agreement is these weights' own"
        assert "comparing OpenVINO fp32, ONNX Runtime fp32" in progress.lines
        monkeypatch.setattr("regraft.engines.processor.name", lambda: "another one")
        monkeypatch.setattr("regraft.engines.measure.images_per_second", lambda *_: 7.0)
        engines_for(trained, data, np.ones(len(data), np.bool_), store, "auto", "cpu", progress)
    assert "measuring PyTorch fp32" in progress.lines, "another machine's figures say nothing"


def test_a_damaged_graph_is_written_again(folder: Path, work: Work, photos: NDArray[np.uint8]) -> None:
    [graph] = (folder / ENGINES).glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-1000] + bytes(1000))
    with FeatureStore(folder) as store:
        engine = choosing.Engines(work, store, "onnxruntime", "cpu", Silent()).make(EngineKind("onnxruntime", "fp32"))
    assert hashlib.sha256(graph.read_bytes()).hexdigest() == choices(folder)[0].converted_sha256
    assert engine.run(photos[:1]).shape == (1, sum(readout.dim for readout in work.readouts))


def test_a_few_images_neither_measure_nor_convert(work: Work, crops: Path, tmp_path: Path) -> None:
    data = open_data(crops)
    with FeatureStore(tmp_path / "store") as store:
        learning, answers = engines_for(work, data, np.ones(len(data), np.bool_), store, "auto", "cpu", Silent())
    assert learning.key == answers.key == "pytorch-cpu-fp32"
    assert choices(tmp_path / "store") == ()


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_an_engine_that_fails_falls_back_and_says_so(work: Work, folder: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr(choosing, "_FEW", 1)
    monkeypatch.setattr(choosing, "_WORTH", 0.0)
    monkeypatch.setattr("regraft.engines.convert.convert", fail)
    progress = Told()
    data = open_data(folder.parent / "data")
    with FeatureStore(tmp_path / "store") as store:
        learning, answers = engines_for(work, data, np.ones(len(data), np.bool_), store, "auto", "cpu", progress)
    assert learning.key.startswith("pytorch-cpu-")
    assert answers.key == "pytorch-cpu-fp32"
    assert "OpenVINO fp32 is not taken: no such operator" in progress.lines
    assert "ONNX Runtime fp32 is not taken: no such operator" in progress.lines


def test_an_engine_that_is_not_to_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="it runs on the processor, not on cuda; leave --device away"):
        candidates("openvino", "cuda")
    monkeypatch.setattr(choosing, "needs", lambda engine: ("no_such_package",) if engine == "openvino" else ())
    with pytest.raises(UsageError, match="not installed; type: pip install"):
        candidates("openvino", "cpu")


def test_clearing_the_store_clears_what_engines_keep(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    (copy / ENGINES).mkdir(parents=True)
    for file in (folder / ENGINES).iterdir():
        (copy / ENGINES / file.name).write_bytes(file.read_bytes())
    regraft.store(store=copy, clear=True)
    assert list((copy / ENGINES).iterdir()) == []


@pytest.mark.slow
def test_two_precisions_in_one_training_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_bf16():
        pytest.skip("this processor does not compute in bf16")
    data, store = write_crops(tmp_path / "data", 40, seed=5), tmp_path / "store"
    monkeypatch.setattr(choosing, "_FEW", 1)
    monkeypatch.setattr(choosing, "_WORTH", 0.0)
    monkeypatch.setattr(choosing, "LOWER_FROM", 1)
    monkeypatch.setattr(choosing, "pairs", lambda kinds: [Pair(_BF16, _OPENVINO)])
    monkeypatch.setattr(alignment, "_COMPARED", 8)
    settings: dict[str, Any] = {"strategy": "features", "store": store, "size": _SIZE, "quiet": True}
    first = regraft.train(data, out=tmp_path / "first", **settings)
    assert first.validation is not None
    assert first.test is not None
    assert first.engines == {"openvino-cpu-bf16": 64, "openvino-cpu-fp32": 16}
    assert first.validation.method.endswith("; features in bf16")
    assert first.test.method == "never used for fitting or choosing", "figures on test images are fp32"
    again = regraft.train(data, out=tmp_path / "again", seed=9, **settings)
    assert again.features.computed == 0
    assert sorted(space.images for space in regraft.store(store=store).spaces)[0] in range(24, 33), "8 at most anew"
    assert again.engines is not None
    assert again.engines["openvino-cpu-bf16"] in range(56, 65), "all but those that were compared with fp32"
    assert again.test is not None
    assert again.test.method.endswith(" in bf16"), "some of these were learned from before"


@pytest.mark.slow
def test_a_lower_precision_is_shifted_to_where_the_answers_lie(tmp_path: Path, work: Work,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_bf16():
        pytest.skip("this processor does not compute in bf16")
    monkeypatch.setattr(alignment, "_COMPARED", 24)
    index = open_data(write_crops(tmp_path / "data", 40, seed=5))
    held_N = np.arange(len(index)) % 4 == 0
    with FeatureStore(tmp_path / "store") as store, ExitStack() as spaces:
        engines = choosing.Engines(work, store, "auto", "cpu", Silent(), lower=True)
        routes = [Route(spaces.enter_context(store.space(feature_key(work.rules, work.digest, engine))), engine)
                  for engine in map(engines.make, (_BF16, _OPENVINO))]
        exactly = routes[1]
        features = extract_by(index, routes, held_N.astype(np.int64), work.rules, Silent(), Deadline(None), 0.1)
        shifted = aligned(features, index, exactly, work.rules, Silent(), Deadline(None))
        exact = extract(index, exactly.space, exactly.engine, work.rules, Silent(), Deadline(None), 0.1)
        assert exact.reused == held_N.sum() + 24, "no more than was needed was computed twice"
        names = [readout.name for readout in work.readouts]
        before, after, right = (one.read(np.arange(len(index)), names) for one in (features, shifted, exact))
    np.testing.assert_array_equal(after[held_N], right[held_N])
    shift_ND = (after - before)[~held_N]
    np.testing.assert_allclose(shift_ND, np.broadcast_to(shift_ND[0], shift_ND.shape), atol=1e-5 * np.abs(right).max(),
                               err_msg="the same shift for every image")
    compared = sorted(np.flatnonzero(~held_N), key=lambda row: features.digests[row])[:24]
    np.testing.assert_allclose((after - right)[compared].mean(0), 0, atol=1e-5 * np.abs(right).max())
    off_before, off_after = (np.square((one - right)[~held_N].mean(0)).sum() for one in (before, after))
    assert off_after < off_before


def test_doctor_tells_what_is_here(folder: Path) -> None:
    found = regraft.doctor(store=folder)
    assert [row.engine for row in found.engines] == ["PyTorch", "OpenVINO", "ONNX Runtime"]
    assert all(row.precisions for row in found.engines)
    text = repr(found)
    assert "efficientnet_lite0 at 64 pixels" in text
    assert "for figures" in text
    assert json.loads(json.dumps(found.to_dict()))["choices"][0]["backbone"] == "efficientnet_lite0"


_OFFLINE = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        print("SOCKET", event, arguments, file=sys.stderr)
        raise RuntimeError(event)
sys.addaudithook(refuse)
import regraft
from regraft.runs import engines
engines._FEW, engines._WORTH = 1, 0.0
data, out, store = sys.argv[1:]
print(regraft.train(data, out=out, store=store, size=64, quiet=True).engines)
regraft.predict(out, data, quiet=True)
regraft.export(out, quiet=True)
assert {"openvino", "onnxruntime"} <= sys.modules.keys(), "an engine was not even loaded"
assert sys.modules["openvino_telemetry"] is None
"""


@pytest.mark.slow
def test_nothing_opens_a_connection(crops: Path, tmp_path: Path) -> None:
    given = [str(crops), str(tmp_path / "model"), str(tmp_path / "store")]
    done = subprocess.run([sys.executable, "-c", _OFFLINE, *given], capture_output=True, text=True, check=False)
    assert "SOCKET" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_prediction_loads_neither_pytorch_nor_another_engine(crops: Path, trained: TrainResult) -> None:
    code = ("import sys, regraft\n"
            f"regraft.predict({trained.out!r}, {str(next(crops.rglob('*.jpg')))!r}, quiet=True)\n"
            "assert not {'torch', 'openvino', 'matplotlib'} & sys.modules.keys()\n")
    subprocess.run([sys.executable, "-c", code], check=True)
