"""Trains the bundled model, and twins of it with other positions, on one GPU within a given number of seconds.

    python -m benchmarks.quality.bundled.train --tokenizer DIR/tokenizer.json --out runs/bundled --seconds 90

Rows of 512 tokens: code, and tasks (``model_registry.training.tasks``) of which only the answers count. Writes
``model.pt`` (bfloat16, Hugging Face's names), ``log.json``, ``far.json`` and ``facts.json``; of a twin, the same under
its name.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.quality.bundled.data import Data
from benchmarks.quality.bundled.evaluate import answered, far, held_out_loss, loss_at
from benchmarks.quality.bundled.model import Layer, Model, geometry, position_tables, weighted_loss, yarn
from benchmarks.quality.bundled.optimizer import Optimizer
from benchmarks.quality.bundled.supply import task_rows
from model_registry.positions.wavelet import position_table
from model_registry.training.tasks.rows import KINDS, TaskRows

CONFIG = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
WAVELET = {"wavelet": "ricker", "scale_exponents": list(range(8)), "shifts": list(range(8))}


WARMUP = 60


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Warm-up (a fifth of a short run), constant, linear to zero over the last half."""
    return peak * min(1.0, max((step + 1) / WARMUP, 5 * progress)) * min(1.0, max(0.0, 1 - progress) / 0.5)


