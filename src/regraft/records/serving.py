"""What a server tells about itself, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record, shown


@dataclass(frozen=True)
class Served(Record):
    """What a server answers with: ``GET /classes``.

    Attributes
    ----------
    model, digest:
        Its name, and the digest of the model folder it was made of.
    classes:
        Class names, in the order of the probabilities.
    max_body, max_images:
        Largest body of a request in bytes, and most pictures in it.
    """

    model: str
    digest: str
    classes: tuple[str, ...]
    max_body: int
    max_images: int


@dataclass(frozen=True, repr=False)
class ServeResult(Record):
    """What a server did until it was stopped.

    Attributes
    ----------
    model, address:
        What was served, and where.
    requests, images:
        Requests for predictions that were answered, and the pictures in them.
    seconds:
        Wall time from the first moment it could answer.
    """

    model: str
    address: str
    requests: int
    images: int
    seconds: float

    def __repr__(self) -> str:
        return (f"served {shown(self.model)} at {self.address} for {self.seconds:,.0f} s: {self.images:,} pictures in "
                f"{self.requests:,} requests")
