"""The GPU implementation of the vLLM backend against the CPU's, under Triton's interpreter; a script, see
`test_gpu_backend.py`. The cache is written by the CPU implementation: vLLM's kernel for it needs a GPU."""

import os
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from helpers.plain_attention import flash_attn_varlen_func
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends import fa_utils

from model_registry.attention import NearBias
from model_registry.attention.triton import split
from model_registry.vllm_plugin import flash
from model_registry.vllm_plugin import gpu as gpu_module
from model_registry.vllm_plugin.backend import WaveletAttentionBackend
from model_registry.vllm_plugin.cpu import WaveletCpuAttentionImpl
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.gpu import WaveletGpuAttentionImpl

H, H_KV, D, BLOCK = 4, 2, 32, 16
split.SHORT_CONTEXT = 1  # no context is
generator = torch.Generator().manual_seed(3)


def normal(*shape):
    return torch.randn(*shape, generator=generator)


def metadata(queries, lengths):
    starts = torch.tensor([0, *queries]).cumsum(0).to(torch.int32)
    blocks = torch.arange(len(lengths) * 4, dtype=torch.int32).view(len(lengths), 4)
    common = CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.tensor(lengths, dtype=torch.int32),
        num_reqs=len(lengths),
        num_actual_tokens=sum(queries),
        max_query_len=max(queries),
        max_seq_len=max(lengths),
        block_table_tensor=blocks,
        slot_mapping=torch.empty(0),
    )
    builder = WaveletAttentionBackend.get_builder_cls()(None, [], None, torch.device("cpu"))
    return builder.build(0, common), builder.build_for_cudagraph_capture(common)


table = normal(40, D)
cpu, gpu = (kind(H, D, D**-0.5, H_KV, table=table) for kind in (WaveletCpuAttentionImpl, WaveletGpuAttentionImpl))
layer = SimpleNamespace(_k_scale=torch.tensor(0.5), _v_scale=torch.tensor(1.5))
for queries, lengths in (([20, 1, 7], [50, 33, 7]), ([1, 1], [60, 17])):
    now, _ = metadata(queries, lengths)
    now.seq_lens = torch.tensor(lengths, dtype=torch.int32)
    kv_cache = torch.zeros(4 * len(lengths), H_KV, BLOCK, 2 * D)
    for s, length in enumerate(lengths):
        slots = torch.arange(length) + s * 4 * BLOCK
        cpu.do_kv_cache_update(layer, normal(length, H_KV, D), normal(length, H_KV, D), kv_cache, slots)
    query = normal(sum(queries) + 2, H, D)  # two rows of padding, as in a CUDA graph
    outputs = [
        impl.forward(layer, query, None, None, kv_cache, now, torch.full_like(query, 7.0)) for impl in (cpu, gpu)
    ]
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5
    assert (outputs[1][-2:] == 7).all()
    biased = [
        kind(H, D, D**-0.5, H_KV, table=table, near_bias=NearBias(0.9, 10, 15)).forward(
            layer, query, None, None, kv_cache, now, torch.full_like(query, 7.0)
        )
        for kind in (WaveletCpuAttentionImpl, WaveletGpuAttentionImpl)
    ]
    assert (biased[0] - biased[1]).abs().max() < 1e-5
    assert (biased[0] - outputs[0]).abs().max() > 1e-2

    # Keys of another type than the queries are converted.
    narrow = kv_cache.bfloat16()
    out = gpu.forward(layer, query, None, None, narrow, now, torch.full_like(query, 7.0))
    expected = cpu.forward(layer, query, None, None, narrow.float(), now, torch.full_like(query, 7.0))
    assert (out - expected).abs().max() < 1e-5

    torch.set_default_dtype(torch.bfloat16)
    float8 = WaveletGpuAttentionImpl(H, D, D**-0.5, H_KV, None, None, "fp8", table=table)
    torch.set_default_dtype(torch.float32)
    assert float8.table.dtype is torch.bfloat16
    stored = kv_cache.to(torch.float8_e4m3fn)
    out = float8.forward(layer, query.bfloat16(), None, None, stored.view(torch.uint8), now, query.bfloat16())
    true = stored.float() * torch.cat([torch.full((D,), 0.5), torch.full((D,), 1.5)])
    expected = cpu.forward(layer, query.bfloat16().float(), None, None, true, now, query.bfloat16().float())
    # bfloat16 rounds weights and outputs, and the interpreter truncates: some eps of the largest value.
    assert (out - expected).abs().max() < 4 * torch.finfo(torch.bfloat16).eps * true.abs().max()

    # In two parts: vLLM's FlashAttention needs a GPU, so PyTorch's stands in for it, and the platform for a GPU.
    os.environ[flash.VARIABLE] = "split"
    flash.current_platform = SimpleNamespace(is_cuda=lambda: True)
    fa_utils.get_flash_attn_version, fa_utils.flash_attn_varlen_func = lambda head_size: 2, flash_attn_varlen_func
    torch.set_default_dtype(torch.bfloat16)
    in_two_parts = WaveletGpuAttentionImpl(H, D, D**-0.5, H_KV, table=table[:32])
    one_kernel = WaveletCpuAttentionImpl(H, D, D**-0.5, H_KV, table=table[:32])
    with pytest.raises(UnsupportedByWaveletAttentionError, match="it must be 64") as caught:
        WaveletGpuAttentionImpl(H, D, D**-0.5, H_KV, table=table, near_bias=NearBias(0.9, 10, 40))
    assert (caught.value.feature, caught.value.value) == ("near_bias_keys", 40)
    del os.environ[flash.VARIABLE]
    fa_utils.get_flash_attn_version = lambda head_size: flash.ON_ITS_OWN
    assert WaveletGpuAttentionImpl(H, D, D**-0.5, H_KV, table=table).split is not None
    assert WaveletGpuAttentionImpl(H, D, D**-0.5, H_KV, table=table, near_bias=NearBias(0.9, 10, 40)).split is None
    torch.set_default_dtype(torch.float32)
    caches, rounded = kv_cache.bfloat16(), query.bfloat16()
    for layer_of_step in range(2):
        with patch.object(gpu_module, "paged_attention", wraps=gpu_module.paged_attention) as attend:
            out = in_two_parts.forward(layer, rounded, None, None, caches, now, torch.full_like(rounded, 7.0))
        longest = [call.kwargs["max_seq_len"] for call in attend.call_args_list]
        # The first time it compiles what batches of any length need.
        assert longest == ([max(lengths)] if layer_of_step else [1, None, max(lengths)])
        assert len(now.key_rows) == (max(queries) > 1), layer_of_step
    expected = one_kernel.forward(layer, rounded.float(), None, None, caches.float(), now, query.clone())
    assert (out[:-2] - expected[:-2]).abs().max() < 4 * torch.finfo(torch.bfloat16).eps * caches.abs().max()
    assert (out[-2:] == 7).all()
    assert in_two_parts.forward(layer, rounded, None, None, caches, None, rounded.clone()).eq(0).all()

captured, other = metadata([1, 1], [60, 17])
assert (captured.max_query_len, captured.max_seq_len) == (1, 60)
assert (other.seq_lens == 1).all()
for impl in (cpu, gpu):  # vLLM profiles with memory that nobody has written
    assert impl.forward(layer, query, None, None, kv_cache, None, torch.full_like(query, torch.nan)).eq(0).all()
sys.stdout.write("in bounds")
