"""A graph in ONNX Runtime: the only module that imports `onnxruntime`."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import onnxruntime as ort
import structlog

from service.errors import InferenceFailed, InvalidEntry, OutOfMemory
from service.runtime.arrays import Array, stacked
from service.runtime.execution_providers import (
    CPU,
    GpuOptions,
    Placement,
    provider_options,
    wanted_providers,
)
from service.runtime.io_binding import DeviceBinding, pinned
from service.runtime.node_placement import NodesOnCpu, sort_nodes
from service.schema.vocabulary import Datatype, MetadataTensor

MAX_NAMES = 20

_log = structlog.get_logger()

_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "cudnn_status_alloc")
"""Messages of ONNX Runtime's arena, CUDA, the C++ runtime and cuDNN, in lower case."""

_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(string)": Datatype.BYTES,
}


class Session:
    """A graph of one input in ONNX Runtime, on the execution provider that it actually got.

    Several threads may run it at once. `external_data` maps the name of every file with
    initializers of the graph to its contents. ONNX Runtime copies what it needs; a file that is not
    included is not read from disk.
    """

    def __init__(
        self,
        graph: bytes,
        execution_providers: str,
        intra_op_num_threads: int,
        external_data: Mapping[str, bytes] | None = None,
        gpu: GpuOptions | None = None,
    ) -> None:
        gpu = gpu or GpuOptions()
        wanted = wanted_providers(execution_providers, ort.get_available_providers())
        providers = _available(wanted)
        options = _options(intra_op_num_threads)
        _add_external_data(options, external_data or {})
        if CPU not in providers[:1]:
            ort.preload_dlls()
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        with_options = [(name, provider_options(name, gpu)) for name in providers]
        try:
            self._session = ort.InferenceSession(graph, options, providers=with_options)
        except Exception as error:
            raise InvalidEntry("ONNX Runtime cannot load the graph") from error
        self._input = self._only_input()
        self.requested_provider = wanted[0]
        self.active_provider: str = self._session.get_providers()[0]
        on_cpu = self.active_provider == CPU
        nodes = NodesOnCpu([], []) if on_cpu else _nodes_on_cpu(self._session)
        self.nodes_on_cpu = nodes.misplaced
        """Nodes that run on the CPU although the active provider is another."""
        self._on_device = None if on_cpu else _on_device(self._session, gpu)
        self._report(nodes)

    def _only_input(self) -> str:
        names: list[str] = [node.name for node in self._session.get_inputs()]
        if len(names) != 1:
            raise InvalidEntry(f"the graph has {len(names)} inputs; it must have one, the images")
        return names[0]

    def _report(self, nodes: NodesOnCpu) -> None:
        if self.active_provider != self.requested_provider:
            _log.warning(
                "execution_provider_unavailable",
                requested=self.requested_provider,
                active=self.active_provider,
            )
        if nodes.misplaced:
            _log.warning(
                "nodes_on_cpu",
                active=self.active_provider,
                nodes=len(nodes.misplaced),
                names=nodes.misplaced[:MAX_NAMES],
            )
        if nodes.shapes:
            _log.debug("shape_nodes_on_cpu", nodes=len(nodes.shapes), names=nodes.shapes)

    @property
    def placement(self) -> Placement:
        """Placement of the graph."""
        return Placement(self.requested_provider, self.active_provider, len(self.nodes_on_cpu))

    @property
    def inputs(self) -> list[MetadataTensor]:
        """The graph's inputs; a dynamic dimension is -1."""
        return [_metadata(node) for node in self._session.get_inputs()]

    @property
    def outputs(self) -> list[MetadataTensor]:
        """The graph's outputs; a dynamic dimension is -1."""
        return [_metadata(node) for node in self._session.get_outputs()]

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph on images of one shape, blocking the thread.

        Return the named outputs, each for the whole batch. ONNX Runtime computes the others too,
        but does not return them.
        """
        try:
            if self._on_device is not None:
                return self._on_device.run(images, outputs)
            batch = stacked(images)
            results: list[Array] = self._session.run(list(outputs), {self._input: batch})
        except Exception as error:
            if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
                raise OutOfMemory(
                    "The device does not have enough memory to run the model."
                ) from error
            raise InferenceFailed("The model could not be run on this input.") from error
        return results


def _on_device(session: ort.InferenceSession, gpu: GpuOptions) -> DeviceBinding:
    """Bind a session to the memory of its GPU, which CUDA and TensorRT share."""
    allocate = partial(pinned, device_id=gpu.device_id)
    return DeviceBinding(session, "cuda", gpu.device_id, allocate)


def expected_provider(execution_providers: str) -> str:
    """Return the execution provider that a session gets unless ONNX Runtime falls back."""
    return _available(wanted_providers(execution_providers, ort.get_available_providers()))[0]


def _nodes_on_cpu(session: ort.InferenceSession) -> NodesOnCpu:
    """Sort the nodes that ONNX Runtime assigned to the CPU."""
    return sort_nodes(
        node
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name == CPU
        for node in subgraph.get_nodes()
    )


def _options(intra_op_num_threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread wakes faster, but takes its core from decoding and HTTP.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _add_external_data(options: ort.SessionOptions, files: Mapping[str, bytes]) -> None:
    # No file can be in this folder: files not passed in memory are rejected, not read.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    if files:
        options.add_external_initializers_from_files_in_memory(
            list(files), list(files.values()), [len(data) for data in files.values()]
        )


def _available(providers: list[str]) -> list[str]:
    available = ort.get_available_providers()
    return [provider for provider in providers if provider in available]


def _metadata(node: ort.NodeArg) -> MetadataTensor:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise InvalidEntry(f"the graph's tensor {node.name} has the unsupported type {node.type}")
    shape = [side if isinstance(side, int) else -1 for side in node.shape]
    return MetadataTensor(name=node.name, datatype=datatype, shape=shape)
