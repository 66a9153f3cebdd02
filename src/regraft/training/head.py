"""The head while it learns."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.heads.dense import DenseHead, Head
from regraft.heads.linear import LinearHead
from regraft.records.heads import HeadSettings
from regraft.records.plan import HeadPlan

#: Activations by the names that plans and heads give them.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "linear": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}

#: Where a head reads that nobody has chosen readouts for.
DEFAULT_READS = ("last",)


class TrainableHead(nn.Module):
    """Dense layers on joined readouts: [B, D] to logits [B, K], or [B, 1] with one logit for two classes.

    Started from a solved head, it standardises its input, so that one learning rate suits all of its weights;
    the numbers it starts with answer as the solved head does.
    """

    def __init__(self, plan: HeadPlan, readouts: tuple[str, ...], dim: int, classes: int, seed: int) -> None:
        super().__init__()
        self.readouts = readouts
        self.one_logit = plan.one_logit
        hidden = plan.hidden
        self.names = plan.activation * len(hidden) if len(plan.activation) == 1 else plan.activation
        self.names = self.names[:len(hidden)]
        drops = plan.dropout * (len(hidden) + 1) if len(plan.dropout) == 1 else plan.dropout
        widths = [dim, *hidden, 1 if plan.one_logit else classes]
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.drops = nn.ModuleList(nn.Dropout(share) for share in drops)
        self.activations = nn.ModuleList(ACTIVATIONS[name]() for name in self.names)

    @torch.no_grad()
    def start_at(self, solved: LinearHead, features_ND: NDArray[np.float32]) -> None:
        """Answer as a solved head on the same readouts does; features give the standardisation."""
        [layer] = self.dense
        assert isinstance(layer, nn.Linear)
        std = features_ND.std(0, dtype=np.float64)
        alive = std > 1e-5 * max(float(std.max()), 1e-30)
        scale = np.where(alive, 1 / np.where(alive, std, 1), 0)
        mean = features_ND.mean(0, dtype=np.float64)
        W_DK, b_K = solved.W_DK.astype(np.float64), solved.b_K.astype(np.float64)
        b_K = b_K + mean @ W_DK
        W_DK = W_DK * np.where(alive, std, 0)[:, None]
        if self.one_logit:
            W_DK, b_K = W_DK[:, 1:] - W_DK[:, :1], b_K[1:] - b_K[:1]
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))
        layer.weight.copy_(torch.from_numpy(W_DK.T))
        layer.bias.copy_(torch.from_numpy(b_K))

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] to [B, K]."""
        x = (features - self.mean) * self.scale
        for i, (drop, dense) in enumerate(zip(self.drops, self.dense, strict=True)):
            x = dense(drop(x))
            if i < len(self.activations):
                x = self.activations[i](x)
        return x

    @torch.no_grad()
    def exported(self) -> Head:
        """The head as numbers on raw readouts, with a column for every class."""
        layers = []
        for i, dense in enumerate(self.dense):
            assert isinstance(dense, nn.Linear)
            W = dense.weight.detach().cpu().double().numpy().T
            b = dense.bias.detach().cpu().double().numpy()
            if i == 0:
                W = self.scale.cpu().double().numpy()[:, None] * W
                b = b - self.mean.cpu().double().numpy() @ W
            layers.append((W, b))
        if self.one_logit:
            W, b = layers[-1]
            layers[-1] = (np.concatenate([np.zeros_like(W), W], 1), np.concatenate([np.zeros_like(b), b]))
        plain = tuple((np.ascontiguousarray(W, np.float32), b.astype(np.float32)) for W, b in layers)
        settings = HeadSettings("trained", self.readouts, "by_width", 0.0, tuple(self.names))
        return DenseHead(settings, plain) if self.names else LinearHead(settings, *plain[0])


def class_scores(logits: Tensor) -> Tensor:
    """Scores [B, K] of logits; one logit z is the scores (0, z)."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
