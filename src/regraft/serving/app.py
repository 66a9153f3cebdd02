"""The routes of the server; each is a few lines, what they do stands in the modules beside this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from regraft import __version__
from regraft.records.results import Prediction, Predictions
from regraft.records.serving import Served
from regraft.runtime import OnnxModel
from regraft.serving import counters, kserve
from regraft.serving.answers import Answers
from regraft.serving.connections import Lingering
from regraft.serving.counters import Counters, Counting
from regraft.serving.guard import Guard
from regraft.serving.limits import Limits, Memory
from regraft.serving.page import page
from regraft.serving.problems import KINDS, MEDIA_TYPE, ProblemError, of_status
from regraft.serving.schemas import schema
from regraft.serving.uploads import read_uploads


def guarded_app(model: OnnxModel, name: str, limits: Limits, figures: Counters, hosts: Collection[str],
                token: str | None) -> ASGIApp:
    """The whole server as an ASGI application: the routes behind what counts, guards and ends connections."""
    return Counting(Guard(Lingering(_app(model, name, limits, figures)), hosts, token), figures)


def _app(model: OnnxModel, name: str, limits: Limits, figures: Counters) -> FastAPI:
    answers = Answers(model, limits, figures)
    memory = Memory(limits.body)
    served = Served(model=name, digest=model.digest, classes=model.classes, max_body=limits.body,
                    max_images=limits.images)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with answers.working():
            yield

    app = FastAPI(title="Regraft", version=__version__, description="Image classes of pictures.", lifespan=lifespan,
                  docs_url=None, redoc_url=None, responses=_PROBLEMS)
    app.add_exception_handler(ProblemError, _refused)
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(Exception, _failed)
    _add_pages(app)

    @app.post("/predict", summary="Classify pictures", openapi_extra=_PICTURES, responses={
        200: {"content": {"application/json": {"schema": schema(Predictions)}}}})
    async def predict(request: Request) -> JSONResponse:
        answers.require_room()
        with memory.share() as share:
            predictions = await answers.predict(await read_uploads(request, limits, share))
        unreadable = [p for p in predictions if p.error is not None]
        figures.count(len(predictions) - len(unreadable), len(unreadable))
        if len(unreadable) == len(predictions):
            raise _none_readable(unreadable)
        return JSONResponse(Predictions(tuple(predictions)).to_dict())

    @app.get("/classes", summary="The model and its classes", responses={
        200: {"content": {"application/json": {"schema": schema(Served)}}}})
    async def classes() -> JSONResponse:
        return JSONResponse(served.to_dict())

    @app.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(figures.text(), media_type=counters.MEDIA_TYPE)

    app.include_router(kserve.router(name, model, answers, limits, memory))
    return app


def _add_pages(app: FastAPI) -> None:
    try_it, reference = page("try.html"), page("docs.html")

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return try_it

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return reference


_IMAGE = {"type": "string", "format": "binary"}
_PICTURES = {"requestBody": {"required": True, "content": {
    "multipart/form-data": {"schema": {"type": "object", "properties": {"images": {"type": "array", "items": _IMAGE}}}},
    "image/*": {"schema": _IMAGE}, "application/octet-stream": {"schema": _IMAGE}}}}

_PROBLEM = {"type": "object", "required": ["type", "title", "status", "detail"], "properties": {
    "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
    "detail": {"type": "string"}, "images": {"type": "array", "items": {"type": "object"}}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": "; ".join(kind.meaning for kind in KINDS.values() if kind.status == status),
             "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
    for status in sorted({kind.status for kind in KINDS.values()})}


def _none_readable(unreadable: Sequence[Prediction]) -> ProblemError:
    """The problem of a request without one readable picture."""
    reasons = [p.error or "" for p in unreadable]
    kind = "format" if all("no image of a known format" in reason for reason in reasons) else "unreadable"
    detail = f"the picture {reasons[0]}" if len(reasons) == 1 else f"none of the {len(reasons):,} pictures can be read"
    return ProblemError(kind, detail, images=[{"path": p.path, "error": p.error or ""} for p in unreadable])


async def _refused(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ProblemError)
    return problem.response()


async def _of_framework(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return of_status(error.status_code, str(error.detail), dict(error.headers or {})).response()


async def _failed(_: Request, error: Exception) -> Response:
    return ProblemError("failed", f"an unforeseen {type(error).__name__}; the server's log tells more").response()
