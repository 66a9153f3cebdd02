"""What names a network's weights, whatever library holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

#: Counters that batch norm keeps while training; they decide nothing in inference.
COUNTER = "num_batches_tracked"

#: Name, type as PyTorch writes it (``torch.float32``), shape and bytes of a tensor.
Described = tuple[str, str, Sequence[int], memoryview]


def tensors_digest(architecture: str, tensors: Iterable[Described]) -> str:
    """SHA-256 over the architecture and names, types, shapes and bytes of tensors in the order of their names.

    64 hexadecimal digits. The architecture counts since several fit the same tensors and answer differently.
    """
    digest = hashlib.sha256(f"{architecture}\n".encode())
    for name, kind, shape, data in tensors:
        digest.update(f"{name} {kind} {list(shape)}\n".encode())
        digest.update(data)
    return digest.hexdigest()
