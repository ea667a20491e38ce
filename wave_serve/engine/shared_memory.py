"""Shared memory that an engine's processes leave behind: vLLM's workers share files in /dev/shm, which outlive them.

A worker that is killed, and on CPU any worker of several, leaves its files there. Memory that nobody uses would pile up
with every restart, and in a container /dev/shm is small. Where it cannot be looked up, as without a descriptor left to
list processes with, it stays: the engine is started again all the same.
"""

import logging
from pathlib import Path

from wave_serve.logs import event

logger = logging.getLogger("wave_serve.supervisor")
PROCESSES = Path("/proc")
SHARED = Path("/dev/shm")  # noqa: S108 - not a place of ours for temporary files: others' are looked up there


class SharedMemory:
    """The files in /dev/shm that an engine's processes were seen to use, by inode.

    A semaphore is mapped under a name that it had before its own, so that names tell less.
    """

    def __init__(self) -> None:
        self._inodes: set[int] = set()

    def note(self, group: int) -> None:
        """Takes down what the processes of a group have mapped now."""
        try:
            self._inodes.update(inode for pid in _processes() if _group(pid) == group for inode in _mapped(pid))
        except OSError as error:
            event(logger, logging.WARNING, "shared memory not noted", group=group, reason=str(error))

    def free(self) -> None:
        """Removes those of the files that no process has mapped any more, and forgets them all."""
        try:
            unused = self._inodes.difference(*map(_mapped, _processes())) if self._inodes else set()
            for path in SHARED.iterdir() if unused else ():
                if _inode(path) in unused:
                    path.unlink(missing_ok=True)
        except OSError as error:
            event(logger, logging.WARNING, "shared memory not freed", reason=str(error))
        self._inodes.clear()


def _processes() -> list[int]:
    return [int(entry.name) for entry in PROCESSES.iterdir() if entry.name.isdecimal()]


def _group(pid: int) -> int | None:
    """Its process group, the third field behind its name, which may hold spaces and brackets."""
    try:
        return int((PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[2])
    except (OSError, ValueError, IndexError):
        return None


def _mapped(pid: int) -> set[int]:
    """Inodes in /dev/shm that a process has mapped; none of a process that has ended or is another user's."""
    try:
        lines = (PROCESSES / str(pid) / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    # A line: range of addresses, permissions, offset, device, inode, path.
    fields = (line.split(maxsplit=5) for line in lines if f" {SHARED}/" in line)
    return {int(one[4]) for one in fields}


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
