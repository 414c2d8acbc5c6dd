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
    texts += [_read(group / "memory.limit_in_bytes") for group in _groups_v1(root, "memory")]
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
    return [
        quota
        for group in _groups_v1(root, "cpu")
        if (quota := _quota(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")))
        is not None
    ]


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
    return _with_parents(root / "sys/fs/cgroup", _own_group(root, ""))


def _groups_v1(root: Path, controller: str) -> list[Path]:
    """List the same for a controller of cgroup v1; a container sees its own group as the root."""
    return _with_parents(root / "sys/fs/cgroup" / controller, _own_group(root, controller))


def _with_parents(mount: Path, own: str) -> list[Path]:
    group = mount / own.lstrip("/")
    groups = [group, *group.parents]
    return groups[: groups.index(mount) + 1]


def _own_group(root: Path, controller: str) -> str:
    """Return the path of this process's group: lines are `number:controllers:path`."""
    lines = (line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines())
    own = (fields[2] for fields in lines if controller in fields[1].split(","))
    group = next(own, "/")
    return "/" if ".." in group else group


def _read(path: Path) -> str:
    """Return the text of a file, or an empty string if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
