"""Prompts in two parts: a kernel for plain attention has the far keys, and ours, ``near_kernel``, goes on from there.

Keys ``R`` and more before a query have no position term. For all queries of a sequence they are the keys that causal
attention sees when the sequence is taken for ``R`` keys shorter than it is, its mask aligned with the last query and
the last key: ``n <= m - R``. So any kernel for plain causal attention that reads the paged cache and returns its
log-sum-exp does that part, and there it is at its best: nothing is masked but along one diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from model_registry.attention.triton.configuration import near_tile
from model_registry.attention.triton.key_rows import ENTRIES, KeyRows, key_rows
from model_registry.attention.triton.near import near_kernel
from model_registry.attention.triton.near_table import NearTable, near_table, strip_type

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch
    from model_registry.attention.near_bias import NearBias
    from model_registry.attention.triton.launch import Arguments

PlainAttention = Callable[["PagedBatch", torch.Tensor, int, int], torch.Tensor]
"""Causal attention without positions: batch, output ``[T, H, d]`` to write, most queries and most keys of a sequence.

It returns the natural log-sum-exp of each row's scaled scores, ``[H, T]`` float32, infinite (of either sign) in rows
that see no key. Query ``j`` of a sequence's ``n_q`` sees the keys ``n <= seq_len - n_q + j``; ``seq_len`` may be less
than ``n_q``, and 0. What it writes to rows without keys does not matter.
"""

MOST_STRIP_BYTES = 2**29
"""Most memory for strips at a time: beyond it the heads take turns."""


SHORT_CONTEXT = 1024
"""Keys of a context whose far keys, if it has any, are not worth a kernel of their own: all its keys are near."""


class NearKeysError(ValueError):
    """In two parts the keys with a bonus must be those of the near kernel; the next number that would do is told."""

    def __init__(self, keys: int, rows: int) -> None:
        super().__init__(f"the near kernel attends to {rows} keys, and {keys} have a bonus")
        self.keys = keys
        self.rows = rows


@dataclass(frozen=True)
class Split:
    """What it takes to attend in two parts; ``make_split`` makes one for a model, ``replace`` one for a step.

    Attributes:
        plain: attends to the far keys.
        table: what ``near_table`` gives for the queries' type and their ``near_tile``.
        short: the same with rows for ``SHORT_CONTEXT`` keys or more.
        of_step: what ``key_rows`` gives for the batch; by default it is computed for the call.
    """

    plain: PlainAttention
    table: NearTable
    short: NearTable
    of_step: KeyRows | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a model's split keeps on the device, by name."""
        tables = {"near": self.table, "short": self.short}
        return {
            f"{which}_{name}": tensor
            for which, table in tables.items()
            for name, tensor in vars(table).items()
            if isinstance(tensor, torch.Tensor)
        }

    def near_table(self, max_seq_len: int) -> NearTable:
        """The table for sequences of so many keys at most."""
        return self.short if max_seq_len <= self.short.rows else self.table

    def key_rows(self, batch: PagedBatch, max_seq_len: int) -> KeyRows:
        """What the layers of a step share, whose caches are alike, for sequences of so many keys at most."""
        tile = near_tile(batch.q.shape[2], batch.q.element_size(), batch.q.shape[1] // batch.k_cache.shape[2])
        return key_rows(batch, self.near_table(max_seq_len).rows, tile.n)


def make_split(
    plain: PlainAttention, table: torch.Tensor, dtype: torch.dtype, group: int, near_bias: NearBias | None = None
) -> Split:
    """For a position table ``[R, d]``, queries of type ``dtype`` and ``group`` heads to a KV head. Waits for the
    device: once for a model, not for a step.

    Raises:
        NearKeysError: the near keys of ``near_bias`` are not those that the near kernel can attend to.
    """
    tile = near_tile(table.shape[1], dtype.itemsize, group)
    if near_bias is None:
        return Split(plain, near_table(table, dtype, tile), near_table(table, dtype, tile, least_rows=SHORT_CONTEXT))
    near = near_table(table, dtype, tile, least_rows=near_bias.keys)
    if near.rows != near_bias.keys:
        raise NearKeysError(near_bias.keys, near.rows)
    return Split(plain, near, near)


class Strips(NamedTuple):
    """Memory for the near kernel's strips, and what they measure.

    Attributes:
        memory: a strip for each tile of queries of ``heads`` heads.
        heads: how many heads have theirs at a time.
        pitch: elements of a row.
    """

    memory: torch.Tensor
    heads: int
    pitch: int


def take_strips(q: torch.Tensor, H_kv: int, sequences: int, table: NearTable) -> Strips:
    """Strips for the queries ``q`` ``[T, H, d]`` of so many sequences, and ``H_kv`` KV heads."""
    T, H, d = q.shape
    tile = near_tile(d, q.element_size(), H // H_kv)
    pitch = -(-(table.exact.shape[0] + max(tile.m, tile.n)) // 16) * 16
    kind = strip_type(q.dtype)
    of_head = (T // tile.m + sequences) * tile.m * pitch
    heads = min(H, max(1, MOST_STRIP_BYTES // (of_head * kind.itemsize) // tile.heads) * tile.heads)
    return Strips(torch.empty(heads * of_head, dtype=kind, device=q.device), heads, pitch)


def attend_in_two_parts(
    split: Split, batch: PagedBatch, arguments: Arguments, max_query_len: int, max_seq_len: int
) -> None:
    """The batch's sequences with two queries or more. What it writes to the rows of single queries does not matter.

    Args:
        split: how.
        batch: the batch.
        arguments: what the kernels take of it, the output among them.
        max_query_len: most queries of a sequence.
        max_seq_len: most keys of a sequence.
    """
    rows = split.of_step or split.key_rows(batch, max_seq_len)
    table, far_lse = split.near_table(max_seq_len), None
    if max_seq_len > table.rows:
        far = batch._replace(seq_lens=rows.far_lens)
        far_lse = split.plain(far, arguments.tensors[-1], max_query_len, max_seq_len - table.rows)
    attend_to_near_keys(arguments, table, rows, far_lse)


def attend_to_near_keys(arguments: Arguments, table: NearTable, rows: KeyRows, far_lse: torch.Tensor | None) -> None:
    """The near part, onto the far part in the output if ``far_lse`` ``[H, T]`` is given, its log-sum-exp."""
    q, k_cache, v_cache, _, query_start_loc, seq_lens, _, out = arguments.tensors
    (T, H, d), S = q.shape, seq_lens.shape[0]
    tile = near_tile(d, q.element_size(), H // k_cache.shape[2])
    strips = take_strips(q, k_cache.shape[2], S, table)
    for first_head in range(0, H, strips.heads):
        near_kernel[((T // tile.m + S) * tile.heads, min(strips.heads, H - first_head) // tile.heads)](
            q,
            k_cache,
            v_cache,
            rows.keys,
            rows.values,
            query_start_loc,
            seq_lens,
            table.exact,
            table.waves,
            table.turn,
            table.curves,
            out,
            q if far_lse is None else far_lse,
            strips.memory,
            *arguments.factors,
            S,
            T,
            first_head,
            rows.tiles,
            arguments.scalars[0],
            *arguments.scalars[2:4],
            table.rows,
            table.exact_keys,
            table.exact.shape[0],
            strips.pitch,
            *q.stride(),
            *k_cache.stride()[2:],
            *v_cache.stride()[2:],
            *out.stride(),
            **{name: value for name, value in arguments.constants.items() if name != "BLOCK_SIZE"},
            ENTRIES=ENTRIES,
            UNIT=rows.unit,
            HEADS=tile.heads,
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            BLOCK_T=tile.t,
            STAGES=tile.stages,
            T_STAGES=tile.t_stages,
            SAME_ROWS=rows.keys is rows.values,
            FAR=far_lse is not None,
            num_warps=tile.warps,
        )
