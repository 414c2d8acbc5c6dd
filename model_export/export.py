"""Trace a served model into one ONNX file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common

from model_export.registry import Task
from model_export.served import ServedModel

OPSET = 20
INPUT_NAME = "images"
_TRACED_BATCH = 2  # 0 and 1 would be taken for constants
_TRACED_SEGMENTATION_SIZE = (96, 128)
_SMALLEST_HALVED = 256


def export_graph(model: ServedModel, task: Task, input_size: tuple[int, int], path: Path) -> None:
    """Write the graph of a served model: UINT8 `images` in, the model's outputs out.

    The batch is dynamic; for segmentation height and width are too, as multiples of 32. Weights
    that float16 holds exactly are stored as float16 and cast when the graph is loaded, which
    halves the file and changes nothing. BatchNorms stay as they are, so that this remains
    exact; ONNX Runtime folds both away when it loads the graph.
    """
    batch = torch.export.Dim("batch")
    if task == "classification":
        size, dynamic = input_size, {0: batch}
    else:
        size = _TRACED_SEGMENTATION_SIZE
        height, width = torch.export.Dim("height_32"), torch.export.Dim("width_32")
        dynamic = {0: batch, 1: 32 * height, 2: 32 * width}
    images = torch.zeros(_TRACED_BATCH, *size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (images,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=list(model.output_names),
            dynamic_shapes={INPUT_NAME: dynamic},
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101
    graph = _simplified(program.model)
    _name_dimensions(graph)
    proto = onnx_ir.to_proto(graph)
    _store_halves(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's words on missing torchvision and its own deprecated calls help nobody."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _simplified(model: onnx_ir.Model) -> onnx_ir.Model:
    """Fold constants; drop what is dead, doubled or says where it was traced; keep the weights."""
    onnxscript.optimizer.fold_constants(model)
    onnxscript.optimizer.remove_unused_nodes(model)
    passes = (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.NameFixPass(),
        common.ClearMetadataAndDocStringPass(),
    )
    for each in passes:
        model = each(model).model
    return model


def _name_dimensions(model: onnx_ir.Model) -> None:
    """One readable name a dynamic dimension, in place of the exporter's expressions."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None  # noqa: S101
        for axis, name in zip(range(len(value.shape)), ("batch", "height", "width"), strict=False):
            if not isinstance(value.shape[axis], int):
                value.shape[axis] = name


def _store_halves(proto: onnx.ModelProto) -> None:
    """Store float32 weights as float16 behind a Cast where float16 holds every one exactly."""
    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _SMALLEST_HALVED:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name, stored = tensor.name, f"{tensor.name}.float16"
        tensor.CopyFrom(numpy_helper.from_array(halves, stored))
        cast = helper.make_node("Cast", [stored], [name], f"{name}.cast", to=TensorProto.FLOAT)
        casts.append(cast)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
