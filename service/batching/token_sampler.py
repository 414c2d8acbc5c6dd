"""Samples the visual tokens of some images for the metrics."""

import asyncio
from functools import partial
from time import monotonic

import structlog

from service.images.attention import token_statistics
from service.runtime.arrays import Outputs
from service.runtime.worker_threads import WorkerThreads
from service.schema.contract import Contract
from service.schema.tasks import TOKENS
from service.telemetry.metrics.tokens import TokenTelemetry

_log = structlog.get_logger()


class TokenSampler:
    """Fetches the token outputs of one image every few seconds; belongs to the event loop.

    The outputs are computed anyway. They are described in a thread of the device after the
    response, which does not wait for it.
    """

    def __init__(
        self,
        contract: Contract,
        workers: WorkerThreads,
        telemetry: TokenTelemetry,
        interval_seconds: float,
    ) -> None:
        tokens = [TOKENS] if contract.has_tokens else []
        self._outputs = [*tokens, *contract.attention_outputs]
        self._workers = workers
        self._telemetry = telemetry
        self._interval_seconds = interval_seconds
        has_outputs = self._outputs and interval_seconds > 0
        self.due_at = monotonic() + interval_seconds if has_outputs else float("inf")
        """Time of the next sample."""

    def extend(self, names: tuple[str, ...], now: float) -> tuple[str, ...]:
        """Return the names of the outputs to fetch for an image that is sampled."""
        self.due_at = now + self._interval_seconds
        return tuple(dict.fromkeys((*names, *self._outputs)))

    def describe(self, outputs: Outputs) -> None:
        """Describe the tokens of an image in a thread, and count them."""
        tokens = {name: outputs[name] for name in self._outputs}
        described = self._workers.run(partial(token_statistics, tokens))
        described.add_done_callback(self._count)

    def _count(self, described: "asyncio.Future[dict[str, float]]") -> None:
        if described.cancelled():
            return
        error = described.exception()
        if error is None:
            self._telemetry.observe(described.result())
        else:
            _log.debug("token_sample_failed", error=str(error))
