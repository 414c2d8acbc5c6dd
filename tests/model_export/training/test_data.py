"""Samples are found by folder and name; random views keep image and labels together."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from model_export.errors import InvalidData
from model_export.training.data import (
    IGNORED,
    Sample,
    Samples,
    batches,
    classification_view,
    image_folder,
    image_label_pairs,
    load_labels,
    photos_below,
    segmentation_view,
)
from model_export.training.recipes import RECIPES
from tests.model_export.files import COLORS, color_folders, noise_photo, two_color_pairs

CLASSIFICATION = RECIPES["classification"].changed(color_jitter=0.0)
SEGMENTATION = RECIPES["segmentation"].changed(color_jitter=0.0)


def test_class_folders_are_numbered_by_their_sorted_names(tmp_path):
    color_folders(tmp_path, images=2)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "README").write_text("not a class")
    samples, classes = image_folder(tmp_path)
    assert classes == sorted(COLORS) == ["blue", "green", "red"]
    assert [sample.target for sample in samples] == [0, 0, 1, 1, 2, 2]
    assert {sample.image.parent.name for sample in samples if sample.target == 2} == {"red"}


def test_a_folder_without_class_folders_is_refused(tmp_path):
    noise_photo(tmp_path / "photo.png", 0)
    with pytest.raises(InvalidData, match="holds no images in class folders"):
        image_folder(tmp_path)
    with pytest.raises(InvalidData, match="is not a folder"):
        image_folder(tmp_path / "nowhere")


def test_images_are_paired_with_the_labels_of_the_same_name(tmp_path):
    two_color_pairs(tmp_path, images=2)
    noise_photo(tmp_path / "images" / "2.jpg", 0)
    Image.new("L", (50, 44)).save(tmp_path / "labels" / "2.png")
    pairs = [(s.image.name, s.target.name) for s in image_label_pairs(tmp_path)]
    assert pairs == [("0.png", "0.png"), ("1.png", "1.png"), ("2.jpg", "2.png")]


def test_missing_label_files_are_refused_by_name(tmp_path):
    two_color_pairs(tmp_path, images=4)
    for index in (1, 2, 3):
        (tmp_path / "labels" / f"{index}.png").unlink()
    with pytest.raises(InvalidData, match=r"labels/1\.png and 2 more label files"):
        image_label_pairs(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InvalidData, match="does not hold any image"):
        image_label_pairs(tmp_path)


def test_photos_are_found_in_subfolders_too_in_the_order_of_their_names(tmp_path):
    color_folders(tmp_path, images=1)
    noise_photo(tmp_path / "a.JPG", 0)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    found = [path.relative_to(tmp_path).as_posix() for path in photos_below(tmp_path)]
    assert found == ["a.JPG", "blue/0.png", "green/0.png", "red/0.png"]


def test_a_folder_without_photos_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidData, match="holds no photos"):
            photos_below(folder)


def test_ids_that_are_no_class_are_ignored(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 200, 255]], np.uint8)).save(tmp_path / "labels.png")
    assert load_labels(tmp_path / "labels.png", 2).tolist() == [[0, 1, *[IGNORED] * 3]]


def test_a_palette_image_gives_its_indices(tmp_path):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "labels.png")
    assert load_labels(tmp_path / "labels.png", 2).tolist() == [[1, 1]]


def test_a_coloured_image_is_no_label_map(tmp_path):
    path = noise_photo(tmp_path / "labels.png", 0)
    with pytest.raises(InvalidData, match=r"labels\.png is not a label map"):
        load_labels(path, 2)


def random_views(view, image, target, count=30):
    return [view(image, target, random.Random(seed)) for seed in range(count)]  # noqa: S311


def test_a_segmentation_view_cuts_image_and_labels_alike():
    """Colour and label of each pixel belong together in every view, mirrored ones included."""
    labels = np.zeros((60, 80), np.uint8)
    labels[20:, 30:] = 1
    palette = np.array([COLORS["red"], COLORS["blue"]], np.uint8)
    image = Image.fromarray(palette[labels])
    sides = set()
    for pixels, ids in random_views(segmentation_view(SEGMENTATION, (64, 96)), image, labels):
        assert pixels.shape == (64, 96, 3)
        assert ids.shape == (64, 96)
        known = ids != IGNORED
        reddish = pixels[..., 0].astype(int) > pixels[..., 2]
        agree = (reddish == (ids == 0))[known].mean()
        assert agree > 0.9  # but for the border's blend
        first = (ids[:, :48] == 1).sum() > (ids[:, 48:] == 1).sum()
        sides.add(bool(first))
    assert sides == {True, False}


def test_what_a_view_shows_beyond_the_photo_is_ignored():
    image, labels = Image.new("RGB", (32, 32), COLORS["red"]), np.zeros((32, 32), np.uint8)
    small = SEGMENTATION.changed(scale=(0.5, 0.5), aspect=1.0)
    for pixels, ids in random_views(segmentation_view(small, (64, 64)), image, labels, 5):
        outside = ids == IGNORED
        assert outside.mean() == pytest.approx(15 / 16, abs=0.02)
        assert pixels[~outside][:, 0].min() > 120


def test_a_classification_view_shows_part_of_the_photo():
    image = Image.new("RGB", (80, 60), COLORS["green"])
    for pixels, target in random_views(classification_view(CLASSIFICATION, (32, 48)), image, 2):
        assert pixels.shape == (32, 48, 3)
        assert target == 2
        assert (pixels == np.array(COLORS["green"])).all()


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    return [Sample(noise_photo(tmp_path / f"{i}.png", i), i % 3) for i in range(7)]


def viewed(samples, seed=0, epoch=0) -> Samples:
    recipe = RECIPES["classification"]
    data = Samples(samples, classification_view(recipe, (32, 32)), 3, seed)
    data.epoch = epoch
    return data


def test_a_view_depends_on_seed_epoch_and_index_alone(samples):
    view, _ = viewed(samples)[3]
    assert torch.equal(viewed(samples)[3][0], view)
    for other in (viewed(samples, seed=1), viewed(samples, epoch=1)):
        assert not torch.equal(other[3][0], view)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_same_with_any_number_of_workers(samples, workers):
    def of(count):
        return list(batches(viewed(samples), 2, count, seed=0))

    given, expected = of(workers), of(0)
    assert len(given) == 3  # of 7 samples: the last batch is not full
    for (images, targets), (wanted_images, wanted) in zip(given, expected, strict=True):
        assert torch.equal(images, wanted_images)
        assert torch.equal(targets, wanted)


def test_each_epoch_is_shuffled_anew(samples):
    orders = [
        [t for _, targets in batches(viewed(samples, epoch=epoch), 1, 0, 0) for t in targets]
        for epoch in range(4)
    ]
    assert len({tuple(map(int, order)) for order in orders}) > 1


def test_label_shares_are_those_of_the_labelled_pixels(tmp_path):
    Image.fromarray(np.array([[0, 0, 0, 1, 255, 255]], np.uint8)).save(tmp_path / "labels.png")
    pair = Sample(noise_photo(tmp_path / "photo.png", 0), tmp_path / "labels.png")
    data = Samples([pair], segmentation_view(SEGMENTATION, (32, 32)), 3, 0)
    assert data.label_shares(3).tolist() == [0.75, 0.25, 0.0]
