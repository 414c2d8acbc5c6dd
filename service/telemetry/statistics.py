"""The counts of a loaded model version, for the protocol's statistics extension."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import Outcome
from service.schema.open_inference import (
    BatchStatistics,
    DurationStatistic,
    InferenceStatistics,
    ModelStatistics,
)
from service.telemetry.timings import Stage


@dataclass(slots=True)
class _Duration:
    """A number of occurrences, and their total duration."""

    count: int = 0
    seconds: float = 0.0

    def wire(self) -> DurationStatistic:
        return _wire(self.count, self.seconds)


def _wire(count: int, seconds: float) -> DurationStatistic:
    return DurationStatistic(count=count, ns=round(seconds * 1e9))


class Statistics:
    """Counts the requests and executions of a version since it was loaded.

    Only the event loop may use it.
    """

    def __init__(self) -> None:
        self._executions: defaultdict[int, _Duration] = defaultdict(_Duration)
        self._forget_requests()

    def _forget_requests(self) -> None:
        self._images = 0
        self._last_inference = 0.0
        self._succeeded = _Duration()
        self._failed = _Duration()
        self._stages: defaultdict[Stage, float] = defaultdict(float)
        """Total seconds of the requests that succeeded."""
        self._failures: Counter[Outcome] = Counter()

    def answered(self, outcome: Outcome, images: int, stages: Mapping[Stage, float]) -> None:
        """Count a request: its outcome, the images predicted and the time of each stage."""
        requests = self._succeeded if outcome == "ok" else self._failed
        requests.count += 1
        requests.seconds += sum(stages.values())
        if outcome != "ok":
            self._failures[outcome] += 1
            return
        self._images += images
        self._last_inference = time.time()
        for stage, seconds in stages.items():
            self._stages[stage] += seconds

    @property
    def failures(self) -> dict[Outcome, int]:
        """Return the number of requests that failed, by outcome."""
        return dict(self._failures)

    def executed(self, batch_size: int, seconds: float) -> None:
        """Count a batch that succeeded."""
        executions = self._executions[batch_size]
        executions.count += 1
        executions.seconds += seconds

    def take(self) -> dict[str, Any]:
        """Return the counts of requests as JSON data, and begin again at zero."""
        counts = {
            "images": self._images,
            "last_inference": self._last_inference,
            "succeeded": (self._succeeded.count, self._succeeded.seconds),
            "failed": (self._failed.count, self._failed.seconds),
            "stages": self._stages,
            "failures": self._failures,
        }
        self._forget_requests()
        return counts

    def absorb(self, counts: Mapping[str, Any]) -> None:
        """Add the counts that `take` returned in another process."""
        self._images += counts["images"]
        self._last_inference = max(self._last_inference, counts["last_inference"])
        for own, (count, seconds) in (
            (self._succeeded, counts["succeeded"]),
            (self._failed, counts["failed"]),
        ):
            own.count += count
            own.seconds += seconds
        for stage, seconds in counts["stages"].items():
            self._stages[stage] += seconds
        self._failures.update(counts["failures"])

    def wire(self, name: str, version: str) -> ModelStatistics:
        """Return the counts as the wire type."""
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=round(self._last_inference * 1000),
            inference_count=self._images,
            execution_count=sum(each.count for each in self._executions.values()),
            inference_stats=InferenceStatistics(
                success=self._succeeded.wire(),
                fail=self._failed.wire(),
                queue=self._stage("queue"),
                compute_input=self._stage("decode"),
                compute_infer=self._stage("compute"),
                compute_output=self._stage("encode"),
            ),
            batch_stats=[
                BatchStatistics(batch_size=size, compute_infer=duration.wire())
                for size, duration in sorted(self._executions.items())
            ],
        )

    def _stage(self, stage: Stage) -> DurationStatistic:
        return _wire(self._succeeded.count, self._stages[stage])
