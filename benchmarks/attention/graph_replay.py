"""One recorded CUDA graph replayed with other batches: their rows have other lengths, blocks and counts of queries.

    python -m benchmarks.attention.graph_replay        on a GPU; needs torch and triton, and vLLM for the second graph

A graph of 4 decodes, and one of 4 prompts in two parts with vLLM's FlashAttention, each recorded once for up to 3,000
keys. Every batch is copied into the tensors of the recording, the output set to NaN, the graph replayed, and the result
held against float64 as in ``parity``. Exits 1 if one is out of bounds.
"""

from __future__ import annotations

import sys
from itertools import accumulate

import torch

from benchmarks.attention.case import allowed_error
from benchmarks.attention.parity import NAN, plain_attention, rounded_reference
from model_registry.attention.batch import PagedBatch
from model_registry.attention.triton.op import paged_attention
from model_registry.attention.triton.split import Split, make_split
from model_registry.positions.wavelet import position_table

H, H_KV, D, BLOCK, MOST_KEYS, SEQUENCES = 8, 2, 128, 16, 3000, 4
BLOCKS = -(-MOST_KEYS // BLOCK)
# Queries and keys of each sequence; those recorded first.
DECODES = (([1, 1, 1, 1], [1, 1, 1, 1]), ([1, 1, 1, 1], [3000, 17, 640, 1]), ([1, 1, 1, 0], [2, 2999, 577, 0]))
PROMPTS = (
    ([300, 300, 300, 300], [300, 300, 300, 300]),
    ([700, 1, 499, 0], [3000, 2048, 499, 0]),
    ([2, 577, 576, 45], [2, 577, 2900, 1100]),
)


def batch_of(queries: list[int], lengths: list[int], seed: int) -> PagedBatch:
    """Blocks in random order, NaN where no key is."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    rows = sum(PROMPTS[0][0]) if max(queries) > 1 else SEQUENCES
    kv = torch.full((SEQUENCES * BLOCKS, H_KV, BLOCK, 2 * D), NAN, dtype=torch.bfloat16, device="cuda")
    order = torch.randperm(SEQUENCES * BLOCKS, generator=generator, device="cuda").to(torch.int32)
    block_table = order.view(SEQUENCES, BLOCKS)
    for s, length in enumerate(lengths):
        n = torch.arange(length, device="cuda")
        drawn = torch.randn(length, H_KV, 2 * D, generator=generator, device="cuda").bfloat16()
        kv[block_table[s].long()[n // BLOCK], :, n % BLOCK] = drawn
    return PagedBatch(
        torch.randn(rows, H, D, generator=generator, device="cuda").bfloat16(),
        kv[..., :D].transpose(1, 2),
        kv[..., D:].transpose(1, 2),
        block_table,
        torch.tensor([0, *accumulate(queries)], dtype=torch.int32, device="cuda"),
        torch.tensor(lengths, dtype=torch.int32, device="cuda"),
        position_table("ricker", [*range(8)], [*range(16)]).to("cuda"),
        D**-0.5,
    )


def replayed(batches: tuple[tuple[list[int], list[int]], ...], split: Split | None) -> list[float]:
    """Of each batch after the first, which is recorded: the worst error in times of its bound."""
    held = batch_of(*batches[0], seed=0)
    out = torch.empty_like(held.q)
    options = {"max_query_len": 1 if split is None else 700, "max_seq_len": MOST_KEYS, "split": split}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        paged_attention(held, out, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        paged_attention(held, out, **options)
    errors = []
    for seed, (queries, lengths) in enumerate(batches[1:], 1):
        batch = batch_of(queries, lengths, seed)
        for target, source in zip(held[:-2], batch[:-2], strict=True):
            target.copy_(source)
        out.fill_(NAN)
        graph.replay()
        case = batch._asdict() | {"k_factor": 1.0, "v_factor": 1.0}
        rows = sum(queries)
        exact, rounded = (x[:rows] for x in rounded_reference(case, out.dtype))
        errors.append(float((out[:rows].double() - exact).abs().max()) / allowed_error(exact, rounded, out.dtype))
    return errors


def main() -> None:
    graphs = {"decodes": replayed(DECODES, None)}
    split = make_split(plain_attention("cuda"), batch_of(*PROMPTS[0], seed=0).table, torch.bfloat16, H // H_KV)
    if "attend_in_float32" in repr(split.plain):
        print("prompts in two parts: skipped, vLLM has no FlashAttention here")
    else:
        graphs["prompts in two parts"] = replayed(PROMPTS, split)
    for name, errors in graphs.items():
        print(f"{name}: {len(errors)} batches replayed, worst {max(errors):.2f} of its bound")
    sys.exit(0 if all(error <= 1 for errors in graphs.values() for error in errors) else 1)


if __name__ == "__main__":
    main()
