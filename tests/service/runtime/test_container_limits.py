from pathlib import Path

import pytest

from service.runtime import container_limits
from service.runtime.container_limits import memory_limit_bytes, usable_cores


@pytest.fixture
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_limits, "_affinity", lambda: 8)


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu"


@pytest.mark.usefixtures("_eight_cores")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({f"{V2}/cpu.max": "max 100000\n"}, 8),
        ({f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({f"{V2}/cpu.max": "150000 100000\n"}, 2),
        ({f"{V2}/cpu.max": "10000 100000\n"}, 1),
        ({f"{V2}/cpu.max": "6400000 100000\n"}, 8),
        ({f"{V2}/cpu.max": ""}, 8),
        ({f"{V2}/cpu.max": "nonsense"}, 8),
        ({f"{V2}/cpu.max": "100000 0"}, 8),
        ({"proc/self/cgroup": "0::/pod/c\n", f"{V2}/pod/c/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "0::/pod/c\n",
                f"{V2}/pod/cpu.max": "200000 100000",
                f"{V2}/pod/c/cpu.max": "max 100000",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/../other\n", f"{V2}/cpu.max": "300000 100000"}, 3),
        ({f"{V1}/cpu.cfs_quota_us": "400000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/pod/c\n0::/\n",
                f"{V1}/pod/cpu.cfs_quota_us": "200000",
                f"{V1}/pod/cpu.cfs_period_us": "100000",
                f"{V1}/pod/c/cpu.cfs_quota_us": "-1",
                f"{V1}/pod/c/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_the_containers_quota_limits_the_cores(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert usable_cores(write_files(tmp_path, files)) == expected


def test_this_machine_has_at_least_one_core() -> None:
    assert usable_cores() >= 1


MEMINFO = {"proc/meminfo": "MemTotal:        2048 kB\nMemFree:         1 kB\n"}
MEMORY_LIMITS = {
    "no limit": ({}, 2048 * 1024),
    "v2": ({f"{V2}/memory.max": "1000000\n"}, 1_000_000),
    "v2, unlimited": ({f"{V2}/memory.max": "max\n"}, 2048 * 1024),
    "v2, parent group": (
        {
            "proc/self/cgroup": "0::/pod/c\n",
            f"{V2}/pod/memory.max": "500000",
            f"{V2}/pod/c/memory.max": "900000",
        },
        500_000,
    ),
    "v1": ({f"{V2}/memory/memory.limit_in_bytes": "700000\n"}, 700_000),
    "v1, unlimited": ({f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712"}, 2048 * 1024),
}


@pytest.mark.parametrize("case", MEMORY_LIMITS)
def test_the_smallest_memory_limit_applies(tmp_path: Path, case: str) -> None:
    files, expected = MEMORY_LIMITS[case]
    assert memory_limit_bytes(write_files(tmp_path, {**MEMINFO, **files})) == expected


def test_this_machine_has_more_than_a_mebibyte_of_memory() -> None:
    assert memory_limit_bytes() > 1 << 20
