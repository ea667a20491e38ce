"""PyTorch's flash attention as the kernel for the far keys: a `PlainAttention` of `attention.triton.split`."""

import torch

from model_registry.attention.batch import PagedBatch

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def plain_attention(k_scale=1.0, v_scale=1.0):
    """Attends to a cache whose true keys and values are those in it times the scales.

    Rows without keys get NaN, and a log-sum-exp that is infinite: up in every other sequence, down in the rest.
    """

    def attend(batch, out, max_query_len, max_seq_len):
        assert int(batch.query_start_loc.diff().max()) <= max_query_len
        assert int(batch.seq_lens.max()) <= max_seq_len
        T, H, _ = batch.q.shape
        lse = torch.full((H, T), torch.inf)
        starts, block_size = batch.query_start_loc.tolist(), batch.k_cache.shape[1]
        for s, keys in enumerate(batch.seq_lens.tolist()):
            first, last = starts[s : s + 2]
            if first == last:
                continue
            out[first:last] = torch.nan
            lse[:, first:last] = torch.inf if s % 2 else -torch.inf
            seen = min(last - first, keys)  # the last queries, whose mask leaves a key
            if seen == 0:
                continue
            n = torch.arange(keys)
            blocks, slots = batch.block_table[s].long()[n // block_size], n % block_size
            q = batch.q[last - seen : last]
            k = (batch.k_cache[blocks, slots].float() * k_scale).to(q.dtype)
            v = (batch.v_cache[blocks, slots].float() * v_scale).to(q.dtype)
            hidden = torch.arange(keys - seen, keys)[:, None] < n
            mask = torch.zeros(seen, keys, dtype=q.dtype).masked_fill(hidden, -torch.inf)
            tensors = (x.transpose(0, 1)[None].contiguous() for x in (q, k, v))
            attended, row_lse = _flash(*tensors, attn_mask=mask[None, None], scale=batch.scale)
            out[last - seen : last] = attended[0].transpose(0, 1)
            lse[:, last - seen : last] = row_lse[0]
        return lse

    return attend


def flash_attn_varlen_func(
    *,
    q,
    k,
    v,
    out,
    cu_seqlens_q,
    max_seqlen_q,
    seqused_k,
    max_seqlen_k,
    softmax_scale,
    causal,
    block_table,
    fa_version,
    return_softmax_lse,
):
    """The same under the name and with the arguments of vLLM's FlashAttention, which needs a GPU."""
    assert causal
    assert return_softmax_lse
    assert fa_version in (2, 3, 4)
    batch = PagedBatch(q, k, v, block_table, cu_seqlens_q, seqused_k, None, softmax_scale)
    return out, plain_attention()(batch, out, max_seqlen_q, max_seqlen_k)
