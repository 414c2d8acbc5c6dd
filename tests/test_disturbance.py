"""The real process under more load than it can bear, with clients that leave, broken images and
a SIGTERM: every remaining client gets a correct answer or a proper error."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import uvloop

from model_export.comparison.predictors import graph_predictor
from model_export.entry.version import Version, open_version
from model_export.preprocessing import open_image
from tests.benchmarks.load import LEFT, Connection, closed_loop, connect, post
from tests.service.process import Process

WEIGHTS = Path(__file__).parent.parent / "weights"
CLASSIFIER = "vt_resnet18_imagenette"
BROKEN = b"\xff\xd8\xff" + bytes(2000)
SECONDS, SIGTERM_AT = 4.0, 3.0
ORDERLY = {200, 400, 429, 503, 504}


@dataclass
class Outcome:
    """The outcomes of all requests; those on connections opened during the drain are apart."""

    statuses: Counter[int] = field(default_factory=Counter)
    of_new_connections: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path):
    (tmp_path / CLASSIFIER).symlink_to(WEIGHTS / CLASSIFIER)
    process = Process("--model-repository", str(tmp_path), VT_PRECISION="int8")
    process.wait_for("model_ready")
    yield process
    process.kill()


def expected_scores(version: Version) -> list[tuple[bytes, np.ndarray]]:
    """Each example photo as a request, with the probabilities that a plain loop gives."""
    predict = graph_predictor(version.graph("int8"))
    rows = []
    for path in version.examples:
        logits = predict(version.preprocessing(open_image(path))[None])["logits"][0]
        scores = np.exp(logits - logits.max())
        request = post("/v1/classify?top_k=10", path.read_bytes(), X_Request_Timeout_Ms="2000")
        rows.append((request, scores / scores.sum()))
    return rows


def is_right(body: bytes, expected: np.ndarray) -> bool:
    classes = json.loads(body)["predictions"][0]["classes"]
    scores = [each["score"] for each in sorted(classes, key=lambda each: each["index"])]
    return bool(np.allclose(scores, expected, atol=2e-3))


async def disturb(process: Process, photos: list[tuple[bytes, np.ndarray]], rate: float) -> Outcome:
    """Open loop; a tenth leaves midway, a tenth is broken, and the server is told to stop."""
    chance, outcome = random.Random(0), Outcome()  # noqa: S311
    idle: list[Connection] = []
    stopping, draining = asyncio.Event(), asyncio.Event()
    new_connections: set[Connection] = set()

    async def stop() -> None:
        stopping.set()
        process.signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait_for, "draining")
        draining.set()

    async def connected() -> Connection | None:
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            await connection.close()
        is_new = draining.is_set()
        try:
            connection = await connect(process.port)
        except OSError:
            return None
        if is_new:
            new_connections.add(connection)
        return connection

    async def leave() -> None:
        connection = await connected()
        if connection is not None:
            asking = asyncio.ensure_future(connection.ask(chance.choice(photos)[0]))
            await asyncio.sleep(chance.uniform(0, 0.05))
            await connection.close()
            await asking

    async def ask(request: bytes, expected: np.ndarray | None) -> None:
        connection = await connected()
        if connection is None:
            outcome.of_new_connections[LEFT] += 1
            assert stopping.is_set()
            return
        was_stopping = stopping.is_set()
        status = await connection.ask(request)
        if connection in new_connections:
            outcome.of_new_connections[status] += 1
        elif status != LEFT or not was_stopping:  # the server may be gone by then
            outcome.statuses[status] += 1
        if status == 200 and (expected is None or not is_right(connection.body, expected)):
            outcome.wrong.append(connection.body.decode())
        if connection.usable:
            idle.append(connection)
        else:
            await connection.close()

    def arrive() -> asyncio.Task[None]:
        kind = chance.random()
        if kind < 0.1:
            return asyncio.create_task(leave())
        if kind < 0.2:
            return asyncio.create_task(ask(post("/v1/classify", BROKEN), None))
        return asyncio.create_task(ask(*chance.choice(photos)))

    tasks: list[asyncio.Task[None]] = []
    started = due = time.perf_counter()
    while (due := due + chance.expovariate(rate)) < started + SECONDS:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if due > started + SIGTERM_AT and not stopping.is_set():
            tasks.append(asyncio.create_task(stop()))
            await asyncio.sleep(0)
        tasks.append(arrive())
    await asyncio.gather(*tasks)
    for connection in idle:
        await connection.close()
    return outcome


def test_every_remaining_client_gets_a_correct_answer_or_a_proper_error(server: Process) -> None:
    photos = expected_scores(open_version(WEIGHTS, CLASSIFIER))
    capacity = uvloop.run(closed_loop(server.port, photos[0][0], 8, 1.0)).throughput
    outcome = uvloop.run(disturb(server, photos, 1.5 * capacity))
    assert server.end() == 0
    assert outcome.wrong == []
    assert set(outcome.statuses) <= ORDERLY, outcome
    assert outcome.statuses[200] > 0
    assert outcome.statuses[400] > 0
    assert set(outcome.of_new_connections) <= {503, LEFT}, outcome
