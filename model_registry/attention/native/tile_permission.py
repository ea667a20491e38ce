"""Permission to use AMX's tile registers, which Linux gives a process that asks for it, and no other."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


@cache
def tile_refusal() -> str | None:
    """Ask for the tile registers, once in a process; why Linux refuses them, or ``None`` where it grants them.

    Without permission the first instruction that touches them ends the process. Granted, it holds for all threads,
    those that run already too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    request = (ctypes.c_long(number) for number in (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA))
    if libc.syscall(*request) == 0:
        return None
    return f"arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA): {os.strerror(ctypes.get_errno())}"
