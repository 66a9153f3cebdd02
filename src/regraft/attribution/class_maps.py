"""Class activation maps (Zhou et al., CVPR 2016) of every stage that is read: where a linear head's score comes from.

A head on the means of maps gives every place of every map a share of the score; nothing is approximated, and no
gradient is needed. PyTorch is not needed either.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.engines.onnxruntime import open_session
from regraft.heads.linear import LinearHead
from regraft.networks.lite import LiteNetwork
from regraft.records.preprocessing import Preprocessing

#: Places on a side of what is shown: the maps of early stages are finer, those of late ones coarser.
_SIDE = 28


def class_maps(network: LiteNetwork, rules: Preprocessing, head: LinearHead, pixels_BHWC: NDArray[np.uint8],
               classes_B: NDArray[np.int64]) -> NDArray[np.float32]:
    """What spoke for a class against the average one in each picture: float32 [B, 28, 28] from 0 to 1.

    ``pixels_BHWC`` are view 0's, uint8. The rows of ``head`` are the network's readouts that its settings name.
    """
    weights = _by_map(network, head)
    session = open_session(network.onnx_maps(rules))
    [pixels] = (given.name for given in session.get_inputs())
    heat_BHW = np.zeros((len(pixels_BHWC), _SIDE, _SIDE), np.float32)
    for heat_HW, picture, k in zip(heat_BHW, pixels_BHWC, classes_B, strict=True):
        for (_, W_CK), [map_CHW] in zip(weights.items(), session.run(list(weights), {pixels: picture[None]}),
                                        strict=True):
            against_C = W_CK[:, k] - W_CK.mean(1)
            heat_HW += _resized(np.tensordot(against_C, map_CHW, 1).astype(np.float32))
        np.maximum(heat_HW, 0, out=heat_HW)
        heat_HW /= max(float(heat_HW.max()), 1e-12)
    return heat_BHW


def _by_map(network: LiteNetwork, head: LinearHead) -> dict[str, NDArray[np.float32]]:
    """The head's weights [C, K] on the mean of each map that it reads."""
    widths = {readout.name: readout.dim for readout in network.readouts}
    weights: dict[str, NDArray[np.float32]] = {}
    at = 0
    for name in head.settings.readouts:
        W_DK = head.W_DK[at:at + widths[name]]
        at += widths[name]
        if name == "logits":  # a layer on the last one's mean, and linear as the head is
            name, W_DK = "last", network.classifier.T @ W_DK
        weights[name] = weights[name] + W_DK if name in weights else W_DK
    return weights


def _resized(map_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    how = Image.Resampling.BOX if len(map_HW) > _SIDE else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(map_HW).resize((_SIDE, _SIDE), how))
