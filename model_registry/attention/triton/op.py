"""The attention op in Triton, for GPUs of any maker: decode in ``decode``, prompts in ``prefill`` or, with a kernel for
the far keys at hand, in ``split``. docs/gpu-attention.md says how they work and what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton

from model_registry.attention.arguments import AttentionArgumentError
from model_registry.attention.triton.configuration import (
    MOST_PARTS,
    Configuration,
    configuration,
    multiprocessors,
)
from model_registry.attention.triton.decode import decode_kernel, merge_kernel
from model_registry.attention.triton.launch import Arguments, arguments
from model_registry.attention.triton.prefill import prefill_kernel
from model_registry.attention.triton.split import Split, attend_in_two_parts

if TYPE_CHECKING:
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
    single_queries: bool = True,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    split: Split | None = None,
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
        max_seq_len: most keys of a sequence; by default what the block table can hold. It sets the count of parts, and
            with ``split`` it is a limit.
        single_queries: False promises that no sequence has a single query, and saves the decode kernel's launch.
        k_scale: float32 scalar on the device of ``q``; true keys are those of the cache times it. Default 1.
        v_scale: likewise for values.
        split: how to attend in two parts where sequences have two queries or more, by the table that it brings; by
            default one kernel does all.
    """
    q = batch.q
    S = batch.seq_lens.shape[0]
    if S == 0 or q.shape[0] == 0:
        return
    tiles = configuration(q.shape[2], q.element_size())
    most_keys = batch.block_table.shape[1] * batch.k_cache.shape[1] if max_seq_len is None else max_seq_len
    prompts = max_query_len is None or max_query_len > 1
    given = arguments(batch, out, positions=positions, k_scale=k_scale, v_scale=v_scale)
    if prompts and split is not None:
        # First: it writes to the rows of single queries too.
        attend_in_two_parts(split, batch, given, max_query_len or q.shape[0], most_keys)
    elif prompts:
        prefill_kernel[(q.shape[0] // tiles.prefill.m + S, q.shape[1])](
            *given.tensors,
            *given.factors,
            S,
            *given.scalars,
            *given.strides,
            **given.constants,
            POSITIONS=positions,
            BLOCK_M=tiles.prefill.m,
            BLOCK_N=tiles.prefill.n,
            NEAR_N=tiles.near,
            STAGES=tiles.prefill.stages,
            num_warps=tiles.prefill.warps,
        )
    if single_queries:
        _decode(given, positions, tiles, most_keys)


def count_parts(S: int, H_kv: int, max_seq_len: int, tiles: Configuration) -> int:
    """Parts to split each sequence into, so that a batch of ``S`` decodes fills the device."""
    programs = tiles.decode_programs * multiprocessors()
    wanted = min(programs // (S * H_kv), max_seq_len // tiles.part_keys, MOST_PARTS)
    return max(1, wanted)


def _decode(given: Arguments, positions: bool, tiles: Configuration, max_seq_len: int) -> None:
    """Sequences with one query."""
    q, k_cache, _, _, query_start_loc, seq_lens, _, out = given.tensors
    (_, H, d), H_kv, S = q.shape, k_cache.shape[2], seq_lens.shape[0]
    parts = count_parts(S, H_kv, max_seq_len, tiles)
    part_out = torch.empty((S, H, parts, d) if parts > 1 else 1, dtype=torch.float32, device=q.device)
    part_lse = torch.empty((S, H, parts) if parts > 1 else 1, dtype=torch.float32, device=q.device)
    decode_kernel[(S, H_kv, parts)](
        *given.tensors,
        part_out,
        part_lse,
        *given.factors,
        *given.scalars,
        parts,
        *given.strides,
        **given.constants,
        POSITIONS=positions,
        BLOCK_M=max(tiles.decode.m, triton.next_power_of_2(H // H_kv)),
        BLOCK_N=tiles.decode.n,
        STAGES=tiles.decode.stages,
        SPLIT=parts > 1,
        num_warps=tiles.decode.warps,
    )
    if parts > 1:
        merge_kernel[(S, H)](
            query_start_loc,
            out,
            part_out,
            part_lse,
            parts,
            *out.stride(),
            HEAD_SIZE=d,
            D=given.constants["D"],
            MOST_PARTS=MOST_PARTS,
            num_warps=tiles.decode.warps,
        )