class Run:
    """One model in training: ``start`` compiles it, ``train`` trains it."""

    def __init__(
        self,
        position: str,
        config: dict,
        options: argparse.Namespace,
        name: str | None = None,
        rate: float | None = None,
        log_n: int | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.position, self.options = position, options
        self.rate = rate or options.rate
        self.name = ("" if position == "wavelet" else f"{position}-") if name is None else name
        self.device = torch.device(options.device)
        self.model = Model(config).to(self.device)
        table = position_table(WAVELET["wavelet"], WAVELET["scale_exponents"], WAVELET["shifts"]).to(self.device)
        heads = config["num_attention_heads"]
        log_n = (log_n or options.log_n) if position == "wavelet" else None
        self.tables = position_tables(position, table, heads, log_n, config["head_dim"])
        self.optimizer = Optimizer(self.model, self.rate)
        self._loss = weighted_loss if options.no_compile else torch.compile(weighted_loss, dynamic=False)
        self.entries: list[dict] = []

    def loss(self, ids: torch.Tensor, weights: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            x = self.model.hidden(ids[:, :-1], geometry(self.tables, documents, torch.bfloat16))
        return self._loss(x, self.model.model.embed_tokens.weight, ids[:, 1:], weights)

    def start(self) -> None:
        """Compiles on a batch of noise."""
        rows, length = self.options.rows, self.options.length
        ids = torch.randint(2, 500, (rows, length + 1), device=self.device)
        ones = torch.ones(rows, length, device=self.device)
        self.loss(ids, ones, torch.zeros_like(ids[:, 1:])).backward()
        for parameter in self.model.parameters():
            parameter.grad = None
        self._synchronize()
        say(self.options, f"{self.position}: {sum(p.numel() for p in self.model.parameters()):,} parameters, compiled")

    def train(self, data: Data, tasks: TaskRows, steps: int | None) -> int:
        """Until the steps are done or, without any, the seconds are over; returns the steps done."""
        options = self.options
        draw = torch.Generator(self.device).manual_seed(1)
        began, step, progress = time.monotonic(), 0, 0.0
        losses: list[torch.Tensor] = []
        while progress < 1:
            rate = learning_rate(self.rate, step, progress)
            value = self.loss(*data.batch(draw))
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
            self.optimizer.step(rate)
            losses.append(value.detach())
            step += 1
            if step % 10 == 0:
                self._synchronize()
                data.take()
            seconds = time.monotonic() - began
            progress = step / steps if steps else seconds / options.seconds
            if step % options.eval_every == 0 or progress >= 1:
                self._report(step, seconds, losses, data, tasks)
                losses = []
        self._save()
        say(options, f"{self.position}: {step} steps, {step * options.rows * options.length:,} tokens; written")
        return step

    def _report(self, step: int, seconds: float, losses: list[torch.Tensor], data: Data, tasks: TaskRows) -> None:
        options = self.options
        right = answered(
            self.model, self.tables, tasks, self.device, options.rows, options.length, options.eval_batches
        )
        entry = {
            "step": step,
            "tokens": step * options.rows * options.length,
            "seconds": round(seconds, 1),
            "loss": torch.stack(losses).mean().item(),
            "held_out_loss": held_out_loss(self.loss, data, options.rows),
            "right": right,
            "task_rows": data.made * 256,
        }
        self.entries.append(entry)
        shares = " ".join(f"{kind}={share:.2f}/{tokens:.2f}" for kind, (share, tokens) in right.items())
        say(options, f"{self.position} {step}: {entry['loss']:.3f} held out {entry['held_out_loss']:.3f} {shares}")
        if not math.isfinite(entry["loss"]):
            raise SystemExit(f"{self.position}: the loss became {entry['loss']}")

    def _save(self) -> None:
        weights = {key: value.to(torch.bfloat16).cpu() for key, value in self.model.state_dict().items()}
        torch.save(weights, self.options.out / f"{self.name}model.pt")
        (self.options.out / f"{self.name}log.json").write_text(json.dumps(self.entries))

    def far(self, tasks: TaskRows, data: Data, tables: dict | None = None, name: str | None = None) -> None:
        """Loss and right answers far past the training length, written as they come."""
        found: dict[str, dict] = {}
        tables = tables or self.tables
        name = self.name if name is None else name
        main = not name
        for each in self.options.far if main else self.options.far_twins:
            multiple, trials = map(int, each.split(":"))
            began, tokens = time.monotonic(), multiple * self.options.length
            nats = loss_at(self.model, tables, data.held_out[:-1], tokens)
            right = {
                kind: far(self.model, tables, tasks, self.device, tokens, kind, count)
                for kind in (KINDS if main else KINDS[:2])
                if (count := trials if kind == "pass_key" else max(2, trials // 4))
            }
            found[str(multiple)] = {"nats": nats, "right": right}
            (self.options.out / f"{name}far.json").write_text(json.dumps(found))
            shares = " ".join(f"{kind}={good}/{asked}" for kind, (good, asked) in right.items())
            seconds = time.monotonic() - began
            say(self.options, f"{name or self.position} at {multiple} x ({seconds:.1f} s): {nats:.3f} nats, {shares}")

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def say(options: argparse.Namespace, text: str) -> None:
    print(f"[{time.monotonic() - options.began:6.1f} s] {text}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/bundled"), help="where data passes by")  # noqa: S108
    parser.add_argument("--seconds", type=float, default=90, help="of training, compiling not counted")
    parser.add_argument("--twins", nargs="*", default=[], help="positions to compare, with a small budget")
    parser.add_argument("--twin-steps", type=int, default=350, help="their budget")
    parser.add_argument(
        "--recalibrate", nargs="*", default=[], metavar="RATE:SHARE", help="of the rope twin's steps, converted"
    )
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--task-share", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--log-n", type=int, default=16, help="logit_scaling_length")
    parser.add_argument("--answer-weight", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--files", type=int, help="read no more files than this")
    parser.add_argument("--far", nargs="*", default=["1:24", "16:8"], metavar="MULTIPLE:TRIALS")
    parser.add_argument("--far-twins", nargs="*", default=["1:16", "16:12", "64:6"], metavar="MULTIPLE:TRIALS")
    parser.add_argument("--eval-batches", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=300)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=NUMBER", help="sizes of the model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--cache", type=Path, help="compiled code of an earlier run")
    parser.add_argument("--save-cache", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.work, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.quality.bundled.supply", "--tokenizer", options.tokenizer]
    command += ["--folder", str(options.work), "--length", str(options.length), "--processes", str(options.processes)]
    command += ["--files", str(options.files)] if options.files else []
    supply = subprocess.Popen(command, start_new_session=True)
    try:
        run(options)
    finally:
        os.killpg(supply.pid, signal.SIGKILL)  # its worker processes too


def run(options: argparse.Namespace) -> None:
    torch.set_float32_matmul_precision("high")
    if not options.no_compile:
        Layer.forward = torch.compile(Layer.forward, dynamic=False)
    if options.cache and options.cache.is_file():
        torch.compiler.load_cache_artifacts(options.cache.read_bytes())
        say(options, "compiled code loaded")
    config = CONFIG | {name: int(value) for name, value in (each.split("=") for each in options.set)}
    model = Run("wavelet", config, options)
    model.start()
    if options.save_cache:
        save_cache(options)
    while not (options.work / "ready").exists():
        time.sleep(0.02)
    facts = json.loads((options.work / "facts.json").read_text())
    facts |= {"config": config, "options": {k: str(v) for k, v in vars(options).items() if k != "began"}}
    (options.out / "facts.json").write_text(json.dumps(facts, indent=1))
    data, tasks = Data(options.work, options), task_rows(options.tokenizer, options.work)
    data.wait(4)
    say(options, f"{facts['files']} files, {facts['tokens']:,} tokens of code, {facts['prose_tokens']:,} of prose")
    model.train(data, tasks, None)
    (options.out / "trained").touch()
    model.far(tasks, data)
    compare(config, data, tasks, options)
    data.end()
    say(options, f"end; {data.made * 256:,} rows of tasks were made")


def compare(config: dict, data: Data, tasks: TaskRows, options: argparse.Namespace) -> None:
    """Models with several positions and one small budget, and the rope one converted."""
    runs = {}
    for position in options.twins:
        runs[position] = run = Run(position, config, options, f"small-{position}-")
        run.start()
        run.train(data, tasks, options.twin_steps)
        run.far(tasks, data)
    if "rope" not in runs:
        return
    rope = runs["rope"]
    rope.far(tasks, data, yarn(rope.tables, 64.0, options.length), "small-yarn-")
    for number, each in enumerate(options.recalibrate):
        rate, share = map(float, each.split(":"))
        run = Run("wavelet", config, options, f"small-converted-{rate:g}-{share:g}-", rate, options.length)
        run.model.load_state_dict(rope.model.state_dict())
        if number == 0:
            run.far(tasks, data, name="small-converted-untrained-")
        run.train(data, tasks, max(1, round(share * options.twin_steps)))
        run.far(tasks, data)


def save_cache(options: argparse.Namespace) -> None:
    """What has been compiled so far, for ``--cache``."""
    artifacts = torch.compiler.save_cache_artifacts()
    if artifacts:
        (options.out / "cache.bin").write_bytes(artifacts[0])
        say(options, f"compiled code: {len(artifacts[0]):,} bytes")


if __name__ == "__main__":
    main()
