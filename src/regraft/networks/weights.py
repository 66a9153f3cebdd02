"""Weight files into networks, strictly: every tensor accounted for, or an error that lists the differences."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from regraft.errors import BackboneError
from regraft.networks.bundled import bundled_bytes
from regraft.networks.catalogue import Bundled
from regraft.networks.digest import COUNTER, tensors_digest

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
    data = bundled_bytes(item)
    # Both list the same layers in the same order under different names.
    given = [(k, v) for k, v in _unpickled(io.BytesIO(data), item.file).items() if not k.endswith(COUNTER)]
    names = [k for k in network.state_dict() if not k.endswith(COUNTER)]
    if len(given) != len(names):
        raise BackboneError(f"{item.file} has {len(given)} tensors, {item.architecture} {len(names)}")
    return {name: tensor for name, (_, tensor) in zip(names, given, strict=True)}


def load_strict(network: nn.Module, state: Mapping[str, Tensor], source: str, head: str = "") -> tuple[str, ...]:
    """Load tensors into a network, by name; raises BackboneError with every missing, unexpected or misshapen one.

    Half precision is widened to the network's own. ``head`` names a module that may differ: if one of its tensors
    does, all of them stay as they are, and a line for each difference is returned.
    """
    own = network.state_dict()
    given = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    found = _differences(own, given)
    differing = {kind: {n: text for n, text in of_kind.items() if not (head and n.startswith(f"{head}."))}
                 for kind, of_kind in found.items()}
    if any(differing.values()):
        told = "; ".join(f"{len(of_kind)} {kind}: {_few(list(of_kind.values()))}"
                         for kind, of_kind in differing.items() if of_kind)
        raise BackboneError(f"{source} does not fit the network; {told}", _lines(differing))
    if any(found.values()):
        given = {n: tensor for n, tensor in given.items() if not n.startswith(f"{head}.")}
    own.update(given)  # which also keeps the versions that some modules of torchvision's ask for
    network.load_state_dict(own, strict=True)
    return _lines(found)


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """By kind and name, in words, what keeps tensors from being loaded."""
    both = [n for n in own if n in given]
    return {
        "missing": {n: n for n in own if n not in given and not n.endswith(COUNTER)},
        "unexpected": {n: n for n in given if n not in own},
        "of another shape": {n: f"{n} {list(given[n].shape)} instead of {list(own[n].shape)}" for n in both
                             if given[n].shape != own[n].shape},
        # Quantised integers would be taken for weights.
        "of another type": {n: f"{n} {str(given[n].dtype).removeprefix('torch.')}" for n in both
                            if given[n].is_floating_point() != own[n].is_floating_point()}}


def _lines(found: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    return tuple(f"{kind}: {text}" for kind, of_kind in found.items() for text in of_kind.values())


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def weights_digest(architecture: str, state: Mapping[str, Tensor]) -> str:
    """The digest of all tensors that decide answers; see :func:`regraft.networks.digest.tensors_digest`."""
    whole = ((name, state[name].detach().cpu().contiguous()) for name in sorted(state) if not name.endswith(COUNTER))
    return tensors_digest(architecture, (
        (name, str(tensor.dtype), tensor.shape, tensor.flatten().view(torch.uint8).numpy().data)
        for name, tensor in whole))


def packed(state: Mapping[str, Tensor], about: dict[str, str] | None = None) -> bytes:
    """The tensors, and texts about them, as the bytes of a safetensors file; the same bytes for the same tensors."""
    from safetensors.torch import save

    return save({name: state[name].detach().cpu().contiguous() for name in sorted(state)}, about)
