"""Muon for the layers' matrices, all of one shape at once, and AdamW for the rest; one learning rate for both."""

import torch


class Optimizer:
    def __init__(self, model: torch.nn.Module, rate: float, decay: float = 0.1, momentum: float = 0.95) -> None:
        shapes: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        embeddings, vectors = [], []
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                vectors.append(parameter)
            elif "embed_tokens" in name:
                embeddings.append(parameter)
            else:
                shapes.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = list(shapes.values())
        self.momenta = [torch.zeros(len(g), *g[0].shape, device=g[0].device) for g in self.groups]
        self.decay, self.momentum = decay, momentum
        cuda = embeddings[0].is_cuda
        self.adam = torch.optim.AdamW(
            [{"params": embeddings, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=rate, betas=(0.9, 0.95), fused=True if cuda else None,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        for parameters, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([p.grad for p in parameters])
            momentum.lerp_(gradient, 1 - self.momentum)
            update = orthogonal(gradient.lerp(momentum, self.momentum))
            scale = rate * 0.2 * max(parameters[0].shape) ** 0.5
            torch._foreach_mul_(parameters, 1 - rate * self.decay)
            torch._foreach_add_(parameters, list((update * -scale).float().unbind()))
        for parameters in self.groups:
            for parameter in parameters:
                parameter.grad = None
        self.adam.zero_grad(set_to_none=True)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Each of ``[N, rows, columns]`` with its singular values near 1 (five Newton-Schulz steps, as PyTorch's Muon)."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
