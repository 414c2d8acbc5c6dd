from pathlib import Path

import pytest

from service.frontends.count import front_end_count
from service.settings import Settings


@pytest.mark.parametrize(
    ("provider", "cores", "count"),
    [
        *[("cpu", 1, 0), ("cpu", 4, 0), ("cpu", 5, 1), ("auto", 16, 2), ("auto", 96, 12)],
        *[("cuda", 2, 1), ("cuda", 16, 14), ("tensorrt", 96, 16)],
    ],
)
def test_the_cores_that_the_model_leaves_decide(
    tmp_path: Path, provider: str, cores: int, count: int
) -> None:
    settings = Settings(frontends="auto", execution_providers=provider)
    assert front_end_count(settings, cores, tmp_path) == count


def test_a_gpu_is_found_by_its_device(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    settings = Settings(frontends="auto")
    assert front_end_count(settings, 4, tmp_path) == 2
    cpu = Settings(frontends="auto", execution_providers="cpu")
    assert front_end_count(cpu, 4, tmp_path) == 0


def test_a_number_is_taken_as_it_is() -> None:
    assert front_end_count(Settings(frontends=3)) == 3
