"""float16 for GPUs: half the bytes to move, and arithmetic on their tensor cores."""

from pathlib import Path

import onnx
import onnx_ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from model_export.graphs.external_data import share_weights
from model_export.graphs.halves import restore_halves
from model_export.quiet import quiet

FLOAT32_OPERATORS = ("ScatterElements",)
"""What stays float32: ONNX Runtime adds no float16 numbers there (clustering tokenizer) on CPUs."""


def fp16_graph(graph: Path, checkpoint: Path) -> bytes:
    """The graph in float16, its inputs and outputs as they were.

    Weights that the checkpoint holds bit by bit are read from there.
    """
    proto = onnx.load(graph)
    restore_halves(proto)
    with quiet(None):
        converted = convert_float_to_float16(
            proto, keep_io_types=True, op_block_list=list(FLOAT32_OPERATORS)
        )
    converted = _repaired(converted)
    share_weights(converted, checkpoint)
    return bytes(converted.SerializeToString())


def _repaired(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes after their inputs, and no types of values: the converter cares for neither."""
    del proto.graph.value_info[:]
    model = onnx_ir.from_proto(proto)
    model.graph.sort()
    return onnx_ir.to_proto(model)
