"""Share weights with the checkpoint next to the graph (ONNX external data)."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

_SMALLEST_BYTES = 1024
_WEIGHT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)


def share_weights(proto: onnx.ModelProto, checkpoint: Path) -> None:
    """Replace every initializer whose bytes are in a safetensors file by a reference to them.

    The graph must then be stored in the folder of the checkpoint.
    """
    places = _places(checkpoint)
    for tensor in proto.graph.initializer:
        if tensor.data_type not in _WEIGHT_TYPES:
            continue
        content = numpy_helper.to_array(tensor).tobytes()
        place = places.get(content) if len(content) >= _SMALLEST_BYTES else None
        if place is not None:
            tensor.raw_data = content  # the field that external data replaces
            for field in ("float_data", "int32_data"):
                tensor.ClearField(field)
            set_external_data(tensor, checkpoint.name, place, len(content))
            tensor.ClearField("raw_data")


def share_weights_of(graph: Path, checkpoint: Path) -> None:
    """`share_weights` for a graph in a file, in place."""
    proto = onnx.load(graph)
    share_weights(proto, checkpoint)
    onnx.save(proto, graph)


def external_files(graph: Path) -> list[str]:
    """The sorted names of the files that a graph reads initializers from."""
    proto = onnx.load(graph, load_external_data=False)
    entries = (entry for tensor in proto.graph.initializer for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _places(checkpoint: Path) -> dict[bytes, int]:
    """Bytes and offset of each tensor in a safetensors file: header length, JSON, tensors."""
    content = checkpoint.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    spans = (entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    return {content[start + first : start + last]: start + first for first, last in spans}
