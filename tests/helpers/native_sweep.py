"""Compares the native kernel with the reference over ragged shapes, in every element type, and checks what the library
writes to a cache of those shapes. A script: the kernel's variant is chosen once per process.

usage: native_sweep.py COUNT
"""

import itertools
import random
import sys
from dataclasses import replace

import torch

from helpers.paged_case import paged_case
from model_registry.attention import CacheWriter, NearBias, wavelet_attention
from model_registry.attention.native.library import load_library

# Multiples of a rounding error, for outputs of order 1 over up to a few thousand keys.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HEADS = [(1, 1), (4, 4), (4, 2), (6, 2), (8, 2), (5, 1), (6, 1), (7, 1), (16, 1)]
HEAD_SIZES = [1, 4, 24, 32, 63, 64, 80, 128, 256]
BLOCKS = [1, 16, 48, 128]
REACHES = [1, 15, 17, 128, 760, 5000]

shapes = random.Random(0)
largest = 0.0
pairs = shapes.sample([*itertools.product(HEADS, HEAD_SIZES)], int(sys.argv[1]))
for i, ((H, H_kv), d) in enumerate(pairs):
    lengths = [shapes.choice([1, 2, 127, 129, 640, 2300]) for _ in range(3)] + [0]
    queries = [shapes.choice([1, min(5, length), min(70, length)]) for length in lengths[:3]] + [shapes.choice([0, 2])]
    block_size, R = shapes.choice(BLOCKS), shapes.choice(REACHES)
    near_bias = NearBias(1.5, shapes.choice([1, 100]), shapes.randint(1, R)) if i % 3 == 0 else None
    for dtype, tolerance in TOLERANCE.items():
        case = paged_case(lengths, queries, H=H, H_kv=H_kv, d=d, block_size=block_size, R=R, dtype=dtype, seed=i)
        case = replace(case, near_bias=near_bias)
        out = torch.full_like(case.q, float("nan"))
        wavelet_attention(*case.arguments(), out=out, impl="cpu")
        exact = wavelet_attention(*case.to(torch.float64).arguments(), impl="reference")
        error = float((out - exact).abs().max())
        if not error <= tolerance:
            shape = f"{dtype} H={H} H_kv={H_kv} d={d} block={block_size} R={R} {near_bias} {lengths} {queries}"
            sys.exit(f"{shape}: error {error}")
        largest = max(largest, error / tolerance)
        caches = [torch.full_like(cache, 7.0) for cache in (case.k_cache, case.v_cache)]
        places = caches[0].shape[0] * block_size
        slots = torch.randperm(places)[: min(places, 200)]
        rows = torch.randn(slots.shape[0], 2 * H_kv, d).to(dtype)
        CacheWriter(*caches).write(rows[:, :H_kv], rows[:, H_kv:], slots)
        if not torch.equal(torch.cat([cache.reshape(-1, H_kv, d)[slots] for cache in caches], dim=1), rows):
            sys.exit(f"{dtype} H_kv={H_kv} d={d} block={block_size}: rows are not in their slots")
sys.stdout.write(f"{load_library()[1].name}: {len(pairs)} shapes, largest error {largest:.2f} of the tolerance\n")
