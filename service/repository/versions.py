"""The versions of a model: known, wanted and ready ones, and the current one."""

from collections.abc import Callable, Iterable

from service.errors import ModelNotFound
from service.repository.version import UNLOADED, ModelVersion
from service.schema.contract import Contract
from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelEvents


class Versions:
    """A table of versions by their number.

    Every change of a version's state ends with `refresh`, which updates `current` and then calls
    `changed`. Belongs to the event loop.
    """

    def __init__(
        self, model: str, shadow: str | None, events: ModelEvents, changed: Callable[[], None]
    ) -> None:
        self.model = model
        self.contract: Contract | None = None
        """The contract that was read last."""
        self.refusal: str | None = None
        """Reason why the contract on disk could not be read."""
        self.have_served = False
        """Whether any version was ever ready."""
        self.shadow = shadow
        self._events = events
        self._changed = changed
        self._active: dict[str, ModelVersion] = {}
        self.current = self._newest()
        """The version for requests that do not name one: the newest that is ready or, if none is,
        the newest that should be. The shadow version is chosen last."""

    def restore(
        self, contract: Contract | None, refusal: str | None, active: Iterable[ModelVersion]
    ) -> None:
        """Take over the versions of another process, without events."""
        self.contract, self.refusal = contract, refusal
        self._active = {each.version: each for each in active}
        self.current = self._newest()

    def refresh(self) -> None:
        """Update `current`; an instance calls this when an outage begins or ends."""
        self.current = self._newest()
        self._changed()

    def _newest(self) -> ModelVersion:
        ready = [each for each in self._active.values() if each.is_ready]
        choice = ready or self._active.values() or self.known
        return max(choice, key=lambda each: (each.version != self.shadow, each.number))

    @property
    def active(self) -> list[ModelVersion]:
        """Versions that are loaded or should be, in ascending order."""
        return sorted(self._active.values(), key=lambda each: each.number)

    @property
    def wanted(self) -> list[ModelVersion]:
        """The active versions; one with an empty number if no valid contract was read."""
        active = self.active
        if self.refusal is not None or not (active or self.contract):
            active.append(self._unread())
        return active

    @property
    def known(self) -> list[ModelVersion]:
        """The wanted versions, and versions that are only on disk."""
        listed = self.contract.versions if self.contract else ()
        others = [self._unloaded(each) for each in listed if each not in self._active]
        return sorted([*self.wanted, *others], key=lambda each: each.number)

    @property
    def ready(self) -> list[str]:
        """Versions that are ready, in ascending order."""
        return [each.version for each in self.active if each.is_ready]

    def _unread(self) -> ModelVersion:
        state = ModelState.UNAVAILABLE if self.refusal else ModelState.LOADING
        return ModelVersion(self.model, phase=state, failure=self.refusal)

    def _unloaded(self, version: str) -> ModelVersion:
        return ModelVersion(
            self.model, version, self.contract, ModelState.UNAVAILABLE, failure=UNLOADED
        )

    def get(self, version: str | None = None) -> ModelVersion:
        """Return a version, by default the current one; raises `ModelNotFound`."""
        if version is None:
            return self.current
        if version in self._active:
            return self._active[version]
        known = {each.version: each for each in self.known}
        if version in known:
            return known[version]
        if not any(known):
            return self.current
        listed = [*filter(None, known)]
        raise ModelNotFound(
            f"The model {self.model} has no version {version}; its versions are "
            f"{', '.join(listed)}."
        )

    def accept(self, contract: Contract) -> None:
        """Replace the contract by a newly read one."""
        self.contract, self.refusal = contract, None
        self._events.model_released(self.model, "")
        self.refresh()

    def refuse(self, reason: str) -> None:
        """Record why the contract on disk could not be read; the versions do not change."""
        self.refusal = reason
        self._events.model_state_changed(self.model, "", ModelState.UNAVAILABLE)
        self.refresh()

    def add(self, version: str, contract: Contract) -> ModelVersion:
        """Return an active version; a new one has the state LOADING."""
        if version not in self._active:
            self._active[version] = ModelVersion(self.model, version, contract)
            self.enter(self._active[version], ModelState.LOADING)
        return self._active[version]

    def enter(self, version: ModelVersion, phase: ModelState) -> None:
        """Change the phase of an active version."""
        version.phase = phase
        self.have_served |= phase is ModelState.READY
        self._events.model_state_changed(self.model, version.version, version.state)
        self.refresh()

    def remove(self, version: ModelVersion) -> None:
        """Forget an active version."""
        del self._active[version.version]
        self._events.model_released(self.model, version.version)
        self.refresh()
