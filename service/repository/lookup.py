"""Finds the version for a request; a ready one is found without a search."""

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from service.errors import InvalidRequest, ModelNotFound, ModelNotReady
from service.repository.version import ModelVersion
from service.repository.versions import Versions
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import ModelState, Task


class Entry(Protocol):
    """A model of the repository."""

    name: str
    versions: Versions
    policy: VersionPolicy
    """The current policy."""
    is_unloaded: bool
    """Whether the model was unloaded on request."""

    @property
    def is_required(self) -> bool:
        """Whether the server needs this model to be ready."""


E = TypeVar("E", bound=Entry)


class Lookup(Generic[E]):
    """Looks up ready versions in a table, which `refresh` keeps up to date."""

    def __init__(self, entries: Mapping[str, E]) -> None:
        self._entries = entries
        self._ready: dict[tuple[Task, str | None], ModelVersion] = {}
        """Versions by task and model, and by task alone if only one model performs it."""

    def refresh(self) -> None:
        """Rebuild the table after a change of a model, a version or a state."""
        currents = [entry.versions.current for entry in self._entries.values()]
        self._ready = {
            (each.task, each.name): each for each in currents if each.task and each.is_ready
        }
        for task in Task:
            candidates = self._candidates(task)
            if len(candidates) == 1 and candidates[0].versions.current.is_ready:
                self._ready[task, None] = candidates[0].versions.current

    def find(self, task: Task | None, name: str | None, version: str | None) -> ModelVersion:
        """Return the version for a request, whether or not it is ready; None is any task."""
        if version is None:
            ready = None if task is None else self._ready.get((task, name))
            if ready is not None:
                return ready
        entry = self._only(task) if name is None else self.entry(name)
        current = entry.versions.current
        if task is not None and current.task not in (task, None):
            raise InvalidRequest(f"The model {entry.name} does {current.task}, not {task}.")
        return entry.versions.get(version)

    def entry(self, name: str) -> E:
        """Return a model; raises `ModelNotFound`."""
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"There is no model {name}; {self._available}.")
        return entry

    def _only(self, task: Task | None) -> E:
        candidates, kind = self._candidates(task), f"{task} model" if task else "model"
        if len(candidates) > 1:
            names = ", ".join(entry.name for entry in candidates)
            raise InvalidRequest(f"Name one of the {kind}s in `model`: {names}.")
        if candidates:
            return candidates[0]
        if self._is_loading:
            raise ModelNotReady("The models are loading.")
        unread = [
            name for name, each in self._entries.items() if each.versions.current.task is None
        ]
        if unread:
            raise ModelNotReady(
                f"No {kind} is loaded; the task of {', '.join(unread)} is unknown, because "
                "config.json cannot be read."
            )
        raise ModelNotFound(f"There is no {kind}; {self._available}.")

    def _candidates(self, task: Task | None) -> list[E]:
        """List the models for a request that names no model."""
        entries = [
            each
            for each in self._entries.values()
            if task is None or each.versions.current.task is task
        ]
        unavailable = ModelState.UNAVAILABLE
        serving = [each for each in entries if each.versions.current.state is not unavailable]
        return serving or entries[:1]

    @property
    def _is_loading(self) -> bool:
        return any(
            version.state is ModelState.LOADING
            for entry in self._entries.values()
            for version in entry.versions.wanted
        )

    @property
    def _available(self) -> str:
        names = ", ".join(self._entries)
        if not names:
            return "the repository has no models"
        return f"the models are {names}" if len(self._entries) > 1 else f"the only model is {names}"
