"""What a model version did so far, in the terms of the protocol's statistics extension."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from service.errors import Outcome
from service.schema.open_inference import (
    BatchStatistics,
    DurationStatistic,
    InferenceStatistics,
    ModelStatistics,
)
from service.telemetry.stage_timer import Stage

_STAGES: dict[str, Stage] = {
    "queue": "queue",
    "compute_input": "decode",
    "compute_infer": "compute",
    "compute_output": "encode",
}


class _Duration:
    """How often something happened, and how long it took in all."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def wire(self) -> DurationStatistic:
        return DurationStatistic(count=self.count, ns=round(self.seconds * 1e9))


class Statistics:
    """Counts requests and executions. Belongs to the event loop."""

    def __init__(self) -> None:
        self._images = 0
        self._last_inference = 0.0
        self._requests: dict[str, _Duration] = defaultdict(_Duration)
        self._failures: Counter[Outcome] = Counter()
        self._executions: dict[int, _Duration] = defaultdict(_Duration)

    def answered(self, outcome: Outcome, images: int, stages: Mapping[Stage, float]) -> None:
        """Count a request: how it ended, how many images were predicted, where its time went."""
        self._requests["success" if outcome == "ok" else "fail"].add(sum(stages.values()))
        if outcome != "ok":
            self._failures[outcome] += 1
        else:
            self._images += images
            self._last_inference = time.time()
            for name, stage in _STAGES.items():
                self._requests[name].add(stages.get(stage, 0.0))

    @property
    def failures(self) -> dict[Outcome, int]:
        """How many requests did not end well, by how they ended."""
        return dict(self._failures)

    def executed(self, batch_size: int, seconds: float) -> None:
        """Count an execution that ended well."""
        self._executions[batch_size].add(seconds)

    def wire(self, name: str, version: str) -> ModelStatistics:
        """Return the numbers as clients read them."""
        names = ("success", "fail", *_STAGES)
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=round(self._last_inference * 1000),
            inference_count=self._images,
            execution_count=sum(each.count for each in self._executions.values()),
            inference_stats=InferenceStatistics(
                **{each: self._requests[each].wire() for each in names}
            ),
            batch_stats=[
                BatchStatistics(batch_size=size, compute_infer=duration.wire())
                for size, duration in sorted(self._executions.items())
            ],
        )
