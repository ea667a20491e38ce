"""One benchmark problem: a paged cache on the device, and the exact output of some of its queries in float64."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import triton

from model_registry.positions.wavelet import position_table

EXPONENTS = {32: range(8), 64: range(8), 128: range(8)}
SAMPLED_ROWS = 12
BLOCK_SIZE = 16


def allowed_error(exact: torch.Tensor, rounded: torch.Tensor, dtype: torch.dtype) -> float:
    """``2 (e + u)``: ``e`` the worst error of the low-precision reference, ``u`` one rounding of the largest output.

    ``exact`` and ``rounded`` are the reference in float64, and with table, weights and output rounded to ``dtype``.
    """
    unit = torch.finfo(dtype).eps / 2
    if dtype is torch.bfloat16 and triton.knobs.runtime.interpret:
        unit *= 2  # the interpreter truncates where a GPU rounds
    return 2 * (float((rounded - exact).abs().max()) + unit * float(exact.abs().max()))


@dataclass(frozen=True)
class Shape:
    """``batch`` sequences of ``context`` keys whose last ``queries`` positions are asked for."""

    model: str
    H: int
    H_kv: int
    d: int
    batch: int
    context: int
    queries: int

    @property
    def pairs(self) -> int:
        """Query-key pairs of one head."""
        return self.batch * (self.queries * self.context - self.queries * (self.queries - 1) // 2)

    @property
    def flop(self) -> int:
        """Of plain attention; the position term is not counted."""
        return 4 * self.H * self.d * self.pairs

    def bytes_moved(self, element: int, cache_element: int) -> int:
        """Each key and value once, queries and outputs once."""
        cache = 2 * self.batch * self.context * self.H_kv * self.d * cache_element
        return cache + 2 * self.batch * self.queries * self.H * self.d * element

    def describe(self) -> dict:
        return asdict(self)


class Case:
    """Random tensors of a shape: ``kv`` ``[B, H_kv, block, 2 d]`` as vLLM keeps it, blocks scattered."""

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype, cache_dtype: torch.dtype | None = None) -> None:
        self.shape, self.dtype = shape, dtype
        generator = torch.Generator(device=device).manual_seed(1)
        blocks = -(-shape.context // BLOCK_SIZE)
        size = (shape.batch * blocks, shape.H_kv, BLOCK_SIZE, 2 * shape.d)
        self.kv = torch.empty(size, dtype=dtype, device=device).normal_(generator=generator)
        if cache_dtype is not None:
            self.kv = self.kv.to(cache_dtype)
        rows = shape.batch * shape.queries
        self.q = torch.empty(rows, shape.H, shape.d, dtype=dtype, device=device).normal_(generator=generator)
        order = torch.randperm(shape.batch * blocks, device=device, generator=generator)
        self.block_table = order.to(torch.int32).view(shape.batch, blocks)
        self.query_start_loc = torch.arange(0, rows + 1, shape.queries, dtype=torch.int32, device=device)
        self.seq_lens = torch.full((shape.batch,), shape.context, dtype=torch.int32, device=device)
        exponents = EXPONENTS[shape.d]
        table = position_table("ricker", [*exponents], [*range(shape.d // len(exponents))])
        self.table = table.to(device)
        self.scale = shape.d**-0.5
        self._references: dict[bool, tuple[torch.Tensor, float]] = {}  # by whether the score has a position term

    @property
    def k_cache(self) -> torch.Tensor:
        return self.kv[..., : self.shape.d].transpose(1, 2)

    @property
    def v_cache(self) -> torch.Tensor:
        return self.kv[..., self.shape.d :].transpose(1, 2)

    def contiguous(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q ``[S, H, n, d]``, k and v ``[S, H_kv, L, d]`` for peers that do not page."""
        shape = self.shape
        q = self.q.view(shape.batch, shape.queries, shape.H, shape.d).transpose(1, 2).contiguous()
        k, v = (
            cache[self.block_table.long()].flatten(1, 2)[:, : shape.context].transpose(1, 2).to(self.dtype).contiguous()
            for cache in (self.k_cache, self.v_cache)
        )
        return q, k, v

    def sampled(self) -> torch.Tensor:
        """Rows of ``q`` to check, of the first and the last sequence: the first, the last, and some between."""
        n = self.shape.queries
        within = torch.linspace(0, n - 1, min(n, SAMPLED_ROWS), device=self.q.device).long().unique()
        return torch.cat([within, (self.shape.batch - 1) * n + within]).unique()

    def exact(self, rows: torch.Tensor, positions: bool, rounded: bool = False) -> torch.Tensor:
        """``[rows, H, d]`` float64; ``rounded`` rounds the table, the weights and the output as the kernels must."""

        def rounding(x: torch.Tensor) -> torch.Tensor:
            return x.to(self.dtype).double() if rounded else x

        shape, out = self.shape, []
        table = rounding(self.table.double())
        for row in rows.tolist():
            s, j = divmod(row, shape.queries)
            seen = shape.context - shape.queries + j + 1
            blocks = self.block_table[s, : -(-seen // BLOCK_SIZE)].long()
            k, v = (
                cache[blocks].flatten(0, 1)[:seen].to(self.dtype).double().transpose(0, 1)
                for cache in (self.k_cache, self.v_cache)
            )
            q = self.q[row].double().view(shape.H_kv, -1, shape.d)
            score = q @ k.transpose(1, 2)
            if positions:
                near = min(seen, table.shape[0])
                score[..., seen - near :] += q @ table[:near].flip(0).T
            weight = torch.exp((score - score.amax(-1, keepdim=True)) * self.scale)
            out.append(rounding(rounding(weight) @ v / weight.sum(-1, keepdim=True)).reshape(shape.H, shape.d))
        return torch.stack(out)

    def parity(self, out: torch.Tensor, positions: bool) -> tuple[float, float]:
        """The worst error of ``out`` ``[T, H, d]`` on the sampled rows, and the most it may be: ``allowed_error``."""
        rows = self.sampled()
        if positions not in self._references:
            exact = self.exact(rows, positions)
            allowed = allowed_error(exact, self.exact(rows, positions, rounded=True), self.dtype)
            self._references[positions] = exact, allowed
        exact, allowed = self._references[positions]
        return float((out[rows].double() - exact).abs().max()), allowed
