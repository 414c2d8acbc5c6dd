"""The service and the yardsticks, each in a process of its own, and what is asked of them."""

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from service.images.decode import ImageLimits
from service.schema.files import read_contract
from service.schema.vocabulary import Task
from tests.benchmarks.load import post
from tests.benchmarks.stand_in import FREE, LIGHT

CLASSIFIER, SEGMENTER = "vt_resnet18_imagenette", "vt_fpn_camvid"
STAND_INS = {each.name: each for each in (LIGHT, FREE)}
LIMITS = ImageLimits(64 * 1024 * 1024)


@dataclass(frozen=True)
class Case:
    """A model in one precision, and the photo to predict."""

    folder: Path
    precision: str
    photo: bytes

    @property
    def route(self) -> str:
        """Path of the request."""
        segments = read_contract(self.folder).task is Task.SEGMENTATION
        return "/v1/segment?mask=none" if segments else "/v1/classify"

    def request(self, **headers: str) -> bytes:
        """Return the request as bytes."""
        return post(self.route, self.photo, **headers)


class Server:
    """A server in a separate process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, key_file: Path) -> None:
        self.port = port
        self.local_key_file = key_file
        """File of the local key for load and unload; only the service writes it."""
        self._process = process
        self.pid = process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process and its children have used."""
        tasks = (task for pid in _tree(self._process.pid) for task in _tasks(pid))
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory(self, field: str = "VmRSS") -> float:
        """Return the resident memory, or its peak (`VmHWM`), in MB."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        line = next(each for each in lines if each.startswith(field))
        return int(line.split()[1]) / 1024

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def _tasks(pid: int) -> Iterator[Path]:
    return Path(f"/proc/{pid}/task").iterdir()


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield pid
    for task in _tasks(pid):
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


@contextmanager
def service(case: Case, *others: Case) -> Iterator[Server]:
    """Run the service on a repository of only these entries, in the precision of the first."""
    with tempfile.TemporaryDirectory() as folder:
        for each in (case, *others):
            (Path(folder) / each.folder.name).symlink_to(each.folder.resolve())
        port = _free_port()
        command = [sys.executable, "-m", "service", "--port", str(port)]
        command += ["--model-repository", folder]
        settings = {"VT_PRECISION": case.precision, "VT_LOG_LEVEL": "error"}
        with _running(command, settings, case, port) as server:
            yield server


@contextmanager
def yardstick(case: Case, module: str = "yardstick") -> Iterator[Server]:
    """Run another server on the same graph: plain FastAPI, or `mosec_yardstick`."""
    port = _free_port()
    command = [sys.executable, "-m", f"tests.benchmarks.{module}"]
    command += [str(case.folder), case.precision, str(port)]
    with _running(command, {}, case, port) as server:
        yield server


@contextmanager
def _running(
    command: list[str], settings: dict[str, str], case: Case, port: int
) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / "local.key"
        environment = os.environ | settings | {"VT_LOCAL_KEY_FILE": str(key_file)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}{case.route}", case.photo)
            yield Server(process, port, key_file)
        finally:
            process.terminate()
            process.wait(60)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, photo: bytes) -> None:
    """Wait until a prediction succeeds."""
    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, photo, 10):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{url} did not respond")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def named_case(weights: Path, folder: Path, name: str, precision: str) -> Case:
    """Return a shipped model, or a stand-in that is written to `folder`."""
    entry = (folder if name in STAND_INS else weights) / name
    size = {SEGMENTER: (480, 360), FREE.name: (FREE.side, FREE.side)}.get(name, (500, 375))
    examples = weights / (CLASSIFIER if name in STAND_INS else name) / "examples"
    photo = next(path for path in sorted(examples.iterdir()) if path.suffix in (".jpg", ".webp"))
    file = io.BytesIO()
    Image.open(photo).convert("RGB").resize(size).save(file, "JPEG", quality=90)
    return Case(entry, precision, file.getvalue())
