"""Hugging Face reference model: Llama with wavelet, rotary, ALiBi or no positions.

Attention is plain dense PyTorch (``attn_implementation="eager"``), the parity oracle of the vLLM model; or
FlexAttention (``"flex_attention"``), which trains on a GPU at lengths that dense scores have no memory for. Importing
this file registers the classes with ``AutoConfig``, ``AutoModel`` and ``AutoModelForCausalLM``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.dense_attention import dense_attention, rows_by_key
from model_registry.flex_attention import NearBonus, attend
from model_registry.positions.alibi import alibi_slopes
from model_registry.positions.logit_scaling import log_n_factor
from model_registry.positions.shared_table import shared_position_table

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True)
class _Movable:
    """Tensors that accelerate takes along to a layer's device, in models over several (``device_map``)."""

    def to(self, device: torch.device | str | int) -> Self:
        """The same on another device."""
        return replace(self, **{name: part.to(device) for name, part in vars(self).items() if part is not None})


@dataclass(frozen=True)
class Geometry(_Movable):
    """What all layers of one forward pass share: ``Q`` queries, ``K`` keys, ``H`` heads of ``d`` dimensions.

    Attributes:
        factor: ``[B or 1, 1, Q, 1]`` float32, which multiplies queries; None where ``log_n`` has no effect.
        attention: arguments of the dense attention or of FlexAttention, whichever the layers run.
    """

    factor: torch.Tensor | None
    attention: DenseGeometry | FlexGeometry


@dataclass(frozen=True)
class DenseGeometry(_Movable):
    """Arguments of ``dense_attention``.

    Attributes:
        visible: ``[B or 1, 1, Q, K]`` bool, the keys that each query sees.
        rows: ``[K + 1, d]`` from ``rows_by_key``; None unless positions are wavelets.
        bias: broadcasts to ``[B, H, Q, K]``, float32 or more, added to the scores: ALiBi's, or near keys' bonus.
    """

    visible: torch.Tensor
    rows: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class FlexGeometry(_Movable):
    """Arguments of ``flex_attention.attend``.

    Attributes:
        mask: which keys each query sees.
        table: ``[R, d]`` (wavelet).
        slopes: ``[H]`` float32 (alibi).
        bonus: what near keys get (wavelet).
    """

    mask: BlockMask
    table: torch.Tensor | None = None
    slopes: torch.Tensor | None = None
    bonus: NearBonus | None = None


class NoRotation(nn.Module):
    """Takes the place of Llama's rotary embedding in models that rotate nothing."""

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> None:  # noqa: ARG002
        """Return None: layers that get no cosines and sines do not rotate."""
        return


class WaveletLlamaAttention(LlamaAttention):
    """Llama's projections and cache around the attention; keys are rotated for ``rope`` only."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002 - geometry.visible is the same mask as bool
        past_key_values: Any = None,
        *,
        geometry: Geometry,
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from ``hidden_states`` ``[B, Q, hidden]``.

        Returns:
            The same shape, and the weights ``[B, H, Q, K]``, which FlexAttention never makes (None).
        """
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        k = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        v = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if position_embeddings is not None:
            q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        if geometry.factor is not None:
            q = (q * geometry.factor).to(q.dtype)
        dropout = self.attention_dropout if self.training else 0.0
        how = geometry.attention
        weights = None
        if isinstance(how, FlexGeometry):
            if dropout:
                raise ValueError(f"attention_dropout={dropout!r}: FlexAttention has none; set it to 0")
            out = attend(q, k, v, how.mask, self.scaling, table=how.table, slopes=how.slopes, bonus=how.bonus)
        else:
            out, weights = dense_attention(
                q, k, v, how.visible, self.scaling, rows=how.rows, bias=how.bias, dropout=dropout
            )
        return self.o_proj(out.transpose(1, 2).flatten(2)), weights


