"""The first steps of a new user: `make serve`, then post a photo, on the shipped weights."""

import io
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "weights"
OBJECTS = sorted((WEIGHTS / "vt_resnet18_imagenette" / "examples").iterdir())
STREETS = sorted((WEIGHTS / "vt_fpn_camvid" / "examples").iterdir())
START_LIMIT_SECONDS = 300  # the first run installs
VOID = 11


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["make", "serve"],
        cwd=ROOT,
        env={**os.environ, "VT_PORT": str(port)},
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            _wait_until_ready(http, server)
            yield http
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _wait_until_ready(http: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_LIMIT_SECONDS
    while server.poll() is None and time.monotonic() < limit:
        try:
            if http.get("/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("make serve did not become ready")


def test_the_serving_environment_has_no_torch() -> None:
    code = "import importlib.util as u, service.app; raise SystemExit(u.find_spec('torch') and 1)"
    python = ROOT / ".venv" / "serve" / "bin" / "python"
    assert subprocess.run([python, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_photo_of_each_class_is_recognised(client: httpx.Client) -> None:
    right = []
    for photo in OBJECTS:
        answer = client.post("/v1/classify", content=photo.read_bytes())
        assert answer.status_code == 200, answer.text
        best = answer.json()["predictions"][0]["classes"][0]["label"]
        if best.lower().replace(" ", "_") == photo.stem:
            right.append(photo.stem)
    assert len(OBJECTS) == 10
    assert len(right) >= 8, right


def test_street_photos_get_masks_that_agree_with_their_label_maps(client: httpx.Client) -> None:
    hits = pixels = 0
    for photo in STREETS:
        answer = client.post(
            "/v1/segment", content=photo.read_bytes(), headers={"Accept": "image/png"}
        )
        assert answer.status_code == 200, answer.text
        mask = np.asarray(Image.open(io.BytesIO(answer.content)))
        truth = np.asarray(Image.open(ROOT / "tests" / "data" / "camvid" / f"{photo.stem}.png"))
        assert mask.shape == truth.shape
        hits += int((mask == truth)[truth != VOID].sum())
        pixels += int((truth != VOID).sum())
    assert len(STREETS) == 4
    assert hits / pixels > 0.75


def test_both_models_are_ready_and_described(client: httpx.Client) -> None:
    for name in ("vt_resnet18_imagenette", "vt_fpn_camvid"):
        metadata = client.get(f"/v2/models/{name}").json()
        assert metadata["inputs"][0]["name"] == "images"
        assert client.get(f"/v2/models/{name}/ready").status_code == 200
