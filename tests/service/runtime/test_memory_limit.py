from pathlib import Path

import pytest

from service.runtime.memory_limit import memory_limit_bytes

MACHINE = {"proc/meminfo": "MemTotal:        2048 kB\nMemFree:         1 kB\n"}
V2 = "sys/fs/cgroup"
GIVEN = {
    "no limit": ({}, 2048 * 1024),
    "v2": ({f"{V2}/memory.max": "1000000\n"}, 1_000_000),
    "v2, none": ({f"{V2}/memory.max": "max\n"}, 2048 * 1024),
    "v2, of the group above": (
        {
            "proc/self/cgroup": "0::/pod/c\n",
            f"{V2}/pod/memory.max": "500000",
            f"{V2}/pod/c/memory.max": "900000",
        },
        500_000,
    ),
    "v1": ({f"{V2}/memory/memory.limit_in_bytes": "700000\n"}, 700_000),
    "v1, none": ({f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712"}, 2048 * 1024),
}


@pytest.mark.parametrize("case", GIVEN)
def test_the_smallest_limit_counts(tmp_path: Path, case: str) -> None:
    files, expected = GIVEN[case]
    for name, text in {**MACHINE, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit_bytes(tmp_path) == expected


def test_this_machine_has_some_memory() -> None:
    assert memory_limit_bytes() > 1 << 20
