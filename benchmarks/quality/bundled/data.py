"""Batches on the GPU: code windows, and rows of tasks from a ring that a thread keeps filling."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy
import torch

from benchmarks.quality.bundled.supply import CHUNK_ROWS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

RING_CHUNKS = 192


class Data:
    """Everything that a step reads is on the device, so that no step waits for a copy."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.length = options.length
        self.folder = folder
        self.tasks = round(options.rows * options.task_share)
        self.texts = options.rows - self.tasks
        self.answer_weight = options.answer_weight
        self.code = self._load("code")
        self.held_out = self._load("held_out").long()
        shape = (RING_CHUNKS if self.device.type == "cuda" else 8, CHUNK_ROWS, 3, self.length + 1)
        self.ring = torch.zeros(shape, dtype=torch.int16, device=self.device)
        self.made = 0
        self._ended = False
        self._waiting: list[torch.Tensor] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _load(self, name: str) -> torch.Tensor:
        return torch.from_numpy(numpy.load(self.folder / f"{name}.npy").astype(numpy.int16)).to(self.device)

    def _read(self) -> None:
        """Takes finished files, oldest first, into pinned memory."""
        while not self._ended:
            found = sorted(self.folder.glob("rows-*.npy"), key=lambda path: path.stat().st_mtime)
            for path in found:
                chunk = torch.from_numpy(numpy.load(path).astype(numpy.int16))
                path.unlink()
                self._waiting.append(chunk.pin_memory() if self.device.type == "cuda" else chunk)
            time.sleep(0.1)

    def take(self) -> None:
        """Copies what has been read into the ring, over its oldest rows."""
        while self._waiting:
            self.ring[self.made % len(self.ring)].copy_(self._waiting.pop(0), non_blocking=True)
            self.made += 1

    def wait(self, chunks: int) -> None:
        """Until so many chunks are in the ring."""
        while self.made < chunks:
            self.take()
            time.sleep(0.02)

    def end(self) -> None:
        self._ended = True

    def batch(self, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids ``[B, L + 1]``, weights of the targets ``[B, L]`` and documents ``[B, L]``."""
        at = {"generator": draw, "device": self.device}
        starts = torch.randint(0, len(self.code) - self.length - 1, (self.texts, 1), **at)
        text = self.code[starts + torch.arange(self.length + 1, device=self.device)].long()
        known = min(self.made, len(self.ring))
        rows = self.ring[:known].flatten(0, 1)[torch.randint(0, known * CHUNK_ROWS, (self.tasks,), **at)].long()
        ids = torch.cat([text, rows[:, 0]])
        weights = torch.cat([torch.ones_like(text[:, 1:]), rows[:, 1, 1:] * self.answer_weight]).float()
        documents = torch.cat([documents_of(text[:, :-1]), rows[:, 2, :-1]])
        return ids, weights, documents


def documents_of(ids: torch.Tensor) -> torch.Tensor:
    """The number of the document that each token of packed text belongs to; 0 ends one."""
    ends = (ids == 0).long()
    return ends.cumsum(1) - ends
