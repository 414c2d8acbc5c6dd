"""Trace a served model into one ONNX file."""

from pathlib import Path

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common

from model_export.graphs.halves import store_halves
from model_export.models.registry import Task
from model_export.models.served import ServedModel
from model_export.quiet import quiet

OPSET = 20
INPUT_NAME = "images"
_TRACED_BATCH = 2  # 0 and 1 would be taken for constants
_TRACED_SEGMENTATION_SIZE = (96, 128)


def export_graph(model: ServedModel, task: Task, input_size: tuple[int, int], path: Path) -> None:
    """Write the graph of a served model: UINT8 `images` in, the model's outputs out.

    The batch is dynamic; for segmentation height and width are too, as multiples of 32. Weights
    that float16 holds exactly are stored as float16 and cast when the graph is loaded, which
    halves them and changes nothing. BatchNorms stay as they are, so that this remains
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
    with quiet("torch.onnx"):  # missing torchvision, and its own deprecated calls
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
    store_halves(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


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
