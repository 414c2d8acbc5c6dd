"""How much memory this process may use: the container's limit, or else the machine's size."""

from pathlib import Path

from service.runtime.cgroup import ROOT, group_v1, groups_v2, read


def memory_limit_bytes(root: Path = ROOT) -> int:
    """Return the smallest of the machine's memory and the cgroups' limits, v2 and v1."""
    texts = [read(group / "memory.max") for group in groups_v2(root)]
    texts.append(read(group_v1(root, "memory") / "memory.limit_in_bytes"))
    return min([_machine(root), *(int(text) for text in texts if text.isdecimal())])


def _machine(root: Path) -> int:
    lines = (line.split() for line in read(root / "proc/meminfo").splitlines())
    return next(int(fields[1]) * 1024 for fields in lines if fields[0] == "MemTotal:")
