"""What is known about a backbone, and where its features are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from regraft.records.base import Record, columns, shown
from regraft.records.preprocessing import Interpolation

Source = Literal["bundled", "timm", "torchvision", "plain"]
Pooling = Literal["mean", "tokens", "mean_last", "max", "max_tokens", "max_last", "none"]


@dataclass(frozen=True, repr=False)
class Backbone(Record):
    """One entry of the catalogue. None where the source does not say.

    Attributes
    ----------
    name, source:
        What to type, and who publishes it.
    parameters:
        Trainable parameters with the ImageNet classifier.
    multiply_adds:
        Of one image at ``input_size``.
    input_size:
        Side of the input, pixels.
    licence:
        Of the weights.
    imagenet_top1:
        Published top-1 accuracy on ImageNet-1k's validation set, fraction.
    offline:
        Whether its weights are on this machine.
    """

    name: str
    source: Source
    parameters: int | None = None
    multiply_adds: int | None = None
    input_size: int | None = None
    licence: str | None = None
    imagenet_top1: float | None = None
    offline: bool = False

    def __repr__(self) -> str:
        def value(number: float | None, scale: float, text: str) -> str:
            return "-" if number is None else text.format(number * scale)

        return (f"{self.name:<34} {self.source:<11} {value(self.parameters, 1e-6, '{:.1f} M'):>8} "
                f"{value(self.multiply_adds, 1e-6, '{:,.0f} M'):>10} {self.input_size or '-':>5} "
                f"{value(self.imagenet_top1, 100, '{:.1f} %'):>7} {self.licence or '-':<12} "
                f"{'offline' if self.offline else 'download'}")


@dataclass(frozen=True)
class Readout(Record):
    """A place where features are read: the output of module ``node``, pooled to D numbers.

    ``pooling``: ``mean`` over the positions of [B, C, H, W]; ``mean_last`` of [B, H, W, C]; ``tokens`` of
    [B, N, C]; ``max``, ``max_last`` and ``max_tokens`` the largest instead; ``none`` for [B, D], and for what is
    kept in its own shape, row-major. ``node`` ends in ``:input`` where a module's input is meant, and is empty for
    the output of the whole network.
    """

    name: str
    node: str
    pooling: Pooling
    dim: int


@dataclass(frozen=True)
class Cut(Record):
    """A place in a network where exactly one tensor is alive.

    Attributes
    ----------
    name, module:
        The operation that makes the tensor, and the largest module that ends there or that it is part of.
    position:
        Number of the operation; -1 in front of the first.
    shape:
        Of the tensor, for one image.
    parameters, multiply_adds:
        First used behind the cut; of one image behind it.
    trainable, reason:
        Whether what lies behind can be run in training mode, and why not.
    """

    name: str
    module: str
    position: int
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    trainable: bool
    reason: str = ""

    @property
    def numbers(self) -> int:
        """Numbers an image takes here."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class InputSpec(Record):
    """How a network was trained to see: what its preprocessing defaults to."""

    size: int
    crop_fraction: float
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, repr=False)
class Backbones(Record):
    """A list of the catalogue, with how many more a pattern would find."""

    backbones: tuple[Backbone, ...]
    more: int = 0

    def __repr__(self) -> str:
        head = (f"{'name':<34} {'source':<11} {'params':>8} {'mult-adds':>10} {'input':>5} {'top-1':>7} "
                f"{'licence':<12} weights")
        lines = [head, *map(repr, self.backbones)]
        if self.more:
            lines.append(f"{self.more:,} more by pattern, such as: regraft backbones 'resnet50*'")
        return "\n".join(lines)


@dataclass(frozen=True)
class HeadLayer(Record):
    """The layer that makes a network's own class scores: its module, and how many numbers go in and come out."""

    module: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class StageRow(Record):
    """One stage of a network: its readout's name, and the module that ends it.

    ``shape`` of its last tensor for one image and the ``parameters`` first used in it are None where the network
    can't be traced.
    """

    name: str
    module: str
    shape: tuple[int, ...] | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class CutRow(Record):
    """One cut as it is told.

    Attributes
    ----------
    cut:
        The place.
    stage:
        The stage whose last cut it is, ``front`` in front of the first layer, else empty.
    layer:
        Number of the layer it lies in or behind, as ``layers[k:]`` counts.
    bytes:
        What the tensor takes in half precision, for one image.
    """

    cut: Cut
    stage: str
    layer: int
    bytes: int


