"""EfficientNet-Lite 0 to 2 as ONNX graphs: the bundled backbones without PyTorch.

Tensors have the names of timm's ``tf_efficientnet_lite*``, so a model folder is the same whichever made it.
Architecture: Tan and Le, EfficientNet (2019), and github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import BackboneError, MissingExtraError
from regraft.networks.bundled import bundled_arrays
from regraft.networks.catalogue import BUNDLED, resolve
from regraft.networks.digest import COUNTER, tensors_digest
from regraft.records.exported import OPSET, PIXELS
from regraft.records.images import Finding
from regraft.records.networks import InputSpec, Readout
from regraft.records.preprocessing import Preprocessing

State = Mapping[str, NDArray[np.float32]]

#: Blocks of Lite0, kernel and stride of each stage. Deeper networks have more blocks, but in the first and last stage.
_STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))


@dataclass(frozen=True)
class _Kind:
    """How much deeper than Lite0, and how its weights were trained to see."""

    depth: float
    input: InputSpec


_HALF = (0.5, 0.5, 0.5)
_KINDS = {
    "efficientnet_lite0": _Kind(1.0, InputSpec(224, 0.875, "bicubic", _HALF, _HALF)),
    "efficientnet_lite1": _Kind(1.1, InputSpec(240, 0.882, "bicubic", _HALF, _HALF)),
    "efficientnet_lite2": _Kind(1.2, InputSpec(260, 0.89, "bicubic", _HALF, _HALF)),
}

#: What batch norm adds to a variance.
_EPSILON = 1e-3


@dataclass(frozen=True)
class _Layer:
    """A convolution without a bias and the batch norm behind it; ``active``: then ReLU6."""

    conv: str
    norm: str
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    active: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its tensors, in the order of the weight files."""
        return (f"{self.conv}.weight", *(f"{self.norm}.{part}" for part in _NORM))


_NORM = ("weight", "bias", "running_mean", "running_var")
_STEM = _Layer("conv_stem", "bn1", 3, 2, active=True)
_TOP = _Layer("conv_head", "bn2", active=True)
_CLASSIFIER = ("classifier.weight", "classifier.bias")


#: Layers of blocks of stages.
_Stages = Sequence[Sequence[Sequence[_Layer]]]


def _stages(kind: _Kind) -> Iterator[list[list[_Layer]]]:
    """Blocks of each stage, each a list of layers."""
    for stage, (count, kernel, stride) in enumerate(_STAGES):
        deeper = count if stage in (0, len(_STAGES) - 1) else math.ceil(count * kind.depth)
        yield [_block(f"blocks.{stage}.{i}", kernel, 1 if i else stride, expands=stage > 0) for i in range(deeper)]


def _block(name: str, kernel: int, stride: int, expands: bool) -> list[_Layer]:
    if not expands:
        return [_Layer(f"{name}.conv_dw", f"{name}.bn1", kernel, stride, depthwise=True, active=True),
                _Layer(f"{name}.conv_pw", f"{name}.bn2")]
    return [_Layer(f"{name}.conv_pw", f"{name}.bn1", active=True),
            _Layer(f"{name}.conv_dw", f"{name}.bn2", kernel, stride, depthwise=True, active=True),
            _Layer(f"{name}.conv_pwl", f"{name}.bn3")]


def _layers(kind: _Kind) -> list[_Layer]:
    """All layers in the order of the weight files."""
    return [_STEM, *(layer for blocks in _stages(kind) for block in blocks for layer in block), _TOP]


def _misshapen(kind: _Kind, state: State) -> Iterator[str]:
    """Tensors that can't follow those before them, or are of another type than float32."""
    yield from (name for name, tensor in state.items() if tensor.dtype != np.float32)
    width = 3
    for blocks in [[[_STEM]], *_stages(kind), [[_TOP]]]:
        for i, block in enumerate(blocks):
            before = width
            for layer in block:
                conv, *norm = layer.names
                made = before if i and layer is block[-1] else len(state[norm[0]])  # the same goes in and comes out
                made = width if layer.depthwise else made
                if state[conv].shape != (made, 1 if layer.depthwise else width, layer.kernel, layer.kernel):
                    yield conv
                yield from (name for name in norm if state[name].shape != (made,))
                width = made
    weight, bias = _CLASSIFIER
    if state[weight].shape[1:] != (width,) or state[bias].shape != state[weight].shape[:1]:
        yield weight


