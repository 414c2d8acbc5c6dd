"""float16 for GPUs: half the memory traffic, and arithmetic on the tensor cores."""

from pathlib import Path

import onnx
import onnx_ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from model_export.graphs.external_data import share_weights
from model_export.graphs.halves import restore_halves
from model_export.quiet import quiet

FLOAT32_OPERATORS = ("ScatterElements",)
"""Stay float32: on CPUs, ONNX Runtime cannot add float16 in them (clustering tokenizer)."""


def fp16_graph(graph: Path, checkpoint: Path) -> bytes:
    """The graph in float16, with unchanged inputs and outputs.

    Weights whose bytes are in the checkpoint are read from there.
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
    """Sort the nodes and drop value types: the converter leaves both inconsistent."""
    del proto.graph.value_info[:]
    model = onnx_ir.from_proto(proto)
    model.graph.sort()
    return onnx_ir.to_proto(model)
