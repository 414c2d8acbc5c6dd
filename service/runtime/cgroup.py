"""The control groups of this process: where the container's limits are written."""

from pathlib import Path

ROOT = Path("/")


def groups_v2(root: Path) -> list[Path]:
    """Return the folder of this process's cgroup (v2), and of every group above it."""
    mount = root / "sys/fs/cgroup"
    group = mount / _own_group(root).lstrip("/")
    groups = [group, *group.parents]
    return groups[: groups.index(mount) + 1]


def group_v1(root: Path, controller: str) -> Path:
    """Return the folder of a controller's limits (v1)."""
    return root / "sys/fs/cgroup" / controller


def read(path: Path) -> str:
    """Return what a file says; nothing where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _own_group(root: Path) -> str:
    lines = read(root / "proc/self/cgroup").splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return "/" if ".." in group else group
