"""Trace a served model into a single ONNX file."""

import re
from pathlib import Path
from typing import Any

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
_TRACED_BATCH = 2  # the tracer treats 0 and 1 as constants
_TRACED_SEGMENTATION_SIZE = (96, 128)
_SIDE_FACTOR = 32
_FACTOR = re.compile(r"(\d+)\*")


def export_graph(model: ServedModel, task: Task, input_size: tuple[int, int], path: Path) -> None:
    """Write the graph of a served model: input `images` UINT8, outputs as the model names them.

    The batch is dynamic; for segmentation, height and width are dynamic multiples of 32. Weights
    that float16 represents exactly are stored as float16 behind a Cast, which halves the file and
    changes no number. BatchNorms are kept: folding them would make the weights inexact. ONNX
    Runtime folds casts and BatchNorms when it loads the graph.
    """
    graph = _simplified(_traced(model, task, input_size))
    _name_dimensions(graph)
    proto = onnx_ir.to_proto(graph)
    store_halves(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _traced(model: ServedModel, task: Task, input_size: tuple[int, int]) -> onnx_ir.Model:
    size = input_size if task == "classification" else _TRACED_SEGMENTATION_SIZE
    images = torch.zeros(_TRACED_BATCH, *size, 3, dtype=torch.uint8)
    with quiet("torch.onnx"):  # it reports a missing torchvision and deprecated calls of its own
        program = torch.onnx.export(
            model.eval(),
            (images,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=list(model.output_names),
            dynamic_shapes={INPUT_NAME: _dynamic_axes(task)},
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101
    return program.model


def _dynamic_axes(task: Task) -> dict[int, Any]:
    """The axes of `images` `[B, H, W, 3]` whose length is free."""
    batch = torch.export.Dim("batch")
    if task == "classification":
        return {0: batch}
    height, width = torch.export.Dim("height_32"), torch.export.Dim("width_32")
    return {0: batch, 1: _SIDE_FACTOR * height, 2: _SIDE_FACTOR * width}


def _simplified(model: onnx_ir.Model) -> onnx_ir.Model:
    """Fold constants, remove unused and duplicate nodes and traces of the source, keep weights."""
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
    """Name the dynamic dimensions, which the exporter writes as expressions.

    They are the batch and, for segmentation, height and width: `height_4` is a quarter of `height`.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None  # noqa: S101
        dynamic = [axis for axis, size in enumerate(value.shape) if not isinstance(size, int)]
        for axis, side in zip(dynamic, ("batch", "height", "width"), strict=False):
            suffix = "" if side == "batch" else _stride_suffix(str(value.shape[axis]))
            value.shape[axis] = f"{side}{suffix}"


def _stride_suffix(expression: str) -> str:
    """`_4` for `8*s87`, a quarter of the traced side `32*s87`."""
    factor = _FACTOR.match(expression)
    stride = _SIDE_FACTOR // (int(factor[1]) if factor else 1)
    return "" if stride == 1 else f"_{stride}"
