"""The attention op in Triton, for GPUs of any maker: decode in ``decode``, prompts in ``prefill``.

Both go over the keys in tiles with an online softmax. Tiles whose keys are all ``R`` or more away never touch the
table: their loop is that of plain attention. In the other tiles the position term ``q_m . p(m - n)`` is a second
matrix product into the same scores.

Decode. All heads of a KV group share ``m``, so the term is ``q`` times the table's rows in reverse. They are not added
to the key tile first, although that needs one product less: in bfloat16 the sum would round the table to the
resolution of the largest keys, and the product is free. Per key and KV head a program moves ``4 d`` bytes of K and V
from memory and computes ``4 * 16 d`` FLOP for 16 (padded) query rows, ``6 * 16 d`` in a near tile: 16 to 24 FLOP a
byte, where an H100 (989 TFLOP/s, 3.35 TB/s) has 295. The table's ``2 d`` bytes a near key come from L2: they are few
beside K and V while ``R`` is a small part of the context (``R = 769`` of 32,768: 2.3 %). A table as long as the context
adds half to the traffic between L2 and the multiprocessors.

Prompts: a skewed read. A tile of ``M`` queries and ``N`` keys sees ``M + N - 1`` distances, and consecutive key tiles
share all but ``N`` of them. So each near tile computes ``N`` new columns ``q_m . p(t)``, keeps those of the tiles
before in registers, and skews them by one gather within rows. Compiled for sm_90 at ``d = 128`` in bfloat16, a near
tile of 32 keys takes 802 instructions of a warp and 1.5 times the FLOP on tensor cores of the 409 instructions that it
takes with the term off; 64 far keys take 536, with the term off 538. An 8k chunk at 32k context has 3.1 % near keys
(``R = 769``): 1.06 times the instructions and 1.02 times the FLOP of the term off.

The low-rank form projects ``q`` on 32 dimensions first, and needs the same skew. Compiled the same way its near tile
takes 777 instructions and 1.125 times the FLOP: 0.3 % and 1.2 % less over that chunk. It rounds once more, and a table
must have that rank: 32 of 128 singular values of the ricker table are above 1e-4 of the largest, but 79 of haar's and
40 of morlet's. So it was left out; for tables as long as the context, all keys near, it would save a quarter of the
FLOP and 3 % of the instructions. The form in which queries and keys separate (rank 8 of a tile) does away with the skew
but for tiles next to the diagonal, which need it; only tables that are smooth over a tile have it.

These are counts of compiled code. Timings on a GPU are still to be taken (``benchmarks/run_gpu.sh``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton

from model_registry.attention.arguments import AttentionArgumentError
from model_registry.attention.triton.configuration import MOST_PARTS, Configuration, configuration, padded
from model_registry.attention.triton.decode import decode_kernel, merge_kernel
from model_registry.attention.triton.prefill import prefill_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_registry.attention.batch import PagedBatch

HEAD_SIZES = (16, 256)
"""Least and largest head size; sizes that are no power of two are padded with masked columns."""


@torch.no_grad()
def attention(batch: PagedBatch, out: torch.Tensor) -> None:
    """``wavelet_attention`` for tensors of a GPU, into ``out`` ``[T, H, d]``.

    Raises:
        AttentionArgumentError: float64, a head size out of range, or CPU tensors outside Triton's interpreter.
    """
    q = batch.q
    if q.dtype is torch.float64:
        raise AttentionArgumentError("q", q.dtype, "the triton implementation computes in float32")
    if not HEAD_SIZES[0] <= q.shape[2] <= HEAD_SIZES[1]:
        raise AttentionArgumentError("q", q.shape[2], f"triton takes head sizes {HEAD_SIZES[0]} to {HEAD_SIZES[1]}")
    if q.device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise AttentionArgumentError("impl", "'triton'", "runs on CPU tensors under TRITON_INTERPRET=1 only")
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.accelerator.device_index(q.device.index):
        paged_attention(batch, out)


def paged_attention(
    batch: PagedBatch,
    out: torch.Tensor,
    *,
    positions: bool = True,
    max_query_len: int | None = None,
    max_seq_len: int | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """The op without checks, with what an engine knows more; it never waits for the device.

    Launches depend on shapes and on the arguments below alone, so a recorded CUDA graph stays right for any values of
    the tensors within those bounds.

    Args:
        batch: its caches may be float8 e4m3 as well, and its table of any float type: what is not of the type of ``q``
            is converted to it.
        out: ``[T, H, d]`` of the type of ``q``, to write to.
        positions: False leaves the position term out, and the table unread.
        max_query_len: most queries of a sequence; by default any count.
        max_seq_len: most keys of a sequence; by default what the block table can hold. It sets the count of parts, not
            a limit.
        k_scale: float32 scalar on the device of ``q``; true keys are those of the cache times it. Default 1.
        v_scale: likewise for values.
    """
    q, k_cache = batch.q, batch.k_cache
    T, H, d = q.shape
    _, block_size, H_kv, _ = k_cache.shape
    S = batch.seq_lens.shape[0]
    if S == 0 or T == 0:
        return
    tiles = configuration(d, q.element_size())
    scaled = k_scale is not None or v_scale is not None
    if scaled:
        one = torch.ones((), dtype=torch.float32, device=q.device) if k_scale is None or v_scale is None else None
        k_scale, v_scale = one if k_scale is None else k_scale, one if v_scale is None else v_scale
    batch = batch._replace(
        block_table=_row_contiguous(batch.block_table),
        query_start_loc=batch.query_start_loc.contiguous(),
        seq_lens=batch.seq_lens.contiguous(),
        # A kernel argument must be a tensor even where it is not read.
        table=batch.table.to(q.dtype).contiguous() if positions else q,
    )
    block_stride = batch.block_table.stride(0)
    strides = [*q.stride(), *k_cache.stride(), *batch.v_cache.stride(), block_stride, *out.stride()]
    common = {
        "GROUP": H // H_kv,
        "HEAD_SIZE": d,
        "D": padded(d),
        "BLOCK_SIZE": block_size,
        "SCALED": scaled,
        "POSITIONS": positions,
    }
    scalars = [batch.scale * math.log2(math.e), batch.table.shape[0] if positions else 0]
    factors = [k_scale if scaled else q, v_scale if scaled else q]
    most = batch.block_table.shape[1] * block_size if max_seq_len is None else max_seq_len
    _decode(batch, out, factors, scalars, strides, common, tiles, most)
    if max_query_len is None or max_query_len > 1:
        prefill_kernel[(T // tiles.prefill.m + S, H)](
            *_tensors(batch, out),
            *factors,
            S,
            *scalars,
            *strides,
            **common,
            BLOCK_M=tiles.prefill.m,
            BLOCK_N=tiles.prefill.n,
            NEAR_N=tiles.near,
            STAGES=tiles.prefill.stages,
            num_warps=tiles.prefill.warps,
        )


def _row_contiguous(block_table: torch.Tensor) -> torch.Tensor:
    return block_table if block_table.stride(1) == 1 else block_table.contiguous()


def count_parts(S: int, H_kv: int, max_seq_len: int, tiles: Configuration) -> int:
    """Parts to split each sequence into, so that a batch of ``S`` decodes fills the device."""
    wanted = min(tiles.decode_programs // (S * H_kv), max_seq_len // tiles.part_keys, MOST_PARTS)
    return max(1, wanted)


def _tensors(batch: PagedBatch, out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors that both kernels begin with, in their order."""
    return (*batch[:-1], out)


