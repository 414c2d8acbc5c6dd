"""Decode an inference request of the Open Inference Protocol: its images and wanted outputs."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from service.images.base64 import decode_base64
from service.images.decode import signed_format
from service.images.photo import EncodedOrPrepared, PreparedImage
from service.open_inference.bounded_json import JSON_BYTES_HEADER, parse_json
from service.open_inference.json_numbers import CUT, array_from_numbers, not_numbers
from service.open_inference.tensors import array_from_bytes, split_elements
from service.schema.contract import Contract
from service.schema.open_inference import InferenceRequest, Parameters, RequestInput, RequestOutput
from service.schema.vocabulary import Datatype

SHARED_MEMORY = "shared_memory_region"
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class WantedOutput:
    """A requested output; with `classes` > 0, that many of its best classes instead."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferenceCall:
    """A decoded request. The highest `priority` is 1; 0 means none."""

    images: Sequence[EncodedOrPrepared]
    outputs: Sequence[WantedOutput]
    id: str | None = None
    priority: int = 0
    timeout_seconds: float | None = None


def parse_inference(
    body: bytes, json_bytes: int | None, contract: Contract, max_images: int
) -> InferenceCall:
    """Decode a body whose first `json_bytes` are JSON and the rest binary data.

    None means that all of it is JSON; 0 means that all of it is the only input.

    Raises:
        InvalidRequest: the body does not follow the protocol or the contract.
        PayloadTooLarge: the JSON is too long, or there are too many images.
        UnsupportedMediaType: `json_bytes` is 0, but the body is neither an image nor a tensor.
    """
    if json_bytes == 0:
        return _raw_call(body, contract)
    if json_bytes is not None and json_bytes > len(body):
        raise InvalidRequest(
            f"{JSON_BYTES_HEADER} is {json_bytes:,}, but the body has {len(body):,} bytes."
        )
    request, numbers = parse_json(body, json_bytes)
    _refuse_sequences(request.parameters)
    binary = memoryview(body)[len(body) if json_bytes is None else json_bytes :]
    images = _images(_only_input(request, contract), numbers, binary, contract, max_images)
    timeout = _whole(request.parameters, "timeout")
    return InferenceCall(
        images,
        _outputs(request, contract),
        request.id,
        _whole(request.parameters, "priority"),
        timeout / 1e6 if timeout else None,
    )


def parse_large_inference(
    body: bytes, json_bytes: int | None, contract: Contract, max_images: int
) -> InferenceCall:
    """Do the same in a thread, one at a time: two would take turns before the event loop's turn."""
    with _one_at_a_time:
        return parse_inference(body, json_bytes, contract, max_images)


def _refuse_sequences(parameters: Parameters) -> None:
    if parameters.get("sequence_id"):
        raise InvalidRequest(
            "No model keeps state between requests, so sequence_id is not supported."
        )


def _only_input(request: InferenceRequest, contract: Contract) -> RequestInput:
    names = [each.name for each in request.inputs]
    wanted = contract.inputs[0].name
    if names != [wanted]:
        raise InvalidRequest(
            f"The model {contract.name} takes one input, {wanted}; "
            f"the request has {', '.join(names) or 'none'}."
        )
    return request.inputs[0]


def _images(
    tensor: RequestInput, numbers: bytes, binary: memoryview, contract: Contract, max_images: int
) -> list[EncodedOrPrepared]:
    if SHARED_MEMORY in tensor.parameters:
        raise InvalidRequest("Shared memory is not supported; send the data.")
    _check_type(tensor, contract)
    count = tensor.shape[0]
    if count > max_images:
        raise PayloadTooLarge.images(max_images)
    data = _binary_data(tensor, binary)
    if _holds_files(tensor):
        return _files(tensor, data, count)
    if data is not None:
        return _prepared(array_from_bytes(data, tensor.shape))
    return _prepared(array_from_numbers(_numbers(tensor, numbers), tensor.shape))


def _holds_files(tensor: RequestInput) -> bool:
    return tensor.datatype is Datatype.BYTES


def _check_type(tensor: RequestInput, contract: Contract) -> None:
    """Reject a tensor that contains neither model inputs nor image files."""
    if _holds_files(tensor):
        _check_shape_of_files(tensor.shape)
    elif tensor.datatype is Datatype.UINT8:
        _check_shape(tensor.shape, contract)
    else:
        raise InvalidRequest(
            f"The input {tensor.name} must be UINT8, or BYTES with image files, "
            f"not {tensor.datatype}."
        )


def _check_shape(shape: Sequence[int], contract: Contract) -> None:
    sizes = contract.preprocessing.input_sizes
    if len(shape) == 4 and shape[3] == 3 and (shape[2], shape[1]) in sizes:
        return
    allowed = ", ".join(f"{height}x{width}" for width, height in sizes)
    raise InvalidRequest(
        f"The shape {list(shape)} is not the model's, which is [batch, height, width, 3] "
        f"with height x width one of {allowed}."
    )


