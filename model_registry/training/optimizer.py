"""The optimizer of a run: AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from model_registry.training.recipe import Recipe


class Optimizer:
    """PyTorch's optimizers as one, with one learning rate: Muon's updates are scaled to the root mean square of
    AdamW's (Liu et al. 2025, arXiv 2502.16982), so the same rate and weight decay suit both.
    """

    def __init__(self, recipe: Recipe, model: torch.nn.Module) -> None:
        matrices: list[torch.nn.Parameter] = []
        embeddings: list[torch.nn.Parameter] = []
        vectors: list[torch.nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                vectors.append(parameter)
            else:
                (embeddings if "embed_tokens" in name or "lm_head" in name else matrices).append(parameter)
        muon = recipe.optimizer == "muon"
        # Weight decay on matrices only: shrinking a norm's gain or a bias towards zero has no purpose.
        groups = [
            {"params": embeddings if muon else [*embeddings, *matrices], "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        rate, betas = recipe.learning_rate, (recipe.beta1, recipe.beta2)
        self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)]
        if muon:
            decay = recipe.weight_decay
            self._parts.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        """Update the parameters from their gradients at this learning rate, and forget the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """What ``load_state_dict`` restores."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore a state of an optimizer made from the same recipe and model."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)