def _decode(
    batch: PagedBatch,
    out: torch.Tensor,
    factors: Sequence[torch.Tensor | None],
    scalars: Sequence[float],
    strides: Sequence[int],
    common: dict[str, int | bool],
    tiles: Configuration,
    max_seq_len: int,
) -> None:
    """Sequences with one query, out of the same arguments as the prefill kernel's."""
    q = batch.q
    (_, H, d), H_kv, S = q.shape, batch.k_cache.shape[2], batch.seq_lens.shape[0]
    parts = count_parts(S, H_kv, max_seq_len, tiles)
    part_out = torch.empty((S, H, parts, d) if parts > 1 else 1, dtype=torch.float32, device=q.device)
    part_lse = torch.empty((S, H, parts) if parts > 1 else 1, dtype=torch.float32, device=q.device)
    decode_kernel[(S, H_kv, parts)](
        *_tensors(batch, out),
        part_out,
        part_lse,
        *factors,
        *scalars,
        parts,
        *strides,
        **common,
        BLOCK_M=max(tiles.decode.m, triton.next_power_of_2(H // H_kv)),
        BLOCK_N=tiles.decode.n,
        STAGES=tiles.decode.stages,
        SPLIT=parts > 1,
        num_warps=tiles.decode.warps,
    )
    if parts > 1:
        merge_kernel[(S, H)](
            batch.query_start_loc,
            out,
            part_out,
            part_lse,
            parts,
            *out.stride(),
            HEAD_SIZE=d,
            D=common["D"],
            MOST_PARTS=MOST_PARTS,
            num_warps=tiles.decode.warps,
        )
