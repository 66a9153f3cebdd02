"""``bundle``: a folder that is whole or not there, and serves what the model answers where there is no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import regraft
from regraft.errors import BundleError, ModelError, OutputError, SettingsError
from regraft.records.results import ExportResult, TrainResult
from tests.doors import json_of

TEXTS = {"start.sh", "start.cmd", "Containerfile", "README.txt"}


@pytest.fixture
def bundled(exported: ExportResult, tmp_path: Path) -> Path:
    regraft.bundle(exported.out, out=tmp_path / "box", no_wheels=True, quiet=True)
    return tmp_path / "box"


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the start script."""
    return subprocess.run(["sh", str(folder / "start.sh"), *arguments], capture_output=True, text=True, check=False,
                          cwd="/", env={**os.environ, **variables}, timeout=600)


def test_a_bundle_holds_all_that_is_needed(exported: ExportResult, tmp_path: Path) -> None:
    document = json_of("bundle", exported.model, "--out", tmp_path / "box", "--no-wheels", "--quiet")
    names = {path.name for path in (tmp_path / "box").iterdir()}
    assert names == {"model.onnx", "SHA256SUMS", *TEXTS} == set(document["files"])
    assert document["model_digest"] == exported.model_digest
    assert (document["wheels"], document["bytes"]) == (
        0, sum(path.stat().st_size for path in (tmp_path / "box").iterdir()))
    assert {path.name for path in tmp_path.iterdir()} == {"box"}
    assert (tmp_path / "box" / "model.onnx").read_bytes() == Path(exported.out).read_bytes()
    for name in TEXTS:
        text = (tmp_path / "box" / name).read_text("utf-8")
        assert "$" not in text or name == "start.sh"
        assert str(tmp_path) not in text
    assert "flower, palace" in (tmp_path / "box" / "README.txt").read_text()
    subprocess.run(["sh", "-n", tmp_path / "box" / "start.sh"], check=True)
    assert (tmp_path / "box" / "start.cmd").read_bytes().count(b"\r\n") > 10
    container = (tmp_path / "box" / "Containerfile").read_text()
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim" in container
    order = [container.index(text) for text in ("USER regraft", "regraft verify model.onnx", "ENTRYPOINT")]
    assert order == sorted(order)


def test_a_bundle_is_verified_as_a_whole(bundled: Path) -> None:
    found = regraft.verify(bundled, quiet=True)
    assert (found.kind, found.errors) == ("bundle", ())
    assert {file.name for file in found.files} == {"model.onnx", *TEXTS}
    assert found.self_test is not None
    assert found.self_test.labels_equal == 20
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], check=True, cwd=bundled)
    (bundled / "wheels").mkdir()
    (bundled / "wheels" / "other-1.0-py3-none-any.whl").write_bytes(b"")
    assert regraft.verify(bundled, quiet=True).errors == (
        "wheels/other-1.0-py3-none-any.whl does not belong to the bundle and could be installed from it; delete it",)
    (bundled / "start.sh").write_text("echo something else\n")
    assert regraft.verify(bundled, quiet=True).errors[0].startswith("start.sh was changed: its SHA-256 is ")
    sums = (bundled / "SHA256SUMS").read_text()
    (bundled / "SHA256SUMS").write_text(sums.replace("start.sh", "../start.sh"))
    with pytest.raises(ModelError, match=r"SHA256SUMS was changed after the bundle was made"):
        regraft.verify(bundled, quiet=True)


def test_the_start_script_verifies_then_serves(bundled: Path, tmp_path: Path) -> None:
    """Without packages in the folder, the Regraft of the machine runs; it is told apart from others by what it says."""
    command = tmp_path / "bin" / "regraft"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m regraft.cli "$@"\n')
    command.chmod(0o755)
    paths = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    source = str(Path(regraft.__file__).parents[1])
    done = start(bundled, "--host", "nowhere.invalid", PATH=paths, PYTHONPATH=source)
    assert ".: verified" in done.stdout
    assert (done.returncode, "nowhere.invalid" in done.stderr) == (2, True)
    with (bundled / "model.onnx").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"other")
    done = start(bundled, "--host", "nowhere.invalid", PATH=paths, PYTHONPATH=source)
    assert done.returncode == 1
    assert "model.onnx was changed" in done.stdout
    assert "nowhere.invalid" not in done.stderr


