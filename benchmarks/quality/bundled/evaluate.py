"""Shares of right answers by kind of task, at the training length and far past it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from benchmarks.quality.bundled.model import Model, geometry
from model_registry.training.tasks.rows import KINDS, TaskRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.quality.bundled.data import Data

from benchmarks.quality.bundled.data import documents_of


def held_out_loss(loss: Callable[..., torch.Tensor], data: Data, rows: int) -> float:
    """At the training length; as many rows as in training, and with gradients, so that nothing is compiled again."""
    ids = data.held_out.unfold(0, data.length + 1, data.length)[:rows]
    return loss(ids, torch.ones_like(ids[:, 1:]).float(), documents_of(ids[:, :-1])).item()


def answered(
    model: Model, tables: dict, tasks: TaskRows, device: torch.device, rows: int, length: int, batches: int
) -> dict[str, tuple[float, float]]:
    """By kind: the share of answers that are right in every token, and of right tokens, at the training length."""
    draw = random.Random("evaluation")  # noqa: S311
    counts = {kind: [0, 0, 0, 0] for kind in KINDS}
    for _ in range(batches):
        chosen = [KINDS[row % len(KINDS)] for row in range(rows)]
        documents = [tasks.document(length, draw, kind) for kind in chosen]
        ids = torch.zeros(rows, length + 1, dtype=torch.long)
        for row, (tokens, _) in enumerate(documents):
            ids[row, : len(tokens)] = torch.tensor(tokens[: length + 1])
        ids = ids.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            x = model.hidden(ids[:, :-1], geometry(tables, torch.zeros_like(ids[:, :-1]), torch.bfloat16)).detach()
            guessed = (x @ model.model.embed_tokens.weight.detach().T.to(x.dtype)).argmax(-1)
        hit = (guessed == ids[:, 1:]).tolist()
        for row, (kind, (_, weights)) in enumerate(zip(chosen, documents, strict=True)):
            for begin, end in answers(weights[: length + 1]):
                right = hit[row][begin - 1 : end - 1]
                for place, value in enumerate((all(right), 1, sum(right), len(right))):
                    counts[kind][place] += value
    return {kind: (round(a / max(1, b), 3), round(c / max(1, d), 3)) for kind, (a, b, c, d) in counts.items()}


def answers(weights: list[int]) -> list[tuple[int, int]]:
    """Where the answers begin and end."""
    marks = [0, *weights, 0]
    begins = [at for at in range(len(weights)) if marks[at + 1] and not marks[at]]
    ends = [at for at in range(1, len(weights) + 1) if marks[at] and not marks[at + 1]]
    return list(zip(begins, ends, strict=True))


@torch.no_grad()
def far(
    model: Model, tables: dict, tasks: TaskRows, device: torch.device, tokens: int, kind: str, trials: int
) -> tuple[int, int]:
    """Right answers and answers, of documents of so many tokens."""
    draw = random.Random(f"far/{tokens}/{kind}")  # noqa: S311
    right = asked = 0
    for _ in range(trials):
        ids, weights = tasks.document(tokens, draw, kind)
        spans = answers(weights)
        if not spans:
            continue
        last = len(ids) - spans[0][0]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model.long_logits(torch.tensor(ids[:-1], device=device), tables, last)
        hit = (logits.argmax(-1).cpu() == torch.tensor(ids[-last:])).tolist()
        for begin, end in spans:
            asked += 1
            right += all(hit[begin - spans[0][0] : end - spans[0][0]])
    return right, asked


@torch.no_grad()
def loss_at(model: Model, tables: dict, text: torch.Tensor, tokens: int) -> float:
    """Nats per token of a text that is cut into documents of so many tokens; each one's first is not counted."""
    documents = text[: len(text) // tokens * tokens].view(-1, tokens)
    total = 0.0
    for part in documents.split(max(1, 16384 // tokens)):
        with torch.autocast(part.device.type, dtype=torch.bfloat16):
            x = model.long_hidden(part, tables)
        for begin in range(0, tokens - 1, 4096):
            targets = part[:, begin + 1 : begin + 4097]
            logits = (x[:, begin : begin + targets.shape[1]] @ model.model.embed_tokens.weight.T.to(x.dtype)).float()
            total += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / (documents.shape[0] * (tokens - 1))
