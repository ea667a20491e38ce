"""Tile sizes of the Triton kernels: one small table per architecture, and a default that fits everywhere.

Chosen from what the compiler says of registers and shared memory on sm_90
(``benchmarks/attention/compile_report.py``): nothing spills to local memory, and no wgmma waits for the one before it.
Those for a head of 128 in bfloat16 are the fastest of those timed on an H100 and an H200 (docs/gpu-attention.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import triton


@dataclass(frozen=True)
class Tile:
    """One kernel's launch.

    Attributes:
        m: rows of the query tile; in decode the heads of a group, rounded up to at least this.
        n: keys in a tile.
        warps: warps of a program.
        stages: depth of the load pipeline. The address of a key takes a load itself: with 3 the next tile is loaded
            after the products of this one, for other programs to overlap with; with 5 before them.
    """

    m: int
    n: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Configuration:
    """Both kernels for one head size.

    Attributes:
        prefill: two queries of a sequence or more.
        near: keys in a near tile of prefill, a divisor of ``prefill.n``: fewer keys hold fewer scores in registers.
        decode: ``m`` is the least that the tensor cores take.
        decode_programs: programs for each multiprocessor to split a batch of decodes into.
        part_keys: fewest keys worth a program of their own.
    """

    prefill: Tile
    near: int
    decode: Tile
    decode_programs: int
    part_keys: int = 256


MOST_PARTS = 64
"""Most parts that one sequence is split into: the merge reads them all in one tile."""

# By padded head size and bytes of an element of q.
_HOPPER = {
    (32, 2): Configuration(Tile(128, 64, 8, 5), 32, Tile(16, 256, 4, 4), 4),
    (64, 2): Configuration(Tile(128, 64, 8, 5), 32, Tile(16, 256, 4, 3), 2),
    (128, 2): Configuration(Tile(128, 64, 8, 5), 32, Tile(16, 128, 4, 4), 2),
    (256, 2): Configuration(Tile(64, 32, 8, 5), 16, Tile(16, 32, 4, 3), 4),
}
_DEFAULT = {
    (32, 2): Configuration(Tile(64, 64, 4, 2), 32, Tile(16, 64, 4, 2), 2),
    (64, 2): Configuration(Tile(64, 64, 4, 2), 32, Tile(16, 64, 4, 2), 2),
    (128, 2): Configuration(Tile(64, 32, 4, 2), 32, Tile(16, 32, 4, 2), 2),
    (256, 2): Configuration(Tile(32, 32, 4, 1), 32, Tile(16, 16, 4, 2), 2),
    (32, 4): Configuration(Tile(32, 32, 4, 1), 16, Tile(16, 32, 4, 1), 2),
    (64, 4): Configuration(Tile(16, 32, 4, 1), 16, Tile(16, 32, 4, 1), 2),
    (128, 4): Configuration(Tile(16, 16, 8, 1), 16, Tile(16, 16, 8, 1), 2),
    (256, 4): Configuration(Tile(16, 16, 4, 1), 16, Tile(16, 16, 8, 1), 2),
}
_TUNED: dict[tuple[str, object], dict[tuple[int, int], Configuration]] = {("cuda", 90): _HOPPER}
_INTERPRETED = Configuration(Tile(32, 32, 1, 1), 16, Tile(16, 16, 1, 1), 2, 32)
"""Small, so that short sequences have far tiles, ragged tiles and several parts."""


@cache
def padded(head_size: int) -> int:
    """The tile width for a head: a power of two of at least 16."""
    return max(16, triton.next_power_of_2(head_size))


def configuration(head_size: int, element_bytes: int) -> Configuration:
    """The configuration for the current device, or for the interpreter."""
    if triton.knobs.runtime.interpret:
        return _INTERPRETED
    return for_target(*_target(), head_size, element_bytes)


@cache
def _target() -> tuple[str, object]:
    target = triton.runtime.driver.active.get_current_target()
    return target.backend, target.arch


@cache
def multiprocessors() -> int:
    """Multiprocessors of the current device; 6 for the interpreter."""
    if triton.knobs.runtime.interpret:
        return 6
    driver = triton.runtime.driver.active
    return int(driver.utils.get_device_properties(driver.get_current_device())["multiprocessor_count"])


@dataclass(frozen=True)
class NearTile:
    """The near kernel's launch.

    Attributes:
        m: queries in a tile.
        n: keys in a tile, which share waves.
        t: distances that are multiplied at a time before the keys.
        warps: warps of a program.
        stages: depth of the pipeline of keys, as in ``Tile``.
        t_stages: depth of the pipeline of distances.
        heads: heads of a group that share a tile, 1 or 4; a group that 4 does not divide has 1.
    """

    m: int
    n: int
    t: int
    warps: int
    stages: int
    t_stages: int
    heads: int = 1


# By padded head size and bytes of an element of q.
_NEAR_HOPPER = {
    (32, 2): NearTile(64, 32, 32, 4, 5, 3, 4),
    (64, 2): NearTile(64, 32, 32, 4, 5, 3, 4),
    (128, 2): NearTile(64, 32, 32, 4, 3, 3, 4),
    (256, 2): NearTile(64, 32, 32, 8, 3, 2, 4),
}
_NEAR_DEFAULT = {
    (32, 2): NearTile(64, 64, 64, 4, 2, 2),
    (64, 2): NearTile(64, 64, 64, 4, 2, 2),
    (128, 2): NearTile(64, 32, 32, 4, 2, 2),
    (256, 2): NearTile(32, 32, 32, 4, 1, 1),
    (32, 4): NearTile(32, 32, 32, 4, 1, 1),
    (64, 4): NearTile(16, 32, 32, 4, 1, 1),
    (128, 4): NearTile(16, 16, 16, 8, 1, 1),
    (256, 4): NearTile(16, 16, 16, 4, 1, 1),
}
_NEAR_TUNED: dict[tuple[str, object], dict[tuple[int, int], NearTile]] = {("cuda", 90): _NEAR_HOPPER}
_NEAR_INTERPRETED = NearTile(32, 32, 32, 1, 1, 1, 4)


def near_tile(head_size: int, element_bytes: int, group: int) -> NearTile:
    """The near kernel's tile for the current device, or for the interpreter, and ``group`` heads to a KV head."""
    if triton.knobs.runtime.interpret:
        tile = _NEAR_INTERPRETED
    else:
        tile = near_tile_for_target(*_target(), head_size, element_bytes)
    return tile if group % tile.heads == 0 else replace(tile, heads=1)


@cache
def near_tile_for_target(backend: str, arch: object, head_size: int, element_bytes: int) -> NearTile:
    key = (max(32, padded(head_size)), element_bytes)
    return {**_NEAR_DEFAULT, **_NEAR_TUNED.get((backend, arch), {})}[key]


@cache
def for_target(backend: str, arch: object, head_size: int, element_bytes: int) -> Configuration:
    key = (max(32, padded(head_size)), element_bytes)
    return {**_DEFAULT, **_TUNED.get((backend, arch), {})}[key]
