"""Prompts in two parts: a kernel for plain attention has the far keys, and ours, ``near_kernel``, goes on from there.

Keys ``R`` and more before a query have no position term. For all queries of a sequence they are the keys that causal
attention sees when the sequence is taken for ``R`` keys shorter than it is, its mask aligned with the last query and
the last key: ``n <= m - R``. So any kernel for plain causal attention that reads the paged cache and returns its
log-sum-exp does that part, and there it is at its best: nothing is masked but along one diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from model_registry.attention.triton.configuration import near_tile
from model_registry.attention.triton.near import near_kernel

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch
    from model_registry.attention.triton.launch import Arguments

PlainAttention = Callable[["PagedBatch", torch.Tensor, int, int], torch.Tensor]
"""Causal attention without positions: batch, output ``[T, H, d]`` to write, most queries and most keys of a sequence.

It returns the natural log-sum-exp of each row's scaled scores, ``[H, T]`` float32, infinite (of either sign) in rows
that see no key. Query ``j`` of a sequence's ``n_q`` sees the keys ``n <= seq_len - n_q + j``; ``seq_len`` may be less
than ``n_q``, and 0. What it writes to rows without keys does not matter.
"""

MOST_STRIP_BYTES = 2**29
"""Most memory for strips at a time: beyond it the heads take turns."""

_NEGLIGIBLE = 1 / 8
"""A row of the table is left out if it is shorter than this share of what rounding may move the longest row by."""


@dataclass(frozen=True)
class Split:
    """What it takes to attend in two parts.

    Attributes:
        plain: attends to the far keys.
        table: what ``near_table`` gives.
        far_lens: ``[S]`` int32, what ``far_lengths`` gives for the batch; by default it is computed for the call.
    """

    plain: PlainAttention
    table: torch.Tensor
    far_lens: torch.Tensor | None = None


def near_table(table: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``[R, d]`` of type ``dtype``: the rows of ``table`` that matter in it, and what follows up to a whole tile of keys.

    Rounding to ``dtype`` moves a row ``p`` by up to ``u |p|``, with ``u`` half its epsilon. Distances past the last row
    that is longer than an eighth of what the longest may be moved by count as far. Of the 769 rows of ricker with the
    exponents 0 to 7 these are 574 in bfloat16, so a near table of 576. Waits for the device.
    """
    length = table.double().norm(dim=1)
    negligible = _NEGLIGIBLE * torch.finfo(dtype).eps / 2 * length.max()
    rows = int((length > negligible).nonzero().max()) + 1 if bool(length.any()) else 1
    tile = near_tile(table.shape[1], dtype.itemsize).n
    rows = -(-rows // tile) * tile
    return torch.nn.functional.pad(table[:rows], (0, 0, 0, rows - min(rows, table.shape[0]))).to(dtype).contiguous()


def far_lengths(seq_lens: torch.Tensor, query_start_loc: torch.Tensor, near_rows: int) -> torch.Tensor:
    """``[S]`` int32: the keys that are far for a sequence's last query; none for sequences of a single query, which
    the decode kernel does as a whole. Stays on the device."""
    prompt = query_start_loc.diff() > 1
    return (seq_lens - near_rows).clamp_(min=0) * prompt


def attend_to_far_keys(
    split: Split, batch: PagedBatch, out: torch.Tensor, max_query_len: int, max_seq_len: int
) -> torch.Tensor | None:
    """The far part into ``out``; its log-sum-exp ``[H, T]``, or None if no sequence can have far keys."""
    rows = split.table.shape[0]
    if max_seq_len <= rows:
        return None
    far_lens = split.far_lens
    if far_lens is None:
        far_lens = far_lengths(batch.seq_lens, batch.query_start_loc, rows)
    return split.plain(batch._replace(seq_lens=far_lens), out, max_query_len, max_seq_len - rows)


def attend_to_near_keys(arguments: Arguments, table: torch.Tensor, far_lse: torch.Tensor | None) -> None:
    """The near part, onto what ``attend_to_far_keys`` left in the output."""
    q, k_cache, v_cache, *index_tensors, _, out = arguments.tensors
    (T, H, d), S = q.shape, arguments.tensors[5].shape[0]
    tile = near_tile(d, q.element_size())
    R = table.shape[0]
    width = -(-(R + max(tile.m, tile.n)) // tile.n) * tile.n
    tiles = T // tile.m + S
    # In float16 a term errs by less than its table does in bfloat16.
    kind = torch.float32 if q.dtype is torch.float32 else torch.float16
    heads = min(H, max(1, MOST_STRIP_BYTES // (tiles * tile.m * width * kind.itemsize)))
    strips = torch.empty(heads * tiles * tile.m * width, dtype=kind, device=q.device)
    for first_head in range(0, H, heads):
        near_kernel[(tiles, min(heads, H - first_head))](
            q,
            k_cache,
            v_cache,
            *index_tensors,
            table,
            out,
            q if far_lse is None else far_lse,
            strips,
            *arguments.factors,
            S,
            T,
            first_head,
            arguments.scalars[0],
            R,
            width,
            *arguments.strides,
            **arguments.constants,
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            BLOCK_T=tile.n,
            STAGES=tile.stages,
            SAME_ROWS=k_cache.stride() == v_cache.stride(),
            FAR=far_lse is not None,
            num_warps=tile.warps,
        )
