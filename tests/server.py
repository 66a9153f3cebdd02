"""The server as a user starts it, in a process that has no PyTorch, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_START = ("import sys\n"
          "for name in ('torch', 'torchvision', 'timm', 'onnx'): sys.modules[name] = None\n"
          "from regraft.cli import main\n"
          "main(sys.argv[1:])\n")


@dataclass
class Server:
    """A running server: its address, its process, and the folder that it would take for temporary files.

    ``client`` keeps its connections: to make a new one takes longer than an answer.
    """

    address: str
    process: subprocess.Popen[str]
    scratch: Path
    client: httpx.Client

    def post(self, *pictures: bytes, **options: Any) -> httpx.Response:
        """``POST /predict`` of one picture as it is, of several as a form."""
        if len(pictures) == 1:
            return self.client.post(f"{self.address}/predict", content=pictures[0], **options)
        files = [("images", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]
        return self.client.post(f"{self.address}/predict", files=files, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """``GET`` of an address of the server."""
        return self.client.get(self.address + path, **options)

    def stop(self) -> dict[str, Any]:
        """Ask it to end, and give the document it prints then."""
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        document: dict[str, Any] = json.loads(printed)
        return document


@contextmanager
def running(model: object, *options: object) -> Iterator[Server]:
    """A server on a free port, until the end of the context."""
    with tempfile.TemporaryDirectory() as scratch, httpx.Client(timeout=60) as client:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, "serve", str(model), "--port", "0", "--json", *map(str, options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": scratch})
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert " at http://" in said, said + process.stderr.read()
            yield Server(said.split(" at ")[1].split(";")[0], process, Path(scratch), client)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