@dataclass(frozen=True)
class LayerRow(Record):
    """One layer, numbered as ``layers[k:]`` counts: its operation, its module, what it makes of one image.

    ``parameters`` are those first used in it.
    """

    number: int
    operation: str
    module: str
    shape: tuple[int, ...]
    parameters: int


_CUT_TITLES = ("at", "layer", "module", "shape", "bytes", "parameters", "mult-adds", "behind it")


@dataclass(frozen=True, repr=False)
class BackboneDetail(Record):
    """All about one backbone.

    Attributes
    ----------
    backbone, input:
        Its catalogue entry, and how it sees.
    readouts:
        Where its features are read.
    head, stages:
        The layer that makes its own class scores; its stages in order.
    cuts:
        The last cut of each stage and the front, or every cut.
    found_cuts, trainable_cuts:
        How many cuts there are, and behind how many of them training can run.
    layers:
        Every layer, where every cut was asked for.
    reason:
        Why there are no cuts, where the network can't be traced.
    """

    backbone: Backbone
    input: InputSpec
    readouts: tuple[Readout, ...]
    head: HeadLayer
    stages: tuple[StageRow, ...] = ()
    cuts: tuple[CutRow, ...] = ()
    found_cuts: int = 0
    trainable_cuts: int = 0
    layers: tuple[LayerRow, ...] = ()
    reason: str = ""

    def __repr__(self) -> str:
        b, i = self.backbone, self.input
        facts = [
            f"{b.name} ({b.source}, weights {'on this machine' if b.offline else 'to be downloaded'})",
            f"  parameters     {b.parameters:,}" if b.parameters is not None else "",
            f"  multiply-adds  {b.multiply_adds:,}" if b.multiply_adds is not None else "",
            f"  input          {i.size} x {i.size}, {i.interpolation}, crop {i.crop_fraction:g}, mean {i.mean}, "
            f"std {i.std}",
            f"  licence        {b.licence or 'not stated by its source'}",
            f"  ImageNet top-1 {b.imagenet_top1:.1%} (published)" if b.imagenet_top1 is not None else "",
            f"  head           {self.head.module}, {self.head.inputs:,} in, {self.head.outputs:,} out",
            "  features are read at:",
            *(f"    {r.name:<10} {r.dim:>6,} numbers  {r.node or 'output'}" for r in self.readouts),
            "  stages:" if self.stages else "",
            *columns([(s.name, s.module, "" if s.shape is None else by(s.shape),
                       "" if s.parameters is None else f"{s.parameters:,} parameters") for s in self.stages]),
            *self._cut_lines(),
        ]
        return "\n".join(line for line in facts if line)

    def _cut_lines(self) -> Iterator[str]:
        if self.reason:
            yield f"  no cuts: {self.reason}"
            return
        yield (f"  {self.found_cuts} cuts, {self.trainable_cuts} of them trainable"
               + ("; with the layers:" if self.layers else "; the last of each stage (--all shows every one):"))
        rows = [(row.layer, row.cut.position, (
            row.stage or row.cut.name, str(row.layer), row.cut.module, by(row.cut.shape), f"{row.bytes:,}",
            f"{row.cut.parameters:,}", f"{row.cut.multiply_adds:,}", row.cut.reason and f"only found: {row.cut.reason}",
        )) for row in self.cuts]
        with_cut = {row.layer for row in self.cuts}
        rows += [(layer.number, -1, (f"({layer.operation})", str(layer.number), layer.module, by(layer.shape),
                                     "", "", "", "no cut")) for layer in self.layers if layer.number not in with_cut]
        yield from columns([_CUT_TITLES, *(cells for *_, cells in sorted(rows))])


def by(shape: Sequence[int]) -> str:
    """A shape in words: ``16 x 112 x 112``."""
    return " x ".join(map(str, shape))


@dataclass(frozen=True, repr=False)
class Fetched(Record):
    """Weights laid down for a machine without a connection.

    Attributes
    ----------
    name, source, licence:
        As in the catalogue.
    file, bytes:
        The safetensors file and its size; name, source, licence and digest stand in its metadata too.
    weights_digest:
        Of the network with its tensors, as model folders record it.
    line:
        What to type on the other machine.
    """

    name: str
    source: Source
    licence: str | None
    file: str
    bytes: int
    weights_digest: str
    line: str

    def __repr__(self) -> str:
        return (f"{shown(self.file)}: {self.bytes / 2**20:,.1f} MiB, weights of {self.name} ({self.source}, licence "
                f"{self.licence or 'not stated by its source'})\non the other machine: {shown(self.line)}")
