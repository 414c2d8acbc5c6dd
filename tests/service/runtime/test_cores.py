from pathlib import Path

import pytest

from service.runtime import cores
from service.runtime.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_affinity", lambda: 8)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu"


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
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_cores_are_the_containers_quota(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert usable_cores(write(tmp_path, files)) == expected


def test_this_machine_has_at_least_one_core() -> None:
    assert usable_cores() >= 1
