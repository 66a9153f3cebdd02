"""A network of the caller's own: a module in place of a name.

Nothing of its program is written to a file, and no file leads to one: whoever loads the model brings the module.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from regraft.errors import BackboneError, ModelError, SettingsError
from regraft.networks.build import Network, load_backbone
from regraft.networks.catalogue import OWN
from regraft.networks.graph import trace
from regraft.networks.readouts import INPUT, LAST, Tapped, find_readouts
from regraft.networks.weights import State, load_strict, read_weights, weights_digest
from regraft.records.images import Finding
from regraft.records.model import OwnNetwork
from regraft.records.networks import InputSpec, Readout
from regraft.settings import DEFAULT_BACKBONE, FeaturesSettings, InspectSettings, TrainSettings

#: How a module sees unless told otherwise.
_INPUT = InputSpec(224, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

#: Pictures that a module is known again by, and numbers of its answers that are kept.
_PICTURES, _ANSWERS = 4, 64

#: Largest difference of these numbers, as a share of the largest of them, between one machine and another.
_AGREES = 2e-3


def load_network(settings: TrainSettings | FeaturesSettings | InspectSettings, random: int | None = None) -> Network:
    """The network that settings name or hold, in its starting weights; see :func:`load_backbone`.

    With ``random``, a seed, a named network has random weights. A module keeps those it was given with: it is the
    caller who drew them.
    """
    weights = None if settings.weights is None else Path(settings.weights)
    if settings.module is None:
        return load_backbone(settings.backbone or DEFAULT_BACKBONE, weights, settings.size, random)
    if random is not None and weights is not None:
        raise SettingsError([f"weights: {weights.name} is given, but the plan starts at random; leave one away "
                             "(--set backbone.start=pretrained)"])
    return own_network(settings.module, weights, settings.size)


def own_network(given: object, weights: Path | None = None, size: int | None = None) -> Network:
    """A copy of a module, made ready; the caller's own is never changed.

    Tensors of a weight file are matched by name, all of them strictly but those of the layer that makes the class
    scores: its own classes need not be the file's. Raises SettingsError for what is no module, BackboneError for one
    that is no classifier of pictures, or that the weights do not fit.
    """
    module = _copied(given)
    spec = _INPUT
    side = size or spec.size
    readouts = find_readouts(module, side)
    findings: tuple[Finding, ...] = ()
    if weights is not None:
        head = next(readout.node for readout in readouts if readout.name == LAST).removesuffix(INPUT)
        left = load_strict(module, read_weights(weights), weights.name, head)
        if left:
            findings = (Finding("head_weights", len(left), f"{weights.name} does not fit {head}, the layer that makes "
                                f"class scores ({'; '.join(left[:3])}); that layer keeps the module's own weights",
                                left),)
    architecture = f"{OWN}:{_name(module)} {_program_digest(module, side)}"
    return Network(own_name(given), module, readouts, spec, None, architecture,
                   weights_digest(architecture, module.state_dict()), findings)


def own_name(given: object) -> str:
    """What records call a module."""
    return f"{OWN}:{_name(given)}"


def own_label(given: object) -> str:
    """A module's name with a digest of its parts and tensors: what a run was begun with."""
    module = _module(given)
    return f"{own_name(module)} {weights_digest(repr(module), module.state_dict())[:16]}"


def own_record(module: nn.Module, readouts: Sequence[Readout], size: int) -> OwnNetwork:
    """How to know a module again, with the tensors it has."""
    found = _answers(module, readouts, size)
    few = found[np.linspace(0, len(found) - 1, min(_ANSWERS, len(found))).round().astype(int)]
    return OwnNetwork(_name(module), tuple(float(f"{number:.7g}") for number in few))


def restore_own(record: OwnNetwork, given: object, state: State, readouts: Sequence[Readout], size: int) -> nn.Module:
    """A copy of the module with a model's tensors; raises BackboneError or ModelError where it is another network."""
    module = _copied(given)
    load_strict(module, state, "the model's backbone.safetensors")
    try:
        again = own_record(module, readouts, size).answers
    except (AttributeError, KeyError):  # a place that is read does not exist, or is not passed
        again = ()
    there, here = np.array(record.answers), np.array(again)
    if there.shape != here.shape or not np.abs(there - here).max(initial=0) <= _AGREES * np.abs(there).max(initial=0):
        raise ModelError(f"{_name(given)} takes the model's tensors but answers otherwise than the {record.name} that "
                         "was trained; give the same network")
    return module


def _name(given: object) -> str:
    return type(given).__name__


def _module(given: object) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
    raise SettingsError([f"module: {what} is not allowed; it must be a torch.nn.Module, such as MyNetwork()"])


def _copied(given: object) -> nn.Module:
    """The module in inference mode, fp32, on the processor."""
    try:
        module = copy.deepcopy(_module(given))
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise BackboneError(f"{_name(given)} can't be copied ({reason[0] if reason else type(error).__name__})"
                            ) from None
    return module.cpu().float().eval().requires_grad_(False)


def _program_digest(module: nn.Module, size: int) -> str:
    """SHA-256 of what a module computes, whatever its tensors: of its parts and its traced operations.

    A network that can't be traced is told apart by its answers instead.
    """
    digest = hashlib.sha256(repr(module).encode())
    try:
        program = trace(module, size)
    except BackboneError:
        digest.update(_answers(module, [Readout("answer", "", "none", 0)], size).tobytes())
        return digest.hexdigest()
    digest.update(program.code.encode())
    own = dict(module.state_dict())
    for name, tensor in sorted(program.state_dict().items()):  # constants of the program itself
        if name not in own:
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _answers(module: nn.Module, readouts: Sequence[Readout], size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What the readouts give for fixed pictures, joined."""
    device = next(module.parameters()).device
    numbers = 2 * np.sin(12.9898 * np.arange(_PICTURES * 3 * size * size) ** 1.5)
    pictures: Tensor = torch.from_numpy(numbers.astype(np.float32)).view(_PICTURES, 3, size, size).to(device)
    with torch.inference_mode():
        found = Tapped(module, readouts).eval()(pictures)
    joined: np.ndarray[tuple[int], np.dtype[np.float64]] = found.cpu().double().numpy().ravel()
    return joined
