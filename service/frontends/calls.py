"""Rare calls between a front end and the engine: a name, arguments and a result, as JSON."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from service.errors import InferenceFailed, ServiceError
from service.frontends.failures import error_of, fields_of
from service.frontends.messages import Kind, json_message
from service.schema.json import decode

Perform = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Performs a call of the other side."""

_log = structlog.get_logger()


class Calls:
    """Calls the other side of a channel, and performs its calls; their errors are raised there."""

    def __init__(self, send: Callable[[bytes], None], perform: Perform) -> None:
        self._send = send
        self._perform = perform
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._performing: set[asyncio.Task[None]] = set()
        self._closed: ServiceError | None = None

    async def call(self, name: str, **arguments: Any) -> Any:
        """Return the result of the other side; raises the `ServiceError` that it raised."""
        if self._closed is not None:
            raise self._closed
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        call = {"number": number, "name": name, "arguments": arguments}
        self._send(json_message(Kind.CALL, call))
        try:
            return await future
        finally:
            del self._waiting[number]

    def called(self, content: memoryview) -> None:
        """Begin a call of the other side."""
        task = asyncio.create_task(self._reply(decode(content)))
        self._performing.add(task)
        task.add_done_callback(self._performing.discard)

    def replied(self, content: memoryview) -> None:
        """End a call of this side."""
        reply = decode(content)
        future = self._waiting.get(reply["number"])
        if future is None or future.done():
            return
        if reply["error"] is None:
            future.set_result(reply["result"])
        else:
            future.set_exception(error_of(reply["error"]))

    def close(self, error: ServiceError) -> None:
        """Fail the calls that wait, and stop those that are performed."""
        self._closed = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        for task in self._performing:
            task.cancel()

    async def _reply(self, call: dict[str, Any]) -> None:
        result = error = None
        try:
            result = await self._perform(call["name"], call["arguments"])
        except ServiceError as raised:
            error = fields_of(raised)
        except Exception as raised:
            _log.error("call_failed", call=call["name"], exc_info=raised)
            error = fields_of(InferenceFailed("The engine failed; its log says why."))
        reply = {"number": call["number"], "result": result, "error": error}
        self._send(json_message(Kind.REPLY, reply))
