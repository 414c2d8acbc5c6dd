"""How many cores this process may use: the container's CPU quota, not the machine's size."""

import math
import os
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return the smallest of the affinity mask, the cgroup v2 and the cgroup v1 quota."""
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return max(1, min([_affinity(), *map(math.ceil, quotas)]))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas_v2(root: Path) -> list[float]:
    """Quotas of this process's cgroup and of every group above it."""
    mount = root / "sys/fs/cgroup"
    group = mount / _own_group(root).lstrip("/")
    groups = [group, *group.parents]
    return [
        quota
        for folder in groups[: groups.index(mount) + 1]
        if (quota := _quota(*_read(folder / "cpu.max").split()[:2])) is not None
    ]


def _own_group(root: Path) -> str:
    lines = _read(root / "proc/self/cgroup").splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return "/" if ".." in group else group


def _quotas_v1(root: Path) -> list[float]:
    folder = root / "sys/fs/cgroup/cpu"
    quota = _quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
    return [] if quota is None else [quota]


def _quota(limit: str = "max", period: str = "") -> float | None:
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
