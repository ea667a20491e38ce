"""A container's quota of processor time bounds the threads that serve in it."""

import os
from pathlib import Path

import pytest

from wave_serve.worker.cores import cores

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000", HERE),
        ("100000 100000", 1),
        ("50000 100000", 1),
        (f"{(HERE - 1) * 100000 + 90000} 100000", max(1, HERE - 1)),
        (f"{(HERE + 5) * 100000} 100000", HERE),
        ("", HERE),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, content: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    assert cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", HERE), ("100000", 1), (str(HERE * 200000), HERE)])
def test_a_quota_of_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == expected


def test_without_control_groups_all_cores_that_it_may_run_on(tmp_path: Path) -> None:
    assert cores(tmp_path) == HERE
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
