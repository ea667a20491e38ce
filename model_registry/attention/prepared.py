"""Attention of a model's layers over one step: what they share is checked and handed to the kernel once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_registry.attention.api import default_implementation, implementation
from model_registry.attention.arguments import check_layout, check_values

if TYPE_CHECKING:
    import torch

    from model_registry.attention.batch import PagedBatch
    from model_registry.attention.near_bias import NearBias


class PreparedAttention:
    """``wavelet_attention`` on the CPU for the layers of one step, by the implementation that ``auto`` takes.

    They differ in queries, caches and output only, whose types, shapes and strides are those of the first layer. The
    index tensors have to stay as they are until the step's last layer.

    Args:
        batch: the first layer's arguments.
        out: ``[T, H, d]``, the first layer's output; nothing is written to it yet.

    Raises:
        AttentionArgumentError: an argument is of the wrong type, shape or device.
    """

    def __init__(self, batch: PagedBatch, out: torch.Tensor) -> None:
        check_layout(batch, out)
        self._batch = batch
        self._layout = _layout(batch.q, batch.k_cache, batch.v_cache, out)
        self._native = None
        self._implementation = default_implementation(batch.q.device.type)
        if self._implementation == "cpu":
            from model_registry.attention.native.op import NativeAttention

            self._native = NativeAttention(batch, out)

    def takes(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        table: torch.Tensor,
        scale: float,
        near_bias: NearBias | None,
        out: torch.Tensor,
    ) -> bool:
        """Whether ``attend`` may be called with these: they are laid out as the first layer's, with its positions."""
        batch = self._batch
        same_positions = table is batch.table and scale == batch.scale and near_bias == batch.near_bias
        return same_positions and _layout(q, k_cache, v_cache, out) == self._layout

    def attend(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, out: torch.Tensor) -> None:
        """Attend ``q`` ``[T, H, d]`` to the caches, into ``out``; ``takes`` has said yes to them.

        Raises:
            AttentionArgumentError: a value of an index tensor is out of bounds.
        """
        if self._native is not None:
            self._native.attend(q, k_cache, v_cache, out)
            return
        batch = self._batch._replace(q=q, k_cache=k_cache, v_cache=v_cache)
        check_values(batch)
        implementation(self._implementation)(batch, out)


def _layout(*tensors: torch.Tensor) -> list[object]:
    return [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in tensors]
