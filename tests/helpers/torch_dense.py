"""PyTorch's own attention on a paged case, as the measure of what an element type loses."""

import torch


def torch_dense(case, s):
    """PyTorch's attention with the exact position term, the near keys' bonus and the causal mask as a float32 mask."""
    q, k, v = case.sequence(s)
    n_q, H, L = q.shape[0], q.shape[1], k.shape[0]
    t = torch.arange(L - n_q, L)[:, None] - torch.arange(L)
    R = case.table.shape[0]
    table = torch.nn.functional.pad(case.table.double(), (0, 0, 0, 1))
    bias = torch.einsum("mhd,td->hmt", q.double(), table).gather(2, t.clamp(0, R).expand(H, n_q, L)) * case.scale
    if case.near_bias is not None:
        seen = torch.arange(L - n_q + 1, L + 1).double()[:, None]
        bias = bias + torch.where(t < case.near_bias.keys, case.near_bias.of(seen), 0.0)
    mask = bias.masked_fill(t < 0, -torch.inf).float()
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask[None], scale=case.scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)
