"""A head of several dense layers, as numbers: what a trained head is once it is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.heads.independent import IndependentHead
from regraft.heads.linear import LinearHead
from regraft.heads.solver import sigmoid, softmax
from regraft.records.heads import HeadSettings

#: (weights float32 [D, K], bias float32 [K]) of a layer
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


ACTIVATIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.floating]]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}


@dataclass(frozen=True)
class DenseHead:
    """Dense layers on the joined raw readouts named in ``settings``, an activation after each but the last."""

    settings: HeadSettings
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.settings.hidden) + 1:
            raise DataError(f"a head of {len(self.settings.hidden) + 1} layers has weights of {len(self.layers)}")
        for (W, b), (following, _) in zip(self.layers, [*self.layers[1:], (None, None)], strict=True):
            if W.ndim != 2 or b.shape != W.shape[1:] or (following is not None and following.shape[0] != W.shape[1]):
                raise DataError("the layers of a head do not fit each other")
            if not (np.isfinite(W).all() and np.isfinite(b).all()):
                raise DataError("a head's weights must be finite")

    def tempered(self, temperature: float) -> DenseHead:
        """The head whose logits are divided by a temperature."""
        if temperature == 1:
            return self
        *hidden, (W, b) = self.layers
        scale = np.float32(1 / temperature)
        return DenseHead(self.settings, (*hidden, (W * scale, b * scale)))

    @property
    def shape(self) -> tuple[int, int]:
        """Width of the joined readouts, number of classes."""
        return self.layers[0][0].shape[0], self.layers[-1][0].shape[1]

    def logits(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class scores float64 [N, K]. Row by row: an image's answer does not depend on its company."""
        if features_ND.shape[1] != self.shape[0]:
            raise DataError(f"features of width {features_ND.shape[1]} for a head of width {self.shape[0]}")
        wide = [(W.astype(np.float64), b.astype(np.float64)) for W, b in self.layers]
        out = np.empty((len(features_ND), self.shape[1]))
        for i, row in enumerate(features_ND):
            x = row.astype(np.float64)
            for (W, b), activation in zip(wide, (*self.settings.hidden, "linear"), strict=True):
                x = ACTIVATIONS[activation](x @ W + b)
            out[i] = x
        return out

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities float64 [N, K]."""
        return softmax(self.logits(features_ND)).astype(np.float64, copy=False)


Head = LinearHead | DenseHead


def head_layers(head: Head) -> tuple[Layer, ...]:
    """Weights and biases of any head."""
    return head.layers if isinstance(head, DenseHead) else ((head.W_DK, head.b_K),)


def head_tensors(head: Head) -> dict[str, NDArray[np.float32]]:
    """The tensors of a head under the names they are saved with."""
    *hidden, (weight, bias) = head_layers(head)
    named = {f"hidden.{i}.{kind}": tensor for i, layer in enumerate(hidden)
             for kind, tensor in zip(("weight", "bias"), layer, strict=True)}
    return {**named, "weight": weight, "bias": bias}


def restore_head(settings: HeadSettings, tensors: Mapping[str, NDArray[np.float32]]) -> Head:
    """The head of saved tensors; raises KeyError where one is missing, DataError where they do not fit."""
    if settings.kind == "independent":
        return IndependentHead(settings, tensors["weight"], tensors["bias"])
    if not settings.hidden:
        return LinearHead(settings, tensors["weight"], tensors["bias"])
    hidden = tuple((tensors[f"hidden.{i}.weight"], tensors[f"hidden.{i}.bias"]) for i in range(len(settings.hidden)))
    return DenseHead(settings, (*hidden, (tensors["weight"], tensors["bias"])))
