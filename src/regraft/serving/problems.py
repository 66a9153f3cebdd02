"""Problem documents (RFC 9457): every refusal has a kind, a status and one line that says what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its status, its title, and what it means."""

    status: int
    title: str
    meaning: str


KINDS = {
    "malformed": Kind(400, "The request can't be read", "The body is not what its headers say, or is cut off."),
    "token": Kind(401, "A token is needed", "The header Authorization must be 'Bearer' and the server's token."),
    "origin": Kind(403, "Another page's request", "Only pages of this server may send requests from a browser."),
    "not-found": Kind(404, "Nothing is here", "No such address, or no model of that name."),
    "method": Kind(405, "Another method is needed", "The address takes the methods that the header Allow names."),
    "slow": Kind(408, "The body took too long", "The whole body must arrive within the time for uploads."),
    "too-large": Kind(413, "Too large", "The body, a picture or the number of pictures is above the limit."),
    "format": Kind(415, "No picture of a known format", "None of the bodies is a picture of a known format."),
    "host": Kind(421, "Another host", "The header Host names a host that this server does not answer for."),
    "unreadable": Kind(422, "The picture can't be read", "It is damaged, too large or has too many frames."),
    "failed": Kind(500, "The server failed", "A defect of the server; its log tells more."),
    "busy": Kind(503, "The server is busy", "Come back after the seconds that the header Retry-After gives."),
    "late": Kind(503, "The answer took too long", "It was not ready within the server's deadline; come back later."),
}

_OF_STATUS = {404: "not-found", 405: "method"}


class ProblemError(Exception):
    """A refusal, answered as a problem document.

    ``detail`` is one line; ``retry_after`` in seconds becomes a header; ``images`` tells of each picture why it can't
    be answered.
    """

    def __init__(self, kind: str, detail: str, *, retry_after: int | None = None,
                 headers: dict[str, str] | None = None, images: Sequence[dict[str, str]] = ()) -> None:
        self.kind = kind
        self.detail = detail
        self.images = tuple(images)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        super().__init__(detail)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return KINDS[self.kind].status

    def response(self) -> JSONResponse:
        """The answer; its type leads to the server's own page of problems."""
        document: dict[str, Any] = {"type": f"/docs#{self.kind}", "title": KINDS[self.kind].title,
                                    "status": self.status, "detail": self.detail}
        if self.images:
            document["images"] = list(self.images)
        return JSONResponse(document, self.status, self.headers, MEDIA_TYPE)


def of_status(status: int, detail: str, headers: dict[str, str] | None) -> ProblemError:
    """The problem of a status that the framework raised by itself."""
    return ProblemError(_OF_STATUS.get(status, "malformed" if status < 500 else "failed"), detail, headers=headers)
