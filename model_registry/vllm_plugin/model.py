"""Llama with the position encoding of its config, for vLLM: wavelet, rope, alibi or nope, and ``log_n`` scaling.

Only the attention differs from vLLM's Llama: no rotation unless the type is rope, and wavelet layers run on
``WaveletAttentionBackend``. Tensor and pipeline parallel, quantised weights, LoRA and compilation are vLLM's own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from vllm.config import CompilationMode, get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionType

from model_registry.positions.alibi import alibi_slopes
from model_registry.positions.logit_scaling import log_n_factor
from model_registry.positions.shared_table import shared_position_table
from model_registry.vllm_plugin.backend import WaveletAttentionBackend
from model_registry.vllm_plugin.division import check_heads, check_stages
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError


class WaveletLlamaAttention(LlamaAttention):
    """vLLM's Llama attention with the position encoding and the logit scaling that the config names."""

    def __init__(
        self,
        config: Any,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        max_position_embeddings: int,
        quant_config: Any = None,
        bias: bool = False,
        bias_o_proj: bool = False,
        cache_config: Any = None,
        prefix: str = "",
        attn_type: str = AttentionType.DECODER,
    ) -> None:
        # Not LlamaAttention.__init__: it makes an Attention too, and vLLM refuses two of one name.
        torch.nn.Module.__init__(self)
        if attn_type != AttentionType.DECODER:
            raise UnsupportedByWaveletAttentionError("attn_type", attn_type, "wavelet_llama is a causal decoder")
        check_heads(num_kv_heads, get_tensor_model_parallel_world_size())
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.max_position_embeddings = max_position_embeddings
        self.qkv_proj = QKVParallelLinear(
            hidden_size=hidden_size,
            head_size=self.head_dim,
            total_num_heads=num_heads,
            total_num_kv_heads=num_kv_heads,
            bias=bias,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            input_size=num_heads * self.head_dim,
            output_size=hidden_size,
            bias=bias_o_proj,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.num_heads = self.qkv_proj.num_heads
        self.num_kv_heads = self.qkv_proj.num_kv_heads
        self.q_size = self.num_heads * self.head_dim
        self.kv_size = self.num_kv_heads * self.head_dim

        self.position_type = config.position_type
        self.log_n_length = config.log_n_length
        if self.position_type == "rope":
            self._init_rotary_emb(config, quant_config=quant_config)
        self.attn = Attention(
            self.num_heads,
            self.head_dim,
            self.scaling,
            num_kv_heads=self.num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
            **self._position_arguments(config, num_heads),
        )
        if self.position_type == "wavelet":
            # Sleep mode of level 2 discards the model's memory. vLLM brings back its buffers, and whoever woke it the
            # weights: a table that is neither would be lost.
            for name, tensor in self.attn.impl.buffers.items():
                self.attn.register_buffer(name, tensor, persistent=False)

    def _position_arguments(self, config: Any, total_num_heads: int) -> dict[str, Any]:
        """The arguments of vLLM's ``Attention`` that depend on the config's position type."""
        if self.position_type == "alibi":
            first = get_tensor_model_parallel_rank() * self.num_heads
            return {"alibi_slopes": alibi_slopes(total_num_heads)[first : first + self.num_heads]}
        if self.position_type == "wavelet":
            table = shared_position_table(
                **config.position_table_parameters,
                max_distance=get_current_vllm_config().model_config.max_model_len - 1,
                device=current_platform.device_type,
                least_rows=0 if config.near_bias is None else config.near_bias.keys,
            )
            return {"attn_backend": WaveletAttentionBackend, "table": table, "near_bias": config.near_bias}
        return {}

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attention of ``hidden_states`` ``[T, hidden]`` at ``positions`` ``[T]``; returns ``[T, hidden]``."""
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        if self.position_type == "rope":
            q, k = self.rotary_emb(positions, q, k)
        if self.log_n_length is not None:
            # In float32: a rounded factor would shift a query's whole row of logits.
            q = (q * log_n_factor(positions + 1, self.log_n_length)[:, None]).to(q.dtype)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class WaveletLlamaDecoderLayer(LlamaDecoderLayer):
    """vLLM's Llama layer around ``WaveletLlamaAttention``."""

    def __init__(self, vllm_config: Any, prefix: str = "", config: Any = None) -> None:
        super().__init__(vllm_config, prefix=prefix, config=config, attn_layer_type=WaveletLlamaAttention)


class WaveletLlamaForCausalLM(LlamaForCausalLM):
    """The architecture ``WaveletLlamaForCausalLM`` of a ``wavelet_llama`` checkpoint."""

    # What LoRA may adapt beside the layers' matrices. On CPU vLLM 0.32 computes an adapted head for the sampled
    # positions only, and the engine dies of a request for the log-probabilities of its prompt; so there an adapter of
    # the head is refused by vLLM when it is loaded.
    embedding_modules: ClassVar[dict[str, str]] = {
        name: role
        for name, role in LlamaForCausalLM.embedding_modules.items()
        if name != "lm_head" or not current_platform.is_cpu()
    }

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        vllm_config.model_config.hf_config.validate()
        check_stages(
            vllm_config.parallel_config.pipeline_parallel_size,
            on_cpu=current_platform.is_cpu(),
            compiled=vllm_config.compilation_config.mode != CompilationMode.NONE,
        )
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=WaveletLlamaDecoderLayer)
