"""The packages of docs/concepts.md, kept true: what each may import, and each library's door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# package (or module at the root) -> what of the service it may import; the order is the direction
PACKAGES: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "file_watch": set(),
    "schema": {"errors"},
    "images": {"errors", "schema"},
    "runtime": {"errors", "schema"},
    "telemetry": {"__init__", "errors", "schema"},
    "settings": {"errors", "runtime", "schema"},
    "token_bucket": set(),
    "api_keys": {"errors", "schema", "telemetry", "token_bucket"},
    "batching": {"errors", "images", "runtime", "schema", "telemetry"},
    "repository": {"batching", "errors", "file_watch", "images", "runtime", "schema", "telemetry"},
    "open_inference": {"batching", "errors", "images", "runtime", "schema"},
    "engine": {
        *("batching", "errors", "images", "open_inference", "repository", "runtime"),
        *("schema", "settings", "telemetry"),
    },
    "http": {
        *("__init__", "api_keys", "batching", "engine", "errors", "file_watch", "images"),
        *("open_inference", "repository", "runtime", "schema", "settings", "telemetry"),
    },
    "check_ready": {"errors", "settings"},
    "app": {
        *("__init__", "api_keys", "batching", "engine", "errors", "file_watch", "http", "images"),
        *("repository", "runtime", "settings", "telemetry"),
    },
    "frontends": {
        *("api_keys", "app", "batching", "engine", "errors", "http", "images", "repository"),
        *("runtime", "schema", "settings", "telemetry"),
    },
    "serve": {
        *("__init__", "app", "engine", "frontends", "http", "runtime", "settings", "telemetry"),
    },
    "command_line": {"__init__", "api_keys", "errors", "serve", "settings"},
    "__main__": {"command_line"},
}

# library -> the files that may import it
DOORS: dict[str, tuple[str, ...]] = {
    "onnxruntime": (
        "service/runtime/session.py",
        "model_export/comparison/predictors.py",
        "model_export/graphs/int8.py",
        "model_export/graphs/fp16.py",
    ),
    "prometheus_client": (
        "service/telemetry/metrics/*.py",
        "service/telemetry/triton_names.py",
        "service/telemetry/gpu_metrics.py",
    ),
    "orjson": ("service/schema/json.py",),
    "opentelemetry": ("service/telemetry/tracing.py",),
    "pynvml": ("service/telemetry/gpu.py",),
    "cuda": ("service/runtime/io_binding.py",),
    "fastapi": ("service/app.py", "service/http/*.py", "service/http/**/*.py"),
    "starlette": ("service/app.py", "service/http/*.py", "service/http/**/*.py"),
    "uvicorn": ("service/http/server/*.py",),
    "pydantic_settings": ("service/settings.py",),
    "python_multipart": ("service/http/routes/images_in_body.py",),
    "shapely": ("service/images/polygons.py",),
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


def packages(path: Path) -> set[str]:
    """The packages of the service that a file imports; `service` itself is `__init__`."""
    found = set()
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "service":
            first = rest.partition(".")[0]
            is_part = (
                any((ROOT / "service").glob(f"{first}.py")) or (ROOT / "service" / first).is_dir()
            )
            found.add(first if is_part else "__init__")
    return found


def package_of(path: Path) -> str:
    """The package of the service that a file belongs to, or the file's own name at the root."""
    return path.relative_to(ROOT / "service").parts[0].removesuffix(".py")


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


def test_images_are_read_and_written_in_one_package_of_the_service() -> None:
    found = {package_of(path) for path in files("service") if "PIL" in libraries(path)}
    assert found == {"images"}


def test_the_environment_is_read_in_one_place_of_the_service() -> None:
    for path in files("service"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        if names & {"environ", "getenv", "putenv"}:
            # The package itself only sets what ONNX Runtime reads when it is loaded.
            assert relative(path) in ("service/settings.py", "service/__init__.py")


def test_every_package_states_what_it_may_import() -> None:
    assert {package_of(path) for path in files("service")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in files("service"):
        if package_of(path) == package:
            assert packages(path) - {package} <= PACKAGES[package], relative(path)


def test_imports_between_packages_have_one_direction() -> None:
    seen: set[str] = set()
    for package, needs in PACKAGES.items():
        assert needs <= seen, package
        seen.add(package)


@pytest.mark.parametrize("path", files("tests"), ids=relative)
def test_no_test_module_is_imported(path: Path) -> None:
    """Shared helpers of tests are in modules of their own."""
    modules = [name.split(".") for name in imports(path) if name.startswith("tests.")]
    assert not [name for name in modules if any(part.startswith("test_") for part in name)]


def test_the_packages_are_those_of_the_docs() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    for package in PACKAGES:
        assert f"`{package}" in text or package == "__init__", package


# Modules at the root of model_export that import nothing of it; every module may import them.
EXPORT_BASE = {"__init__", "errors", "execution_providers", "files", "quiet"}
# package or module at the root of model_export -> the others that it may import, all listed above
EXPORT_ROOMS: dict[str, set[str]] = {
    "colors": set(),
    "preprocessing": {"colors"},
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
