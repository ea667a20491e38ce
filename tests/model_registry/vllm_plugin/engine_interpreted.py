"""Real vLLM whose layers have the GPU implementation, under Triton's interpreter; a script, see `test_gpu_backend.py`.

    python engine_interpreted.py CASES.json RESULTS.json

Cases and results are those of `helpers/engine_parity.py`. Prompts go in two parts. Two of vLLM's kernels need a GPU:
FlashAttention, whose place PyTorch's attention takes, and the one that writes the cache, for which ours for CPUs does.
"""

import sys
from pathlib import Path

from helpers import plain_attention
from vllm.v1.attention.backends import fa_utils

sys.path.insert(0, str(Path(plain_attention.__file__).parent))  # where engine_parity looks for its own helpers
import engine_parity

from model_registry.attention.triton import split
from model_registry.vllm_plugin import backend, gpu
from model_registry.vllm_plugin.cpu import WaveletCpuAttentionImpl
from model_registry.vllm_plugin.flash import FlashAttention

fa_utils.flash_attn_varlen_func = plain_attention.flash_attn_varlen_func
# The interpreter takes seconds for a step. The longest prompt has chunks while its context is short, and after.
engine_parity.LENGTHS, engine_parity.CHUNK, engine_parity.DECODED = (321, 63, 150), 128, 2
split.SHORT_CONTEXT = 192


class Interpreted(gpu.WaveletGpuAttentionImpl):
    """The GPU implementation, but for what writes the cache."""

    _kv_cache = None
    _look_at = WaveletCpuAttentionImpl._look_at
    do_kv_cache_update = WaveletCpuAttentionImpl.do_kv_cache_update


backend.WaveletCpuAttentionImpl = Interpreted
gpu.flash_attention = lambda *model: FlashAttention(3)
if __name__ == "__main__":
    engine_parity.main()
