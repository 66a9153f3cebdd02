"""A model as weights of a timm network: what ``timm.create_model(..., checkpoint_path=FILE)`` loads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.errors import ExportError
from regraft.exports.candidate import Candidate
from regraft.exports.graph import dense
from regraft.heads.dense import head_layers
from regraft.model import Model
from regraft.networks.catalogue import Resolved, resolve
from regraft.networks.readouts import INPUT, LAST
from regraft.networks.weights import packed
from regraft.records.exported import LOGITS, ExportedRecord
from regraft.runtime import Outputs


def timm_files(model: Model, about: ExportedRecord) -> Candidate:
    """Weights (safetensors) and what to build around them (JSON).

    Raises ExportError where a timm network with its own classifier can't be this model.
    """
    found = _built_by_timm(model)
    about = replace(about, unknown=None)  # nothing in these files measures it
    network: nn.Module = model.network()
    name = model.record.head_readouts[0].node.removesuffix(INPUT)
    if not isinstance(network.get_submodule(name), nn.Linear):
        raise ExportError(f"the classifier of {model.record.backbone} is no linear layer, so its weights can't hold "
                          "the head; write --format onnx")
    [layer] = head_layers(model.head)
    classifier = dense(*layer)
    state = {**network.state_dict(), f"{name}.weight": classifier.weight.data, f"{name}.bias": classifier.bias.data}
    files = {".safetensors": packed(state, about.metadata()),
             ".json": (json.dumps(_config(found, about), indent=2, ensure_ascii=False) + "\n").encode()}
    return _opened(files)


def _built_by_timm(model: Model) -> Resolved:
    """The network of a model that timm can build with the model's head in it; raises ExportError for any other."""
    record = model.record
    if record.own is not None:
        raise ExportError("a network of your own is none of timm's; write --format torch or onnx")
    found = resolve(record.backbone)
    if found.entry.source not in ("bundled", "timm"):
        raise ExportError(f"{record.backbone} is none of timm's networks; write --format torch or onnx")
    if record.head.readouts != (LAST,) or record.head.hidden:
        layers = "linear" if not record.head.hidden else f"of {len(record.head.hidden) + 1} layers"
        raise ExportError("a timm network has one linear layer on its last features, and this model's head is "
                          f"{layers} on {' + '.join(record.head.readouts)}; train with --strategy full or partial and "
                          "--set head.reads=last, or write --format onnx")
    return found


def _config(found: Resolved, about: ExportedRecord) -> dict[str, Any]:
    """What timm's own ``config.json`` says, and what Regraft adds to it."""
    rules = about.preprocessing
    return {
        "architecture": found.architecture.partition(".")[0], "num_classes": len(about.labels),
        "model_args": dict(found.options), "label_names": list(about.labels),
        "pretrained_cfg": {
            "input_size": [3, rules.size, rules.size], "num_classes": len(about.labels),
            "interpolation": rules.interpolation, "mean": list(rules.mean), "std": list(rules.std),
            "crop_pct": rules.crop_fraction if rules.fit == "crop" else 1.0,
            "crop_mode": {"crop": "center", "pad": "border", "squash": "squash"}[rules.fit]},
        "regraft": {"preprocessing": rules.to_dict(), "model_digest": about.model_digest,
                    "regraft_version": about.regraft_version, "decoder": about.decoder}}


def _opened(files: dict[str, bytes]) -> Candidate:
    """The network that timm builds of the two files, with nothing of the model folder."""
    import timm

    config = json.loads(files[".json"])
    network = timm.create_model(config["architecture"], pretrained=False, num_classes=config["num_classes"],
                                **config["model_args"])
    network.load_state_dict(safetensors.torch.load(files[".safetensors"]), strict=True)
    network.eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][name]).view(1, 3, 1, 1) * 255 for name in ("mean", "std"))

    def run(pixels_BHWC: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            x_BCHW = (torch.from_numpy(np.ascontiguousarray(pixels_BHWC)).permute(0, 3, 1, 2).float() - mean) / std
            logits_BK = network(x_BCHW)
            return Outputs(logits_BK.softmax(1).numpy(), logits_BK.numpy())

    told = ExportedRecord.from_metadata(_metadata(files[".safetensors"]))
    return Candidate(files, told, (LOGITS,), run)


def _metadata(data: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    texts: dict[str, str] = json.loads(data[8:8 + length])["__metadata__"]
    return texts
