"""The command line: help, exit codes, one document on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.cli import COMMANDS
from tests.doors import json_of, regraft_cli


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_imports_no_torch(command: list[str]) -> None:
    code = ("import sys; from regraft.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)\n"
            "print('heavy', sorted(heavy))")
    done = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True)
    assert "Usage: regraft" in done.stdout
    assert done.stdout.rstrip().endswith("heavy []")


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["train"], 2, "DATA"),
    (["train", "nowhere"], 1, "error: nowhere does not exist; give a folder of class folders, a CSV table"),
    (["trian"], 2, "No such command"),
    (["train", ".", "--fit", "zoom"], 2, "'crop', 'pad', 'squash'"),
    (["train", ".", "--seed", "x"], 2, "seed"),
    (["predict", "nowhere", "a.jpg"], 1, "error: nowhere is no model folder"),
    (["backbones", "efficientnet_lite00"], 2, "did you mean 'efficientnet_lite0'"),
    (["store", "--store-limit", "big"], 2, "'big' is no size"),
])
def test_mistakes_are_one_line_and_an_exit_code(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = regraft_cli(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_backbones() -> None:
    document = json_of("backbones")
    names = {item["name"] for item in document["backbones"]}
    assert {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"} <= names
    assert document["more"] > 1000
    one = json_of("backbones", "efficientnet_lite0")
    assert one["backbone"]["parameters"] == 4_652_008
    assert [r["name"] for r in one["readouts"]][-2:] == ["last", "logits"]
    assert "resnet18" in regraft_cli("backbones", "resnet1?").stdout


def test_a_command_in_two_words(tmp_path: Path) -> None:
    document = json_of("backbones", "fetch", "efficientnet_lite0", "--to", tmp_path)
    assert Path(document["file"]) == tmp_path / "efficientnet_lite0.safetensors"
    assert document["bytes"] == Path(document["file"]).stat().st_size
    assert document["line"].startswith("regraft train DATA --backbone efficientnet_lite0 --weights ")


def test_store(tmp_path: Path) -> None:
    document = json_of("store", "--store", tmp_path)
    assert (document["bytes"], document["spaces"], document["folder"]) == (0, [], str(tmp_path))
    assert regraft_cli("store", "--store", tmp_path, "--clear").returncode == 0


def test_version_and_plain_progress(crops: Path, tmp_path: Path) -> None:
    import regraft

    assert regraft_cli("--version").stdout == f"regraft {regraft.__version__}\n"
    done = regraft_cli("train", crops, "--out", tmp_path / "out", "--json")
    json.loads(done.stdout)
    assert "40 images of 2 classes" in done.stderr
    assert "\x1b[" not in done.stderr
    quiet = regraft_cli("train", crops, "--out", tmp_path / "quiet", "--quiet")
    assert quiet.stderr == ""
    assert "test: 8 images, never used for fitting or choosing" in quiet.stdout


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    document = json_of("demo", "--out", tmp_path / "demo")
    assert document["training"]["test"]["accuracy"]["value"] >= 0.95
    assert document["evaluation"]["accuracy"] == document["training"]["test"]["accuracy"]
    assert (document["evaluation"]["split"], document["evaluation"]["seen_in_training"]) == ("test", 0)
    labels = [p["label"] for p in document["predictions"]["predictions"]]
    assert sum(label == true for label, true in zip(labels, "358", strict=True)) >= 2
