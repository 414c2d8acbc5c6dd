"""The models of a repository as requests see them: finding and describing versions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic

from service.batching.interface import Instance
from service.repository.lookup import E, Lookup
from service.repository.version import ModelVersion
from service.schema.model_status import ModelDetail
from service.schema.version_policy import VersionPolicy


class Catalog(ABC, Generic[E]):
    """Finds and describes the versions of all models."""

    def __init__(self, entries: Mapping[str, E]) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called after each change of a model, a version or a state."""
        self._models = entries
        self._lookup = Lookup(entries)
        self.find = self._lookup.find
        """Return the version for a prediction request, by task, model and version."""

    @property
    def entries(self) -> list[E]:
        """All models."""
        return list(self._models.values())

    def refresh(self) -> None:
        """Follow a change of a model, a version or a state."""
        self._lookup.refresh()
        self.changed()

    def get(self, name: str, version: str | None = None) -> ModelVersion:
        """Return a version; by default, the newest that is ready or, if none is, should be."""
        return self._lookup.entry(name).versions.get(version)

    def detail(self, name: str, version: str | None = None) -> ModelDetail:
        """Return the state of a version for clients, with the files it was loaded from."""
        versions = self._lookup.entry(name).versions
        return versions.get(version).detail(versions.refusal)

    def version_policy(self, name: str) -> VersionPolicy:
        """Return the current version policy of a model."""
        return self._lookup.entry(name).policy

    def ready_versions(self, name: str) -> list[str]:
        """List the versions of a model that are ready, in ascending order."""
        return self._lookup.entry(name).versions.ready

    def wanted(self) -> list[ModelVersion]:
        """List all versions that are loaded or should be."""
        return [version for entry in self._models.values() for version in entry.versions.wanted]

    def instances(self) -> list[Instance]:
        """List the instances in memory."""
        return [version.instance for version in self.wanted() if version.instance]

    def index(self) -> list[ModelVersion]:
        """List every version, including those that are only on disk.

        A model whose contract cannot be read is listed with an empty version.
        """
        return [version for entry in self._models.values() for version in entry.versions.known]

    def not_ready(self) -> list[ModelVersion]:
        """List the versions that keep the server from being ready, one per model.

        A model counts as ready if any of its versions is. Models that were unloaded on request are
        left out. A model that was added after the start and has never been ready counts only if no
        model is ready.
        """
        wanted = [entry for entry in self._models.values() if not entry.is_unloaded]
        waiting = [entry for entry in wanted if not entry.versions.current.is_ready]
        required = [entry for entry in waiting if entry.is_required]
        serves_nothing = len(waiting) == len(wanted)
        return [entry.versions.current for entry in (waiting if serves_nothing else required)]

    def serves_without(self, name: str) -> bool:
        """Return whether any other model is ready."""
        return any(each.versions.ready for each in self._models.values() if each.name != name)

    @abstractmethod
    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Read a model's contract again, and load and release versions by its policy.

        Without `policy`, the repository's policy applies, else the contract's. Continues if the
        caller is cancelled.

        Raises:
            ModelNotFound: the repository has no folder of this name with a contract.
            LoadFailed: a version could not be loaded; the loaded versions are unchanged.
        """

    @abstractmethod
    async def unload(self, name: str) -> None:
        """Reject new requests for a model, finish those in flight, and free its memory.

        Continues if the caller is cancelled.
        """
