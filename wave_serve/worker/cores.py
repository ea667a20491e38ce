"""How many processor cores this process may keep busy."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores(cgroups: Path = CGROUPS) -> int:
    """Cores that it may run on, or fewer where its control group has a quota, as a container with `--cpus` does.

    A container sees its own group at the root, in version 2 of control groups and in version 1.
    """
    running_on = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return running_on if quota is None else max(1, min(running_on, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """The group's quota in cores; None without one."""
    try:
        if (cgroups / "cpu.max").exists():
            share, period = (cgroups / "cpu.max").read_text().split()
        else:
            share, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(share) / float(period) if float(share) > 0 else None
    except (OSError, ValueError):  # no control groups, or the word "max"
        return None