class WaveletLlamaDecoderLayer(LlamaDecoderLayer):
    """Llama's layer with ``WaveletLlamaAttention``."""

    def __init__(self, config: WaveletLlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = WaveletLlamaAttention(config, layer_idx)


class WaveletLlamaPreTrainedModel(LlamaPreTrainedModel):
    """Weights' initialisation and what the model supports: its own dense attention, and FlexAttention for training."""

    config: WaveletLlamaConfig
    config_class = WaveletLlamaConfig
    _no_split_modules = ("WaveletLlamaDecoderLayer",)
    _supports_flash_attn = False
    _supports_sdpa = False
    _supports_flex_attn = True
    _supports_attention_backend = False
    _can_record_outputs = {  # noqa: RUF012 - Transformers' own form
        "hidden_states": WaveletLlamaDecoderLayer,
        "attentions": WaveletLlamaAttention,
    }


class WaveletLlamaModel(WaveletLlamaPreTrainedModel, LlamaModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: WaveletLlamaConfig) -> None:
        config.validate()
        # Not LlamaModel's: it would build and initialise Llama's layers first.
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            WaveletLlamaDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config) if config.position_type == "rope" else NoRotation()
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Llama's forward pass; positions count from each sequence's first token that is not padding.

        Args:
            input_ids: ``[B, Q]`` token ids; exactly one of this and ``inputs_embeds`` ``[B, Q, hidden]``.
            attention_mask: ``[B, K]``, 0 for padding on the left; or ``[B, 1, Q, K]``, bool or 0 where visible.
            position_ids: ``[B, Q]``; used by rope only, the other encodings know relative positions alone.
            past_key_values: the cache; its keys come before the queries.
            inputs_embeds: see ``input_ids``.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        queries = inputs_embeds.shape[1]
        first_query = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        if position_ids is None:
            position_ids = first_query + torch.arange(queries, device=inputs_embeds.device)[None]
            if attention_mask is not None and attention_mask.dim() == 2:
                counted = attention_mask.long().cumsum(dim=1) - 1
                position_ids = counted.clamp(min=0)[:, first_query : first_query + queries]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        return super().forward(
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            geometry=self._geometry(mask, queries, first_query, position_ids, inputs_embeds.dtype),
            **kwargs,
        )

    def _geometry(
        self,
        mask: torch.Tensor | BlockMask,
        queries: int,
        first_query: int,
        position_ids: torch.Tensor,
        dtype: torch.dtype,
    ) -> Geometry:
        config = self.config
        keys = mask.shape[-1] if isinstance(mask, torch.Tensor) else queries
        table = slopes = factor = None
        log_n_length = config.log_n_length
        if config.position_type == "wavelet":
            # The length is rounded up, so that one table serves many steps of a generation.
            parameters = config.position_table_parameters
            table = shared_position_table(**parameters, max_distance=1 << keys.bit_length())
            table = table.to(device=position_ids.device, dtype=dtype)
        elif config.position_type == "alibi":
            # Float32 whatever the model's dtype: bfloat16 cannot tell neighbours apart at distances past 256.
            slopes = torch.tensor(alibi_slopes(config.num_attention_heads), device=position_ids.device)
        if not isinstance(mask, torch.Tensor):
            if first_query:
                raise ValueError("attn_implementation='flex_attention' is for training and reads no cache")
            if log_n_length is not None and keys > log_n_length:
                factor = log_n_factor(position_ids[:, None, :, None] + 1, log_n_length)
            bonus = None
            if config.near_bias is not None:
                bonus = NearBonus(config.near_bias.of(position_ids + 1), config.near_bias.keys)
            return Geometry(factor, FlexGeometry(mask, table, slopes, bonus))
        visible = mask if mask.dtype == torch.bool else mask == 0
        if log_n_length is not None and keys > log_n_length:
            factor = log_n_factor(visible.sum(dim=-1, keepdim=True), log_n_length)
        rows = None if table is None else rows_by_key(table, queries, keys, first_query)
        bias = None
        if slopes is not None:
            query = first_query + torch.arange(queries, device=mask.device)
            bias = -slopes[:, None, None] * (query[:, None] - torch.arange(keys, device=mask.device))
        if config.near_bias is not None and keys > config.near_bias.length:
            query = first_query + torch.arange(queries, device=mask.device)
            near = query[:, None] - torch.arange(keys, device=mask.device) < config.near_bias.keys
            seen = visible.sum(dim=-1, keepdim=True).to(torch.promote_types(dtype, torch.float32))
            bias = torch.where(near, config.near_bias.of(seen), 0.0)
        return Geometry(factor, DenseGeometry(visible, rows, bias))


class WaveletLlamaForCausalLM(WaveletLlamaPreTrainedModel, LlamaForCausalLM):
    """``WaveletLlamaModel`` with Llama's language-model head; weight names are Llama's."""

    def __init__(self, config: WaveletLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = WaveletLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoModel.register(WaveletLlamaConfig, WaveletLlamaModel, exist_ok=True)
AutoModelForCausalLM.register(WaveletLlamaConfig, WaveletLlamaForCausalLM, exist_ok=True)
