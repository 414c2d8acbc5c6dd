"""A light HTTP client that generates load: closed loops and Poisson arrivals."""

import asyncio
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import httptools

LEFT = 0
"""Counted instead of a status if the connection broke."""


@dataclass
class Results:
    """Results: latencies of 200s and of 429s in seconds, and counts by status."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def add(self, status: int, seconds: float) -> None:
        """Count a response."""
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(seconds)
        elif status == 429:
            self.refusals.append(seconds)

    def join(self, others: "Results") -> None:
        """Add the responses of another measurement."""
        self.seconds += others.seconds
        self.latencies += others.latencies
        self.refusals += others.refusals
        self.statuses += others.statuses

    @property
    def throughput(self) -> float:
        """Successful responses per second."""
        return len(self.latencies) / self.seconds

    def goodput(self, deadline: float) -> float:
        """Successful responses within the deadline per second."""
        return sum(each <= deadline for each in self.latencies) / self.seconds

    def percentile(self, percent: int, *, of_refusals: bool = False) -> float:
        """Return a percentile of the latencies in seconds; 0 if there are none."""
        values = self.refusals if of_refusals else self.latencies
        if len(values) < 2:
            return values[0] if values else 0.0
        return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[int] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.usable = True
        self._lost = asyncio.Event()

    async def ask(self, request: bytes) -> int:
        """Send a request; return the status of the response, or `LEFT`."""
        self._answer = asyncio.get_running_loop().create_future()
        self.body = b""
        self._transport.write(request)
        return await self._answer

    async def close(self) -> None:
        """Close the connection, even during a request."""
        self.usable = False
        self._transport.close()
        await self._lost.wait()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.usable = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self._finish(status)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._lost.set()
        self._finish(LEFT)

    def _finish(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


async def connect(port: int) -> Connection:
    """Open a connection to a local server."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


def post(path: str, body: bytes, **headers: str) -> bytes:
    """Return a request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> Results:
    """Send requests on each connection, one as soon as the last is answered."""
    results = Results()
    ends = time.perf_counter() + seconds

    async def user() -> None:
        connection = await connect(port)
        while (now := time.perf_counter()) < ends:
            status = await connection.ask(request)
            results.add(status, time.perf_counter() - now)
            if not connection.usable:
                await connection.close()
                connection = await connect(port)
        await connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(connections)))
    results.seconds = time.perf_counter() - started
    return results


async def open_loop(
    port: int, request: bytes, rate: float, seconds: float, *, seed: int = 0
) -> Results:
    """Send requests at random times, `rate` per second, regardless of the responses."""
    results, chance = Results(), random.Random(seed)  # noqa: S311
    idle: list[Connection] = []
    asking: set[asyncio.Task[None]] = set()

    async def arrive(due: float) -> None:
        while idle and not idle[-1].usable:  # the server has closed it
            await idle.pop().close()
        connection = idle.pop() if idle else await connect(port)
        status = await connection.ask(request)
        results.add(status, time.perf_counter() - due)
        if connection.usable:
            idle.append(connection)
        else:
            await connection.close()

    started = due = time.perf_counter()
    while (due := due + chance.expovariate(rate)) < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(arrive(due))
        asking.add(task)
        task.add_done_callback(asking.discard)
    results.seconds = seconds
    await asyncio.gather(*asking)
    for connection in idle:
        await connection.close()
    return results
