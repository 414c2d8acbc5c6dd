"""Triton's own client against a running server: what it sends is understood, and the reverse."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.service.photos import BLUE, GREEN, RED, encode, quarters, solid
from tests.service.process import Process, running
from tests.service.repository_fixture import write_both

COLORS = (RED, GREEN, BLUE)
FILES = np.array([encode(solid(color), "JPEG") for color in COLORS], dtype=object)
PIXELS = np.stack([np.full((8, 8, 3), color, np.uint8) for color in COLORS])
LOGITS = PIXELS.mean((1, 2)) * 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(write_both(tmp_path_factory.mktemp("weights"))) as process:
        yield process


@pytest.fixture
def client(server: Process) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


def images(data: np.ndarray, *, binary: bool = True) -> list[triton.InferInput]:
    tensor = triton.InferInput("images", data.shape, "BYTES" if data.dtype == object else "UINT8")
    tensor.set_data_from_numpy(data, binary_data=binary)
    return [tensor]


def test_the_server_and_its_models_are_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colour")
    assert client.is_model_ready("colour", "1")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("colour")
    config = client.get_model_config("colour")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert config["input"][0]["dims"] == metadata["inputs"][0]["shape"][1:]
    assert config["input"][0]["data_type"] == "TYPE_UINT8"
    assert [each["name"] for each in config["output"]] == [o["name"] for o in metadata["outputs"]]
    assert config["max_batch_size"] == 4


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_tensors_are_answered(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    wanted = [
        triton.InferRequestedOutput(name, binary_data=binary_out)
        for name in ("token_attention", "logits")
    ]
    result = client.infer(
        "colour", images(PIXELS, binary=binary_in), outputs=wanted, request_id="mine"
    )
    np.testing.assert_allclose(result.as_numpy("logits"), LOGITS, rtol=1e-5)
    assert result.as_numpy("token_attention").shape == (3, 1, 1, 1, 3)
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "colour", "1")
    assert [each["name"] for each in answer["outputs"]] == ["token_attention", "logits"]


def test_without_a_list_the_first_output_is_answered(client: triton.InferenceServerClient) -> None:
    answer = client.infer("colour", images(PIXELS)).get_response()
    assert [each["name"] for each in answer["outputs"]] == ["logits"]
    assert "id" not in answer


def test_image_files_are_decoded_by_the_contract(client: triton.InferenceServerClient) -> None:
    result = client.infer("colour", images(FILES), model_version="1")
    assert result.as_numpy("logits").argmax(1).tolist() == [0, 1, 2]
    result = client.infer("colour", images(FILES.reshape(3, 1)))
    assert result.as_numpy("logits").argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64)])
def test_a_segmenter_takes_each_of_its_sizes(
    client: triton.InferenceServerClient, size: tuple[int, int]
) -> None:
    picture = np.asarray(quarters(size[1], size[0]))
    for data in (picture[None], np.array([encode(quarters(size[1], size[0]))], dtype=object)):
        labels = client.infer("pixels", images(data)).as_numpy("labels")
        assert labels.dtype == np.uint8
        assert (labels[0] == picture.argmax(2)).all()


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_are_named(client: triton.InferenceServerClient, binary: bool) -> None:
    wanted = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)]
    classes = client.infer("colour", images(PIXELS), outputs=wanted).as_numpy("logits")
    assert classes.shape == (3, 2)
    first = [each.decode() if isinstance(each, bytes) else each for each in classes[:, 0]]
    assert first == ["12.750000:0:red", "12.750000:1:green", "12.750000:2:blue"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(
    client: triton.InferenceServerClient, algorithm: str
) -> None:
    picture = np.asarray(quarters(128, 64))[None]
    result = client.infer(
        "pixels",
        images(picture),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert (result.as_numpy("labels")[0] == picture[0].argmax(2)).all()


def test_requests_at_once_get_each_its_own_answer(client: triton.InferenceServerClient) -> None:
    pending = [
        client.async_infer("colour", images(PIXELS[[index % 3]]), request_id=str(index))
        for index in range(30)
    ]
    for index, each in enumerate(pending):
        result = each.get_result()
        assert result.get_response()["id"] == str(index)
        assert result.as_numpy("logits").argmax() == index % 3


def test_no_images_are_answered_with_outputs_of_none(client: triton.InferenceServerClient) -> None:
    for data in (PIXELS[:0], FILES[:0]):
        result = client.infer("colour", images(data, binary=True))
        assert result.as_numpy("logits").shape == (0, 3)


def test_priority_timeout_and_parameters_are_taken(client: triton.InferenceServerClient) -> None:
    result = client.infer(
        "colour", images(PIXELS), priority=1, timeout=10_000_000, parameters={"customer": "me"}
    )
    assert result.as_numpy("logits").argmax(1).tolist() == [0, 1, 2]


def test_a_mistake_is_answered_with_a_sentence(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"shape \[3, 8, 7, 3\] is not the model's"):
        client.infer("colour", images(PIXELS[:, :, :7]))
    with pytest.raises(InferenceServerException, match="has no output scores"):
        client.infer("colour", images(PIXELS), outputs=[triton.InferRequestedOutput("scores")])
    with pytest.raises(InferenceServerException, match="no model nobody"):
        client.infer("nobody", images(PIXELS))
    with pytest.raises(InferenceServerException, match=r"\[404\] The model colour"):
        client.infer("colour", images(PIXELS), model_version="7")
    with pytest.raises(InferenceServerException, match="sequence_id is not supported"):
        client.infer("colour", images(PIXELS), sequence_id=3)
    with pytest.raises(InferenceServerException, match="Image 0 is refused"):
        client.infer("colour", images(np.array([b"no image"], dtype=object)))


def test_statistics_grow(client: triton.InferenceServerClient) -> None:
    def now() -> dict:
        (row,) = client.get_inference_statistics("colour")["model_stats"]
        return row

    client.infer("colour", images(PIXELS))
    before = now()
    client.infer("colour", images(PIXELS))
    with pytest.raises(InferenceServerException):
        client.infer("colour", images(PIXELS[:, :, :7]))
    after = now()
    assert (after["name"], after["version"]) == ("colour", "1")
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["execution_count"] > before["execution_count"]
    for name, added in {"success": 1, "fail": 1, "queue": 1, "compute_infer": 1}.items():
        counts = [each["inference_stats"][name]["count"] for each in (before, after)]
        assert counts[1] == counts[0] + added
    assert after["inference_stats"]["compute_infer"]["ns"] > 0
    assert after["last_inference"] >= before["last_inference"] > 0
    names = {row["name"] for row in client.get_inference_statistics()["model_stats"]}
    assert names == {"colour", "pixels"}


def test_models_are_unloaded_and_loaded(
    server: Process, client: triton.InferenceServerClient
) -> None:
    key = {"X-API-Key": server.local_key_file.read_text()}

    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in client.get_model_repository_index()}

    assert states() == {"colour": "READY", "pixels": "READY"}
    client.unload_model("pixels", headers=key)
    assert states() == {"colour": "READY", "pixels": "UNAVAILABLE"}
    assert not client.is_model_ready("pixels")
    with pytest.raises(InferenceServerException, match="is unloaded"):
        client.infer("pixels", images(np.zeros((1, 64, 64, 3), np.uint8)))
    chosen = '{"version_policy": {"specific": {"versions": [%d]}}}'
    client.load_model("pixels", key, config=chosen % 1)
    assert states() == {"colour": "READY", "pixels": "READY"}
    with pytest.raises(InferenceServerException, match="colour version 9"):
        client.load_model("colour", key, config=chosen % 9)
    assert client.is_model_ready("colour", "1")
    with pytest.raises(InferenceServerException, match="no model nobody"):
        client.load_model("nobody", key)
