"""Numbers of layers, as Keras counts them, on a traced network.

Keras' own networks count the input, convolutions, dense layers, pooling, additions, flattening, and, where they are
layers of their own, normalisation, activations and padding. An activation is one with its convolution in networks
without normalisation (VGG), and a layer after it in others (MobileNetV2); padding counts in front of a depthwise
convolution, where Keras needs a layer for it.
"""

from __future__ import annotations

from regraft.networks.graph import Graph

_NORMS = {"batch_norm", "layer_norm", "group_norm"}
_ACTIVATIONS = {"relu", "relu6", "hardtanh", "hardswish", "silu", "gelu", "clamp", "elu", "leaky_relu"}
_ALWAYS = {"conv2d", "linear", "add", "mul", "cat", "max_pool2d", "avg_pool2d", "flatten"}
_PADDING = {"pad", "constant_pad_nd"}


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
