"""The pictures of a request, read in memory and within the limits: nothing is ever written to a file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from regraft.serving.limits import Limits, Share
from regraft.serving.problems import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass
class Upload:
    """One picture: the name its sender gave, and its bytes."""

    name: str
    data: bytearray = field(repr=False)


async def read_uploads(request: Request, limits: Limits, share: Share) -> list[Upload]:
    """The pictures of a multipart form, or the one that is the body itself.

    Raises ProblemError where the request is malformed, slow, or larger than allowed.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    async with _arriving(limits):
        if kind == b"multipart/form-data":
            return await _form(request, options.get(b"boundary", b""), limits, share)
        return [Upload("body", await _whole(request, limits, share))]


async def read_body(request: Request, limits: Limits, share: Share) -> bytearray:
    """The body itself, whatever it is; raises ProblemError as :func:`read_uploads` does."""
    async with _arriving(limits):
        return await _whole(request, limits, share)


@asynccontextmanager
async def _arriving(limits: Limits) -> AsyncIterator[None]:
    """The time in which a body must arrive, and what it is called when it does not."""
    try:
        async with asyncio.timeout(limits.upload):
            yield
    except TimeoutError:
        raise ProblemError("slow", f"the body did not arrive within {limits.upload:g} seconds") from None
    except ClientDisconnect:
        raise ProblemError("malformed", "the connection ended in the middle of the body") from None


def length(text: str) -> int:
    """The number of bytes that a header tells; raises ProblemError where it tells none."""
    if re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise ProblemError("malformed", "a header that tells a length holds no number")
    return int(text)


async def _whole(request: Request, limits: Limits, share: Share) -> bytearray:
    data = bytearray()
    async for chunk in _chunks(request, limits, share):
        data += chunk
    return data


async def _form(request: Request, boundary: bytes, limits: Limits, share: Share) -> list[Upload]:
    form = _Form(limits.images)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in _chunks(request, limits, share):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError("malformed", f"the body is no multipart form ({error})") from None
    if not form.ended:
        raise ProblemError("malformed", "the multipart form ends in the middle")
    if not form.uploads:
        raise ProblemError("malformed", "the multipart form holds no picture")
    return form.uploads


async def _chunks(request: Request, limits: Limits, share: Share) -> AsyncIterator[bytes]:
    """The body as it arrives; raises ProblemError as soon as it is known to be too large."""
    too_large = ProblemError("too-large", f"a body may have {limits.body:,} bytes")
    if length(request.headers.get("content-length", "0")) > limits.body:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body:
            raise too_large
        share.take(len(chunk))
        yield chunk


class _Form:
    """What a multipart parser finds, kept within a number of parts."""

    def __init__(self, most: int) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._most = most
        self._header, self._value, self._disposition = b"", b"", b""

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls, by its names."""
        return {"on_part_begin": self._begin, "on_header_field": self._name, "on_header_value": self._text,
                "on_header_end": self._kept, "on_headers_finished": self._open, "on_part_data": self._data,
                "on_end": self._end}

    def _begin(self) -> None:
        if len(self.uploads) == self._most:
            raise ProblemError("too-large", f"a request may hold {self._most:,} pictures")
        self._disposition = b""

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _kept(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            field_ = options.get(b"name", b"").decode("utf-8", "replace")
            raise ProblemError("malformed", f"the part {field_!r} of the form is no file")
        self.uploads.append(Upload(options[b"filename"].decode("utf-8", "replace"), bytearray()))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.uploads[-1].data += data[start:end]

    def _end(self) -> None:
        self.ended = True
