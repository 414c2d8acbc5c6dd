"""The first runs of an open graph: self-test, calibration, warm-up.

All of them take turns on the device with the loaded models.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np
import structlog

from service.batching.plan import ExecutionPlan, choose_widths
from service.errors import InferenceFailed, InvalidEntry
from service.images.decode import ImageLimits
from service.images.photo import ImageArray, prepare
from service.images.sample import sample_photo
from service.repository.calibration import (
    METHOD,
    Bench,
    CalibrationCache,
    Measure,
    run_on_each,
)
from service.repository.candidate import Candidate
from service.repository.golden_check import GoldenInput, compare
from service.repository.load_options import LoadOptions
from service.runtime.arrays import Array
from service.runtime.device import describe_device
from service.runtime.graph_sessions import Runnable, run_batch
from service.runtime.io_binding import padded
from service.schema.model_status import Measurement
from service.telemetry.events import ModelEvents

Calibrate = Callable[[Measure, Sequence[int], int, bool], Awaitable[list[Measurement]]]
"""Measures batches of up to a number of images, on each of these numbers of threads, on a CPU or
not."""

SAMPLE_SCALE = 2
"""Sides of the photo that is decoded for a measurement, relative to those of the graph's input."""

_log = structlog.get_logger()


async def self_test(candidate: Candidate, events: ModelEvents) -> None:
    """Run the golden inputs; raises `InvalidEntry` if the outputs are not as certified."""
    name, version = candidate.identity.name, candidate.identity.version
    _log.debug("self_test", model=name, version=version)
    precision = candidate.certificate.precision(candidate.choice.precision)
    golden, outputs = await _run_golden(candidate)
    result = compare(candidate.contract.task, golden, outputs)
    failure = result.failure(precision.self_test)
    events.self_tested(
        candidate.identity, result.max_absolute_error, result.agreement, ok=failure is None
    )
    if failure is not None:
        raise InvalidEntry(failure)


async def _run_golden(candidate: Candidate) -> tuple[list[GoldenInput], list[Array]]:
    """Run one golden input on each further session or GPU, and the others on the first session.

    Returns the inputs that were run and their outputs; with many sessions, some inputs are run
    more than once. The first session has the fewest threads, so it delays requests the least.
    """
    first, *others = candidate.graph.each_session
    rounds = max(len(candidate.golden), 1 + len(others))
    sessions = [*others, *[first] * (rounds - len(others))]
    golden = list(itertools.islice(itertools.cycle(candidate.golden), rounds))
    pairs = zip(golden, sessions, strict=True)
    try:
        return golden, [await _run(candidate, each, session) for each, session in pairs]
    except InferenceFailed as error:
        raise InvalidEntry("the self-test failed: the graph does not run") from error


async def _run(candidate: Candidate, golden: GoldenInput, session: Runnable) -> Array:
    """Run a golden input in one slot of the device, regardless of the session's threads."""
    prediction, device = candidate.contract.prediction, candidate.graph.device
    run = partial(run_batch, session, [golden.image], [prediction])
    async with device.turn(1):
        outputs = await device.workers.run(run)
    return outputs[0][prediction]


async def plan_execution(
    candidate: Candidate,
    options: LoadOptions,
    calibrations: CalibrationCache,
    calibrate: Calibrate,
) -> ExecutionPlan:
    """Calibrate, unless the measurements are known; then close the sessions that are not useful."""
    contract, graph = candidate.contract, candidate.graph
    limit = options.batch_limit(contract)
    measurements = await _measurements(candidate, limit, calibrations, calibrate)
    widths = choose_widths(
        measurements,
        max_batch_size=limit,
        max_seconds=options.max_batch_seconds,
        is_on_cpu=graph.is_on_cpu,
    )
    graph.sessions.keep([each.threads for each in widths])
    width, height = contract.preprocessing.common_size
    delay = options.queue_delay_seconds(contract)
    return ExecutionPlan(widths, tuple(measurements), height * width, delay)


async def _measurements(
    candidate: Candidate, limit: int, calibrations: CalibrationCache, calibrate: Calibrate
) -> list[Measurement]:
    width, height = candidate.contract.preprocessing.common_size
    graph, device, sessions = candidate.graph, candidate.graph.device, candidate.graph.each_session
    key = {
        "method": METHOD,
        "graph": graph.sha256,
        "size": [height, width],
        "max_batch_size": limit,
        "precision": candidate.choice.precision,
        "execution_providers": [session.placement.active for session in sessions],
        "threads": graph.sessions.threads,
        "slots": device.slots,
        "device": describe_device(graph.active_provider),
    }
    measurements = await asyncio.to_thread(calibrations.read, key)
    if measurements is None:
        prepare = await asyncio.to_thread(_sample, candidate)
        outputs = [candidate.contract.prediction]
        if not graph.is_on_cpu:  # the golden inputs may have another size
            await run_on_each(device, sessions, [prepare()], outputs)
        bench = Bench(graph.sessions, prepare, outputs, device, is_on_cpu=graph.is_on_cpu)
        threads = graph.sessions.threads
        measurements = await calibrate(bench.seconds, threads, limit, graph.is_on_cpu)
        await asyncio.to_thread(calibrations.write, key, measurements)
    return measurements


def _sample(candidate: Candidate) -> Callable[[], ImageArray]:
    """Return a function that prepares an image as the threads of the device do.

    On a CPU they decode photos: a golden input as a JPEG of twice the size. On a GPU they get
    images that are ready.
    """
    preprocessing = candidate.contract.preprocessing
    width, height = preprocessing.common_size
    if not candidate.graph.is_on_cpu:
        blank = np.zeros((height, width, 3), np.uint8)
        return lambda: blank
    photo = sample_photo(candidate.golden[0].image, SAMPLE_SCALE * width, SAMPLE_SCALE * height)
    limits = ImageLimits(SAMPLE_SCALE**2 * width * height)
    return lambda: prepare(photo, preprocessing, limits).pixels


async def warm_up(candidate: Candidate, plan: ExecutionPlan) -> None:
    """Run every shape that can occur on each GPU: the first run of a shape is slow."""
    graph, prediction = candidate.graph, candidate.contract.prediction
    if graph.is_on_cpu:
        return
    sizes = candidate.contract.preprocessing.input_sizes
    batches = sorted({padded(count + 1) for count in range(plan.widths[0].max_batch_size)})
    for (width, height), batch_size in itertools.product(sizes, batches):
        batch = [np.zeros((height, width, 3), np.uint8)] * batch_size
        await run_on_each(graph.device, graph.each_session, batch, [prediction])
