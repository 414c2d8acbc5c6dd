"""The obvious first implementation: FastAPI, a thread pool and a default ONNX Runtime session.

    python -m tests.benchmarks.yardstick ENTRY PRECISION PORT

serves a repository entry on `POST /v1/classify` or `/v1/segment`. It uses the service's own
preprocessing and responses, without batching, limits, deadlines or metrics."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from service.images.classes import top_classes
from service.images.decode import ImageLimits
from service.images.masks import class_areas, scale_labels
from service.images.photo import PreparedImage, prepare
from service.schema.contract import Contract
from service.schema.files import read_certificate, read_contract
from service.schema.vocabulary import Task

LIMITS = ImageLimits(64 * 1024 * 1024)


def main() -> None:
    """Serve until stopped."""
    folder, precision, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    uvicorn.run(create_app(folder, precision), port=port, log_level="warning", access_log=False)


class Predictor:
    """Prepares photos and runs a graph, with the service's own preprocessing and responses."""

    def __init__(self, folder: Path, precision: str, threads: int = 0) -> None:
        self.contract = read_contract(folder)
        self._session = plain_session(folder, self.contract, precision, threads)

    def prepare(self, data: bytes) -> PreparedImage:
        """Decode and resize a photo."""
        return prepare(data, self.contract.preprocessing, LIMITS)

    def run(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the prediction of a batch, UINT8 [batch, height, width, 3]."""
        outputs: np.ndarray[Any, Any] = self._session.run(
            [self.contract.prediction], {"images": images}
        )[0]
        return outputs

    def describe(self, image: PreparedImage, output: np.ndarray[Any, Any]) -> object:
        """Return the response for one photo."""
        contract = self.contract
        if contract.task is Task.CLASSIFICATION:
            return top_classes(output, contract.labels, 5)
        labels = scale_labels(output.astype(np.uint8), image.photo_width, image.photo_height)
        return class_areas(labels, contract.labels)


def create_app(folder: Path, precision: str) -> FastAPI:
    """Return the application for one entry."""
    predictor = Predictor(folder, precision)
    app = FastAPI()

    def predict(data: bytes) -> object:
        image = predictor.prepare(data)
        return predictor.describe(image, predictor.run(image.pixels[None])[0])

    async def answer(request: Request) -> object:
        return await run_in_threadpool(predict, await request.body())

    route = "classify" if predictor.contract.task is Task.CLASSIFICATION else "segment"
    app.add_api_route(f"/v1/{route}", answer, methods=["POST"])
    return app


def plain_session(
    folder: Path, contract: Contract, precision: str, threads: int = 0, *, spin: bool = True
) -> onnxruntime.InferenceSession:
    """Return a session on an entry's graph, by default with ONNX Runtime's default options."""
    version = max(contract.versions, key=int)
    record = read_certificate(folder, contract, version).precision(precision)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return onnxruntime.InferenceSession(
        folder / version / record.file, options, providers=["CPUExecutionProvider"]
    )


if __name__ == "__main__":
    main()
