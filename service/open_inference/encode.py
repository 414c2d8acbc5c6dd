"""An answer of the Open Inference Protocol: outputs as JSON, binary data or classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.open_inference.decode import InferenceCall, WantedOutput
from service.open_inference.tensors import array_to_bytes, array_to_json, join_elements, zeros
from service.runtime.session import Array, Outputs
from service.schema.contract import Contract
from service.schema.open_inference import InferenceResponse, ResponseOutput
from service.schema.vocabulary import Datatype, MetadataTensor, Wire


@dataclass(frozen=True)
class EncodedResponse:
    """An answer's body; `json_bytes` of it are JSON, None where it is all JSON."""

    body: bytes
    json_bytes: int | None


@dataclass(frozen=True)
class Tensor:
    """An output of all images."""

    datatype: Datatype
    array: Array

    def binary(self) -> bytes:
        """Its bytes."""
        if self.datatype is Datatype.BYTES:
            return join_elements([str(text).encode() for text in self.array.ravel()])
        return array_to_bytes(self.array, self.datatype)

    def json(self) -> bytes:
        """Its elements as a JSON list."""
        return array_to_json(self.array, self.datatype)


def encode_inference(
    call: InferenceCall, contract: Contract, version: str, outputs: Sequence[Outputs]
) -> EncodedResponse:
    """Put the images' outputs together; raises `InvalidRequest` where one has no JSON form."""
    described, binary = list[bytes](), list[bytes]()
    for wanted in call.outputs:
        tensor = _tensor(wanted, contract, [each[wanted.name] for each in outputs])
        described.append(_describe(wanted, tensor, binary))
    header = _dump(
        InferenceResponse(model_name=contract.name, model_version=version, id=call.id, outputs=[])
    )
    text = b"".join([header.removesuffix(b"]}"), b",".join(described), b"]}"])
    return EncodedResponse(b"".join([text, *binary]), len(text) if binary else None)


def _describe(wanted: WantedOutput, tensor: Tensor, binary: list[bytes]) -> bytes:
    """Describe an output, whose bytes are added to `binary` where they are to follow the JSON.

    No other parameters: clients take their presence for binary data.
    """
    output = ResponseOutput(
        name=wanted.name, datatype=tensor.datatype, shape=list(tensor.array.shape)
    )
    if not wanted.binary:
        return b"".join([_dump(output).removesuffix(b"}"), b',"data":', tensor.json(), b"}"])
    binary.append(tensor.binary())
    return _dump(output.model_copy(update={"parameters": {"binary_data_size": len(binary[-1])}}))


def _dump(value: Wire) -> bytes:
    return value.model_dump_json(exclude_none=True).encode()


def _tensor(wanted: WantedOutput, contract: Contract, arrays: Sequence[Array]) -> Tensor:
    output = next(each for each in contract.outputs if each.name == wanted.name)
    array = _stack(output, arrays)
    if wanted.classes:
        labels = contract.labels if wanted.name == contract.prediction else []
        return Tensor(Datatype.BYTES, _classes(array, wanted.classes, labels))
    return Tensor(output.datatype, array)


def _stack(output: MetadataTensor, arrays: Sequence[Array]) -> Array:
    """Put an output's arrays, all of one shape, into one; of no image, any size is 0."""
    if not arrays:
        return zeros([max(side, 0) for side in output.shape], output.datatype)
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _classes(scores: Array, count: int, labels: Sequence[str]) -> Array:
    """The best classes of scores [batch, classes] as "value:index[:label]", the best first."""
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = [
        [":".join((f"{row[index]:.6f}", str(index), *labels[index : index + 1])) for index in order]
        for row, order in zip(scores, best, strict=True)
    ]
    return np.array(texts, dtype=object).reshape(best.shape)
