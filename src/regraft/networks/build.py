"""A backbone's name to a network with its weights in it, ready to be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regraft.errors import BackboneError
from regraft.networks.catalogue import BUNDLED, Resolved, download_address, in_hub_cache, resolve, timm_config
from regraft.networks.connection import unreachable
from regraft.networks.graph import Graph
from regraft.networks.layers import cut_rows, layer_rows, stage_rows
from regraft.networks.plain import build_plain
from regraft.networks.readouts import INPUT, LAST, LOGITS, find_readouts
from regraft.networks.weights import State, bundled_weights, load_strict, read_weights, weights_digest
from regraft.records.images import Finding
from regraft.records.networks import BackboneDetail, HeadLayer, InputSpec, Readout, StageRow

_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")

#: Classifiers beside the trunk that only serve training; they are left out.
_AUXILIARY = {"torchvision:googlenet": ("aux1", "aux2"), "torchvision:inception_v3": ("AuxLogits",)}


@dataclass(frozen=True)
class Network:
    """A backbone with its weights: ``module`` in inference mode, where its features are read, how it sees.

    ``architecture`` says what the tensors are of, whatever their numbers; ``digest`` is of both. ``findings`` tell
    what the user should know about the weights.
    """

    name: str
    module: nn.Module
    readouts: tuple[Readout, ...]
    input: InputSpec
    licence: str | None
    architecture: str
    digest: str
    findings: tuple[Finding, ...] = ()

    def state(self) -> State:
        """The module's tensors."""
        return dict(self.module.state_dict())

    @property
    def parameters(self) -> int:
        """Numbers that could be trained."""
        return sum(int(tensor.numel()) for tensor in self.module.parameters())


def load_backbone(name: str, weights: Path | None = None, size: int | None = None, random: int | None = None,
                  ) -> Network:
    """Build a backbone and fill it: bundled, from a local file, or from the source's own download.

    With ``random``, a seed, it stays the architecture with random weights.

    Raises UnknownNameError, BackboneError (weights that do not fit or can't be had) or MissingExtraError.
    """
    found = resolve(name)
    if random is None and weights is None and (found.entry.source == "plain" or found.options):
        raise BackboneError(f"{name} comes without weights; give a file with --weights FILE, or start it at random in "
                            "a plan: --set backbone.start=random")
    if random is not None:
        with torch.random.fork_rng():
            torch.manual_seed(random)
            module = _architecture(found, pretrained=False, size=size)
        state = None
    elif weights is not None:
        module = _architecture(found, pretrained=False, size=size)
        state = read_weights(weights)
    elif found.bundled is not None:
        module = _architecture(found, pretrained=False)
        state = bundled_weights(found.bundled, module)
    else:
        module = _downloaded(found)
        state = None
    if state is not None:
        auxiliary = tuple(f"{name}." for name in _AUXILIARY.get(_kind(found), ()))
        state = {name: tensor for name, tensor in state.items() if not name.startswith(auxiliary)}
        load_strict(module, state, weights.name if weights is not None else found.entry.name)
    return _network(found, module, size)


def restore(name: str, state: State, size: int | None = None) -> nn.Module:
    """The same architecture with weights from a model folder, in inference mode; nothing is downloaded."""
    module = _architecture(resolve(name), pretrained=False, size=size)
    load_strict(module, state, "the model's backbone.safetensors")
    return module.eval().requires_grad_(False)


