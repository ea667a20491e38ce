"""Serves a checkpoint once and writes its ``eval.json``: the loss by length that the server's zones come from."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from model_registry.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Training lengths that are measured."""

READY_SECONDS = 600
PROGRAM = "from wave_serve.cli.main import main; main()"
"""The gateway's command line: it and this package know each other by their commands alone."""


def measure(model: Path, held_out: Sequence[str], train_length: int, tokens: int, work: Path) -> Path:
    """Measure the loss at 1, 2, 4 ... times the training length, as far as the held-out text and the checkpoint go.

    Args:
        model: the checkpoint directory; ``eval.json`` is written into it.
        held_out: documents that were not trained on.
        train_length: of the checkpoint.
        tokens: that the documents have together.
        work: directory for the server's log, the text and the evaluation's files.

    Raises:
        TrainingError: the server does not start, or the evaluation fails.
    """
    longest = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    lengths = measured_lengths(train_length, tokens, longest)
    if not lengths:
        raise TrainingError(f"the held-out text has {tokens} tokens: too few to measure {train_length} at a time")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    text = work / "held_out.txt"
    text.write_text("\n".join(held_out), encoding="utf-8")
    with _served(model, lengths[-1] + 1, work / "serve.log") as url:
        command = [sys.executable, "-c", PROGRAM, "eval", "perplexity", "--base-url", url, "--text", str(text)]
        command += ["--lengths", ",".join(f"{length}t" for length in lengths), "--out", str(work / "loss"), "--no-plot"]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise TrainingError(f"measuring {str(model)!r} failed: {_last_line(done.stderr)}")
    shutil.copyfile(work / "loss/perplexity.json", model / "eval.json")
    return model / "eval.json"


def measured_lengths(train_length: int, tokens: int, longest: int) -> list[int]:
    """Tokens of the prompts that are measured, ascending.

    Args:
        train_length: of the checkpoint.
        tokens: of the text; each length is below it.
        longest: ``max_position_embeddings``. A prompt is at least one token shorter: the server generates one more.
    """
    return sorted({min(m * train_length, longest - 1) for m in MULTIPLES if m * train_length < tokens})


def losses(path: Path) -> dict[int, float]:
    """Nats per token by length of an ``eval.json``."""
    return {row["length"]: row["nats_per_token"] for row in json.loads(path.read_text())["rows"]}


@contextmanager
def _served(model: Path, longest: int, log: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM, "serve", str(model), "--port", str(port), "--max-context", str(longest)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(server, url, log)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:  # noqa: S310 - our own server
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise TrainingError(f"the server did not start: {_last_line(log.read_text(errors='replace'))} (see {str(log)!r})")


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]
