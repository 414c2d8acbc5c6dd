"""`POST /v2/models/{model}/infer`: tensors or image files in, tensors out."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from service.batching.instance import ModelInstance
from service.engine.admission import Deadline
from service.engine.inference import Inferred, Job, PhotoInference
from service.errors import InvalidRequest
from service.http.routes.content_encoding import choose_encoding, compress
from service.http.routes.errors import describe_errors
from service.http.routes.request_body import TIMEOUT_HEADER_PARAMETER
from service.http.routes.serving import Images, Serving
from service.open_inference.bounded_json import JSON_BYTES_HEADER
from service.open_inference.decode import InferenceCall, parse_inference
from service.open_inference.encode import encode_inference
from service.repository.repository import ModelRepository
from service.repository.version import ModelVersion
from service.runtime.image_threads import ImageThreads
from service.schema.open_inference import InferenceRequest, InferenceResponse

SMALL_BYTES = 16 * 1024
"""What is shorter is read and written at once; a detour through a thread would take longer."""

JSON, BINARY = "application/json", "application/octet-stream"
ERRORS = describe_errors(400, 404, 408, 413, 415, 429, 500, 503, 504)
_ANY_BYTES = {"schema": {"type": "string", "format": "binary"}}


class InferRoutes:
    """The protocol's way to a prediction."""

    def __init__(
        self,
        *,
        repository: ModelRepository,
        inference: PhotoInference,
        pool: ImageThreads,
        serving: Serving,
        max_images: int,
    ) -> None:
        self._repository = repository
        self._inference = inference
        self._pool = pool
        self._serving = serving
        self._max_images = max_images

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
        """Run a model. The input `images` is UINT8, or BYTES with an image file an element."""
        return await self._answer(request, self._repository.get(model))

    async def infer_version(self, request: Request, model: str, version: str) -> Response:
        """Run a model's version, as `infer` runs the newest that is ready."""
        return await self._answer(request, self._repository.get(model, version))

    async def _answer(self, request: Request, asked: ModelVersion) -> Response:
        call = _Call(self, request)
        return await self._serving.answer(request, asked, call.read, call.predict)

    async def parse(self, request: Request, instance: ModelInstance, body: bytes) -> InferenceCall:
        """Understand a body."""
        json_bytes = _json_bytes(request)
        parse = partial(parse_inference, body, json_bytes, instance.contract, self._max_images)
        if (len(body) if json_bytes is None else json_bytes) < SMALL_BYTES:
            return parse()
        return await self._pool.run(parse)

    async def run(
        self, request: Request, instance: ModelInstance, call: InferenceCall, job: Job
    ) -> Response:
        """Predict, and answer as the call and the request's headers want it."""
        inferred = await self._infer(instance, call, job) if call.images else Inferred([], [])
        with job.timer.stage("encode"):
            size = sum(array.nbytes for each in inferred.outputs for array in each.values())
            accepted = request.headers.get("accept-encoding", "")
            encode = partial(_encode, call, instance, inferred, choose_encoding(accepted, size))
            return encode() if size < SMALL_BYTES else await self._pool.run(encode)

    async def _infer(self, instance: ModelInstance, call: InferenceCall, job: Job) -> Inferred:
        names = [output.name for output in call.outputs]
        job = job.with_priority(call.priority)
        return await self._inference.infer(instance, job, names, stacked=True)


class _Call:
    """One request: what was understood of its body is needed for its answer."""

    def __init__(self, routes: InferRoutes, request: Request) -> None:
        self._routes = routes
        self._request = request
        self._call = InferenceCall([], [])

    async def read(self, instance: ModelInstance, body: bytes, deadline: Deadline) -> Images:
        self._call = await self._routes.parse(self._request, instance, body)
        if self._call.timeout_seconds is not None:
            deadline.shorten(self._call.timeout_seconds)
        return self._call.images

    async def predict(self, instance: ModelInstance, job: Job) -> Response:
        return await self._routes.run(self._request, instance, self._call, job)


def _json_bytes(request: Request) -> int | None:
    text = request.headers.get(JSON_BYTES_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise InvalidRequest(f"{JSON_BYTES_HEADER} must be a number of bytes.")
    return int(text)


def _encode(
    call: InferenceCall,
    instance: ModelInstance,
    inferred: Inferred,
    encoding: str | None,
) -> Response:
    encoded = encode_inference(call, instance.contract, instance.identity.version, inferred.outputs)
    headers = {}
    if encoded.json_bytes is not None:
        headers[JSON_BYTES_HEADER] = str(encoded.json_bytes)
    body = encoded.body
    if encoding is not None:
        body = compress(body, encoding)
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return Response(body, headers=headers, media_type=BINARY if encoded.json_bytes else JSON)


def _request_description() -> dict[str, Any]:
    """How OpenAPI describes a request, which is read by hand: its type need not be stated."""
    json_bytes = {
        "name": JSON_BYTES_HEADER,
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "how many bytes of the decompressed body are JSON; binary data follow",
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
    """A JSON schema with what it refers to in place of the references."""
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
