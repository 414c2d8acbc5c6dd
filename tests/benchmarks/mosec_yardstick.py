"""mosec as a second yardstick: two workers of one thread each, and batches of up to 8.

    python -m tests.benchmarks.mosec_yardstick ENTRY PRECISION PORT

serves a repository entry on `POST /v1/classify` or `/v1/segment`, as `tests.benchmarks.yardstick`
does. One stage decodes the photos of a batch in a thread pool and runs the batch."""

import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mosec import Runtime, Server, Worker

from service.schema.files import read_contract
from service.schema.vocabulary import Task
from tests.benchmarks.yardstick import Predictor

WORKERS = 2
BATCH = 8
WAIT_MILLISECONDS = 10
"""mosec's default."""
DECODING_THREADS = 2


class Predict(Worker):
    """Decodes and runs a batch of photos; the entry comes from the environment."""

    def __init__(self) -> None:
        folder, precision = Path(os.environ["YARDSTICK_ENTRY"]), os.environ["YARDSTICK_PRECISION"]
        self._predictor = Predictor(folder, precision, threads=1)
        self._pool = ThreadPoolExecutor(DECODING_THREADS)

    def deserialize(self, data: bytearray) -> bytes:
        """Return the photo as it was sent."""
        return bytes(data)

    def serialize(self, data: Any) -> bytes:
        """Return the prediction as JSON."""
        return json.dumps(data).encode()

    def forward(self, data: list[bytes]) -> list[Any]:
        """Predict a batch of photos."""
        images = list(self._pool.map(self._predictor.prepare, data))
        outputs = self._predictor.run(np.stack([image.pixels for image in images]))
        return [
            self._predictor.describe(image, output)
            for image, output in zip(images, outputs, strict=True)
        ]


def main(options: Iterable[str]) -> None:
    """Serve until stopped."""
    entry, precision, port = options
    os.environ |= {"YARDSTICK_ENTRY": entry, "YARDSTICK_PRECISION": precision}
    os.environ |= {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": port}
    os.environ |= {"MOSEC_TIMEOUT": "60000", "MOSEC_LOG_LEVEL": "error"}
    task = read_contract(Path(entry)).task
    route = "classify" if task is Task.CLASSIFICATION else "segment"
    sys.argv = sys.argv[:1]
    server = Server()
    runtime = Runtime(Predict, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MILLISECONDS)
    server.register_runtime({f"/v1/{route}": [runtime]})
    server.run()


if __name__ == "__main__":
    main(sys.argv[1:])
