"""Common parts of all prediction requests: the call, and a body within limits."""

from collections.abc import Sequence
from time import perf_counter

from service.engine.base import AnyEngine
from service.engine.call import Call
from service.errors import InvalidRequest
from service.http.content_encoding import decompress
from service.http.middleware.exchange import Exchange
from service.http.reply import Reply
from service.http.request_body import BodyLimits, receive_body, requested_timeout
from service.http.routes.images_in_body import images_in_body, is_raw
from service.images.photo import ImageFrame
from service.repository.version import ModelVersion


class Serving:
    """Opens calls for requests, and reads their bodies."""

    def __init__(self, engine: AnyEngine, limits: BodyLimits) -> None:
        self.engine = engine
        self._limits = limits

    def call(self, exchange: Exchange, version: ModelVersion) -> Call:
        """Return the call of a request; during the drain, open connections are still served."""
        exchange.call = call = self.engine.call(
            version,
            requested_timeout(exchange),
            came_before_drain=exchange.state.get("came_before_drain", False),
        )
        return call

    async def read_body(self, exchange: Exchange, call: Call) -> bytes:
        """Receive and decompress the body; from then on the call is in flight."""
        began = perf_counter()
        try:
            body = await receive_body(exchange, self._limits, call.take_bytes)
            if not body:
                raise InvalidRequest("The body is empty; send an image.")
            call.take_place()
            encoding = exchange.headers.get(b"content-encoding")
            if encoding is not None:
                body = await self.engine.image_threads.run(
                    decompress, body, encoding.decode("latin-1"), self._limits.max_bytes
                )
            return body
        finally:
            call.timings.receive = perf_counter() - began

    async def read_images(
        self, exchange: Exchange, call: Call, frame: int | None = None
    ) -> Sequence[bytes | ImageFrame]:
        """Receive the body, and return the image files in it, or a frame of each."""
        body = await self.read_body(exchange, call)
        content_type = exchange.header(b"content-type")
        if is_raw(content_type, body):
            files = [body]
        else:
            began = perf_counter()
            files = await self.engine.image_threads.run(
                images_in_body, content_type, body, self.engine.max_images
            )
            call.timings.receive = (call.timings.receive or 0.0) + perf_counter() - began
        return files if frame is None else [ImageFrame(each, frame) for each in files]


def answered(call: Call, reply: Reply) -> Reply:
    """Record the size of a reply for the metrics, and return the reply."""
    call.response_bytes = len(reply.body)
    return reply
