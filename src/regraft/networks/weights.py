"""Weight files into networks, strictly: every tensor accounted for, or an error that lists the differences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from regraft.errors import BackboneError
from regraft.networks.catalogue import Bundled, require_path

#: Counters that batch norm keeps while training; they decide nothing in inference.
_COUNTER = "num_batches_tracked"

State = dict[str, Tensor]


def read_weights(path: Path) -> State:
    """The tensors of a ``.safetensors`` or ``.pth`` file (read without unpickling objects); raises BackboneError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BackboneError(f"the weight file {path} does not exist") from None
    except Exception as error:  # torch and safetensors raise many types for a damaged file.
        raise BackboneError(f"{path.name} holds no readable weights: {str(error).splitlines()[0]}") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise BackboneError(f"{path.name} holds no plain table of tensors")
    return dict(loaded)


def bundled_weights(item: Bundled, network: nn.Module) -> State:
    """A bundled file's tensors under the network's own names; the file's SHA-256 is checked first."""
    path = require_path(item)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != item.sha256:
        raise BackboneError(f"{path} is damaged or not what it should be: SHA-256 {found[:12]}..., expected "
                            f"{item.sha256[:12]}...; install {item.package.replace('_', '-')} again")
    # Both list the same layers in the same order under different names.
    given = [(k, v) for k, v in read_weights(path).items() if not k.endswith(_COUNTER)]
    names = [k for k in network.state_dict() if not k.endswith(_COUNTER)]
    if len(given) != len(names):
        raise BackboneError(f"{path.name} has {len(given)} tensors, {item.architecture} {len(names)}")
    return {name: tensor for name, (_, tensor) in zip(names, given, strict=True)}


def load_strict(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a network; raises BackboneError with every missing, unexpected or misshapen one."""
    own = network.state_dict()
    given = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    missing = [n for n in own if n not in given and not n.endswith(_COUNTER)]
    unexpected = [n for n in given if n not in own]
    misshapen = [f"{n} {list(given[n].shape)} instead of {list(own[n].shape)}"
                 for n in own if n in given and given[n].shape != own[n].shape]
    differences = [f"{len(names)} {kind}: {_few(names)}" for kind, names in
                   (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)) if names]
    if differences:
        raise BackboneError(f"{source} does not fit the network; {'; '.join(differences)}")
    network.load_state_dict({**{n: t for n, t in own.items() if n.endswith(_COUNTER)}, **given}, strict=True)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors that decide answers, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith(_COUNTER):
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def packed(state: Mapping[str, Tensor]) -> bytes:
    """The tensors as the bytes of a safetensors file, the same bytes for the same tensors."""
    from safetensors.torch import save

    return save({name: state[name].detach().cpu().contiguous() for name in sorted(state)})
