"""The rooms of docs/concepts.md, kept true: who may import whom, and each library's door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# module -> the modules of the service that it may import
ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "execution_providers": set(),
    "validation": set(),
    "cgroup": set(),
    "cores": {"cgroup"},
    "memory_limit": {"cgroup"},
    "gpu": set(),
    "loop_lag": set(),
    "moving_average": set(),
    "stage_timer": set(),
    "worker_pool": set(),
    "log": set(),
    "protocol": set(),
    "settings": {"errors", "execution_providers", "shadow_rule", "version_policy"},
    "contract": {"errors", "protocol", "version_policy", "validation"},
    "events": {"errors", "protocol", "stage_timer"},
    "worker_threads": set(),
    "memory": set(),
    "version_policy": set(),
    "device": {"execution_providers", "worker_threads"},
    "drain_rate": set(),
    "execution_plan": {"protocol"},
    "metrics": {"__init__", "errors", "events", "protocol", "stage_timer"},
    "triton_names": {"errors", "protocol"},
    "gpu_metrics": {"gpu"},
    "trace_context": {"stage_timer"},
    "tracing": {"__init__", "stage_timer", "trace_context"},
    "prediction_summary": {"contract", "events", "preprocessing", "protocol", "session"},
    "precision": {"contract", "execution_providers", "protocol"},
    "node_placement": set(),
    "session": {
        "device_binding",
        "errors",
        "execution_providers",
        "node_placement",
        "pinned_memory",
        "protocol",
    },
    "device_binding": set(),
    "pinned_memory": set(),
    "image_structure": {"errors"},
    "preprocessing": {"contract", "errors", "image_structure"},
    "postprocessing": {"errors", "protocol"},
    "admission": {"errors", "moving_average"},
    "graph_sessions": {"errors", "execution_providers", "preprocessing", "session"},
    "calibration": {"device", "graph_sessions", "preprocessing", "protocol"},
    "request_queue": {"preprocessing", "session"},
    "dynamic_batcher": {
        "device",
        "drain_rate",
        "errors",
        "events",
        "execution_plan",
        "protocol",
        "request_queue",
        "session",
    },
    "model_instance": {
        "contract",
        "device",
        "dynamic_batcher",
        "errors",
        "events",
        "execution_plan",
        "graph_sessions",
        "moving_average",
        "preprocessing",
        "protocol",
        "request_queue",
        "session",
        "statistics",
        "worker_threads",
    },
    "self_test": {"contract", "errors", "preprocessing", "protocol", "session"},
    "model_loading": {
        "calibration",
        "contract",
        "device",
        "device_binding",
        "errors",
        "events",
        "execution_plan",
        "execution_providers",
        "graph_sessions",
        "model_instance",
        "precision",
        "protocol",
        "self_test",
        "session",
    },
    "shadow_rule": set(),
    "shadow": {
        "events",
        "inference",
        "model_instance",
        "preprocessing",
        "protocol",
        "request_queue",
        "session",
        "shadow_rule",
        "stage_timer",
    },
    "statistics": {"errors", "protocol", "stage_timer"},
    "tensors": {"errors", "protocol", "session"},
    "base64_image": {"errors"},
    "model_config": {"execution_providers", "model_instance", "protocol", "version_policy"},
    "inference_json": {"errors", "protocol", "validation"},
    "inference_request": {
        "base64_image",
        "contract",
        "errors",
        "inference_json",
        "preprocessing",
        "protocol",
        "tensors",
    },
    "inference_response": {
        "contract",
        "inference_request",
        "protocol",
        "session",
        "tensors",
    },
    "model_version": {"contract", "errors", "model_instance", "protocol"},
    "model_entry": {
        "contract",
        "errors",
        "events",
        "memory",
        "model_instance",
        "model_version",
        "protocol",
        "version_policy",
    },
    "model_repository": {
        "contract",
        "errors",
        "events",
        "model_entry",
        "model_instance",
        "model_version",
        "protocol",
        "repository_scan",
        "shadow_rule",
        "version_policy",
    },
    "repository_scan": {"file_watch"},
    "repository_watch": {"errors", "file_watch", "model_repository", "repository_scan"},
    "inference": {
        "contract",
        "events",
        "prediction_summary",
        "errors",
        "model_instance",
        "postprocessing",
        "preprocessing",
        "protocol",
        "request_queue",
        "session",
        "stage_timer",
        "worker_pool",
    },
    "check_ready": {"errors", "settings"},
    "token_bucket": set(),
    "file_watch": set(),
    "api_keys": {"errors", "events", "token_bucket", "validation"},
    "certificate_expiry": set(),
    "tls": {"certificate_expiry", "errors", "events"},
    "connections": set(),
    "open_files": set(),
    "http_protocol": {"connections", "events"},
    "server": {
        "admission",
        "connections",
        "errors",
        "events",
        "file_watch",
        "http_protocol",
        "open_files",
        "settings",
        "tls",
    },
    "__main__": {"command_line"},
    "command_line": {
        "__init__",
        "api_keys",
        "app",
        "errors",
        "log",
        "memory",
        "server",
        "settings",
    },
}
# Rooms that join others: `app` may import all; `routes/` what speaks no HTTP.
ROUTES_NEVER = {
    *(
        "__main__",
        "app",
        "command_line",
        "gpu_metrics",
        "log",
        "metrics",
        "server",
        "session",
        "settings",
    ),
    *("tracing", "triton_names"),
}

# library -> the files that may import it
DOORS: dict[str, tuple[str, ...]] = {
    "onnxruntime": (
        "service/session.py",
        "model_export/comparison/predictors.py",
        "model_export/graphs/int8.py",
        "model_export/graphs/fp16.py",
    ),
    "prometheus_client": (
        "service/metrics.py",
        "service/triton_names.py",
        "service/gpu_metrics.py",
    ),
    "opentelemetry": ("service/tracing.py",),
    "pynvml": ("service/gpu.py",),
    "cuda": ("service/pinned_memory.py",),
    "fastapi": ("service/app.py", "service/routes/*.py"),
    "starlette": ("service/app.py", "service/routes/*.py"),
    "uvicorn": ("service/server.py", "service/http_protocol.py"),
    "pydantic_settings": ("service/settings.py",),
    "python_multipart": ("service/routes/images_in_body.py",),
    "torch": ("model_export/*.py", "model_export/**/*.py"),
    "onnx": ("model_export/comparison/*.py", "model_export/entry/*.py", "model_export/graphs/*.py"),
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def rooms(path: Path) -> set[str]:
    """The modules of the service that a file imports; `service` itself is `__init__`."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "service":
            is_module = (ROOT / "service" / f"{parts[1]}.py").exists() or parts[1] == "routes"
            found.add(parts[1] if is_module else "__init__")
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_two_packages_never_import_each_other() -> None:
    for path in files("service"):
        assert not libraries(path) & {"model_export", "torch", "onnx"}, relative(path)
    for path in files("model_export"):
        assert "service" not in libraries(path), relative(path)


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_its_door(library: str) -> None:
    allowed = DOORS[library]
    for path in [*files("service"), *files("model_export")]:
        name = path.relative_to(ROOT)
        if library in libraries(path):
            assert any(name.match(pattern) for pattern in allowed), relative(path)


