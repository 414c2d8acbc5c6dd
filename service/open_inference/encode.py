"""Encode a response of the Open Inference Protocol: outputs as JSON, binary data or classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.open_inference.decode import InferenceCall, WantedOutput
from service.open_inference.tensors import array_to_bytes, array_to_json, join_elements, zeros
from service.runtime.arrays import Array, Outputs
from service.schema.contract import Contract
from service.schema.json import Encoded, encode
from service.schema.vocabulary import Datatype, MetadataTensor

Json = dict[str, Any]


@dataclass(frozen=True)
class EncodedResponse:
    """A response body; its first `json_bytes` are JSON, or all of it if None."""

    body: bytes
    json_bytes: int | None


@dataclass(frozen=True)
class Tensor:
    """One output for all images."""

    datatype: Datatype
    array: Array

    def binary(self) -> bytes:
        """Return the elements as binary data."""
        if self.datatype is Datatype.BYTES:
            return join_elements([str(text).encode() for text in self.array.ravel()])
        return array_to_bytes(self.array, self.datatype)

    def json(self) -> bytes:
        """Return the elements as a JSON list."""
        return array_to_json(self.array, self.datatype)


def encode_inference(
    call: InferenceCall, contract: Contract, version: str, outputs: Sequence[Outputs]
) -> EncodedResponse:
    """Join the outputs of the images; raises `InvalidRequest` if one has no JSON form."""
    described, binary = list[Json](), list[bytes]()
    for wanted in call.outputs:
        tensor = _tensor(wanted, contract, [each[wanted.name] for each in outputs])
        described.append(_describe(wanted, tensor, binary))
    response: Json = {"model_name": contract.name, "model_version": version}
    if call.id is not None:
        response["id"] = call.id
    text = encode(response | {"outputs": described})
    return EncodedResponse(b"".join([text, *binary]), len(text) if binary else None)


def _describe(wanted: WantedOutput, tensor: Tensor, binary: list[bytes]) -> Json:
    """Describe an output; if its data are to follow the JSON, they are added to `binary`.

    There are no other parameters, because clients take any as a sign of binary data.
    """
    output: Json = {
        "name": wanted.name,
        "datatype": tensor.datatype,
        "shape": tensor.array.shape,
    }
    if wanted.binary:
        binary.append(tensor.binary())
        output["parameters"] = {"binary_data_size": len(binary[-1])}
    else:
        output["data"] = Encoded(tensor.json())
    return output


def _tensor(wanted: WantedOutput, contract: Contract, arrays: Sequence[Array]) -> Tensor:
    output = next(each for each in contract.outputs if each.name == wanted.name)
    array = _stack(output, arrays)
    if wanted.classes:
        labels = contract.labels if wanted.name == contract.prediction else []
        return Tensor(Datatype.BYTES, _classes(array, wanted.classes, labels))
    return Tensor(output.datatype, array)


def _stack(output: MetadataTensor, arrays: Sequence[Array]) -> Array:
    """Stack an output's arrays, which have one shape; without images, dynamic sides are 0."""
    if not arrays:
        return zeros([max(side, 0) for side in output.shape], output.datatype)
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _classes(scores: Array, count: int, labels: Sequence[str]) -> Array:
    """Return the best classes of scores [batch, classes] as "value:index[:label]", best first."""
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = [
        [":".join((f"{row[index]:.6f}", str(index), *labels[index : index + 1])) for index in order]
        for row, order in zip(scores, best, strict=True)
    ]
    return np.array(texts, dtype=object).reshape(best.shape)
