"""Weight files into networks, strictly: every tensor accounted for, or an error that lists the differences."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    if path.suffix.lower() != ".safetensors":
        return _unpickled(path, path.name)
    from safetensors.torch import load_file

    with _told(path.name):
        return load_file(path)


def _unpickled(source: Path | io.BytesIO, name: str) -> State:
    with _told(name), warnings.catch_warnings(action="ignore"):  # PyTorch's advice on formats is not the user's
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise BackboneError(f"{name} holds no plain table of tensors")
    return dict(loaded)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what a damaged file raises into one line."""
    try:
        yield
    except FileNotFoundError:
        raise BackboneError(f"the weight file {name} does not exist") from None
    except Exception as error:  # torch and safetensors raise many types for a damaged file.
        if type(error).__name__ == "UnpicklingError":
            # PyTorch's own advice is to load the file without its safeguard.
            raise BackboneError(f"{name} is damaged or holds more than tensors, which could run as a program; save "
                                "the network's state_dict() alone, best as .safetensors") from None
        reason = str(error).strip().splitlines()
        raise BackboneError(f"{name} holds no readable weights ({reason[0] if reason else type(error).__name__})"
                            ) from None


def bundled_weights(item: Bundled, network: nn.Module) -> State:
    """A bundled file's tensors under the network's own names; the file's SHA-256 is checked first."""
    path = require_path(item)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != item.sha256:
        raise BackboneError(f"{path} is damaged or not what it should be: SHA-256 {found[:12]}..., expected "
                            f"{item.sha256[:12]}...; install {item.package.replace('_', '-')} again")
    # Both list the same layers in the same order under different names.
    given = [(k, v) for k, v in _unpickled(io.BytesIO(data), path.name).items() if not k.endswith(_COUNTER)]
    names = [k for k in network.state_dict() if not k.endswith(_COUNTER)]
    if len(given) != len(names):
        raise BackboneError(f"{path.name} has {len(given)} tensors, {item.architecture} {len(names)}")
    return {name: tensor for name, (_, tensor) in zip(names, given, strict=True)}


def load_strict(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a network; raises BackboneError with every missing, unexpected or misshapen one.

    Half precision is widened to the network's own.
    """
    own = network.state_dict()
    given = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    missing = [n for n in own if n not in given and not n.endswith(_COUNTER)]
    unexpected = [n for n in given if n not in own]
    misshapen = [f"{n} {list(given[n].shape)} instead of {list(own[n].shape)}"
                 for n in own if n in given and given[n].shape != own[n].shape]
    # Quantised integers would be taken for weights.
    mistyped = [f"{n} {str(given[n].dtype).removeprefix('torch.')}" for n in own
                if n in given and given[n].is_floating_point() != own[n].is_floating_point()]
    differences = [f"{len(names)} {kind}: {_few(names)}" for kind, names in
                   (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen),
                                   ("of another type", mistyped)) if names]
    if differences:
        raise BackboneError(f"{source} does not fit the network; {'; '.join(differences)}")
    own.update(given)  # which also keeps the versions that some modules of torchvision's ask for
    network.load_state_dict(own, strict=True)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def weights_digest(architecture: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the architecture and names, types, shapes and bytes of all tensors that decide answers.

    64 hexadecimal digits. The architecture counts since several fit the same tensors and answer differently.
    """
    digest = hashlib.sha256(f"{architecture}\n".encode())
    for name in sorted(state):
        if name.endswith(_COUNTER):
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def packed(state: Mapping[str, Tensor], about: dict[str, str] | None = None) -> bytes:
    """The tensors, and texts about them, as the bytes of a safetensors file; the same bytes for the same tensors."""
    from safetensors.torch import save

    return save({name: state[name].detach().cpu().contiguous() for name in sorted(state)}, about)
