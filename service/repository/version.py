"""One version of a model: its phase, and the instance that serves it."""

from dataclasses import dataclass
from typing import Any

from service.batching.interface import Instance
from service.errors import ModelNotReady
from service.schema.contract import Contract
from service.schema.model_status import ExecutionProvider, ModelDetail, ModelStatus
from service.schema.vocabulary import ModelState, Task

UNLOADED = "unloaded"
"""Triton's reason for a version that is on disk but not loaded."""


@dataclass(eq=False)
class ModelVersion:
    """The state of a version.

    `version` is empty until a contract of the model has been read. `contract` is the one that the
    instance was loaded with; without an instance, the one read last. `failure` is the reason why
    the version, or its replacement, could not be loaded.
    """

    name: str
    version: str = ""
    contract: Contract | None = None
    phase: ModelState = ModelState.LOADING
    failure: str | None = None
    instance: Instance | None = None

    def ready_instance(self) -> Instance:
        """Return the instance, or raise `ModelNotReady` with the reason.

        The caller must hold the instance before it awaits anything.
        """
        instance = self.instance
        if instance is None or instance.outage or self.phase is not ModelState.READY:
            raise ModelNotReady(f"The model {self.describe()}.")
        return instance

    @property
    def state(self) -> ModelState:
        """The phase; a version whose instance has an outage is unavailable."""
        return ModelState.UNAVAILABLE if self._outage else self.phase

    @property
    def is_ready(self) -> bool:
        """Whether the version is ready."""
        return self.state is ModelState.READY

    @property
    def reason(self) -> str | None:
        """Reason why the version is not ready, or could not be replaced."""
        return self._outage or self.failure

    @property
    def _outage(self) -> str | None:
        return None if self.instance is None else self.instance.outage

    @property
    def number(self) -> int:
        """The version as a number; 0 if it is not known."""
        return int(self.version or 0)

    @property
    def task(self) -> Task | None:
        """The model's task; None if no contract could be read."""
        return self.contract.task if self.contract else None

    def serves_by(self, contract: Contract) -> bool:
        """Return whether the version is ready and already loaded as this contract says."""
        return (
            self.is_ready
            and self.contract is not None
            and contract.says_the_same_of(self.version, self.contract)
        )

    def describe(self) -> str:
        """Return the name, version, state and reason in a few words."""
        name = f"{self.name} version {self.version}" if self.version else self.name
        if self.reason == UNLOADED:
            return f"{name} is unloaded"
        words = f"{name} is {self.state.value.lower()}"
        return f"{words}: {self.reason}" if self.reason else words

    def status(self) -> ModelStatus:
        """Return the state for clients."""
        return ModelStatus(**self._status())

    def detail(self, refusal: str | None = None) -> ModelDetail:
        """Return the state for clients, with the contract and the certificate.

        `refusal` is the reason why the contract on disk could not be read.
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
