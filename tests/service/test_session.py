import numpy as np
import pytest

from service.errors import InferenceFailed, InvalidEntry
from service.protocol import Datatype
from service.session import Session
from tests.service.repository_fixture import SIDE, classification_graph, segmentation_graph


@pytest.fixture
def session() -> Session:
    return Session(classification_graph(), "cpu", 1)


def test_a_session_tells_its_tensors_in_the_protocols_words(session: Session) -> None:
    images = session.inputs[0]
    assert (images.name, images.datatype, images.shape) == (
        "images",
        Datatype.UINT8,
        [-1, SIDE, SIDE, 3],
    )
    assert [output.name for output in session.outputs] == ["logits", "tokens", "token_attention"]
    assert session.outputs[0].shape == [-1, 3]


def test_only_the_outputs_that_are_named_are_fetched(session: Session) -> None:
    images = np.full((2, SIDE, SIDE, 3), 100, np.uint8)
    (logits,) = session.run({"images": images}, ["logits"])
    assert logits == pytest.approx(np.full((2, 3), 5.0))


def test_an_input_that_the_graph_refuses_is_a_failed_inference(session: Session) -> None:
    with pytest.raises(InferenceFailed, match="could not be run") as caught:
        session.run({"images": np.zeros((1, 5, 5, 3), np.uint8)}, ["logits"])
    assert caught.value.__cause__ is not None


def test_bytes_that_are_no_graph_are_an_invalid_entry() -> None:
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        Session(b"no graph", "cpu", 1)


def test_requested_and_active_provider_are_told() -> None:
    session = Session(segmentation_graph(), "cpu", 1)
    assert session.requested_provider == session.active_provider == "CPUExecutionProvider"
