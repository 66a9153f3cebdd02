"""The house: imports point one way, torch stays at arm's length, nothing is executed that a file names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "regraft"

#: A room imports only from rooms above it (and from itself).
ROOMS = ("errors", "settings", "progress", "records", "metrics", "data", "networks", "engines", "extraction", "heads",
         "decisions", "training", "evaluation", "inspection", "review", "strategy", "report", "manifest", "answering",
         "selftest", "runtime", "model", "exports", "attribution", "serving", "bundling",
         "runs", "demonstration", "api", "cli", "__main__")

#: These read, judge and show; they must import where torch is not installed.
WITHOUT_TORCH = (
    "regraft", "regraft.errors", "regraft.settings", "regraft.progress", "regraft.records.results", "regraft.metrics",
    "regraft.data.index", "regraft.data.view", "regraft.data.splits", "regraft.networks.catalogue",
    "regraft.engines.contract", "regraft.engines.choose", "regraft.engines.measure", "regraft.engines.processor",
    "regraft.runs.engines", "regraft.runs.doctor", "regraft.extraction.store", "regraft.extraction.extract",
    "regraft.heads.choose", "regraft.heads.choose_labels", "regraft.decisions.labels", "regraft.runs.train_labels",
    "regraft.report.labels", "regraft.data.label_splits",
    "regraft.decisions.answering", "regraft.decisions.fitting", "regraft.runs.answers", "regraft.records.views",
    "regraft.training.transforms", "regraft.training.views", "regraft.evaluation",
    "regraft.manifest", "regraft.model", "regraft.extraction.files", "regraft.runs.train", "regraft.runs.train_file",
    "regraft.runs.features", "regraft.runs.inspect", "regraft.runs.update", "regraft.data.joining",
    "regraft.runs.fetch", "regraft.runs.evaluate", "regraft.exports",
    "regraft.exports.agreement", "regraft.exports.candidate",
    "regraft.runs.export", "regraft.demonstration", "regraft.answering", "regraft.runtime", "regraft.networks.lite",
    "regraft.engines.light", "regraft.runs.predict", "regraft.runs.serve", "regraft.serving.app",
    "regraft.strategy.library", "regraft.strategy.changing", "regraft.strategy.explaining",
    "regraft.strategy.describing", "regraft.report.curves", "regraft.report.bars",
    "regraft.report.page", "regraft.report.figures", "regraft.report.card", "regraft.review.answers",
    "regraft.review.feature_map", "regraft.runs.report", "regraft.api", "regraft.cli",
    "regraft.runs.rank", "regraft.strategy.halving", "regraft.strategy.advising", "regraft.report.cost",
    "regraft.report.cut_map", "regraft.selftest.answers", "regraft.runs.verify", "regraft.runs.bundle",
)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names of Regraft that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def test_imports_point_one_way() -> None:
    for path, tree in modules():
        if path == "__init__.py":
            continue
        own = ROOMS.index(room(path))
        for name in imported(tree):
            parts = name.split(".")
            if parts[0] == "regraft" and len(parts) > 1 and parts[1] in ROOMS:
                assert ROOMS.index(parts[1]) <= own, f"{path} imports {name}, which lies below it"


def test_every_room_is_listed() -> None:
    assert {room(path) for path, _ in modules()} - {"__init__"} == set(ROOMS)


def test_no_circle_inside_a_room() -> None:
    arrows: dict[str, set[str]] = {}
    known = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path, _ in modules()}
    for path, tree in modules():
        name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        targets = {n.removeprefix("regraft.") for n in imported(tree) if n.startswith("regraft.")}
        arrows[name] = {t if t in known else t.rpartition(".")[0] for t in targets} & known - {name, "__init__"}
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert free, f"imports in a circle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


def test_rooms_import_without_torch() -> None:
    code = ("import sys, importlib\n"
            "class Refuse:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.partition('.')[0] in ('torch', 'torchvision', 'timm', 'onnx', 'onnxruntime',\n"
            "                                      'openvino', 'matplotlib', 'jinja2'):\n"
            "            raise ImportError(name)\n"
            "sys.meta_path.insert(0, Refuse())\n"
            f"for name in {WITHOUT_TORCH!r}: importlib.import_module(name)\n")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_opens_no_socket_and_starts_no_process() -> None:
    code = ("import sys\n"
            "def refuse(event, arguments):\n"
            "    if event.split('.')[0] in ('socket', 'subprocess') or event in ('os.system', 'os.exec', 'os.fork',\n"
            "                                                                     'os.posix_spawn', 'os.spawn'):\n"
            "        raise RuntimeError(event)\n"
            "sys.addaudithook(refuse)\n"
            "import regraft, regraft.api, regraft.cli, regraft.model, regraft.runs.train, regraft.extraction.store\n"
            "[getattr(regraft, name) for name in regraft.__all__]\n")
    subprocess.run([sys.executable, "-c", code], check=True)


#: Calls that run or import what a file names.
FORBIDDEN = {"eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "torch.jit.load", "yaml.load",
             "joblib.load", "np.load", "numpy.load", "marshal.loads", "dill.load", "os.system"}


def test_nothing_runs_what_a_file_names() -> None:
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names), path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN, f"{path}:{node.lineno} calls {called}"
            if called == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
            if called == "importlib.import_module":
                assert path == "__init__.py", f"{path}:{node.lineno} imports by name"
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno} imports what a variable says"


def test_the_top_level_door_is_complete() -> None:
    import regraft
    from regraft.cli import COMMANDS

    assert {function.__name__ for function in COMMANDS.values()} <= set(regraft.__all__)
    for name in regraft.__all__:
        assert getattr(regraft, name) is not None
    with pytest.raises(AttributeError):
        _ = regraft.nothing
