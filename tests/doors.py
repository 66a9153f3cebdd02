"""The command line as a user starts it, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def regraft_cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "regraft.cli", *map(str, arguments)], capture_output=True, text=True,
                          check=False, cwd=cwd, stdin=subprocess.DEVNULL, timeout=300)


def json_of(*arguments: object, exit_code: int = 0) -> Any:
    """The one JSON document that a command prints with ``--json``."""
    done = regraft_cli(*arguments, "--json")
    assert done.returncode == exit_code, done.stderr
    return json.loads(done.stdout)


#: What stands in for a machine without PyTorch.
WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'torchvision', 'timm', 'onnxscript', 'openvino'):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from regraft.cli import main
main(sys.argv[1:])
"""


def without_torch(*arguments: object, exit_code: int = 0) -> Any:
    """The document that a command prints where PyTorch can't be imported, or its error."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments), "--json"], capture_output=True,
                          text=True, check=False, timeout=300)
    assert done.returncode == exit_code, done.stderr
    return json.loads(done.stdout) if exit_code == 0 else done.stderr
