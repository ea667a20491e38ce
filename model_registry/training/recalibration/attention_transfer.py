"""Attention transfer: a converted model learns to look where its source looks, before all of its weights are trained.

New positions move the attention of every head. The loss of the next token says little about where a single head should
look; the source's attention weights say it exactly. So the source reads the text, each layer's attention input goes to
the same layer of the model, and that layer's query and key projections alone are trained, towards the least
Kullback-Leibler divergence from the source's weights. The model itself is not run, and nothing flows between layers.
Linear attentions are trained so from softmax attention (Zhang et al. 2024, arXiv 2402.04347 and 2410.10254).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.positions.logit_scaling import log_n_factor
from model_registry.positions.shared_table import shared_position_table
from model_registry.training.errors import TrainingError
from model_registry.training.recalibration.start import reading

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("llama", "mistral", "qwen2", "wavelet_llama")
"""Values of ``model_type`` whose attention is Llama's, projections and a rotation; ``convert`` takes the same."""

POSITIONS = ("wavelet", "nope")
"""Position types that can be trained so: rope would rotate queries and keys, and ALiBi add its own term."""

SAME = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
)
"""What a checkpoint and its teacher must agree on."""

LOWEST = -1e9
"""Score of a key that is not seen: finite, so that 0 times the logarithm of its weight is 0."""


class AttentionTransfer:
    """Trains the query and key projections of ``model`` from the attention weights of ``teacher``.

    Args:
        teacher: the source, whose layers rotate queries and keys; not trained.
        model: the converted model; wavelet positions or none.

    Raises:
        TrainingError: the model has other positions, with which its scores are not those that are compared here.
    """

    def __init__(self, teacher: Any, model: Any) -> None:
        kind = model.config.position_type
        if kind not in POSITIONS:
            raise TrainingError(
                f"--teacher: the positions of --from are {kind!r}, and attention transfer is for "
                f"{' and '.join(POSITIONS)}; --set transfer_fraction=0 leaves it out"
            )
        self._teacher = teacher.eval().requires_grad_(False)
        self._config: WaveletLlamaConfig = model.config
        self._modules = [layer.self_attn for layer in model.model.layers]
        self._chosen = torch.empty(0, dtype=torch.long)
        self._visible = self._distance = torch.empty(0)
        self._factor: torch.Tensor | None = None
        self._table: torch.Tensor | None = None
        self._divergence, self._comparing = torch.zeros(()), False
        for source, module in zip(teacher.model.layers, self._modules, strict=True):
            source.self_attn.register_forward_pre_hook(partial(self._layer, module), with_kwargs=True)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: the query and key projections, or their adapters."""
        projections = [part for module in self._modules for part in (module.q_proj, module.k_proj)]
        return [p for projection in projections for p in projection.parameters() if p.requires_grad]

    def backward(self, rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Add the gradients of the layers' summed divergences to ``parameters``.

        Args:
            rows: ``[B, L]`` token ids.
            chosen: ``[S]`` positions of the queries that are compared, ascending.

        Returns:
            Scalar: nats per query, mean over layers, heads, queries and rows.
        """
        keys = torch.arange(rows.shape[1], device=rows.device)
        self._chosen = chosen
        self._distance = chosen[:, None] - keys
        self._visible = self._distance >= 0
        length = self._config.log_n_length
        self._factor = None if length is None else log_n_factor(chosen[:, None] + 1, length)
        if self._config.position_type == "wavelet":
            parameters = self._config.position_table_parameters
            table = shared_position_table(**parameters, max_distance=rows.shape[1], device=str(rows.device))
            # One row of zeros for every distance past the table.
            self._table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        self._divergence, self._comparing = torch.zeros((), device=rows.device), True
        with torch.no_grad():
            self._teacher.model(input_ids=rows, use_cache=False)
        self._comparing = False
        return self._divergence / len(self._modules)

    def _layer(self, module: Any, source: Any, _arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Runs before an attention layer of the teacher, with its input ``[B, L, hidden]``."""
        if not self._comparing:  # the teacher is asked for its predictions
            return
        hidden = given["hidden_states"]
        cosines, sines = given["position_embeddings"]
        with torch.no_grad():
            q, k = _heads(source.q_proj(hidden[:, self._chosen]), source), _heads(source.k_proj(hidden), source)
            q, _ = apply_rotary_pos_emb(q, q, cosines[:, self._chosen], sines[:, self._chosen])
            k, _ = apply_rotary_pos_emb(k, k, cosines, sines)
            geometry = given.get("geometry")
            if geometry is not None and geometry.factor is not None:
                q = q * geometry.factor[..., self._chosen, :]
            scores = self._masked(_content(q, k), source.scaling)
            weights, logarithms = scores.softmax(-1), scores.log_softmax(-1)
        with torch.enable_grad():
            q, k = _heads(module.q_proj(hidden[:, self._chosen]), module), _heads(module.k_proj(hidden), module)
            if self._factor is not None:
                q = q * self._factor
            scores = _content(q, k)
            if self._table is not None:
                scores = scores + self._position(q)
            found = self._masked(scores, module.scaling).log_softmax(-1)
            divergence = (weights * (logarithms - found)).sum(-1).mean()
            torch.autograd.backward(divergence)
        self._divergence += divergence.detach()

    def _position(self, q: torch.Tensor) -> torch.Tensor:
        """``q_m . p(m - n)``: ``[B, H, S, L]`` for queries ``[B, H, S, d]``; of later keys without a meaning."""
        assert self._table is not None
        products = q @ self._table.to(q.dtype).T
        nearest = self._distance.clamp(0, len(self._table) - 1)
        return products.gather(-1, nearest.expand(*products.shape[:2], -1, -1))

    def _masked(self, scores: torch.Tensor, scale: float) -> torch.Tensor:
        """Scaled scores in float32 or wider, those of later keys so low that their weight is 0."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
        return scores.masked_fill(~self._visible, LOWEST)


def _heads(projected: torch.Tensor, module: Any) -> torch.Tensor:
    """``[B, L, H * d]`` to ``[B, H, L, d]``."""
    return projected.view(*projected.shape[:-1], -1, module.head_dim).transpose(1, 2)


def _content(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """``q . k`` for grouped heads: ``[B, H, S, L]``."""
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(2, 3)


def load_teacher(path: Path, config: WaveletLlamaConfig, dtype: torch.dtype) -> Any:
    """The source of a converted checkpoint.

    Raises:
        TrainingError: it is no checkpoint with rope, cannot be read, or is another model's.
    """
    if not (path / "config.json").is_file():
        raise TrainingError(f"--teacher {str(path)!r} is no checkpoint directory: it has no config.json")
    with reading("--teacher", path):
        source = AutoConfig.from_pretrained(path)
    family = source.model_type
    if family not in FAMILIES:
        raise TrainingError(f"--teacher {str(path)!r}: model_type={family!r} is none of {', '.join(FAMILIES)}")
    kind = source.position_type if isinstance(source, WaveletLlamaConfig) else "rope"
    if kind != "rope" or getattr(source, "rope_parameters", None) is None:
        raise TrainingError(f"--teacher {str(path)!r}: its positions are {kind!r}; give the checkpoint before convert")
    for name in SAME:
        mine, other = getattr(config, name), getattr(source, name, None)
        if mine != other:
            raise TrainingError(f"--teacher {str(path)!r}: its {name} is {other!r}, the checkpoint's is {mine!r}")
    with reading("--teacher", path):
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
