"""The Open Inference Protocol, version 2 (KServe, Triton): the network's pixels in, probabilities and labels out.

https://github.com/kserve/open-inference-protocol, with its extension for binary tensors on the way in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from regraft import __version__
from regraft.records.exported import PIXELS, PROBABILITIES
from regraft.runtime import OnnxModel
from regraft.serving.answers import Answers
from regraft.serving.limits import Limits, Memory
from regraft.serving.problems import ProblemError
from regraft.serving.uploads import length, read_body

#: Besides the probabilities: the name of the best class of each picture.
LABELS = "labels"

_JSON_LENGTH = "inference-header-content-length"


def router(name: str, model: OnnxModel, answers: Answers, limits: Limits, memory: Memory) -> APIRouter:
    """The protocol's addresses for one model."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    size = model.preprocessing.size

    def require(given: str) -> None:
        if given != name:
            raise ProblemError("not-found", f"no model is called {given!r}; this server has {name!r}")

    @routes.get("", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "regraft", "version": __version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live", summary="Whether the server lives")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="Whether the server is ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @routes.get("/models/{model_name}", summary="What goes in and what comes out")
    async def about(model_name: str) -> dict[str, Any]:
        require(model_name)
        return {"name": name, "versions": [], "platform": "onnxruntime_onnx",
                "inputs": [{"name": PIXELS, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
                "outputs": [{"name": PROBABILITIES, "datatype": "FP64", "shape": [-1, len(model.classes)]},
                            {"name": LABELS, "datatype": "BYTES", "shape": [-1]}]}

    @routes.get("/models/{model_name}/ready", summary="Whether the model is ready")
    async def model_ready(model_name: str) -> dict[str, Any]:
        require(model_name)
        return {"name": name, "ready": True}

    @routes.post("/models/{model_name}/infer", summary="Answer pixels", openapi_extra=_BODY)
    async def infer(model_name: str, request: Request) -> JSONResponse:
        require(model_name)
        answers.require_room()
        with memory.share() as share:
            body = bytes(await read_body(request, limits, share))
            asked, pixels_NSS3 = await run_in_threadpool(
                read_infer, body, request.headers.get(_JSON_LENGTH), size, limits.images)
            P_NK = await answers.probabilities(pixels_NSS3)
        return JSONResponse(written(asked, name, model.classes, P_NK))

    return routes


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object", "required": ["inputs"], "properties": {
        "id": {"type": "string"}, "inputs": {"type": "array", "items": {"type": "object"}},
        "outputs": {"type": "array", "items": {"type": "object"}}}}}}}}


def read_infer(body: bytes, json_length: str | None, size: int,
               most: int) -> tuple[Mapping[str, Any], NDArray[np.uint8]]:
    """The request's JSON and the pixels in it, uint8 [N, S, S, 3]; raises ProblemError for anything else."""
    end = len(body) if json_length is None else length(json_length)
    if end > len(body):
        raise ProblemError("malformed", f"{_JSON_LENGTH} is no length within the body")
    try:
        asked = json.loads(body[:end])
    except (ValueError, RecursionError) as error:
        raise ProblemError("malformed", f"the body is no JSON document ({error})") from None
    inputs = asked.get("inputs") if isinstance(asked, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ProblemError("malformed", "there must be exactly one input")
    shape = _shape(inputs[0], size)
    if shape[0] > most:
        raise ProblemError("too-large", f"a request may hold {most:,} pictures")
    values = _listed(inputs[0].get("data")) if end == len(body) else np.frombuffer(body[end:], np.uint8)
    if values.size != math.prod(shape):
        raise ProblemError("malformed", f"{values.size:,} values do not make the shape {shape}")
    return asked, values.reshape(shape)


def _shape(tensor: Mapping[str, Any], size: int) -> list[int]:
    """The shape of an input, which must be the network's pixels."""
    shape = tensor.get("shape")
    if (tensor.get("name") != PIXELS or tensor.get("datatype") != "UINT8" or not isinstance(shape, list)
            or any(type(n) is not int for n in shape) or shape[1:] != [size, size, 3] or shape[0] < 1):
        raise ProblemError("malformed",
                           f"the input must be {PIXELS!r} of datatype UINT8 and shape [N, {size}, {size}, 3]")
    return shape


def _listed(data: object) -> NDArray[np.uint8]:
    """Values of a list, flat or nested."""
    try:
        values = np.asarray(data)
    except ValueError:
        values = np.empty(0)
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() <= 255):
        raise ProblemError("malformed", "data must be whole numbers from 0 to 255, flat or nested as the shape says")
    return values.astype(np.uint8)


def written(asked: Mapping[str, Any], name: str, classes: tuple[str, ...], P_NK: NDArray[np.float64]) -> dict[str, Any]:
    """The response document, with the outputs that were asked for, by default both."""
    known = {
        PROBABILITIES: {"datatype": "FP64", "shape": list(P_NK.shape), "data": P_NK.ravel().tolist()},
        LABELS: {"datatype": "BYTES", "shape": [len(P_NK)], "data": [classes[best] for best in P_NK.argmax(1)]},
    }
    wanted = asked.get("outputs") or [{"name": output} for output in known]
    names = [str(item.get("name")) for item in wanted if isinstance(item, dict)] if isinstance(wanted, list) else []
    if not names or len(names) < len(wanted) or not set(names) <= set(known):
        raise ProblemError("malformed", f"the outputs are {' and '.join(known)}")
    document = {"model_name": name, "outputs": [{"name": output, **known[output]} for output in names]}
    return {"id": asked["id"], **document} if isinstance(asked.get("id"), str) else document
