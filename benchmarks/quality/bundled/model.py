"""A plain Llama with wavelet, rope, ALiBi or no positions, written to compile well; weight names are Hugging Face's."""

import math

import torch
from torch import nn
from torch.nn import functional

Documents = torch.Tensor
"""``[B, L]``: the number of the document that each token belongs to; tokens see their own document alone."""


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (functional.rms_norm(x.float(), (x.shape[-1],), eps=1e-6) * self.weight).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, self.d = config["hidden_size"], config["head_dim"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, self.heads * self.d, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.d, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.d, bias=False)
        self.o_proj = nn.Linear(self.heads * self.d, hidden, bias=False)

    def qkv(self, x: torch.Tensor, geometry: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``[B, H, L, d]`` and twice ``[B, H_kv, L, d]``; q is scaled, and both are rotated for rope."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.d).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.d).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.d).transpose(1, 2)
        if "cos" in geometry:
            q, k = (each * geometry["cos"] + rotated(each) * geometry["sin"] for each in (q, k))
        q = q * (geometry["factor"] * self.d**-0.5 if "factor" in geometry else self.d**-0.5)
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, x: torch.Tensor, geometry: dict) -> torch.Tensor:
        q, k, v = self.qkv(x, geometry)
        groups = self.heads // self.kv_heads
        scores = q @ k.repeat_interleave(groups, dim=1).transpose(2, 3)
        if "rows" in geometry:
            scores = scores + skewed(q, geometry["rows"], x.shape[1])
        if "slopes" in geometry:
            scores = scores + geometry["slopes"]
        scores = scores.masked_fill(~geometry["visible"], -torch.inf)
        out = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v.repeat_interleave(groups, dim=1)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def long(self, x: torch.Tensor, table: dict, chunk: int) -> torch.Tensor:
        """The same over long documents ``[B, L, hidden]``, a chunk of queries at a time."""
        length = x.shape[1]
        q, k, v = self.qkv(x, geometry_of_document(table, length, x.device))
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        outs = []
        for begin in range(0, length, chunk):
            end = min(begin + chunk, length)
            part = q[:, :, begin:end]
            scores = part @ k[:, :, :end].transpose(2, 3)
            if "table" in table:
                scores += skewed(part, rows_by_key(table["table"], end).to(part.dtype), end)
            query = torch.arange(begin, end, device=x.device)[:, None]
            distance = query - torch.arange(end, device=x.device)
            if "slopes" in table:
                scores = scores - table["slopes"][:, None, None].to(x.device) * distance
            scores.masked_fill_(distance < 0, -torch.inf)
            outs.append(scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v[:, :, :end])
        return self.o_proj(torch.cat(outs, dim=2).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        self.input_layernorm = Norm(config["hidden_size"])
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config["hidden_size"])
        self.mlp = Mlp(config)

    def forward(self, x: torch.Tensor, geometry: dict) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), geometry)
        return x + self.mlp(self.post_attention_layernorm(x))

    def long(self, x: torch.Tensor, table: dict, chunk: int) -> torch.Tensor:
        x = x + self.self_attn.long(self.input_layernorm(x), table, chunk)
        return x + self.mlp(self.post_attention_layernorm(x))


