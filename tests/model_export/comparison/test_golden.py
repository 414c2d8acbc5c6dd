"""Golden files are reproducible and contain one answer for each image."""

import io

import numpy as np
import pytest

from model_export.comparison.golden import COUNT, golden_file, golden_images, golden_outputs
from model_export.preprocessing import Preprocessing, Squash, open_image
from tests.model_export.files import noise_photo

PREPROCESSING = Preprocessing(Squash(8, 12))


def predict(images):
    """Answers that differ between images."""
    sums = images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)
    return {
        "tokens": sums,
        "logits": np.stack([sums, -sums], axis=1),
        "labels": images[..., 0] // 100,
    }


def arrays_of(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


@pytest.fixture
def many_photos(tmp_path):
    return [noise_photo(tmp_path / f"{index}.png", index) for index in range(9)]


@pytest.mark.parametrize(
    ("task", "answer"), [("classification", "logits"), ("segmentation", "labels")]
)
def test_each_image_has_its_answer(many_photos, task, answer):
    arrays = arrays_of(golden_file(predict, task, PREPROCESSING, many_photos[:3]))
    assert list(arrays) == [f"{kind}_{n}" for kind in ("image", answer) for n in range(3)]
    for index, photo in enumerate(many_photos[:3]):
        image = PREPROCESSING(open_image(photo))
        assert np.array_equal(arrays[f"image_{index}"], image)
        assert np.array_equal(arrays[f"{answer}_{index}"], predict(image[None])[answer][0])


def test_a_few_photos_are_chosen_from_first_to_last(many_photos):
    arrays = arrays_of(golden_file(predict, "classification", PREPROCESSING, many_photos))
    images = [arrays[f"image_{index}"] for index in range(COUNT)]
    for image, photo in ((images[0], many_photos[0]), (images[-1], many_photos[-1])):
        assert np.array_equal(image, PREPROCESSING(open_image(photo)))
    assert f"image_{COUNT}" not in arrays


def test_without_photos_the_images_are_noise(tmp_path):
    path = tmp_path / "golden.npz"
    path.write_bytes(golden_file(predict, "classification", PREPROCESSING, []))
    images = golden_images(path)
    assert [image.shape for image in images] == [(8, 12, 3)] * COUNT
    assert all(image.dtype == np.uint8 and image.std() > 60 for image in images)


def test_the_outputs_of_another_precision_are_stored_without_the_images(tmp_path, many_photos):
    path = tmp_path / "golden.npz"
    path.write_bytes(golden_file(predict, "segmentation", PREPROCESSING, many_photos[:3]))
    images = golden_images(path)
    arrays = arrays_of(golden_outputs(predict, "segmentation", images))
    assert list(arrays) == ["labels_0", "labels_1", "labels_2"]
    for index, image in enumerate(images):
        assert np.array_equal(arrays[f"labels_{index}"], predict(image[None])["labels"][0])


@pytest.mark.parametrize("photos", [0, 3])
def test_the_file_is_the_same_every_time(many_photos, photos):
    def content():
        return golden_file(predict, "classification", PREPROCESSING, many_photos[:photos])

    assert content() == content()
