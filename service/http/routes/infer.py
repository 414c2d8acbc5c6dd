"""`POST /v2/models/{model}/infer`: tensors or image files in, tensors out."""

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request, Response

from service.batching.interface import Instance
from service.engine.call import Call
from service.errors import InvalidRequest
from service.http.content_encoding import choose_encoding, compress
from service.http.middleware.exchange import Exchange, exchange_of
from service.http.reply import JSON, Reply
from service.http.request_body import TIMEOUT_HEADER_PARAMETER, unless_disconnected
from service.http.routes.errors import describe_errors
from service.http.routes.serving import Serving, answered
from service.open_inference.bounded_json import JSON_BYTES_HEADER
from service.open_inference.decode import InferenceCall, parse_inference, parse_large_inference
from service.open_inference.encode import encode_inference
from service.repository.version import ModelVersion
from service.runtime.arrays import Outputs
from service.schema.open_inference import InferenceRequest, InferenceResponse

SMALL_BYTES = 16 * 1024
"""Shorter bodies are parsed and encoded on the event loop; using a thread would take longer."""

BINARY = "application/octet-stream"
ERRORS = describe_errors(400, 404, 408, 413, 415, 429, 500, 503, 504)
_ANY_BYTES = {"schema": {"type": "string", "format": "binary"}}


class InferRoutes:
    """Inference by the Open Inference Protocol."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._engine = serving.engine
        self._pool = serving.engine.image_threads

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"])
        for path, endpoint in (
            ("/models/{model}/infer", self.infer),
            ("/models/{model}/versions/{version}/infer", self.infer_version),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                response_model=InferenceResponse,
                responses=ERRORS | {200: {"content": {BINARY: _ANY_BYTES}}},
                openapi_extra=_request_description(),
            )
        return router

    async def infer(self, request: Request, model: str) -> Response:
        """Run a model. The input `images` is UINT8, or BYTES with one image file per element."""
        return await self._infer(exchange_of(request.scope), self._engine.repository.get(model))

    async def infer_version(self, request: Request, model: str, version: str) -> Response:
        """Run a model version. The input is the same as without a version."""
        found = self._engine.repository.get(model, version)
        return await self._infer(exchange_of(request.scope), found)

    async def _infer(self, exchange: Exchange, version: ModelVersion) -> Response:
        async with self._serving.call(exchange, version) as call:
            body = await self._serving.read_body(exchange, call)
            request = await self._parse(exchange, call, body)
            if request.timeout_seconds is not None:
                call.shorten(request.timeout_seconds)
            work = self._run(exchange, call, request)
            reply = await unless_disconnected(exchange, work)
            return answered(call, reply).response()

    async def _parse(self, exchange: Exchange, call: Call, body: bytes) -> InferenceCall:
        began = perf_counter()
        json_bytes = _json_bytes(exchange)
        contract = call.instance.contract
        arguments = (body, json_bytes, contract, self._engine.max_images)
        if (len(body) if json_bytes is None else json_bytes) < SMALL_BYTES:
            request = parse_inference(*arguments)
        else:
            request = await self._pool.run(parse_large_inference, *arguments)
        call.timings.receive = (call.timings.receive or 0.0) + perf_counter() - began
        return request

    async def _run(self, exchange: Exchange, call: Call, request: InferenceCall) -> Reply:
        """Predict, and encode the outputs as the request and its headers require."""
        outputs: Sequence[Outputs] = []
        if request.images:
            names = [output.name for output in request.outputs]
            inferred = await call.infer(
                request.images, names, priority=request.priority, stacked=True
            )
            outputs = inferred.outputs
        began = perf_counter()
        size = sum(array.nbytes for each in outputs for array in each.values())
        encoding = choose_encoding(exchange.header(b"accept-encoding"), size)
        encode = partial(_encode, request, call.instance, outputs, encoding)
        reply = encode() if size < SMALL_BYTES else await self._pool.run(encode)
        call.timings.encode = perf_counter() - began
        return reply


def _json_bytes(exchange: Exchange) -> int | None:
    text = exchange.headers.get(JSON_BYTES_HEADER.lower().encode())
    if text is None:
        return None
    if not (text.isdigit() and len(text) <= 12):
        raise InvalidRequest(f"{JSON_BYTES_HEADER} must be a whole number of bytes.")
    return int(text)


def _encode(
    request: InferenceCall,
    instance: Instance,
    outputs: Sequence[Outputs],
    encoding: str | None,
) -> Reply:
    encoded = encode_inference(request, instance.contract, instance.identity.version, outputs)
    headers = {}
    if encoded.json_bytes is not None:
        headers[JSON_BYTES_HEADER] = str(encoded.json_bytes)
    body = encoded.body
    if encoding is not None:
        body = compress(body, encoding)
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return Reply(body, BINARY if encoded.json_bytes else JSON, headers=headers)


def _request_description() -> dict[str, Any]:
    """Return the OpenAPI description of a request, which FastAPI does not parse."""
    json_bytes = {
        "name": JSON_BYTES_HEADER,
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "Number of bytes of JSON in the decompressed body, before binary data.",
    }
    schema = _inlined(InferenceRequest.model_json_schema())
    return {
        "parameters": [TIMEOUT_HEADER_PARAMETER, json_bytes],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": schema}, BINARY: _ANY_BYTES},
        },
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema with its references replaced by their definitions."""
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inline(definitions[node["$ref"].rpartition("/")[2]])
        return {key: inline(value) for key, value in node.items()}

    whole: dict[str, Any] = inline(schema)
    return whole
