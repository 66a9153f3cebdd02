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
