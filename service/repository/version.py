"""One version of a model: where it is in its life, and what serves it."""

from dataclasses import dataclass
from typing import Any

from service.batching.instance import ModelInstance
from service.errors import ModelNotReady
from service.schema.contract import Contract
from service.schema.model_status import ExecutionProvider, ModelDetail, ModelStatus
from service.schema.vocabulary import ModelState, Task

UNLOADED = "unloaded"
"""The reason of a version that is on the disk and not asked for, in Triton's word."""


@dataclass(eq=False)
class ModelVersion:
    """What is known of a version.

    `version` is empty while no contract of the model could be read. `contract` is as it was
    when the instance was loaded, or else as it was read last. `failure` is why the version, or
    a newer form of it, could not be loaded.
    """

    name: str
    version: str = ""
    contract: Contract | None = None
    phase: ModelState = ModelState.LOADING
    failure: str | None = None
    instance: ModelInstance | None = None

    @property
    def state(self) -> ModelState:
        """Where the version is in its life; one that does not answer is unavailable."""
        return ModelState.UNAVAILABLE if self._outage else self.phase

    @property
    def reason(self) -> str | None:
        """Why the version does not serve, or could not be replaced."""
        return self._outage or self.failure

    @property
    def is_ready(self) -> bool:
        """Whether the version serves."""
        return self.state is ModelState.READY

    @property
    def number(self) -> int:
        """The version as a number; 0 where there is none."""
        return int(self.version or 0)

    @property
    def task(self) -> Task | None:
        """What the model answers, where its contract could be read."""
        return self.contract.task if self.contract else None

    @property
    def _outage(self) -> str | None:
        return None if self.instance is None else self.instance.outage

    def serves_by(self, contract: Contract) -> bool:
        """Whether the version serves just as this contract says."""
        return (
            self.is_ready
            and self.contract is not None
            and contract.says_the_same_of(self.version, self.contract)
        )

    def ready_instance(self) -> ModelInstance:
        """Return the instance, or say why there is none; hold it in the same turn of the loop."""
        if self.instance is None or not self.is_ready:
            raise ModelNotReady(f"The model {self.describe()}.")
        return self.instance

    def describe(self) -> str:
        """Say in a few words how the version is."""
        name = f"{self.name} version {self.version}" if self.version else self.name
        if self.reason == UNLOADED:
            return f"{name} is unloaded"
        words = f"{name} is {self.state.value.lower()}"
        return f"{words}: {self.reason}" if self.reason else words

    def status(self) -> ModelStatus:
        """Return what clients may know."""
        return ModelStatus(**self._status())

    def detail(self, refusal: str | None = None) -> ModelDetail:
        """Return what clients may know, with the contract and the certificate.

        `refusal` is why the contract that is on the disk now could not be read.
        """
        reasons = dict.fromkeys(filter(None, (self.reason, refusal)))
        return ModelDetail(
            **self._status() | {"reason": "; ".join(reasons) or None},
            contract=self.contract and self.contract.as_told(),
            certificate=self.instance and self.instance.certificate.as_read(),
        )

    def _status(self) -> dict[str, Any]:
        build = self.instance.build if self.instance else None
        return {
            "name": self.name,
            "version": self.version or None,
            "task": self.task,
            "state": self.state,
            "reason": self.reason,
            "labels": self.contract.labels if self.contract else [],
            "precision": build and build.precision,
            "execution_provider": build
            and ExecutionProvider(
                requested=build.requested_provider,
                active=build.active_provider,
                nodes_on_cpu=build.nodes_on_cpu,
            ),
            "accuracy": build and build.accuracy,
            "batching": self.instance and self.instance.batching,
        }
