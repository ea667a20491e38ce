"""Rows of tasks from worker processes, and small things that both halves of the training script use."""

import argparse
import multiprocessing
import random
import threading
import time

import numpy
from state import SHARED

CHUNK_ROWS = 256


def task_chunk(number: int) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Ids, weights and document numbers of ``CHUNK_ROWS`` rows of one token more than the training length."""
    rows = SHARED["rows"]
    draw = random.Random(f"tasks/{number}")
    found = [rows.row(SHARED["length"] + 1, draw) for _ in range(CHUNK_ROWS)]
    return (
        numpy.array([row.ids for row in found], dtype=numpy.uint16),
        numpy.array([row.weights for row in found], dtype=numpy.uint8),
        numpy.array([row.documents for row in found], dtype=numpy.uint8),
    )


class TaskSupply:
    """Rows from worker processes; the newest replace the oldest, and a batch is drawn from all that are there."""

    def __init__(self, processes: int, capacity: int) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(processes)
        self._chunks: list[tuple] = []
        self._capacity = capacity // CHUNK_ROWS
        self._lock = threading.Lock()
        self.made = 0
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        try:
            for chunk in self._pool.imap_unordered(task_chunk, range(10**6)):
                self.made += CHUNK_ROWS
                with self._lock:
                    self._chunks.append(chunk)
                    del self._chunks[: -self._capacity]
        except (ValueError, OSError, EOFError):
            return  # the pool has been ended

    def wait(self, rows: int) -> None:
        while self.made < rows:
            time.sleep(0.05)

    def rows(self, count: int, draw: numpy.random.Generator) -> list[numpy.ndarray]:
        with self._lock:
            chunks = list(self._chunks)
        picks = [(chunks[draw.integers(len(chunks))], draw.integers(CHUNK_ROWS)) for _ in range(count)]
        return [numpy.stack([chunk[part][row] for chunk, row in picks]) for part in range(3)]

    def end(self) -> None:
        self._pool.terminate()


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Warm-up over 60 steps, constant, linear to zero over the last half."""
    return peak * min(1.0, (step + 1) / 60) * min(1.0, max(0.0, 1 - progress) / 0.5)


def say(options: argparse.Namespace, text: str) -> None:
    print(f"[{time.monotonic() - options.began:6.1f} s] {text}", flush=True)
