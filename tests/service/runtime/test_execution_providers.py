from pathlib import Path

import pytest

from service.runtime.execution_providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    Placement,
    ShapeProfile,
    provider_options,
    wanted_providers,
    worst,
)

ALL = [TENSORRT, CUDA, CPU]


@pytest.mark.parametrize(
    ("choice", "available", "wanted"),
    [
        ("auto", ALL, [CUDA, CPU]),
        ("auto", [CPU], [CPU]),
        ("cpu", ALL, [CPU]),
        ("cuda", [CPU], [CUDA, CPU]),
        ("tensorrt", [CPU], [TENSORRT, CUDA, CPU]),
    ],
)
def test_tensorrt_is_wanted_only_if_it_is_asked_for(
    choice: str, available: list[str], wanted: list[str]
) -> None:
    assert wanted_providers(choice, available) == wanted


def test_cuda_gets_its_device_and_memory_limit() -> None:
    options = provider_options(CUDA, GpuOptions(device_id=1, memory_limit_bytes=5_000_000_000))
    assert options["device_id"] == "1"
    assert options["gpu_mem_limit"] == "5000000000"
    assert "gpu_mem_limit" not in provider_options(CUDA, GpuOptions())


def test_tensorrt_gets_its_engine_cache_and_shapes() -> None:
    profile = ShapeProfile("images", (1, 64, 96, 3), (8, 64, 96, 3), (8, 128, 128, 3))
    options = provider_options(
        TENSORRT, GpuOptions(tensorrt_cache=Path("/engines"), profile=profile)
    )
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/engines"
    assert options["trt_profile_min_shapes"] == "images:1x64x96x3"
    assert options["trt_profile_opt_shapes"] == "images:8x64x96x3"
    assert options["trt_profile_max_shapes"] == "images:8x128x128x3"


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "0", "1")]
)
def test_tensorrt_computes_in_the_precision_that_serves(
    precision: str, fp16: str, int8: str
) -> None:
    options = provider_options(TENSORRT, GpuOptions(precision=precision))
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)


@pytest.mark.parametrize(
    ("others", "active"), [([], CUDA), ([CUDA], CUDA), ([CPU], CPU), ([TENSORRT, CPU], CPU)]
)
def test_several_sessions_report_the_slowest_provider_and_the_most_nodes(
    others: list[str], active: str
) -> None:
    first = Placement(CUDA, CUDA, nodes_on_cpu=2)
    for order in (1, -1):
        all_of_them = [first, *(Placement(CUDA, other) for other in others)][::order]
        assert worst(all_of_them) == Placement(CUDA, active, nodes_on_cpu=2)


def test_a_cpu_needs_no_options() -> None:
    assert provider_options(CPU, GpuOptions()) == {}
