"""A PyTorch module or an ONNX graph as a function from images to named outputs."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
import torch

from model_export.comparison.evaluation import Predict
from model_export.errors import InvalidEntry
from model_export.execution_providers import CPU, CUDA
from model_export.models.served import ServedModel
from model_export.preprocessing import RgbArray


def reference_predictor(model: ServedModel, device: torch.device | str = "cpu") -> Predict:
    """The module in float32."""
    model = model.eval().float().to(device)

    def predict(images: RgbArray) -> dict[str, npt.NDArray[Any]]:
        batch = torch.from_numpy(images).to(device)
        with torch.inference_mode():
            outputs = dict(zip(model.output_names, model(batch), strict=True))
            return {name: output.cpu().numpy() for name, output in outputs.items()}

    return predict


def graph_predictor(
    graph: Path | bytes, provider: str = CPU, *, threads: int = 0, answer_only: bool = False
) -> Predict:
    """Run a graph in ONNX Runtime; raises `InvalidEntry` if it cannot be loaded.

    `threads` 0 uses every core. `answer_only` computes only the first output.
    """
    session = _session(graph, provider, threads)
    names = [output.name for output in session.get_outputs()][: 1 if answer_only else None]

    def predict(images: RgbArray) -> dict[str, npt.NDArray[Any]]:
        try:
            outputs = session.run(names, {session.get_inputs()[0].name: images})
        except Exception as error:
            raise InvalidEntry(f"ONNX Runtime cannot run the graph: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return predict


def _session(graph: Path | bytes, provider: str, threads: int) -> onnxruntime.InferenceSession:
    _require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[_exact(provider)])
    except Exception as error:
        raise InvalidEntry(f"ONNX Runtime cannot load the graph: {error}") from error
    if session.get_providers()[0] != provider:
        raise InvalidEntry(
            f"ONNX Runtime could not start {provider} and fell back to another execution "
            "provider; check the GPU's driver and libraries"
        )
    return session


def _exact(provider: str) -> str | tuple[str, dict[str, str]]:
    """Disable TF32 on GPUs: rounding to 10-bit mantissas would hide the errors of a graph."""
    return (provider, {"use_tf32": "0"}) if provider == CUDA else provider


def _require_provider(provider: str) -> None:
    """Reject a provider that is not installed; load the libraries of the CUDA provider."""
    if provider not in onnxruntime.get_available_providers():
        raise InvalidEntry(
            f"the installed ONNX Runtime has no {provider}; "
            "install the `gpu` extra in an environment without the `cpu` extra"
        )
    if provider == CUDA:
        onnxruntime.preload_dlls()
