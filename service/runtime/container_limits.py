"""The cores and memory that this process may use, limited by its container, if any."""

import math
import os
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return the number of cores within the affinity mask and the quotas of cgroup v2 and v1."""
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return max(1, min([_affinity(), *map(math.ceil, quotas)]))


def memory_limit_bytes(root: Path = ROOT) -> int:
    """Return the memory in bytes: the least of the machine's memory and the cgroup limits."""
    texts = [_read(group / "memory.max") for group in _groups_v2(root)]
    texts.append(_read(_group_v1(root, "memory") / "memory.limit_in_bytes"))
    return min([_machine_memory(root), *(int(text) for text in texts if text.isdecimal())])


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas_v2(root: Path) -> list[float]:
    return [
        quota
        for group in _groups_v2(root)
        if (quota := _quota(*_read(group / "cpu.max").split()[:2])) is not None
    ]


def _quotas_v1(root: Path) -> list[float]:
    group = _group_v1(root, "cpu")
    quota = _quota(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))
    return [] if quota is None else [quota]


def _quota(limit: str = "max", period: str = "") -> float | None:
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _machine_memory(root: Path) -> int:
    lines = (line.split() for line in _read(root / "proc/meminfo").splitlines())
    return next(int(fields[1]) * 1024 for fields in lines if fields[0] == "MemTotal:")


def _groups_v2(root: Path) -> list[Path]:
    """List the folders of this process's cgroup and of every group above it."""
    mount = root / "sys/fs/cgroup"
    group = mount / _own_group(root).lstrip("/")
    groups = [group, *group.parents]
    return groups[: groups.index(mount) + 1]


def _group_v1(root: Path, controller: str) -> Path:
    return root / "sys/fs/cgroup" / controller


def _own_group(root: Path) -> str:
    lines = _read(root / "proc/self/cgroup").splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return "/" if ".." in group else group


def _read(path: Path) -> str:
    """Return the text of a file, or an empty string if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