class LiteNetwork:
    """A backbone with its weights, as :class:`regraft.networks.build.Network` is one with PyTorch."""

    findings: tuple[Finding, ...] = ()

    def __init__(self, name: str, state: State) -> None:
        """Raises BackboneError where tensors are missing, there are others, or they do not fit each other."""
        found = resolve(name)
        self.name = name
        self.licence = found.entry.licence
        self.architecture = f"timm:{found.architecture}"
        self._kind = _KINDS[name]
        self.input = self._kind.input
        names = {*(n for layer in _layers(self._kind) for n in layer.names), *_CLASSIFIER}
        if names != set(state):
            raise BackboneError(f"the weights do not fit {name}: {len(names - set(state))} tensors are missing, "
                                f"{len(set(state) - names)} are unexpected")
        if misshapen := next(_misshapen(self._kind, state), ""):
            raise BackboneError(f"the weights do not fit {name}: {misshapen} is {state[misshapen].dtype} "
                                f"{list(state[misshapen].shape)}")
        self._state = dict(state)

    @property
    def module(self) -> LiteNetwork:
        """What an engine is made of."""
        return self

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The tensors by name."""
        return dict(self._state)

    @property
    def parameters(self) -> int:
        """Numbers that could be trained."""
        return sum(tensor.size for name, tensor in self._state.items() if ".running_" not in name)

    @cached_property
    def digest(self) -> str:
        """What names the weights, the same as with PyTorch."""
        return tensors_digest(self.architecture, (
            (name, f"torch.{tensor.dtype}", tensor.shape, np.ascontiguousarray(tensor).data)
            for name, tensor in sorted(self._state.items())))

    @property
    def readouts(self) -> tuple[Readout, ...]:
        """Where features are read, as :func:`regraft.networks.readouts.find_readouts` finds it."""
        ends = [blocks[-1][-1] for blocks in _stages(self._kind)]
        nodes = ["bn1", *(f"blocks.{i}" for i in range(len(ends) - 1)), "blocks"]
        widths = [len(self._state[f"{layer.norm}.bias"]) for layer in (_STEM, *ends)]
        classes, width = self._state[_CLASSIFIER[0]].shape
        return (*(Readout(f"stage{i}", node, "mean", dim)
                  for i, (node, dim) in enumerate(zip(nodes, widths, strict=True), 1)),
                Readout("last", "classifier:input", "none", width), Readout("logits", "", "none", classes))

    def onnx(self, readouts: Sequence[Readout], rules: Preprocessing, batch: int) -> bytes:
        """The graph from pixels, uint8 [B, S, S, 3], to the joined readouts, float32 [B, D]."""
        read = [(self._named(readout), readout.pooling == "none") for readout in readouts]
        return _Graph(self._state, rules, batch).features(list(_stages(self._kind)), read)

    def gives(self, readout: Readout) -> bool:
        """Whether :meth:`onnx` has it: one of the readouts, or a stage's map as it is."""
        return readout in self.readouts or (readout.pooling == "none" and any(
            readout.node == one.node for one in self.readouts if one.pooling != "none"))

    def _named(self, readout: Readout) -> str:
        """The name of the readout at the same place."""
        return next(one.name for one in self.readouts if one.node == readout.node)

    def onnx_maps(self, rules: Preprocessing) -> bytes:
        """The graph from the pixels of one picture, uint8 [1, S, S, 3], to what the readouts are means of.

        One map a readout but the logits, under its name, float32 [1, C, H, W].
        """
        return _Graph(self._state, rules, 1).maps(list(_stages(self._kind)))

    def before(self, stage: str) -> LiteFront:
        """The network up to the end of a stage."""
        return LiteFront(self, stage)

    def onnx_front(self, stage: str, pooled: Sequence[str], rules: Preprocessing, batch: int) -> bytes:
        """The graph up to the end of a stage: readouts in front of it and, last, its map [C, H, W], joined flat."""
        ends = [readout.name for readout in self.readouts if readout.name.startswith("stage")]
        stages = list(_stages(self._kind))[:ends.index(stage)]
        return _Graph(self._state, rules, batch).front(stages, stage, pooled)

    @property
    def classifier(self) -> NDArray[np.float32]:
        """Weights of the network's own classifier, from the last layer to the logits: float32 [K, D]."""
        return self._state[_CLASSIFIER[0]]


