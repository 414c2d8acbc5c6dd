"""No decoder writes to standard error."""

import os
import subprocess
import sys
from pathlib import Path

from tests.service.images.tiff_writer import write_tiff

SCRIPT = """
import sys
from service.errors import ServiceError
from tests.service.images.decoding import decoded

for line in sys.stdin:
    try:
        decoded(bytes.fromhex(line))
    except ServiceError:
        pass
"""


def damaged_tiffs() -> list[bytes]:
    """Files about which libtiff, and Pillow's own log, would complain at length."""
    import numpy as np  # noqa: PLC0415

    values = np.zeros((600, 10, 3), np.uint8)
    compressed = [
        write_tiff(values, 2, "u", 8, tags={259: compression})
        for compression in (5, 8, 7, 32773, 50000, 34925)
    ]
    many_samples = write_tiff(values, 2, "u", 8, tags={277: 60_000})
    return [*compressed, many_samples, *(data[:-9000] for data in compressed)]


def test_damaged_files_leave_no_word_on_standard_error() -> None:
    files = "\n".join(data.hex() for data in damaged_tiffs())
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=files,
        text=True,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert run.stderr == ""
