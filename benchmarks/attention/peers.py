"""What the wavelet kernels are measured against; each takes a case and returns a call without arguments.

A call returns ``[T, H, d]``. A peer that cannot run raises ``Unavailable`` with the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from model_registry.attention.batch import PagedBatch
from model_registry.attention.triton.op import paged_attention
from model_registry.attention.triton.split import Split, make_split

if TYPE_CHECKING:
    from benchmarks.attention.case import Case

Call = Callable[[], torch.Tensor]


class Unavailable(Exception):  # noqa: N818 - a reason, not an error
    """The peer cannot run here."""


def batch_of(case: Case) -> PagedBatch:
    """The case's arguments, the table in the type of the queries."""
    tensors = (case.q, case.k_cache, case.v_cache, case.block_table, case.query_start_loc, case.seq_lens)
    return PagedBatch(*tensors, case.table.to(case.dtype), case.scale)


def split_of(case: Case) -> Split:
    """Two parts for the case's prompts, with vLLM's FlashAttention as the plugin takes it.

    Raises:
        Unavailable: vLLM has none here.
    """
    version = _imported("vllm.v1.attention.backends.fa_utils", "get_flash_attn_version")(head_size=case.shape.d)
    if version is None:
        raise Unavailable("vLLM has no FlashAttention for this device")
    kernel = _imported("model_registry.vllm_plugin.flash", "FlashAttention")(version)
    return make_split(kernel, case.table, case.dtype, case.shape.H // case.shape.H_kv)


def _ours(case: Case, *, positions: bool = True, split: Split | None = None) -> Call:
    out = torch.empty_like(case.q)
    one = torch.ones((), device=case.q.device)
    scales = {"k_scale": one, "v_scale": one} if case.kv.dtype != case.dtype else {}
    batch = batch_of(case)

    if split is not None:
        # Once a step in an engine, for all layers.
        split = replace(split, of_step=split.key_rows(batch, case.shape.context))

    def call() -> torch.Tensor:
        paged_attention(
            batch,
            out,
            positions=positions,
            max_query_len=case.shape.queries,
            max_seq_len=case.shape.context,
            single_queries=case.shape.queries == 1,
            split=split,
            **scales,
        )
        return out

    return call


def wavelet(case: Case) -> Call:
    """Prompts in two parts where vLLM has FlashAttention 3 for the device, as its plugin runs them."""
    if case.shape.queries == 1 or not _has_flash_attention_3():
        return _ours(case)
    return _ours(case, split=split_of(case))


def _has_flash_attention_3() -> bool:
    try:
        supported = _imported("vllm.vllm_flash_attn.flash_attn_interface", "is_fa_version_supported")
    except Unavailable:
        return False
    return bool(supported(3))


def wavelet_fused(case: Case) -> Call:
    if case.shape.queries == 1:
        raise Unavailable("it is wavelet here")
    return _ours(case)


def wavelet_split(case: Case) -> Call:
    """Prompts in two parts with FlashAttention 2 or 4."""
    if case.shape.queries == 1 or _has_flash_attention_3():
        raise Unavailable("it is wavelet here")
    return _ours(case, split=split_of(case))


def term_off(case: Case) -> Call:
    return _ours(case, positions=False)


def _packed(case: Case, out: torch.Tensor) -> torch.Tensor:
    return out.transpose(1, 2).reshape(case.q.shape)


def _sdpa(backend: SDPBackend) -> Callable[[Case], Call]:
    def prepare(case: Case) -> Call:
        q, k, v = case.contiguous()
        shape = case.shape
        mask = None if shape.queries == 1 else causal_lower_right(shape.queries, shape.context)

        def call() -> torch.Tensor:
            with sdpa_kernel(backend):
                out = torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, scale=case.scale, enable_gqa=True
                )
            return _packed(case, out)

        return call

    return prepare


