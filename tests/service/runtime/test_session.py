from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import structlog

from service.errors import InferenceFailed, InvalidEntry, OutOfMemory
from service.runtime.execution_providers import CUDA, GpuOptions, Placement
from service.runtime.session import Session, _nodes_on_cpu, expected_provider
from service.schema.vocabulary import Datatype
from tests.service.repository_fixture import (
    SIDE,
    classification_graph,
    externalize,
    segmentation_graph,
)

IMAGES = [np.full((SIDE, SIDE, 3), 100, np.uint8)] * 2


@pytest.fixture
def session() -> Session:
    return Session(classification_graph(), "cpu", 1)


def test_tensors_have_the_datatypes_of_the_protocol(session: Session) -> None:
    images = session.inputs[0]
    assert (images.name, images.datatype, images.shape) == (
        "images",
        Datatype.UINT8,
        [-1, SIDE, SIDE, 3],
    )
    assert [output.name for output in session.outputs] == ["logits", "tokens", "token_attention"]
    assert session.outputs[0].shape == [-1, 3]


def test_only_the_named_outputs_are_fetched(session: Session) -> None:
    (logits,) = session.run(IMAGES, ["logits"])
    assert logits == pytest.approx(np.full((2, 3), 5.0))


def test_a_single_image_is_not_copied(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[dict[str, np.ndarray]] = []
    fake = SimpleNamespace(run=lambda outputs, inputs: fed.append(inputs))
    monkeypatch.setattr(session, "_session", fake)
    session.run(IMAGES[:1], ["logits"])
    (inputs,) = fed
    assert np.shares_memory(inputs["images"], IMAGES[0])


def test_a_graph_of_several_inputs_is_an_invalid_entry() -> None:
    model = onnx.load_from_string(classification_graph())
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1])
    )
    with pytest.raises(InvalidEntry, match="2 inputs"):
        Session(model.SerializeToString(), "cpu", 1)


def test_an_input_that_the_graph_rejects_is_a_failed_inference(session: Session) -> None:
    with pytest.raises(InferenceFailed, match="could not be run") as caught:
        session.run([np.zeros((5, 5, 3), np.uint8)], ["logits"])
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "words",
    [
        "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 3211264",
        "CUDA failure 2: out of memory ; GPU=0",
        "std::bad_alloc",
        "CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_running_out_of_memory_differs_from_other_failures(
    session: Session, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMemory:
        def run(self, *_: object) -> None:
            raise RuntimeError(words)

    monkeypatch.setattr(session, "_session", NoMemory())
    with pytest.raises(OutOfMemory):
        session.run(IMAGES, ["logits"])


def test_bytes_other_than_a_graph_are_an_invalid_entry() -> None:
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        Session(b"no graph", "cpu", 1)


def test_the_requested_and_the_active_provider_are_reported() -> None:
    session = Session(segmentation_graph(), "cpu", 1)
    assert session.requested_provider == session.active_provider == "CPUExecutionProvider"


def test_an_unavailable_provider_is_requested_and_another_one_active(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with structlog.testing.capture_logs() as lines:
        session = Session(segmentation_graph(), "cuda", 1)
    assert [line["event"] for line in lines] == ["execution_provider_unavailable"]
    assert session.requested_provider == "CUDAExecutionProvider"
    assert session.active_provider == expected_provider("cuda") == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "CUDAExecutionProvider"),
        ("cuda", "CUDAExecutionProvider"),
        ("cpu", "CPUExecutionProvider"),
    ],
)
def test_the_provider_is_known_before_the_graph_is_read(
    monkeypatch: pytest.MonkeyPatch, choice: str, expected: str
) -> None:
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    assert expected_provider(choice) == expected


def test_external_data_is_taken_from_memory() -> None:
    graph, data = externalize(classification_graph(), "weights.bin")
    session = Session(graph, "cpu", 1, {"weights.bin": data})
    (logits,) = session.run(IMAGES, ["logits"])
    assert logits == pytest.approx(np.full((2, 3), 5.0))


@pytest.mark.parametrize("given", [{}, {"other.bin": bytes(100)}], ids=["nothing", "another file"])
@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "{folder}/weights.bin"])
def test_external_data_that_is_not_given_is_never_read_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, given: dict[str, bytes]
) -> None:
    graph, data = externalize(classification_graph(), location.format(folder=tmp_path))
    (tmp_path / "weights.bin").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        Session(graph, "cpu", 1, given)


def test_external_data_that_is_too_short_is_refused() -> None:
    graph, data = externalize(classification_graph(), "weights.bin")
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        Session(graph, "cpu", 1, {"weights.bin": data[:-1]})


LABELS = np.zeros((2, SIDE, SIDE), np.uint8)


class FakeOrtSession:
    """A graph on CUDA of which three nodes are on the CPU, by ONNX Runtime's names."""

    def __init__(self, *_: object, **__: object) -> None:
        self.calls: list[tuple[object, ...]] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> SimpleNamespace:
        return SimpleNamespace(
            bind_cpu_input=lambda *given: self.calls.append(("in", *given)),
            bind_output=lambda *given: self.calls.append(("out", *given)),
            copy_outputs_to_cpu=lambda: self.calls.append(("fetch",)) or [LABELS],
        )

    def run_with_iobinding(self, _: object) -> None:
        self.calls.append(("run",))

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        def subgraph(ep_name: str, **nodes: str) -> SimpleNamespace:
            rows = [
                SimpleNamespace(domain="", op_type=operator, name=name)
                for name, operator in nodes.items()
            ]
            return SimpleNamespace(ep_name=ep_name, get_nodes=lambda: rows)

        return [
            subgraph("CUDAExecutionProvider", a="Conv", b="Shape"),
            subgraph("CPUExecutionProvider", c="Conv", d="Squeeze", e="Concat"),
        ]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession", FakeOrtSession)
    monkeypatch.setattr(
        "service.runtime.session.pinned", lambda size, device_id: np.zeros(size, np.uint8)
    )


@pytest.mark.usefixtures("cuda")
def test_on_a_gpu_the_batch_is_copied_then_run_then_fetched() -> None:
    session = Session(segmentation_graph(), "cuda", 1, gpu=GpuOptions(device_id=1))
    (labels,) = session.run(IMAGES, ["labels"])
    np.testing.assert_array_equal(labels, LABELS)
    (copied, *others) = session._session.calls
    assert (copied[0], copied[1], copied[2].shape) == ("in", "images", (2, SIDE, SIDE, 3))
    assert others == [("out", "labels", "cuda", 1), ("run",), ("fetch",)]


@pytest.mark.usefixtures("cuda")
def test_nodes_that_fall_back_to_the_cpu_are_logged() -> None:
    with structlog.testing.capture_logs() as lines:
        session = Session(segmentation_graph(), "cuda", 1)
    assert session.nodes_on_cpu == ["Conv c"]
    assert session.placement == Placement(CUDA, CUDA, nodes_on_cpu=1)
    line, details = lines
    assert (line["event"], line["nodes"], line["names"]) == ("nodes_on_cpu", 1, ["Conv c"])
    assert (details["event"], details["log_level"]) == ("shape_nodes_on_cpu", "debug")
    assert details["names"] == ["Squeeze d", "Concat e"]


def test_onnx_runtime_reports_which_provider_runs_a_node() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        segmentation_graph(), options, providers=["CPUExecutionProvider"]
    )
    nodes = _nodes_on_cpu(session)
    assert any(name.startswith("ArgMax") for name in nodes.misplaced)
    assert any(name.startswith("Cast") for name in nodes.shapes)
