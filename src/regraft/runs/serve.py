"""``serve``: a model behind an address, from the checks before the first request to the last answer."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from regraft import manifest
from regraft.errors import ExportError, MissingExtraError, ModelError, SettingsError, TamperedError
from regraft.model import HEAD_FILES, UNKNOWN
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.exported import EXPORT_RECORD, export_name
from regraft.records.serving import ServeResult
from regraft.runtime import OnnxModel, is_onnx, load_onnx
from regraft.settings import ExportSettings, ServeSettings, seconds, size_in_bytes

if TYPE_CHECKING:
    from regraft.serving.limits import Limits

#: Where a token is looked for that is not given.
TOKEN_VARIABLE = "REGRAFT_TOKEN"  # noqa: S105 - a name, no secret

#: Fewer characters can be guessed.
_SHORTEST_TOKEN = 16

#: Seconds that a connection without a request is kept.
_IDLE_SECONDS = 10


def serve(settings: ServeSettings, progress: Progress) -> ServeResult:
    """Run one server until it is stopped; see :func:`regraft.serve`."""
    token = _token(settings)
    try:
        import uvicorn

        from regraft.serving.app import guarded_app
        from regraft.serving.connections import TimedProtocol
        from regraft.serving.counters import Counters
        from regraft.serving.guard import LOOPBACK
    except ImportError:
        raise MissingExtraError("serving", "serve") from None

    listening = _listening(settings.host, settings.port)
    with listening:
        model, name = open_model(settings.model, progress)
        address = _address(settings.host, listening.getsockname()[1])
        figures = Counters(name, model.digest)
        app = guarded_app(model, name, _limits(settings), figures, (*LOOPBACK, *settings.allow_host), token)

        class Server(uvicorn.Server):
            """Tells where it is once it can be asked."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                progress.say(f"serving {shown(name)} at {address}; Ctrl-C stops")

        server = Server(uvicorn.Config(
            app, http=TimedProtocol, ws="none", loop="asyncio", lifespan="on", log_config=None, log_level="error",
            access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=math.ceil(seconds(settings.deadline, "deadline"))))
        started = time.monotonic()
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has stopped in good order
            server.run(sockets=[listening])
    return ServeResult(model=name, address=address, requests=figures.answered_requests,
                       images=figures.answered_images, seconds=round(time.monotonic() - started, 3))


def _token(settings: ServeSettings) -> str | None:
    """The token, if any; raises SettingsError where it is too short, or missing on an address that others reach."""
    token = settings.token if settings.token is not None else os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise SettingsError([f"token: it has {len(token)} characters; give at least {_SHORTEST_TOKEN}"])
    if not _is_loopback(settings.host) and (token is None or not settings.allow_host):
        raise SettingsError([f"host: {settings.host!r} is reached by other machines; say what they call this one with "
                             f"--allow-host NAME, and keep strangers out with --token or {TOKEN_VARIABLE}"])
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address; raises SettingsError where there can be none."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise SettingsError([f"port: {port} of {host} can't be had ({error.strerror or error}); give another one, or "
                             "--port 0 for any that is free"]) from None
    return listening


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _limits(settings: ServeSettings) -> Limits:
    from regraft.serving.limits import Limits

    return Limits(
        body=size_in_bytes(settings.max_body, "max_body"), images=settings.max_images, pixels=settings.max_pixels,
        queue=settings.queue, batch=settings.batch, deadline=seconds(settings.deadline, "deadline"),
        upload=seconds(settings.upload_time, "upload_time"))


def open_model(given: str | Path, progress: Progress) -> tuple[OnnxModel, str]:
    """The exported file at a path, or that of a model folder, and its name.

    Raises ModelError or TamperedError for an unusable model, ExportError where a folder's export can't be made.
    """
    path = Path(given).expanduser()
    if is_onnx(path):
        return load_onnx(path), path.stem
    manifest.verify(path, HEAD_FILES)
    return _export_of(path, progress), path.resolve().name


def _export_of(folder: Path, progress: Progress) -> OnnxModel:
    """The export in a model folder; made where it is missing, or is that of another model."""
    file, digest = folder / export_name("onnx"), manifest.model_digest(folder)
    if file.is_file():
        model = load_onnx(file)
        if model.digest == digest:
            _require_whole(file)
            _require_same_answers(folder, file, model, progress)
            return model
    from regraft.runs.export import export

    progress.say(f"{shown(str(folder))} holds no export of its model; making it once")
    try:
        export(ExportSettings(folder), progress)
    except MissingExtraError:
        raise ExportError(f"{shown(str(folder))} holds no export, and to make one needs PyTorch; where that is "
                          f"installed, type: regraft export {shown(str(folder))}") from None
    return load_onnx(file)


def _require_same_answers(folder: Path, file: Path, model: OnnxModel, progress: Progress) -> None:
    """Raise ModelError where the folder's export is of a lower precision; tell what an older one leaves out."""
    if model.record.precision != "fp32":
        raise ModelError(f"{shown(str(file))} is in {model.record.precision}, and a model folder is served as it "
                         f"answers, in fp32; type: regraft export {shown(str(folder))}, or serve that file itself: "
                         f"regraft serve {shown(str(file))}")
    if model.record.unknown is None and (folder / UNKNOWN).is_file():
        progress.say(f"{shown(str(file))} was written by an earlier version and does not tell what is unknown; to have "
                     f"that, type: regraft export {shown(str(folder))}")


def _require_whole(file: Path) -> None:
    """Raise TamperedError where the file is not the one that its record tells of."""
    record = file.with_name(file.name + EXPORT_RECORD)
    try:
        known = json.loads(record.read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{shown(str(record))} does not tell what {file.name} is; type: regraft export "
                         f"{shown(str(file.parent))}") from None
    if hashlib.sha256(file.read_bytes()).hexdigest() != known:
        raise TamperedError(f"{shown(str(file))} differs from its record; type: regraft export "
                            f"{shown(str(file.parent))}")
