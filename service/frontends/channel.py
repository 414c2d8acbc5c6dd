"""A connection between a front end and the engine."""

import asyncio
from collections.abc import Callable
from typing import cast

from service.frontends.messages import Parser

READ_AGAIN_BYTES = 32 << 20
"""The other side's messages wait while more than this is unsent."""

Handle = Callable[[int, memoryview], None]


class Channel(asyncio.Protocol):
    """Sends messages together at the end of each iteration of the event loop.

    `handle` gets each message, `lost` is called at the end. `sent_bytes` grows as the other side
    reads; `unsent_bytes` is what it has not read yet. While that is too much, nothing is read from
    the other side either, so its requests wait instead of their answers piling up.
    """

    def __init__(self, handle: Handle, lost: Callable[[], None]) -> None:
        self._handle = handle
        self._lost = lost
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._written = 0
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()

    @property
    def unsent_bytes(self) -> int:
        """Number of bytes that the other side has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def sent_bytes(self) -> int:
        """Number of bytes that the other side, or its socket's buffer, has taken."""
        return self._written - self.unsent_bytes

    def send(self, message: bytes) -> None:
        """Send a message at the end of this iteration."""
        if not self._outgoing:
            self._loop.call_soon(self.flush)
        self._outgoing.append(message)

    def flush(self) -> None:
        """Send what waits."""
        if self._transport is not None and self._outgoing:
            data = b"".join(self._outgoing)
            self._written += len(data)
            self._transport.write(data)
        self._outgoing.clear()

    async def close(self) -> None:
        """Close the connection once everything is sent; return when it is closed."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
            await self._closed.wait()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=READ_AGAIN_BYTES)

    def data_received(self, data: bytes) -> None:
        """Handle the messages that are complete."""
        for kind, content in self._parser.feed(data):
            self._handle(kind, content)

    def pause_writing(self) -> None:
        """Read nothing more: the other side does not read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End."""
        self._transport = None
        self._outgoing.clear()
        self._closed.set()
        self._lost()
