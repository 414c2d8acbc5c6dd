"""The torch module and the ONNX graph as functions from images to outputs by name."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from model_export.comparison.evaluation import Predict
from model_export.errors import InvalidEntry
from model_export.models.served import ServedModel, ServedSegmentation
from model_export.preprocessing import RgbArray

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
SCORES = "logits"
"""The numbers behind a segmentation's labels, compared but not served."""


def reference_predictor(model: ServedModel, device: torch.device | str = "cpu") -> Predict:
    """The module in float32, with the scores behind a segmentation's labels."""
    model = model.eval().float().to(device)

    def predict(images: RgbArray) -> dict[str, npt.NDArray[Any]]:
        batch = torch.from_numpy(images).to(device)
        with torch.inference_mode():
            if isinstance(model, ServedSegmentation):
                scores = model.network(model.normalisation(batch))
                outputs = {"labels": scores.argmax(dim=1).byte(), SCORES: scores}
            else:
                outputs = dict(zip(model.output_names, model(batch), strict=True))
            return {name: output.cpu().numpy() for name, output in outputs.items()}

    return predict


def scores_predictor(path: Path, provider: str) -> Predict:
    """The graph as it stands; where it ends in an argmax, with the argmax's input as well."""
    try:
        proto = onnx.load(path)
    except Exception as error:
        raise InvalidEntry(f"{path} is not an ONNX graph: {error}") from error
    argmax = [node for node in proto.graph.node if node.op_type == "ArgMax"]
    if argmax and all(output.name != SCORES for output in proto.graph.output):
        scores = argmax[-1].input[0]
        cast = helper.make_node("Cast", [scores], [SCORES], to=TensorProto.FLOAT)
        proto.graph.node.append(cast)
        proto.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, None))
    return graph_predictor(proto.SerializeToString(), provider)


def graph_predictor(
    graph: Path | bytes, provider: str = CPU, *, threads: int = 0, answer_only: bool = False
) -> Predict:
    """A graph through ONNX Runtime; raises `InvalidEntry` where that is refused.

    `threads` 0 takes every core. `answer_only` computes the first output and no other.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    source = graph if isinstance(graph, bytes) else str(graph)
    _require_provider(provider)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[_exact(provider)])
    except Exception as error:
        raise InvalidEntry(f"ONNX Runtime does not load the graph: {error}") from error
    if session.get_providers()[0] != provider:
        raise InvalidEntry(f"ONNX Runtime cannot start the {provider} here")
    names = [output.name for output in session.get_outputs()][: 1 if answer_only else None]

    def predict(images: RgbArray) -> dict[str, npt.NDArray[Any]]:
        try:
            outputs = session.run(names, {session.get_inputs()[0].name: images})
        except Exception as error:
            raise InvalidEntry(f"ONNX Runtime does not run the graph: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return predict


def _exact(provider: str) -> str | tuple[str, dict[str, str]]:
    """On a GPU without TF32, whose mantissas of 10 bits would hide a wrong graph in rounding."""
    return (provider, {"use_tf32": "0"}) if provider == CUDA else provider


def _require_provider(provider: str) -> None:
    """Refuse what this ONNX Runtime was not built with; find the libraries of a GPU's."""
    if provider not in onnxruntime.get_available_providers():
        raise InvalidEntry(
            f"ONNX Runtime has no {provider} here; install it with the `gpu` extra, without `cpu`"
        )
    if provider == CUDA:
        onnxruntime.preload_dlls()
