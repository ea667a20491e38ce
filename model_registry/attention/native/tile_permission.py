"""Permission to use AMX's tile registers, which Linux gives a process that asks for it, and no other."""

from __future__ import annotations

from functools import cache

import torch


@cache
def tile_refusal() -> str | None:
    """Have PyTorch ask for the tile registers, once in a process; what was refused, or ``None`` where it was granted.

    Without permission the first instruction that touches them ends the process. Granted, it holds for all threads,
    those that run already too.
    """
    if torch.cpu._init_amx():
        return None
    return "arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA): Linux does not grant this process AMX's tile registers"
