"""Which engine runs a network on this machine, how fast the candidates were, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.records.base import Record

Precision = Literal["fp32", "bf16"]

#: How engines call themselves.
_TITLES = {"pytorch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True, order=True)
class EngineKind(Record):
    """An engine at a precision."""

    engine: Literal["pytorch", "openvino", "onnxruntime"]
    precision: Precision

    def __str__(self) -> str:
        return f"{_TITLES[self.engine]} {self.precision}"


@dataclass(frozen=True)
class EngineFigures(Record):
    """One candidate, measured on images of the user's.

    Attributes
    ----------
    kind:
        Engine and precision.
    images_per_second:
        Of the network alone, all cores at work, or of one like it with other weights; None where it failed.
    cosine:
        Smallest cosine between its features of an image and those of the reference, PyTorch in fp32 or,
        for a bundled backbone without PyTorch, ONNX Runtime.
    same_answers:
        Share of the images for which the network's classifier, or the nearest other image where it is not read, is
        the same.
    largest_difference:
        Of a probability of the classifier, or where it is not read of a feature, as a share of the largest one.
    agrees:
        Whether it may be taken.
    reason:
        Why not, else empty.
    """

    kind: EngineKind
    images_per_second: float | None = None
    cosine: float | None = None
    same_answers: float | None = None
    largest_difference: float | None = None
    agrees: bool = False
    reason: str = ""


@dataclass(frozen=True)
class EngineChoice(Record):
    """What is known of the engines of one network on one machine; kept in the feature store's folder.

    Attributes
    ----------
    backbone, weights:
        The network and the digest of its tensors.
    size:
        Side of its input in pixels.
    processor, cores:
        What it was measured on.
    versions:
        Of the engines' packages.
    images:
        How many images the candidates were compared on.
    figures:
        A record for each candidate that was measured, or failed.
    converted_seconds, converted_sha256:
        What writing the network's ONNX graph took, and the file's digest; None where that was not worth it yet.
    learning, answers:
        What was taken last for images to learn from and for those that figures are measured on.
    reason:
        Why.
    """

    backbone: str
    weights: str
    size: int
    processor: str
    cores: int
    versions: dict[str, str]
    images: int = 0
    figures: tuple[EngineFigures, ...] = ()
    converted_seconds: float | None = None
    converted_sha256: str | None = None
    learning: EngineKind | None = None
    answers: EngineKind | None = None
    reason: str = ""

    def of(self, kind: EngineKind) -> EngineFigures | None:
        """What is known of one candidate."""
        return next((figures for figures in self.figures if figures.kind == kind), None)
