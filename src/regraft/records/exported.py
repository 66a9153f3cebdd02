"""What an exported ONNX file says about itself: enough to go from a picture's bytes to a label with nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from regraft.errors import DataError
from regraft.records.base import Record
from regraft.records.decisions import DecisionRule, Unknown
from regraft.records.preprocessing import Preprocessing
from regraft.records.selftest import SelfTest

#: Version of ONNX's operators. PyTorch's exporter writes this one without converting.
OPSET = 18

#: Names of what goes in, pixels of view 0 as uint8 [N, S, S, 3], and of what comes out, float32 [N, K].
PIXELS, PROBABILITIES, LOGITS = "pixels", "probabilities", "logits"

#: A protocol buffer holds no more, and so no ONNX file without a second one beside it.
MOST_BYTES = 2**31 - 1

#: The file's own digest: SHA-256 of all its bytes, with zeros for the digest itself.
_SEAL, _UNSEALED = "file_digest", b"0" * 64

#: Of files without a digest and a self-test.
_UNSEALED_VERSION = "2"

#: Where the digest stands: an entry of the metadata as a protocol buffer has it, 64 bytes after the name. They may be
#: any: a damaged digest is one that differs, not none.
_SEALED = re.compile(_SEAL.encode() + rb"\x12\x40(.{64})", re.DOTALL)

_Kind = TypeVar("_Kind", bound=Record)

#: Bytes of the digest of one image's pixels.
_DIGEST_BYTES = 16


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
        When an image is unknown, where that is told by the logits alone; what needs the features is not in the file.
    decision:
        From probabilities to a decision.
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
    self_test: SelfTest | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
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
            "seen": base64.b64encode(b"".join(sorted(self.seen))).decode(),
            "self_test": json.dumps(self.self_test and self.self_test.to_dict()),
            _SEAL: _UNSEALED.decode(),
        }

    @classmethod
    def from_metadata(cls, texts: Mapping[str, str]) -> ExportedRecord:
        """The record of :meth:`metadata`'s texts; raises DataError where they are none of ours."""
        version = texts.get("format_version")
        if version not in (_UNSEALED_VERSION, str(cls.format_version)):
            raise DataError(f"its format_version is {version!r}, this Regraft reads {str(cls.format_version)!r}")
        if version == _UNSEALED_VERSION:
            texts = {**texts, "self_test": "null"}
        elif _SEAL not in texts:
            raise DataError(f"it does not tell its {_SEAL}")
        try:
            digests = base64.b64decode(texts["seen"], validate=True)
            return cls(
                labels=_texts(texts["labels"]), training_counts=_counts(texts["training_counts"]),
                preprocessing=Preprocessing.from_dict(json.loads(texts["preprocessing"])),
                model_digest=texts["model_digest"], regraft_version=texts["regraft_version"],
                unknown=_optional(Unknown, texts["unknown"]), decision=_optional(DecisionRule, texts["decision"]),
                self_test=_optional(SelfTest, texts["self_test"]),
                decoder=texts["decoder"], backbone=texts["backbone"], head=texts["head"],
                seen=frozenset(digests[at:at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)))
        except KeyError as error:
            raise DataError(f"it does not tell its {error.args[0]}") from None
        except (ValueError, TypeError) as error:
            raise DataError(f"what it tells about itself can't be read ({error})") from None


def sealed(data: bytes) -> bytes:
    """The file with its digest in it; raises ValueError where there is no place for one."""
    digest = digests(data)
    if digest is None:
        raise ValueError(f"the file holds no {_SEAL}")
    return _SEALED.sub(lambda found: found[0][:-len(_UNSEALED)] + digest[1].encode(), data, count=1)


def digests(data: bytes) -> tuple[str, str] | None:
    """The digest that a file tells of itself, and the one it has; None where it tells none."""
    found = _SEALED.search(data)
    if found is None:
        return None
    digest = hashlib.sha256(data[:found.start(1)])
    digest.update(_UNSEALED)
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
