"""The self-test of a model: pictures, what it answered for them where it was made, and how answers here compare."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.records.base import Record, plain


@dataclass(frozen=True)
class DrawnFile(Record):
    """A picture of the self-test.

    Attributes
    ----------
    name:
        What it is called in messages; it names its kind.
    data:
        The file's bytes in base64.
    pixels:
        Digest of view 0's pixels, 32 hexadecimal digits.
    """

    name: str
    data: str
    pixels: str

    @property
    def content(self) -> bytes:
        """The file's bytes; raises DataError where they are no base64."""
        try:
            return base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise DataError(f"{self.name} of the self-test can't be read ({error})") from None


@dataclass(frozen=True)
class SelfTestFile(DrawnFile):
    """A picture of the self-test and what was answered for it.

    Attributes
    ----------
    name, data, pixels:
        As of a :class:`DrawnFile`.
    logits:
        The scores of the classes, before the softmax.
    """

    logits: tuple[float, ...]


@dataclass(frozen=True)
class DrawnFeatures(Record):
    """What a frozen network makes of the pictures of the self-test.

    Attributes
    ----------
    files:
        The N pictures.
    features:
        Its joined readouts, float32 [N, D] as base64 of little-endian bytes.
    sha256:
        Of the features' bytes and all that stands in ``files``: a damaged record is none.
    """

    files: tuple[DrawnFile, ...]
    features: str
    sha256: str

    def __post_init__(self) -> None:
        if self.sha256 != self._digest(self.files, self.features):
            raise DataError("the features of the self-test's pictures are not those that were written down")

    @classmethod
    def of(cls, files: tuple[DrawnFile, ...], features_ND: NDArray[np.float32]) -> Self:
        """The record of N pictures and their features."""
        features = base64.b64encode(features_ND.astype("<f4").tobytes()).decode()
        return cls(files, features, cls._digest(files, features))

    @staticmethod
    def _digest(files: tuple[DrawnFile, ...], features: str) -> str:
        told = json.dumps([plain(files), features])
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def features_ND(self) -> NDArray[np.float32]:
        """The features, float32 [N, D]."""
        read = np.frombuffer(base64.b64decode(self.features), "<f4").astype(np.float32)
        return read.reshape(len(self.files), -1)


@dataclass(frozen=True)
class SelfTest(Record):
    """What a model answered where it was made.

    No picture of the user is in it: the pictures are drawn by a program.

    Attributes
    ----------
    decoder:
        What decoded the pictures.
    machine:
        System and processor, such as ``Linux x86_64``.
    classes:
        Names, in the order of the logits.
    files:
        The pictures.
    """

    decoder: str
    machine: str
    classes: tuple[str, ...]
    files: tuple[SelfTestFile, ...]

    def __post_init__(self) -> None:
        if not self.files:
            raise DataError("a self-test has at least one picture")
        if any(len(file.logits) != len(self.classes) for file in self.files):
            raise DataError("a self-test has a score for each class and picture")


@dataclass(frozen=True)
class SelfTestDifference(Record):
    """A picture of the self-test that is not answered as it was.

    Attributes
    ----------
    file:
        Its name.
    expected, found:
        The label then and now; None where it can't be read here.
    probability_difference:
        The largest of any class; None where it can't be read.
    pixels_equal:
        Whether the network was given the same pixels: if so, the network differs, else decoding or preprocessing.
    reason:
        Why it can't be read; empty where it can.
    """

    file: str
    expected: str
    found: str | None
    probability_difference: float | None
    pixels_equal: bool
    reason: str = ""


@dataclass(frozen=True)
class SelfTestResult(Record):
    """How a model answers its self-test here.

    Attributes
    ----------
    files, labels_equal, pixels_equal:
        How many pictures there are, and of how many label and pixels are as they were.
    largest_probability_difference, largest_logit_difference:
        Absolute, over all pictures that can be read and all classes.
    recorded_by, run_by:
        Decoder and machine then and now.
    differences:
        The pictures that are not answered as they were.
    """

    files: int
    labels_equal: int
    pixels_equal: int
    largest_probability_difference: float
    largest_logit_difference: float
    recorded_by: str
    run_by: str
    differences: tuple[SelfTestDifference, ...] = ()