def test_images_are_read_and_written_in_two_rooms_of_the_service() -> None:
    found = {path.name for path in files("service") if "PIL" in libraries(path)}
    assert found == {"preprocessing.py", "postprocessing.py"}


def test_the_environment_is_read_in_one_place_of_the_service() -> None:
    for path in files("service"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        if names & {"environ", "getenv", "putenv"}:
            # The package itself only sets what ONNX Runtime reads when it is loaded.
            assert path.name in ("settings.py", "__init__.py"), relative(path)


def test_every_module_has_a_room() -> None:
    modules = {path.stem for path in (ROOT / "service").glob("*.py")}
    assert modules == {*ROOMS, "app"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    assert rooms(ROOT / "service" / f"{room}.py") <= ROOMS[room]


def test_routes_import_nothing_that_joins_or_measures() -> None:
    for path in (ROOT / "service" / "routes").glob("*.py"):
        assert not rooms(path) & ROUTES_NEVER, relative(path)


def test_the_rooms_have_no_circles() -> None:
    left = dict(ROOMS)
    while left:
        free = {room for room, needs in left.items() if not needs & (left.keys() - {room})}
        assert free, f"a circle among {sorted(left)}"
        left = {room: needs for room, needs in left.items() if room not in free}


def test_the_rooms_are_those_of_the_docs() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    for room in [*ROOMS, "app"]:
        if room != "__init__":
            assert f"`{room}.py`" in text, room


# Modules at the root of model_export that import nothing of it; every module may import them.
EXPORT_BASE = {"__init__", "errors", "execution_providers", "files", "quiet"}
# package or module at the root of model_export -> the others that it may import, all listed above
EXPORT_ROOMS: dict[str, set[str]] = {
    "preprocessing": set(),
    "models": set(),
    "samples": {"preprocessing"},
    "checkpoint": {"models"},
    "graphs": {"models", "preprocessing"},
    "entry": {"checkpoint", "models", "preprocessing"},
    "comparison": {"entry", "models", "preprocessing", "samples"},
    "training": {"checkpoint", "comparison", "models", "preprocessing", "samples"},
    "commands": {"checkpoint", "comparison", "entry", "graphs", "models", "preprocessing"}
    | {"samples", "training"},
    "__main__": {"commands"},
}


@pytest.mark.parametrize("path", files("model_export"), ids=relative)
def test_the_packages_of_model_export_import_in_one_direction(path: Path) -> None:
    room = path.relative_to(ROOT / "model_export").with_suffix("").parts[0]
    allowed = set() if room in EXPORT_BASE else EXPORT_ROOMS[room] | EXPORT_BASE | {room}
    names = (name.split(".") for name in imports(path))
    assert {name[1] for name in names if name[0] == "model_export"} <= allowed


def test_the_rooms_of_model_export_have_no_cycles() -> None:
    above: set[str] = set()
    for room, needs in EXPORT_ROOMS.items():
        assert needs <= above, room
        above.add(room)
