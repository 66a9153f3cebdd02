"""Numbers of layers, as Keras counts them, on a traced network.

Keras' own networks count the input, convolutions, dense layers, pooling, additions, flattening, and, where they are
layers of their own, normalisation, activations and padding. An activation is one with its convolution in networks
without normalisation (VGG), and a layer after it in others (MobileNetV2); padding counts in front of a depthwise
convolution, where Keras needs a layer for it.

Cuts and stages are told beside these numbers.
"""

from __future__ import annotations

from regraft.networks.graph import Graph
from regraft.records.networks import CutRow, LayerRow, StageRow

_NORMS = {"batch_norm", "layer_norm", "group_norm"}
_ACTIVATIONS = {"relu", "relu6", "hardtanh", "hardswish", "silu", "gelu", "clamp", "elu", "leaky_relu"}
_ALWAYS = {"conv2d", "linear", "add", "mul", "cat", "max_pool2d", "avg_pool2d", "flatten"}
_PADDING = {"pad", "constant_pad_nd"}

#: What the cut in front of the first layer is called among the last cuts of the stages.
FRONT_STAGE = "front"

#: Bytes of a number in half precision.
_HALF = 2


def keras_layers(graph: Graph) -> list[list[int]]:
    """Positions of the operations of each layer; the first, the input, has none."""
    count = len(graph.nodes) - 1
    operations = [graph.operation(at) for at in range(count)]
    apart = any(name in _NORMS for name, *_ in operations)
    layers: list[list[int]] = [[]]
    waiting: list[int] = []
    for at, (name, given, made, _) in enumerate(operations):
        following = operations[at + 1] if at + 1 < count else ("", (), (), 1)
        if name in _PADDING:
            own = following[0] == "conv2d" and following[3] > 1
        elif name.startswith("adaptive"):
            own = given != made
        elif name in _ACTIVATIONS:
            own = apart
        else:
            own = name in _ALWAYS or name in _NORMS
        if own:
            layers.append([*waiting, at])
            waiting = []
        else:  # part of the layer before it, or of the first
            (layers[-1] if len(layers) > 1 else waiting).append(at)
    return layers


def _sizes(graph: Graph) -> dict[int, int]:
    """Parameters first used by each operation."""
    sizes = {name: p.numel() for name, p in graph.module.named_parameters()}
    first: dict[int, int] = {}
    for name, at in graph.first_use.items():
        first[at] = first.get(at, 0) + sizes[name]
    return first


def stage_rows(graph: Graph) -> tuple[StageRow, ...]:
    """The network's stages in order."""
    sizes = _sizes(graph)
    rows, before = [], -1
    for name, end in graph.stage_ends.items():
        inside = sum(count for at, count in sizes.items() if before < at <= end)
        rows.append(StageRow(name, graph.readouts[name].node, graph.place(end)[1], inside))
        before = end
    return tuple(rows)


def cut_rows(graph: Graph) -> tuple[CutRow, ...]:
    """Every cut in order, the last one of each stage marked with its name, the first as the front."""
    layer_of = {at: number for number, layer in enumerate(keras_layers(graph)) for at in layer}
    last = {0: FRONT_STAGE}
    before = -1
    for name, end in graph.stage_ends.items():
        inside = [number for number, cut in enumerate(graph.cuts) if before < cut.position <= end]
        if inside:
            last[inside[-1]] = name
        before = end
    return tuple(CutRow(cut, last.get(number, ""), layer_of.get(cut.position, 0), cut.numbers * _HALF)
                 for number, cut in enumerate(graph.cuts))


def layer_rows(graph: Graph) -> tuple[LayerRow, ...]:
    """Every layer but the input, in order."""
    sizes = _sizes(graph)
    rows = []
    for number, layer in enumerate(keras_layers(graph)):
        if layer:
            # What names a layer is its first operation that counts as one; the others are part of it.
            module, shape = graph.place(layer[-1])
            names = [graph.operation(at)[0] for at in layer]
            name = next((n for n in names if n in _ALWAYS or n in _NORMS), names[-1])
            rows.append(LayerRow(number, name, module, shape, sum(sizes.get(at, 0) for at in layer)))
    return tuple(rows)
