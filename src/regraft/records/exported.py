"""What an exported ONNX file says about itself: enough to go from a picture's bytes to a label with nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast, get_args

from regraft.errors import DataError
from regraft.records.base import Record
from regraft.records.decisions import DecisionRule, Unknown
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Agreement
from regraft.records.selftest import SelfTest
from regraft.settings import EXPORT_ENDINGS, ExportFormat, ExportPrecision

#: Version of ONNX's operators. PyTorch's exporter writes this one without converting.
OPSET = 18

#: Names of what goes in, pixels of view 0 as uint8 [N, S, S, 3], and of what comes out, float32 [N, K] and [N].
PIXELS, PROBABILITIES, LOGITS, NOVELTY = "pixels", "probabilities", "logits", "novelty"

#: What the record of an export has after the export's name.
EXPORT_RECORD = ".json"

#: A protocol buffer holds no more, and so no ONNX file without a second one beside it.
MOST_BYTES = 2**31 - 1

#: An ONNX file's own digest: SHA-256 of all its bytes, with zeros for the digest itself.
SEAL, UNSEALED = "file_digest", "0" * 64

#: The version of the metadata that had no digest, self-test or novelty, and fp32 alone.
BEFORE = "2"

#: Where the digest stands: an entry of the metadata as a protocol buffer has it, 64 bytes after the name. They may be
#: any: a damaged digest is one that differs, not none.
_SEALED = re.compile(SEAL.encode() + rb"\x12\x40(.{64})", re.DOTALL)

_Kind = TypeVar("_Kind", bound=Record)

#: Bytes of the digest of one image's pixels.
_DIGEST_BYTES = 16


def export_name(format_: ExportFormat, precision: ExportPrecision = "fp32") -> str:
    """What an export is called where nobody says: ``model.onnx``, ``model.int8.onnx``."""
    return "model" + ("" if precision == "fp32" else f".{precision}") + (
        ".timm" if format_ == "timm" else "") + EXPORT_ENDINGS[format_][0]


def export_names() -> tuple[str, ...]:
    """The names of all files that exports have where nobody says, and of their records."""
    first = [(name, format_) for format_ in get_args(ExportFormat) for precision in get_args(ExportPrecision)
             if precision == "fp32" or format_ == "onnx" for name in (export_name(format_, precision),)]
    beside = [name.removesuffix(EXPORT_ENDINGS[format_][0]) + ending for name, format_ in first
              for ending in EXPORT_ENDINGS[format_][1:]]
    return (*(name for name, _ in first), *beside, *(name + EXPORT_RECORD for name, _ in first))


@dataclass(frozen=True)
class ExportedRecord(Record):
    """The metadata of an exported file.

    Attributes
    ----------
    labels:
        Class names, in the order of the outputs.
    preprocessing:
        From a file's bytes to the pixels that go in.
    model_digest:
        Of the model folder it was made of.
    regraft_version, decoder:
        What wrote the file, and what decoded the pictures it was compared on.
    backbone, head:
        What it is, in words.
    training_counts:
        Images of each class that the head was fitted on.
    seen:
        Digests of the pixels of the images that served for fitting or choosing.
    unknown:
        When an image is unknown, by the file's output ``novelty``. None in files of version 2 where that is a distance:
        they lack that output.
    decision:
        From probabilities to a decision.
    precision:
        Of the network; what follows its features (head, novelty) is fp32 in any case.
    agreement:
        Of fp16 and int8: how much the answers changed.
    self_test:
        What the model answered for pictures that are drawn by a program; None in files of version 2.
    """

    format_version: ClassVar[int] = 3

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    model_digest: str
    regraft_version: str
    decoder: str
    backbone: str
    head: str
    training_counts: tuple[int, ...]
    seen: frozenset[bytes] = field(repr=False)
    unknown: Unknown | None = None
    decision: DecisionRule | None = None
    precision: ExportPrecision = "fp32"
    agreement: Agreement | None = None
    self_test: SelfTest | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in get_args(ExportPrecision):
            raise DataError(f"{self.precision!r} is no precision")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise DataError("a model needs at least two classes of different names")
        if len(self.training_counts) != len(self.labels):
            raise DataError("a model counts the training images of every class")

    def metadata(self) -> dict[str, str]:
        """The texts that the file holds, by name."""
        return {
            "format_version": str(self.format_version), "regraft_version": self.regraft_version,
            "decoder": self.decoder, "model_digest": self.model_digest, "backbone": self.backbone, "head": self.head,
            "labels": json.dumps(self.labels), "preprocessing": json.dumps(self.preprocessing.to_dict()),
            "training_counts": json.dumps(self.training_counts),
            "unknown": json.dumps(self.unknown and self.unknown.to_dict()),
            "decision": json.dumps(self.decision and self.decision.to_dict()),
            "precision": self.precision, "agreement": json.dumps(self.agreement and self.agreement.to_dict()),
            "seen": base64.b64encode(b"".join(sorted(self.seen))).decode(),
            "self_test": json.dumps(self.self_test and self.self_test.to_dict()),
        }

    @classmethod
    def from_metadata(cls, texts: Mapping[str, str]) -> ExportedRecord:
        """The record of :meth:`metadata`'s texts; raises DataError where they are none of ours."""
        version = texts.get("format_version")
        if version == BEFORE:
            texts = {**texts, "precision": "fp32", "agreement": "null", "self_test": "null"}
        elif version != str(cls.format_version):
            raise DataError(f"its format_version is {version!r}, this Regraft reads {str(cls.format_version)!r}")
        try:
            digests = base64.b64decode(texts["seen"], validate=True)
            return cls(
                labels=_texts(texts["labels"]), training_counts=_counts(texts["training_counts"]),
                preprocessing=Preprocessing.from_dict(json.loads(texts["preprocessing"])),
                model_digest=texts["model_digest"], regraft_version=texts["regraft_version"],
                unknown=_optional(Unknown, texts["unknown"]), decision=_optional(DecisionRule, texts["decision"]),
                precision=cast(ExportPrecision, texts["precision"]),
                agreement=_optional(Agreement, texts["agreement"]), self_test=_optional(SelfTest, texts["self_test"]),
                decoder=texts["decoder"], backbone=texts["backbone"], head=texts["head"],
                seen=frozenset(digests[at:at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)))
        except KeyError as error:
            raise DataError(f"it does not tell its {error.args[0]}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"what it tells about itself can't be read ({error})") from None


def sealed(data: bytes) -> bytes:
    """The ONNX file with its digest in the place of ``UNSEALED``; raises ValueError where there is no place for one."""
    digest = digests(data)
    if digest is None:
        raise ValueError(f"the file holds no {SEAL}")
    return _SEALED.sub(lambda found: found[0][:-len(UNSEALED)] + digest[1].encode(), data, count=1)


def digests(data: bytes) -> tuple[str, str] | None:
    """The digest that a file tells of itself, and the one it has; None where it tells none."""
    found = _SEALED.search(data)
    if found is None:
        return None
    digest = hashlib.sha256(data[:found.start(1)])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(data)[found.end(1):])
    return found[1].decode("ascii", "backslashreplace"), digest.hexdigest()


def _optional(kind: type[_Kind], text: str) -> _Kind | None:
    values = json.loads(text)
    return None if values is None else kind.from_dict(values)


def _texts(text: str) -> tuple[str, ...]:
    return tuple(_list(text, str))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_list(text, int))


def _list(text: str, kind: type) -> list[Any]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise ValueError(f"{text[:40]} is no list of {kind.__name__}")
    return values
