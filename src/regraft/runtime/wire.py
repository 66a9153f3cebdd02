"""What an ONNX file points at outside of itself, read from its bytes before anything loads it.

ONNX is a protocol buffer. Only the fields that lead to tensors are followed; the numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator

#: Fields of each kind of message that hold further messages, with their kind.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}

#: Of a tensor: where its data is outside of the file, and that it is.
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

#: Graphs inside graphs: no exporter nests them deeper.
_DEEPEST = 64


def has_outside_data(data: bytes) -> bool:
    """Whether a tensor of the file lies in another file. Raises ValueError where it is no protocol buffer."""
    waiting = [("model", memoryview(data), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("it nests too deep")
        for field, value in _fields(message):
            if kind == "tensor":
                if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
                    return True
            elif field in _INSIDE[kind] and isinstance(value, memoryview):
                waiting.append((_INSIDE[kind][field], value, depth + 1))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; fixed-width numbers come as their bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == _VARINT:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if key & 7 == _LENGTH:
            length, at = _varint(message, at)
        elif key & 7 in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if key & 7 == _EIGHT_BYTES else 4
        else:
            raise ValueError("it is no protocol buffer")
        if at + length > len(message):
            raise ValueError("it ends in the middle")
        yield key >> 3, message[at:at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the least first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends in the middle")
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError("it is no protocol buffer")
