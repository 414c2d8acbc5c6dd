"""ONNX Runtime's execution providers: their choice, their options, and placement of graphs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

ProviderName = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: dict[ProviderName, str] = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

_IN_ORDER = {"cpu": [CPU], "cuda": [CUDA, CPU], "tensorrt": [TENSORRT, CUDA, CPU]}
_FASTEST_FIRST = (TENSORRT, CUDA)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """The requested and the active execution provider of a graph.

    `nodes_on_cpu` counts nodes that run on the CPU although `active` is another provider.
    """

    requested: str
    active: str
    nodes_on_cpu: int = 0


def worst(placements: Sequence[Placement]) -> Placement:
    """Combine placements of several sessions: the slowest provider, the most nodes on the CPU."""
    slowest = max(placements, key=lambda each: _rank(each.active))
    return Placement(
        slowest.requested, slowest.active, max(each.nodes_on_cpu for each in placements)
    )


def _rank(provider: str) -> int:
    return _FASTEST_FIRST.index(provider) if provider in _FASTEST_FIRST else len(_FASTEST_FIRST)


@dataclass(frozen=True)
class ShapeProfile:
    """The smallest, the most common and the largest shape of an input."""

    name: str
    smallest: Shape
    usual: Shape
    largest: Shape


@dataclass(frozen=True)
class GpuOptions:
    """Options of a GPU; `memory_limit_bytes` bounds ONNX Runtime's arena.

    `tensorrt_cache` is the folder for engines and timings, which take minutes to build. TensorRT
    does not take shapes and precision from the graph; `profile` and `precision` set them.
    """

    device_id: int = 0
    precision: str = "fp32"
    memory_limit_bytes: int | None = None
    tensorrt_cache: Path | None = None
    profile: ShapeProfile | None = None


def wanted_providers(choice: str, available: Collection[str]) -> list[str]:
    """List the requested providers, fastest first; `auto` is CUDA if available, else the CPU."""
    if choice == "auto":
        choice = "cuda" if CUDA in available else "cpu"
    return _IN_ORDER[choice]


def provider_options(provider: str, gpu: GpuOptions) -> dict[str, str]:
    """Return the options of a provider, under ONNX Runtime's names."""
    match provider:
        case "CUDAExecutionProvider":
            return _cuda(gpu)
        case "TensorrtExecutionProvider":
            return _tensorrt(gpu)
        case _:
            return {}


def _cuda(gpu: GpuOptions) -> dict[str, str]:
    options = {
        "device_id": str(gpu.device_id),
        # Trying every algorithm takes seconds for each of up to a hundred shapes.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",  # doubling wastes memory on few, known shapes
        "use_tf32": "0",  # fp32 is chosen for accuracy; fp16 is the fast choice
    }
    if gpu.memory_limit_bytes is not None:
        options["gpu_mem_limit"] = str(gpu.memory_limit_bytes)
    return options


def _tensorrt(gpu: GpuOptions) -> dict[str, str]:
    options = {
        "device_id": str(gpu.device_id),
        "trt_fp16_enable": str(int(gpu.precision == "fp16")),
        "trt_int8_enable": str(int(gpu.precision == "int8")),  # needed for a quantized graph
    }
    if gpu.tensorrt_cache is not None:
        folder = str(gpu.tensorrt_cache)
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
    if gpu.profile is not None:
        profile = gpu.profile
        options |= {
            "trt_profile_min_shapes": _shape(profile.name, profile.smallest),
            "trt_profile_opt_shapes": _shape(profile.name, profile.usual),
            "trt_profile_max_shapes": _shape(profile.name, profile.largest),
        }
    return options


def _shape(name: str, shape: Shape) -> str:
    return f"{name}:{'x'.join(map(str, shape))}"