def flex(case: Case) -> Call:
    """FlexAttention with the same score: a score modifier that looks ``q . p(t)`` up."""
    q, k, v = case.contiguous()
    shape, rows = case.shape, case.table.shape[0]
    first = shape.context - shape.queries
    device = q.device

    def visible(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        del b, h
        return first + i >= n

    mask = create_block_mask(visible, None, None, shape.queries, shape.context, device=device.type)
    # Each case compiles a new score function. After a few of them torch.compile falls back to unfused code: start anew.
    torch._dynamo.reset()
    attend = flex_attention if device.type == "cpu" else torch.compile(flex_attention, dynamic=False)
    table = case.table.to(case.dtype)

    def call() -> torch.Tensor:
        products = torch.matmul(q, table.T)

        def score(e: torch.Tensor, b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            t = first + i - n
            term = products[b, h, i, torch.clamp(t, 0, rows - 1)] * case.scale
            return e + torch.where((t >= 0) & (t < rows), term, 0.0)

        out = attend(q, k, v, score_mod=score, block_mask=mask, scale=case.scale, enable_gqa=True)
        return _packed(case, out)

    return call


def _imported(module: str, name: str) -> Callable:
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise Unavailable(f"{module}.{name}: {error}") from error


def vllm_unified(case: Case) -> Call:
    """vLLM's Triton kernel, without positions."""
    unified_attention = _imported("vllm.v1.attention.ops.triton_unified_attention", "unified_attention")
    shape, out, segments = case.shape, torch.empty_like(case.q), 16
    threshold = 128 // shape.H_kv
    # With fewer rows of scratch than decodes vLLM 0.33 falls to its slow kernel without a word.
    parts = (max(threshold, shape.batch), shape.H, segments)
    part_out = torch.empty(*parts, shape.d, dtype=torch.float32, device=case.q.device)
    part_max, part_sum = (torch.empty(parts, dtype=torch.float32, device=case.q.device) for _ in range(2))
    k_cache, v_cache = case.k_cache, case.v_cache

    def call() -> torch.Tensor:
        unified_attention(
            q=case.q,
            k=k_cache,
            v=v_cache,
            out=out,
            cu_seqlens_q=case.query_start_loc,
            max_seqlen_q=shape.queries,
            seqused_k=case.seq_lens,
            max_seqlen_k=shape.context,
            softmax_scale=case.scale,
            causal=True,
            window_size=(-1, -1),
            block_table=case.block_table,
            softcap=0,
            q_descale=None,
            k_descale=None,
            v_descale=None,
            seq_threshold_3D=threshold,
            num_par_softmax_segments=segments,
            softmax_segm_output=part_out,
            softmax_segm_max=part_max,
            softmax_segm_expsum=part_sum,
        )
        return out

    return call


def flash_attention_3(case: Case) -> Call:
    """FlashAttention-3 as vLLM ships it, on the same paged cache, without positions."""
    attend = _imported("vllm.vllm_flash_attn", "flash_attn_varlen_func")
    shape, out = case.shape, torch.empty_like(case.q)
    k_cache, v_cache = case.k_cache, case.v_cache

    def call() -> torch.Tensor:
        attend(
            q=case.q,
            k=k_cache,
            v=v_cache,
            out=out,
            cu_seqlens_q=case.query_start_loc,
            max_seqlen_q=shape.queries,
            seqused_k=case.seq_lens,
            max_seqlen_k=shape.context,
            softmax_scale=case.scale,
            causal=True,
            block_table=case.block_table,
            fa_version=3,
        )
        return out

    return call


def inkling(case: Case) -> Call:
    """vLLM's attention for Inkling, whose bounded relative term is content dependent as ours is: on its own shapes.

    It takes the terms ``q . p(t)`` as a tensor of 1,024 distances a query, whose product is part of the call, and looks
    one up for each score. On Hopper it splits no sequence.
    """
    if case.shape.model != "Inkling":
        raise Unavailable("a peer on its own shapes")
    attend = _imported("vllm.models.inkling.nvidia.ops.fa4_rel_attention", "InklingFA4RelAttentionKernel").kernel
    _imported("cutlass", "cute")
    shape, out, extent = case.shape, torch.empty_like(case.q), 1024
    table = torch.nn.functional.pad(case.table[:extent], (0, 0, 0, max(0, extent - case.table.shape[0])))
    table = (table * case.scale).to(case.dtype)

    def call() -> torch.Tensor:
        return attend(
            case.q,
            case.k_cache,
            case.v_cache,
            block_table=case.block_table,
            cache_seqlens=case.seq_lens,
            cu_seqlens_q=case.query_start_loc,
            max_seqlen_q=shape.queries,
            softmax_scale=case.scale,
            causal=True,
            window_size=(-1, -1),
            rel_extent=extent,
            rel_logits=torch.matmul(case.q, table.T),
            num_splits=1,
            out=out,
        )

    return call


PEERS: dict[str, tuple[Callable[[Case], Call], bool]] = {
    "wavelet": (wavelet, True),
    "wavelet fused": (wavelet_fused, True),
    "wavelet split": (wavelet_split, True),
    "term off": (term_off, False),
    "flex": (flex, True),
    "sdpa flash": (_sdpa(SDPBackend.FLASH_ATTENTION), False),
    "sdpa cudnn": (_sdpa(SDPBackend.CUDNN_ATTENTION), False),
    "vllm unified": (vllm_unified, False),
    "flash attention 3": (flash_attention_3, False),
    "inkling": (inkling, True),
}
"""By name: how to prepare it, and whether its score has the position term."""
