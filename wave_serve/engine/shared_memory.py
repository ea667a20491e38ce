"""Shared memory that an engine's processes leave behind: vLLM's workers share files in /dev/shm, which outlive them.

A worker that is killed, and on CPU any worker of several, leaves its files there. Memory that nobody uses would pile up
with every restart, and in a container /dev/shm is small.
"""

from pathlib import Path

PROCESSES = Path("/proc")
SEGMENTS = "/dev/shm/"  # noqa: S108 - not a place of ours for temporary files; what others mapped is looked up there
DELETED = " (deleted)"


class SharedMemory:
    """The files in /dev/shm that an engine's processes were seen to use."""

    def __init__(self) -> None:
        self._files: set[Path] = set()

    def note(self, group: int) -> None:
        """Takes down what the processes of a group have mapped now."""
        self._files.update(path for pid in _processes() if _group(pid) == group for path in _mapped(pid))

    def free(self) -> None:
        """Removes those of the files that no process has mapped any more, and forgets them all."""
        used = {path for pid in _processes() for path in _mapped(pid)} if self._files else set()
        for path in self._files - used:
            path.unlink(missing_ok=True)
        self._files.clear()


def _processes() -> list[int]:
    return [int(entry.name) for entry in PROCESSES.iterdir() if entry.name.isdecimal()]


def _group(pid: int) -> int | None:
    """Its process group, the third field behind its name, which may hold spaces and brackets."""
    try:
        return int((PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[2])
    except (OSError, ValueError, IndexError):
        return None


def _mapped(pid: int) -> set[Path]:
    """Files in /dev/shm that a process has mapped; none of a process that has ended or is another user's."""
    try:
        lines = (PROCESSES / str(pid) / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    names = {line[line.index(SEGMENTS) :] for line in lines if SEGMENTS in line}
    return {Path(name) for name in names if not name.endswith(DELETED)}