def untrained(name: str, size: int | None = None) -> Network:
    """The architecture with random weights, for what depends on its shapes alone; ``digest`` is empty.

    Raises UnknownNameError, BackboneError where the network refuses the size.
    """
    found = resolve(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = _architecture(found, pretrained=False, size=size)
    return _read(found, module, size, "")


def describe(name: str, every: bool = False) -> BackboneDetail:
    """All about one backbone, with the last cut of each stage or ``every`` one; its weights are not needed."""
    network = untrained(name)
    entry = resolve(name).entry
    if entry.parameters is None:
        entry = replace(entry, parameters=sum(p.numel() for p in network.module.parameters()))
    if entry.multiply_adds is None:
        entry = replace(entry, multiply_adds=_multiply_adds(network.module, network.input.size))
    head = next(r for r in network.readouts if r.name == LAST)
    scores = next(r for r in network.readouts if r.name == LOGITS)
    untraced = BackboneDetail(entry, network.input, network.readouts,
                              HeadLayer(head.node.removesuffix(INPUT), head.dim, scores.dim))
    try:
        graph = Graph(network.module, network.input.size, network.readouts)
    except BackboneError as error:
        stages = tuple(StageRow(r.name, r.node) for r in network.readouts if r.name.startswith("stage"))
        return replace(untraced, stages=stages, reason=str(error))
    rows = cut_rows(graph)
    return replace(
        untraced, stages=stage_rows(graph), cuts=tuple(row for row in rows if every or row.stage),
        found_cuts=len(rows), trainable_cuts=sum(row.cut.trainable for row in rows),
        layers=layer_rows(graph) if every else ())


def _network(found: Resolved, module: nn.Module, size: int | None) -> Network:
    return _read(found, module, size, weights_digest(_kind(found), module.state_dict()))


def _read(found: Resolved, module: nn.Module, size: int | None, digest: str) -> Network:
    module.eval().requires_grad_(False)
    spec = _input(found, module)
    readouts = find_readouts(module, size or spec.size)
    return Network(found.entry.name, module, readouts, spec, found.entry.licence, _kind(found), digest)


def _kind(found: Resolved) -> str:
    """The architecture, whatever weights: ``timm:resnet50`` of ``resnet50.a1_in1k``."""
    if found.options:
        return f"timm:{found.entry.name}"
    source = "timm" if found.entry.source == "bundled" else found.entry.source
    return f"{source}:{found.architecture.partition('.')[0]}"


def _architecture(found: Resolved, pretrained: bool, size: int | None = None) -> nn.Module:
    """The bare network. The name was found in a registry before; no string of a file reaches an import."""
    if found.entry.source == "plain":
        assert found.input is not None
        return build_plain(found.architecture, size or found.input.size)
    if found.entry.source == "torchvision":
        return _torchvision(found, pretrained)
    import timm

    overlay: dict[str, Any] | None = None
    if pretrained:
        # What the hub's client has fetched already is read where it lies: the client itself would ask the hub whether
        # that is the newest, and without a connection ask again for half a minute.
        cached = in_hub_cache(timm_config(found.architecture).hf_hub_id)
        overlay = None if cached is None else {"file": str(cached), "source": "", "custom_load": False}
    module: nn.Module = timm.create_model(found.architecture, pretrained=pretrained, pretrained_cfg_overlay=overlay,
                                          **found.options)
    return module


def _torchvision(found: Resolved, pretrained: bool) -> nn.Module:
    """A network of torchvision, built alike with its weights and without; left alone, these differ."""
    from torchvision import models

    name, options = found.architecture, dict[str, Any]()
    if not pretrained and _kind(found) in _AUXILIARY:
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    elif not pretrained and name.startswith("vit_"):
        options = {"image_size": models.get_model_weights(name).DEFAULT.meta["min_size"][0]}
    module: nn.Module = models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    for auxiliary in _AUXILIARY.get(_kind(found), ()):
        setattr(module, auxiliary, None)
    return module


def _downloaded(found: Resolved) -> nn.Module:
    """The network with its source's weights: from the source's cache on this machine, else by a download."""
    name = found.entry.name
    if not found.entry.offline:
        address = download_address(found)
        if address is None:
            raise BackboneError(f"no weights of {name} are published; give a local file with --weights FILE, or take "
                                f"another backbone, such as {_bundled_here()}")
        why = unreachable(address)
        if why is not None:
            raise _not_here(found, why)
    try:
        return _architecture(found, pretrained=True)
    except Exception as error:  # Hubs fail in many ways: no network, no such file, no permission.
        reason = str(error).strip().splitlines()
        raise _not_here(found, f"can't be downloaded ({reason[0] if reason else type(error).__name__})") from None


def _not_here(found: Resolved, why: str) -> BackboneError:
    name = found.entry.name
    return BackboneError(
        f"the weights of {name} are not on this machine and {why}; on a machine with a connection type `regraft "
        f"backbones fetch {name} --to DIR`, bring DIR here and add --weights {Path('DIR') / weight_file(name)}, or "
        f"take a bundled backbone: {_bundled_here()}")


def _bundled_here() -> str:
    here = [item.entry.name for item in BUNDLED.values() if item.path() is not None]
    return ", ".join(here or BUNDLED)


def weight_file(name: str) -> str:
    """What the file of a backbone's weights is called: its name, without the colon that some systems refuse."""
    return f"{name.replace(':', '-')}.safetensors"


def _input(found: Resolved, module: nn.Module) -> InputSpec:
    if found.input is not None:
        return found.input
    if found.entry.source == "torchvision":
        from torchvision import models

        preset: Any = models.get_model_weights(found.architecture).DEFAULT.transforms()
        size, interpolation = preset.crop_size[0], preset.interpolation.value
        crop, mean, std = size / preset.resize_size[0], preset.mean, preset.std
    else:
        import timm.data

        config = timm.data.resolve_model_data_config(module)
        size, interpolation, crop = config["input_size"][-1], config["interpolation"], config["crop_pct"]
        mean, std = config["mean"], config["std"]
    if interpolation not in _INTERPOLATIONS:
        interpolation = "bicubic"
    return InputSpec(int(size), float(min(crop, 1.0)), interpolation, _triple(mean), _triple(std))


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _multiply_adds(module: nn.Module, size: int) -> int:
    """Multiply-adds of one image: half of what torch counts as floating-point operations."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops() // 2)