def test_what_is_there_stays(exported: ExportResult, bundled: Path, tmp_path: Path) -> None:
    before = (bundled / "SHA256SUMS").stat().st_ino
    with pytest.raises(OutputError, match=r"is there already; take another --out, or replace it with --force"):
        regraft.bundle(exported.out, out=bundled, no_wheels=True, quiet=True)
    assert (bundled / "SHA256SUMS").stat().st_ino == before
    (bundled / "extra.txt").write_text("of an earlier bundle")
    regraft.bundle(exported.out, out=bundled, no_wheels=True, force=True, quiet=True)
    assert not (bundled / "extra.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    for force in (False, True):
        with pytest.raises(OutputError, match="is there already and is no bundle; take another --out"):
            regraft.bundle(exported.out, out=tmp_path / "mine", no_wheels=True, force=force, quiet=True)
    with pytest.raises(OutputError, match="there is no folder"):
        regraft.bundle(exported.out, out=tmp_path / "none" / "box", no_wheels=True, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"box", "mine"}


def test_what_fails_leaves_nothing(exported: ExportResult, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "regraft.cli", "bundle", exported.out, "--out", str(tmp_path / "box"), "--quiet"],
        capture_output=True, text=True, check=False, env={**os.environ, "PIP_NO_INDEX": "1"})
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: pip can't get the packages (")
    assert line.endswith("); connect this machine, or leave packages out with --no-wheels")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_fails_here_is_not_passed_on(exported: ExportResult, tmp_path: Path) -> None:
    data = bytearray(Path(exported.out).read_bytes())
    data[5_000_000] ^= 0x01
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"is not bundled, for it fails here already: model\.onnx was changed"):
        regraft.bundle(tmp_path / "model.onnx", out=tmp_path / "box", no_wheels=True, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}


def test_wheels_that_are_none(exported: ExportResult, tmp_path: Path) -> None:
    (tmp_path / "numpy-2.0-py3-none-any.whl").write_bytes(b"")
    for given in (tmp_path / "numpy-2.0-py3-none-any.whl", tmp_path / "regraft-9-py3-none-any.whl"):
        with pytest.raises(SettingsError, match="is no wheel of Regraft; give a file such as regraft-"):
            regraft.bundle(exported.out, out=tmp_path / "box", wheel=given, quiet=True)
    (tmp_path / "regraft-9-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(BundleError, match=r"regraft-9-py3-none-any\.whl does not name what serving needs"):
        regraft.bundle(exported.out, out=tmp_path / "box", wheel=tmp_path / "regraft-9-py3-none-any.whl", quiet=True)
    with pytest.raises(SettingsError, match="give one of them"):
        regraft.bundle(exported.out, out=tmp_path / "box", wheel=given, no_wheels=True, quiet=True)
    assert not (tmp_path / "box").exists()


@pytest.mark.slow
def test_an_unexported_folder_is_exported_first(trained: TrainResult, tmp_path: Path) -> None:
    shutil.copytree(trained.out, tmp_path / "model")
    regraft.bundle(tmp_path / "model", out=tmp_path / "box", no_wheels=True, quiet=True)
    assert regraft.verify(tmp_path / "box", quiet=True).errors == ()


@pytest.mark.slow
def test_installed_without_a_network_it_answers_as_the_model_does(exported: ExportResult, crops: Path,
                                                                 tmp_path: Path) -> None:
    box = tmp_path / "box"
    try:
        made = regraft.bundle(exported.out, out=box, quiet=True)
    except BundleError as error:
        pytest.skip(f"the packages can't be had here: {error}")
    assert made.wheels > 20
    offline = {"PIP_NO_INDEX": "1", "PYTHONPATH": "", "PYTHON": sys.executable}
    done = start(box, "--host", "nowhere.invalid", **offline)
    assert done.returncode == 2, done.stderr
    assert ".: verified" in done.stdout
    own = box / "venv" / "bin" / "regraft"
    answered = subprocess.run([own, "predict", box / "model.onnx", crops, "--json", "--quiet"], capture_output=True,
                              text=True, check=True, env={**os.environ, **offline})
    expected = regraft.predict(exported.model, crops, quiet=True)
    for one, other in zip(json.loads(answered.stdout)["predictions"], expected, strict=True):
        assert one["label"] == other.label
        assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-4)
    # An installed Regraft has no source beside it: it packs a wheel of its own files, and that one installs too.
    code = ("from pathlib import Path; from regraft.bundling.wheels import own_wheel\n"
            "print(own_wheel(Path('.')).name)")
    packed = subprocess.run([box / "venv" / "bin" / "python", "-c", code], capture_output=True, text=True, check=True,
                            cwd=tmp_path, env={**os.environ, **offline}).stdout.strip()
    venv.create(tmp_path / "again", with_pip=True)
    subprocess.run([tmp_path / "again" / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index",
                    "--find-links", box / "wheels", tmp_path / packed], check=True, capture_output=True)
    again = json.loads(subprocess.run([tmp_path / "again" / "bin" / "regraft", "verify", box, "--json", "--quiet"],
                                      capture_output=True, text=True, check=True, cwd=tmp_path,
                                      env={**os.environ, **offline}).stdout)
    assert (again["kind"], again["errors"]) == ("bundle", [])