class Inner(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = Norm(config["hidden_size"])


class Model(nn.Module):
    """The language model; the head's weights are the embedding's."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.model = Inner(config)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, ids: torch.Tensor, geometry: dict) -> torch.Tensor:
        """``[B, L, hidden]`` after the final norm."""
        x = self.model.embed_tokens(ids)
        if torch.is_autocast_enabled(ids.device.type):
            x = x.to(torch.get_autocast_dtype(ids.device.type))
        for layer in self.model.layers:
            x = layer(x, geometry)
        return self.model.norm(x)

    @torch.no_grad()
    def long_logits(self, ids: torch.Tensor, table: dict, last: int, chunk: int = 1024) -> torch.Tensor:
        """``[last, V]``: logits at the last positions of one document ``[L]`` of any length."""
        x = self.long_hidden(ids[None], table, chunk)[:, -last:]
        return (x @ self.model.embed_tokens.weight.T.to(x.dtype))[0].float()

    @torch.no_grad()
    def long_hidden(self, ids: torch.Tensor, table: dict, chunk: int = 1024) -> torch.Tensor:
        """``[B, L, hidden]`` after the final norm, of documents of any one length."""
        x = self.model.embed_tokens(ids).to(torch.get_autocast_dtype(ids.device.type))
        for layer in self.model.layers:
            x = layer.long(x, table, chunk)
        return self.model.norm(x)


def weighted_loss(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token over all targets, each counted ``counts`` times."""
    logits = (x @ weight.T.to(x.dtype)).float().flatten(0, 1)
    losses = functional.cross_entropy(logits, targets.flatten(), reduction="none")
    return (losses * counts.flatten()).sum() / counts.sum()


def rotated(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def rows_by_key(table: torch.Tensor, keys: int) -> torch.Tensor:
    """``[W, d]``: row ``c`` is ``p(K - 1 - c)``, for queries that are the last of the ``K`` keys; zero past the table.

    ``W`` is the next multiple of 8 after ``K``: products of another width are not aligned, and slow.
    """
    width = (keys // 8 + 1) * 8
    distance = keys - 1 - torch.arange(width, device=table.device)
    inside = (distance >= 0) & (distance < len(table))
    return torch.where(inside[:, None], table[distance.clamp(0, len(table) - 1)], 0.0)


def skewed(q: torch.Tensor, rows: torch.Tensor, keys: int) -> torch.Tensor:
    """``q_m . p(m - n)`` for ``K`` keys: one product with all rows, read along its diagonals.

    Entry ``(i, j)`` is column ``Q - 1 - i + j`` of row ``i``: with ``W`` columns, a stride of ``W - 1`` between rows.
    """
    queries, width = q.shape[2], rows.shape[0]
    products = (q @ rows.T).flatten(2)
    read = products[..., queries - 1 : queries - 1 + queries * (width - 1)]
    return read.view(*q.shape[:3], width - 1)[..., :keys]


def position_tables(position: str, table: torch.Tensor | None, heads: int, log_n: int | None, d: int) -> dict:
    """What does not depend on the batch."""
    found: dict = {"d": d}
    if position == "wavelet":
        found["table"] = table
    elif position == "rope":
        found["inverse"] = 10000.0 ** -(torch.arange(0, d, 2) / d)
    elif position == "alibi":
        found["slopes"] = torch.tensor([2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads)])
    if log_n:
        found["log_n"] = log_n
    return found


def yarn(tables: dict, factor: float, train_length: int) -> dict:
    """Rope's tables stretched by YaRN (Peng et al. 2023, arXiv 2309.00071), for inference without training."""
    inverse, d = tables["inverse"], tables["d"]

    def dimension(turns: float) -> float:
        return d * math.log(train_length / (turns * 2 * math.pi)) / (2 * math.log(10000.0))

    low, high = max(0, math.floor(dimension(32))), min(d // 2 - 1, math.ceil(dimension(1)))
    ramp = ((torch.arange(d // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
    stretched = inverse / factor * ramp + inverse * (1 - ramp)
    return tables | {"inverse": stretched, "magnitude": 0.1 * math.log(factor) + 1}


def geometry_of_document(table: dict, length: int, device: torch.device) -> dict:
    """Rotation and factor of one document."""
    found = {}
    at = torch.arange(length, device=device)
    if "inverse" in table:
        angle = torch.outer(at.float(), table["inverse"].to(device)).repeat(1, 2)
        scale = table.get("magnitude", 1.0)
        found |= {"cos": angle.cos() * scale, "sin": angle.sin() * scale}
    if "log_n" in table:
        found["factor"] = ((at + 1).log() / math.log(table["log_n"])).clamp(min=1)[None, None, :, None]
    return found


def geometry(table: dict, documents: torch.Tensor, dtype: torch.dtype) -> dict:
    """What the layers need of a batch with these documents ``[B, L]``."""
    length, device = documents.shape[1], documents.device
    at = torch.arange(length, device=device)
    causal = at[:, None] >= at
    found = {"visible": ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]}
    found |= geometry_of_document(table, length, device)
    if "log_n" in table:
        seen = found["visible"].sum(-1, keepdim=True)
        found["factor"] = (seen.log() / math.log(table["log_n"])).clamp(min=1)
    if "table" in table:
        found["rows"] = rows_by_key(table["table"].to(device), length).to(dtype)
    if "slopes" in table:
        found["slopes"] = -table["slopes"].to(device)[:, None, None] * (at[:, None] - at)
    return found
