"""The part of ``train.py`` that needs PyTorch, imported once the worker processes have been forked."""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy
import torch
from model import Layer, Model, geometry, position_tables, weighted_loss
from optimizer import Optimizer
from state import SHARED
from supply import TaskSupply, learning_rate, say

from model_registry.training.tasks.rows import KINDS
from model_registry.wavelet import position_table

WAVELET = {"wavelet": "ricker", "scale_exponents": list(range(8)), "shifts": list(range(8))}


class Data:
    """Batches on the device."""

    def __init__(self, code: numpy.ndarray, held_out: numpy.ndarray, supply: TaskSupply, options: argparse.Namespace):
        self.device = torch.device(options.device)
        self.code = torch.from_numpy(code.astype(numpy.int32)).to(self.device)
        windows = (len(held_out) - 1) // SHARED["length"]
        stream = torch.from_numpy(held_out.astype(numpy.int64))
        self.held_out = stream.unfold(0, SHARED["length"] + 1, SHARED["length"])[:windows].to(self.device)
        self.supply = supply
        self.tasks = round(options.rows * options.task_share)
        self.texts = options.rows - self.tasks
        self.answer_weight = options.answer_weight

    def batch(self, draw: numpy.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids ``[B, L + 1]``, weights of the targets ``[B, L]`` and documents ``[B, L]``."""
        starts = torch.from_numpy(draw.integers(0, len(self.code) - SHARED["length"] - 1, self.texts)).to(self.device)
        text = self.code[starts[:, None] + torch.arange(SHARED["length"] + 1, device=self.device)].long()
        ids, weights, documents = (
            torch.from_numpy(part).to(self.device, non_blocking=True) for part in self.supply.rows(self.tasks, draw)
        )
        ids = torch.cat([text, ids.long()])
        weights = torch.cat([torch.ones_like(text[:, 1:]).float(), weights[:, 1:].float() * self.answer_weight])
        documents = torch.cat([documents_of(text[:, :-1]), documents[:, :-1].long()])
        return ids, weights, documents


def documents_of(ids: torch.Tensor) -> torch.Tensor:
    """The number of the document that each token of packed text belongs to; 0 ends one."""
    ends = (ids == 0).long()
    return ends.cumsum(1) - ends


def run(config: dict, data: Data, options: argparse.Namespace) -> None:
    """The wavelet model by time, then its twins by its number of steps."""
    torch.set_float32_matmul_precision("high")
    if not options.no_compile:
        Layer.forward = torch.compile(Layer.forward, dynamic=False)
    if options.cache and options.cache.is_file():
        torch.compiler.load_cache_artifacts(options.cache.read_bytes())
    data.supply.wait(2048)
    steps = train(config, "wavelet", data, options, None)
    for twin in options.twins:
        if time.monotonic() - options.began < options.twin_seconds:
            train(config, twin, data, options, options.twin_steps or steps)
    if options.save_cache:
        artifacts = torch.compiler.save_cache_artifacts()
        if artifacts:
            (options.out / "cache.bin").write_bytes(artifacts[0])
            say(options, f"compiled code: {len(artifacts[0]):,} bytes")


def train(config: dict, position: str, data: Data, options: argparse.Namespace, steps: int | None) -> int:
    """One model, written to the run's directory; returns the steps done."""
    torch.manual_seed(0)
    device = data.device
    model = Model(config).to(device)
    table = position_table(WAVELET["wavelet"], WAVELET["scale_exponents"], WAVELET["shifts"])
    log_n = options.log_n if position == "wavelet" else None
    heads = config["num_attention_heads"]
    tables = position_tables(position, table.to(device), heads, log_n, config["head_dim"])
    optimizer = Optimizer(model, options.rate)
    loss_of = weighted_loss if options.no_compile else torch.compile(weighted_loss, dynamic=False)
    draw = numpy.random.default_rng(0)

    def loss(ids: torch.Tensor, weights: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            x = model.hidden(ids[:, :-1], geometry(tables, documents, torch.bfloat16))
        return loss_of(x, model.model.embed_tokens.weight, ids[:, 1:], weights)

    loss(*data.batch(draw)).backward()  # compiles
    for parameter in model.parameters():
        parameter.grad = None
    synchronize(device)
    say(options, f"{position}: {sum(p.numel() for p in model.parameters()):,} parameters, compiled")
    draw = numpy.random.default_rng(1)
    began, step, progress = time.monotonic(), 0, 0.0
    entries = []
    losses: list[torch.Tensor] = []
    while progress < 1:
        rate = learning_rate(options.rate, step, progress)
        value = loss(*data.batch(draw))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate)
        losses.append(value.detach())
        step += 1
        if step % 10 == 0:
            synchronize(device)
        seconds = time.monotonic() - began
        progress = step / steps if steps else seconds / options.seconds
        if step % options.eval_every == 0 or progress >= 1:
            entry = {
                "step": step,
                "tokens": step * options.rows * options.length,
                "seconds": round(seconds, 1),
                "loss": torch.stack(losses).mean().item(),
                "held_out_loss": held_out_loss(loss, data, options.rows),
                "right": answered(model, tables, data, options.rows, options.eval_batches),
            }
            losses = []
            if device.type == "cuda":
                entry["gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
            entries.append(entry)
            right = " ".join(f"{kind}={share:.2f}" for kind, share in entry["right"].items())
            say(options, f"{position} {step}: loss {entry['loss']:.3f} held out {entry['held_out_loss']:.3f} {right}")
            if not math.isfinite(entry["loss"]):
                raise SystemExit(f"{position}: the loss became {entry['loss']}")
    name = "" if position == "wavelet" else f"{position}-"
    torch.save({key: value.to(torch.bfloat16).cpu() for key, value in model.state_dict().items()}, options.out / f"{name}model.pt")
    (options.out / f"{name}log.json").write_text(json.dumps(entries))
    say(options, f"{position}: {step} steps, {step * options.rows * options.length:,} tokens; written")
    far(model, tables, data, options, position)
    return step


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def held_out_loss(loss, data: Data, rows: int) -> float:
    """At the training length; as many rows as in training, and with gradients, so that nothing is compiled again."""
    ids = data.held_out[:rows]
    return loss(ids, torch.ones_like(ids[:, 1:]).float(), documents_of(ids[:, :-1])).item()


def answered(model: Model, tables: dict, data: Data, rows: int, batches: int) -> dict[str, float]:
    """Share of right answers, every token of each, by kind of task, at the training length."""
    draw = random.Random("evaluation")
    right = dict.fromkeys(KINDS, 0)
    asked = dict.fromkeys(KINDS, 0)
    length = SHARED["length"]
    for _ in range(batches):
        chosen = [KINDS[row % len(KINDS)] for row in range(rows)]
        documents = [documents_with(kind, draw, length) for kind in chosen]
        ids = torch.zeros(rows, length + 1, dtype=torch.long)
        for row, (tokens, _) in enumerate(documents):
            ids[row, : len(tokens)] = torch.tensor(tokens[: length + 1])
        ids = ids.to(data.device)
        with torch.autocast(data.device.type, dtype=torch.bfloat16):
            x = model.hidden(ids[:, :-1], geometry(tables, torch.zeros_like(ids[:, :-1]), torch.bfloat16)).detach()
            guessed = (x @ model.model.embed_tokens.weight.detach().T.to(x.dtype)).argmax(-1)
        hit = (guessed == ids[:, 1:]).tolist()
        for row, (kind, (_, weights)) in enumerate(zip(chosen, documents, strict=True)):
            for begin, end in answers(weights[: length + 1]):
                asked[kind] += 1
                right[kind] += all(hit[row][begin - 1 : end - 1])
    return {kind: right[kind] / max(1, asked[kind]) for kind in KINDS}


def documents_with(kind: str, draw: random.Random, size: int) -> tuple[list[int], list[int]]:
    """A document of that kind."""
    return SHARED["rows"].document(size, draw, kind)


def answers(weights: list[int]) -> list[tuple[int, int]]:
    """Where the answers begin and end."""
    marks = [0, *weights, 0]
    begins = [at for at in range(len(weights)) if marks[at + 1] and not marks[at]]
    ends = [at for at in range(1, len(weights) + 1) if marks[at] and not marks[at + 1]]
    return list(zip(begins, ends, strict=True))


@torch.no_grad()
def far(model: Model, tables: dict, data: Data, options: argparse.Namespace, position: str) -> None:
    """Pass keys and the other kinds far past the training length, a few of each."""
    began = time.monotonic()
    device = data.device
    plan = [tuple(int(part) for part in each.split(":")) for each in options.far]
    found: dict[str, dict[str, float]] = {}
    for multiple, trials in plan:
        row = {}
        for kind in KINDS:
            draw = random.Random(f"far/{multiple}/{kind}")
            right = asked = 0
            for _ in range(trials if kind == "pass_key" else max(2, trials // 3)):
                ids, weights = documents_with(kind, draw, SHARED["length"] * multiple)
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
            row[kind] = round(right / max(1, asked), 3)
        found[f"{multiple}x"] = row
        say(options, f"{position} at {multiple} x: {row}")
    name = "" if position == "wavelet" else f"{position}-"
    Path(options.out / f"{name}far.json").write_text(json.dumps(found))
    say(options, f"{position}: far took {time.monotonic() - began:.1f} s")
