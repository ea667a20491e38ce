"""Reads the header of a safetensors file: the names and shapes of its tensors, and whether the file is whole.

The format: 8 bytes, the header's size N as a little-endian integer; N bytes of JSON, {name: {"dtype", "shape",
"data_offsets": [begin, end]}} with offsets from the end of the header; then the tensors' bytes without a gap.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from wave_serve.engine.errors import CheckpointError

Shape = tuple[int, ...]
SIZE = struct.Struct("<Q")
LARGEST_HEADER = 100_000_000  # bytes; the safetensors library refuses more
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def check_no_pointer(path: Path) -> None:
    """Raises CheckpointError where the file only says which one git-lfs would fetch."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(
                f"{path} is a git-lfs pointer, not the file itself; fetch it: git lfs pull (in {path.parent})"
            )


def read_shapes(path: Path) -> dict[str, Shape]:
    """Shapes by tensor name. Raises CheckpointError where the file is no whole safetensors file."""
    try:
        check_no_pointer(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(SIZE.size)
            length = SIZE.unpack(head)[0] if len(head) == SIZE.size else 0
            if length > LARGEST_HEADER or head[:1] == b"{":
                raise CheckpointError(f"{path} is no safetensors file: its header would have {length} bytes")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if len(head) < SIZE.size or len(text) < length:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes, its header alone needs {SIZE.size + length}")
    described = _described(path, text)
    whole = SIZE.size + length + max((end for _, _, end in described.values()), default=0)
    if size != whole:
        what = "truncated" if size < whole else "longer than its header says"
        raise CheckpointError(f"{path} is {what}: it has {size} bytes, its header describes {whole}")
    return {name: shape for name, (shape, _, _) in described.items()}


def _described(path: Path, text: bytes) -> dict[str, tuple[Shape, int, int]]:
    """Shape, begin and end of each tensor."""
    try:
        header: dict[str, Any] = json.loads(text)
        found = {
            name: (tuple(map(int, one["shape"])), int(one["data_offsets"][0]), int(one["data_offsets"][1]))
            for name, one in header.items()
            if name != "__metadata__"
        }
        kinds = {name: str(one["dtype"]) for name, one in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(f"{path} is no safetensors file: its header does not describe tensors") from None
    for name, (shape, begin, end) in found.items():
        bits = BITS.get(kinds[name])
        if begin < 0 or end < begin or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
            raise CheckpointError(
                f"{path}: tensor {name} is {kinds[name]} of shape {list(shape)}, but has {end - begin} bytes"
            )
    return found
