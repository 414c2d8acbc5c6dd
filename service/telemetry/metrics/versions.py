"""Gauges of the state of a model version, its graph and its execution provider."""

from prometheus_client import CollectorRegistry, Gauge

from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelBuild, ModelIdentity
from service.telemetry.metrics.buckets import VERSION


class VersionGauges:
    """The state and the build of each version; events of models and of batches change them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            "vt_model_info",
            "Always 1 for a loaded version. "
            "Labels describe its precision, execution provider and graph.",
            (*VERSION, "task", "precision", "requested", "active", "sha256"),
            registry=registry,
        )
        self._provider_is_as_requested = Gauge(
            "vt_provider_requested_active",
            "1 if the version runs on the requested execution provider; "
            "0 if ONNX Runtime fell back to another.",
            (*VERSION, "requested", "active"),
            registry=registry,
        )
        self._nodes_on_cpu = Gauge(
            "vt_nodes_on_cpu",
            "Number of nodes of a graph on a GPU that run on the CPU, except for shape arithmetic.",
            VERSION,
            registry=registry,
        )
        self._state = Gauge(
            "vt_model_state",
            "1 for the current state of a version, 0 for the others.",
            (*VERSION, "state"),
            registry=registry,
        )

    def describe(self, model: ModelIdentity, build: ModelBuild) -> None:
        """Show the build of a version, in place of the previous one."""
        labels = (model.name, model.version)
        providers = (build.requested_provider, build.active_provider)
        self._remove_builds(*labels)
        self._info.labels(*labels, model.task, build.precision, *providers, build.graph_sha256).set(
            1
        )
        self._nodes_on_cpu.labels(*labels).set(build.nodes_on_cpu)
        self._provider_is_as_requested.labels(*labels, *providers).set(
            build.requested_provider == build.active_provider
        )

    def set_state(self, name: str, version: str, state: ModelState) -> None:
        """Show the new state of a version."""
        for each in ModelState:
            self._state.labels(name, version, each).set(each is state)

    def remove(self, name: str, version: str) -> None:
        """Remove a version."""
        for state in ModelState:
            self._state.remove(name, version, state)
        self._nodes_on_cpu.remove(name, version)
        self._remove_builds(name, version)

    def _remove_builds(self, name: str, version: str) -> None:
        for gauge in (self._info, self._provider_is_as_requested):
            gauge.remove_by_labels({"model": name, "version": version})