class LiteFront:
    """What lies in front of the end of a stage, as an engine takes it; the last readout is the map at that end."""

    def __init__(self, network: LiteNetwork, stage: str) -> None:
        self._network = network
        self._stage = stage

    def onnx(self, readouts: Sequence[Readout], rules: Preprocessing, batch: int) -> bytes:
        """The graph from pixels, uint8 [B, S, S, 3], to the joined readouts, float32 [B, D]."""
        *pooled, _ = (readout.name for readout in readouts)
        return self._network.onnx_front(self._stage, pooled, rules, batch)


def is_lite(name: str) -> bool:
    """Whether a backbone is one of these."""
    return name in _KINDS


class _Graph:
    """Nodes and numbers of one graph, as they are added; each step returns the name of what it makes."""

    def __init__(self, state: State, rules: Preprocessing, batch: int) -> None:
        import onnx

        self._onnx = onnx
        self._state = state
        self._rules = rules
        self._batch = batch
        self._size = rules.size  # of the side, after the layers so far
        self._nodes: list[Any] = []
        self._numbers: dict[str, Any] = {}

    def features(self, stages: _Stages, readouts: Sequence[tuple[str, bool]]) -> bytes:
        """The whole graph with the readouts of these names joined, pooled or, where it is told, as they are."""
        maps = self._maps(stages)
        pooled = {name: self._pool(x) for name, x in maps.items()}
        weights = [self._number(name, self._state[name]) for name in _CLASSIFIER]
        pooled["logits"] = self._node("Gemm", [pooled["last"], *weights], transB=1)
        # What is no map of a stage has nothing to pool.
        return self._joined([self._flat(maps[name]) if whole and name.startswith("stage") else pooled[name]
                             for name, whole in readouts])

    def front(self, stages: _Stages, last: str, pooled: Sequence[str]) -> bytes:
        """The graph of the first stages: means of some of their maps and, as it is, the map of the last."""
        maps = self._stage_maps(stages)
        return self._joined([*(self._pool(maps[name]) for name in pooled), self._flat(maps[last])])

    def _joined(self, parts: Sequence[str]) -> bytes:
        self._nodes.append(self._onnx.helper.make_node("Concat", parts, ["features"], axis=1))
        return self._serialised(["features"], 2)

    def maps(self, stages: _Stages) -> bytes:
        """The whole graph with each map as an output."""
        maps = self._maps(stages)
        for name, x in maps.items():
            self._nodes.append(self._onnx.helper.make_node("Identity", [x], [name]))
        return self._serialised(list(maps), 4)

    def _maps(self, stages: _Stages) -> dict[str, str]:
        """The map that each readout is the mean of."""
        maps = self._stage_maps(stages)
        return {**maps, "last": self._layer(_TOP, [*maps.values()][-1])}

    def _stage_maps(self, stages: _Stages) -> dict[str, str]:
        """What the stem and each stage make."""
        x = self._layer(_STEM, self._normalised())
        maps = {"stage1": x}
        for number, blocks in enumerate(stages, 2):
            for i, block in enumerate(blocks):
                before = x
                for layer in block:
                    x = self._layer(layer, x)
                if i:  # the same shape goes in and comes out
                    x = self._node("Add", [before, x])
            maps[f"stage{number}"] = x
        return maps

    def _normalised(self) -> str:
        """Pixels as the network sees them, [N, 3, S, S]."""
        x = self._node("Transpose", [self._node("Cast", [PIXELS], to=self._onnx.TensorProto.FLOAT)], perm=[0, 3, 1, 2])
        for operator, values in (("Sub", self._rules.mean), ("Div", self._rules.std)):
            channels = np.array(values, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
            x = self._node(operator, [x, self._number(operator, channels)])
        return x

    def _layer(self, layer: _Layer, x: str) -> str:
        weights = self._state[f"{layer.conv}.weight"]
        given, self._size = self._size, -(-self._size // layer.stride)
        # TensorFlow's padding: as little as leaves no position out, an odd one at the end.
        lacking = max((self._size - 1) * layer.stride + layer.kernel - given, 0)
        before, after = lacking // 2, lacking - lacking // 2
        x = self._node("Conv", [x, self._number(f"{layer.conv}.weight", weights)], strides=[layer.stride] * 2,
                       pads=[before, before, after, after], group=len(weights) if layer.depthwise else 1)
        norm = [self._number(name, self._state[name]) for name in layer.names[1:]]
        x = self._node("BatchNormalization", [x, *norm], epsilon=_EPSILON)
        if not layer.active:
            return x
        bounds = [self._number(f"{bound}", np.array(bound, np.float32)) for bound in (0, 6)]
        return self._node("Clip", [x, *bounds])

    def _flat(self, x: str) -> str:
        return self._node("Flatten", [x])

    def _pool(self, x: str) -> str:
        return self._node("ReduceMean", [x, self._number("positions", np.array([2, 3], np.int64))], keepdims=0)

    def _node(self, operator: str, given: Sequence[str], **attributes: Any) -> str:
        name = f"x{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, given, [name], **attributes))
        return name

    def _number(self, name: str, values: NDArray[Any]) -> str:
        self._numbers.setdefault(name, self._onnx.numpy_helper.from_array(values, name))
        return name

    def _serialised(self, outputs: Sequence[str], dimensions: int) -> bytes:
        helper, kinds, size = self._onnx.helper, self._onnx.TensorProto, self._rules.size
        rest = [None] * (dimensions - 1)
        graph = helper.make_graph(
            self._nodes, "features",
            [helper.make_tensor_value_info(PIXELS, kinds.UINT8, [self._batch, size, size, 3])],
            [helper.make_tensor_value_info(name, kinds.FLOAT, [self._batch, *rest]) for name in outputs],
            list(self._numbers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def load_lite(name: str, what: str) -> LiteNetwork:
    """A bundled backbone without PyTorch; raises MissingExtraError, naming ``what``, for any other."""
    if resolve(name).bundled is None:
        raise MissingExtraError(f"{what} with the backbone {name}", "train")
    kind, flat = _KINDS[name], bundled_arrays(BUNDLED[name])
    names = [*(n for layer in _layers(kind) for n in layer.names), *_CLASSIFIER]
    if len(flat) != len(names):
        raise BackboneError(f"{BUNDLED[name].file} has {len(flat)} tensors, {name} {len(names)}")
    state = dict(zip(names, flat, strict=True))
    # The numbers lie as TensorFlow had them: kernels [H, W, in, out], of depthwise ones [H, W, channels, 1].
    for layer in _layers(kind):
        conv, width = layer.names[0], len(state[layer.names[1]])
        side, order = layer.kernel, (2, 3, 0, 1) if layer.depthwise else (3, 2, 0, 1)
        shape = (side, side, width, 1) if layer.depthwise else (side, side, -1, width)
        state[conv] = np.ascontiguousarray(state[conv].reshape(shape).transpose(order))
    weight, bias = _CLASSIFIER
    state[weight] = np.ascontiguousarray(state[weight].reshape(-1, len(state[bias])).T)
    return LiteNetwork(name, state)


def restore_lite(name: str, tensors: Mapping[str, NDArray[Any]], what: str) -> LiteNetwork:
    """The same with weights from a model folder; raises MissingExtraError, naming ``what``, for another backbone."""
    if name not in _KINDS:
        raise MissingExtraError(f"{what} with the backbone {name}", "train")
    return LiteNetwork(name, {n: tensor for n, tensor in tensors.items() if not n.endswith(COUNTER)})
