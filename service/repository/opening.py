"""Opens the sessions of a graph: on one or more devices, for one or more numbers of threads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from service.errors import InvalidEntry
from service.repository.calibration import thread_counts
from service.repository.load_options import LoadOptions
from service.repository.precision import PrecisionChoice
from service.repository.signature import HasSignature
from service.runtime.device import Devices
from service.runtime.execution_providers import CPU, PROVIDERS, GpuOptions, ProviderName
from service.runtime.graph_sessions import GraphSessions, Runnable, SessionGroup
from service.schema.certificate import Certificate, PrecisionRecord
from service.schema.files import read_certified


class OnProvider(Protocol):
    """An open graph and its execution provider."""

    active_provider: str


class OpenGraph(Runnable, HasSignature, OnProvider, Protocol):
    """The interface of `Session`."""


OpenSession = Callable[[bytes, str, int, Mapping[str, bytes], GpuOptions], OpenGraph]
"""Open a session; the arguments are those of `Session`."""

Opened = TypeVar("Opened", bound=OnProvider)


def open_chosen(
    provider: str,
    choose: Callable[[str], PrecisionChoice],
    open_graph: Callable[[str], Opened],
) -> tuple[PrecisionChoice, Opened]:
    """Open the graph chosen for a provider; if it runs on another provider, choose again."""
    choice = choose(provider)
    opened = open_graph(choice.precision)
    if opened.active_provider == provider:
        return choice, opened
    again = choose(opened.active_provider)
    if again.precision != choice.precision:
        opened = open_graph(again.precision)
    return again, opened


def check_provider(session: OnProvider, required: ProviderName | None) -> None:
    """Raise `InvalidEntry` if a session is not on the execution provider that is required."""
    if required is not None and session.active_provider != PROVIDERS[required]:
        raise InvalidEntry(
            f"it would run on {session.active_provider}, but VT_REQUIRE_PROVIDER is {required}"
        )


@dataclass(frozen=True)
class _Files:
    """A graph, and the files that hold its external initializers."""

    graph: bytes
    external_data: dict[str, bytes]


@dataclass(frozen=True)
class _SessionFactory:
    """Opens sessions on the graph of one precision."""

    folder: Path
    certificate: Certificate
    precision: PrecisionRecord
    options: LoadOptions
    gpus: Sequence[GpuOptions]
    open_session: OpenSession

    def read(self) -> _Files:
        """Read the files and check their hashes."""
        external_data = {file: self._read(file) for file in self.precision.external_data}
        return _Files(self._read(self.precision.file), external_data)

    def _read(self, file: str) -> bytes:
        return read_certified(self.folder, self.certificate, file)

    def open(self, files: _Files, threads: int, gpu: GpuOptions) -> OpenGraph:
        """Open one session; the bytes are not needed afterwards."""
        providers = self.options.execution_providers
        session = self.open_session(files.graph, providers, threads, files.external_data, gpu)
        check_provider(session, self.options.require_provider)
        return session

    def open_on_all(self, files: _Files, threads: int, first: OpenGraph) -> Runnable:
        """Add sessions on the other GPUs to the one on the first; on the CPU, return it alone."""
        if first.active_provider == CPU or len(self.gpus) == 1:
            return first
        others = [self.open(files, threads, gpu) for gpu in self.gpus[1:]]
        return SessionGroup([first, *others])

    def reopen(self, threads: int) -> Runnable:
        """Open a session again; the files are read again, since they are not kept in memory."""
        files = self.read()
        return self.open_on_all(files, threads, self.open(files, threads, self.gpus[0]))


class Graph:
    """The graph of one precision, with a session for every number of threads to be tried."""

    def __init__(
        self,
        precision: str,
        *,
        folder: Path,
        certificate: Certificate,
        options: LoadOptions,
        devices: Devices,
        open_session: OpenSession,
    ) -> None:
        record, own = certificate.precision(precision), options.intra_op_num_threads
        gpus = [
            replace(options.gpu, device_id=device, precision=precision)
            for device in options.gpu_devices
        ]
        factory = _SessionFactory(folder, certificate, record, options, gpus, open_session)
        files = factory.read()
        self.first = factory.open(files, own or 1, gpus[0])
        self.active_provider = self.first.active_provider
        self.sha256 = certificate.sha256(record.file)
        self.device = devices.of(self.active_provider)
        count, *others = self._threads(own)
        sessions = {count: factory.open_on_all(files, count, self.first)}
        sessions |= {other: factory.open(files, other, gpus[0]) for other in others}
        self.sessions = GraphSessions(sessions, factory.reopen)

    @property
    def is_on_cpu(self) -> bool:
        """Whether executions run on CPU cores; otherwise each takes a GPU."""
        return self.active_provider == CPU

    @property
    def each_session(self) -> list[Runnable]:
        """All sessions, those on several GPUs one by one; fewest threads first."""
        return [session for _, session in self.sessions.each()]

    def _threads(self, own: int | None) -> list[int]:
        """Return the numbers of threads to try; on a GPU, only 1."""
        if not self.is_on_cpu:
            return [1]
        slots = self.device.slots
        return [min(own, slots)] if own else thread_counts(slots)