def _check_shape_of_files(shape: Sequence[int]) -> None:
    if len(shape) != 1 and list(shape[1:]) != [1]:
        raise InvalidRequest(
            "A BYTES input has one image file per element and the shape [batch] or [batch, 1], "
            f"not {list(shape)}."
        )


def _binary_data(tensor: RequestInput, binary: memoryview) -> memoryview | None:
    """Return the binary data, which must be the input's alone; None if the input has JSON data."""
    stated = tensor.parameters.get("binary_data_size") is not None
    size = _whole(tensor.parameters, "binary_data_size")
    if stated == (tensor.data is not None):
        raise InvalidRequest(
            f"The input {tensor.name} needs either data or the parameter binary_data_size."
        )
    if size != len(binary):
        raise InvalidRequest(
            f"The binary data after the request's JSON have {len(binary):,} bytes, but the input "
            f"{tensor.name} has a binary_data_size of {size:,}."
        )
    return binary if stated else None


def _numbers(tensor: RequestInput, numbers: bytes) -> bytes:
    """Return the text of the data, which must be the numbers that were cut out of the request."""
    if not tensor.data:
        return b"[]"
    if tensor.data != CUT:
        raise not_numbers()
    return numbers


def _prepared(images: npt.NDArray[np.uint8]) -> list[EncodedOrPrepared]:
    height, width = images.shape[1:3]
    return [PreparedImage(image, width, height) for image in images]


def _files(tensor: RequestInput, data: memoryview | None, count: int) -> list[EncodedOrPrepared]:
    files = (
        _files_in_json(tensor.data or [], count) if data is None else split_elements(data, count)
    )
    for index, file in enumerate(files):
        if not file:
            raise InvalidRequest(f"Image {index} is empty.")
    return [*files]


def _files_in_json(data: list[Any], count: int) -> list[bytes]:
    """Decode image files from base64, their only form in JSON."""
    if len(data) == count and data != CUT:
        texts = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]
        if all(isinstance(text, str) for text in texts):
            return [decode_base64(index, text) for index, text in enumerate(texts)]
    raise InvalidRequest(
        "The data of a BYTES input must be one string per image, its file in base64; "
        f"by its shape, there are {count}."
    )


def _raw_call(body: bytes, contract: Contract) -> InferenceCall:
    """Decode a body that is one tensor or one image file; the response's outputs are binary."""
    if not body:
        raise InvalidRequest("The body is empty; send an image.")
    outputs = [WantedOutput(contract.outputs[0].name, binary=True)]
    if signed_format(body) is not None:
        return InferenceCall([body], outputs)
    (width, height), *others = contract.preprocessing.input_sizes
    shape = [1, height, width, 3]
    if not others and len(body) == prod(shape):
        return InferenceCall(_prepared(array_from_bytes(memoryview(body), shape)), outputs)
    tensor = (
        "this model takes tensors of several sizes, so their shape must be stated in JSON"
        if others
        else f"a tensor of this model has the shape {shape}, {prod(shape):,} bytes"
    )
    raise UnsupportedMediaType(
        f"The body must be one photo or one tensor, because {JSON_BYTES_HEADER} is 0. It has "
        f"{len(body):,} bytes and is not a JPEG, PNG, WebP, BMP, GIF or TIFF file; {tensor}."
    )


def _outputs(request: InferenceRequest, contract: Contract) -> list[WantedOutput]:
    """Return the requested outputs; by default, the first of the model."""
    binary = _flag(request.parameters, "binary_data_output", default=False)
    asked = request.outputs or [RequestOutput(name=contract.outputs[0].name)]
    if len({each.name for each in asked}) < len(asked):
        raise InvalidRequest("An output is requested twice; name each output once.")
    return [_output(each, contract, binary=binary) for each in asked]


def _output(asked: RequestOutput, contract: Contract, *, binary: bool) -> WantedOutput:
    shapes = {each.name: each.shape for each in contract.outputs}
    if asked.name not in shapes:
        raise InvalidRequest(
            f"The model {contract.name} has no output {asked.name}; it has {', '.join(shapes)}."
        )
    if SHARED_MEMORY in asked.parameters:
        raise InvalidRequest("Shared memory is not supported; the response contains the data.")
    classes = _whole(asked.parameters, "classification")
    if classes and len(shapes[asked.name]) != 2:
        raise InvalidRequest(
            f"The output {asked.name} has no classes, because its shape is not [batch, n]."
        )
    binary = _flag(asked.parameters, "binary_data", default=binary)
    return WantedOutput(asked.name, binary, classes)


def _whole(parameters: Parameters, name: str) -> int:
    value = parameters.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise InvalidRequest(f"The parameter {name} must be a whole number, 0 or more.")
    return value


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"The parameter {name} must be true or false.")
    return value
