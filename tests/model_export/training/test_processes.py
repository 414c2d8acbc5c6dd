"""Several processes on CPUs, with gloo, train one model."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model_export import checkpoint
from tests.model_export.files import color_folders, rows_of

COUNT = 2


def train_in_processes(data: Path, output: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Run `train` as torchrun does; returns status, output and errors of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "model_export", "train", str(data), "--model", "resnet18"]
    command += ["--output", str(output), "--batch-size", "8", "--crop-sizes", "32"]
    command += ["--input-size", "32", "32", "--workers", "0", *arguments]
    shared = {"WORLD_SIZE": str(COUNT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(COUNT)
    ]
    try:
        printed = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(each.returncode, *texts) for each, texts in zip(started, printed, strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    color_folders(root / "train", images=8)
    color_folders(root / "val", images=2)
    return root


def test_two_processes_train_one_model_that_the_first_reports_and_writes(data, tmp_path):
    results = train_in_processes(data, tmp_path, "--epochs", "1", "--accumulate", "2")
    assert [status for status, _, _ in results] == [0, 0], results
    assert "top1" in results[0][1]
    assert results[1][1] == ""
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1"]
    stored = checkpoint.read(tmp_path / "checkpoint.safetensors").tensors
    assert all(torch.isfinite(value).all() for value in stored.values())
