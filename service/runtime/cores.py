"""How many cores this process may use: the container's CPU quota, not the machine's size."""

import math
import os
from pathlib import Path

from service.runtime.cgroup import ROOT, group_v1, groups_v2, read


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
    return [
        quota
        for folder in groups_v2(root)
        if (quota := _quota(*read(folder / "cpu.max").split()[:2])) is not None
    ]


def _quotas_v1(root: Path) -> list[float]:
    folder = group_v1(root, "cpu")
    quota = _quota(read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us"))
    return [] if quota is None else [quota]


def _quota(limit: str = "max", period: str = "") -> float | None:
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
