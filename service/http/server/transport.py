"""A transport that sends a response in one piece."""

import asyncio
from typing import Any


class GatheringTransport:
    """Collects writes, and sends them at the end of each iteration of the event loop.

    Uvicorn writes head and body separately, which takes two system calls and two packets.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close_timeout_seconds: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._close_timeout_seconds = close_timeout_seconds
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send data together with everything else that is written in this iteration."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Send what was written, and close; abort if the client does not read it in time."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._close_timeout_seconds, self._transport.abort)

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes still to be sent."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._written))

    def _flush(self) -> None:
        if self._written:
            data, self._written = b"".join(self._written), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the transport."""
        return getattr(self._transport, name)
