"""Files of features: where their numbers come from, and what making one gave."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record, shown
from regraft.records.images import Quarantined
from regraft.records.networks import Pooling, Readout
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import FeatureCount


@dataclass(frozen=True)
class FeatureOrigin(Record):
    """What made the features of a file: enough to make those of further images.

    Attributes
    ----------
    backbone, weights_digest, licence:
        The network, the digest of its tensors, the licence of its weights.
    layer, node, pooling:
        The name that was asked for, the module behind it and its pooling: see :class:`Readout`.
    engine:
        Engine, device and precision.
    preprocessing:
        From a file to the network's pixels.
    """

    backbone: str
    weights_digest: str
    licence: str | None
    layer: str
    node: str
    pooling: Pooling
    engine: str
    preprocessing: Preprocessing

    def readout(self, dim: int) -> Readout:
        """The place of the network, of ``dim`` numbers."""
        return Readout(self.layer, self.node, self.pooling, dim)


@dataclass(frozen=True, repr=False)
class FeatureExport(Record):
    """A file of features.

    Attributes
    ----------
    out, bytes:
        The file and its size.
    backbone, layer:
        What was read, and where.
    shape:
        Of one image's features.
    images, classes:
        Rows of the file, and names of its classes.
    features:
        Forward passes of this run, and those saved.
    quarantined, unreadable:
        Images that can't be read and are no rows: how many, and which with the reason.
    seconds:
        Wall time, imports apart.
    """

    out: str
    bytes: int
    backbone: str
    layer: str
    shape: tuple[int, ...]
    images: int
    classes: tuple[str, ...]
    features: FeatureCount
    quarantined: int
    unreadable: tuple[Quarantined, ...]
    seconds: float

    def __repr__(self) -> str:
        lines = [f"{shown(self.out)}: features of {self.images:,} images of {len(self.classes)} classes, "
                 f"{self.bytes / 2**20:,.1f} MiB, in {self.seconds:.1f} s",
                 f"  {self.layer} of {self.backbone}, {' x '.join(map(str, self.shape))} numbers an image; "
                 f"{self.features.computed:,} computed, {self.features.reused:,} reused"]
        if self.quarantined:
            lines.append(f"  {self.quarantined:,} unreadable images are not in it: "
                         + "; ".join(map(repr, self.unreadable[:3])) + ("; ..." if self.quarantined > 3 else ""))
        lines.append(f"  train on it: regraft train {shown(self.out)}")
        return "\n".join(lines)
