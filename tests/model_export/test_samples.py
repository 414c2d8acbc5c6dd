"""Samples are found by the names of folders and files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.errors import InvalidData
from model_export.samples import (
    IGNORED,
    Sample,
    held_out,
    image_folder,
    image_label_pairs,
    load_labels,
    photos_below,
)
from tests.model_export.files import COLORS, color_folders, noise_photo, two_color_pairs


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
    with pytest.raises(InvalidData, match="has no class folders with images"):
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
    with pytest.raises(InvalidData, match=r"^3 label maps are missing .*labels/1\.png"):
        image_label_pairs(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InvalidData, match="images contains no images"):
        image_label_pairs(tmp_path)


def test_photos_are_found_in_subfolders_too_in_sorted_order(tmp_path):
    color_folders(tmp_path, images=1)
    noise_photo(tmp_path / "a.JPG", 0)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    found = [path.relative_to(tmp_path).as_posix() for path in photos_below(tmp_path)]
    assert found == ["a.JPG", "blue/0.png", "green/0.png", "red/0.png"]


def test_a_folder_without_photos_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidData, match="contains no photos"):
            photos_below(folder)


def test_label_ids_outside_the_classes_are_ignored(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 200, 255]], np.uint8)).save(tmp_path / "labels.png")
    assert load_labels(tmp_path / "labels.png", 2).tolist() == [[0, 1, *[IGNORED] * 3]]


def test_a_palette_image_gives_its_indices(tmp_path):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "labels.png")
    assert load_labels(tmp_path / "labels.png", 2).tolist() == [[1, 1]]


def test_a_colour_image_is_not_a_label_map(tmp_path):
    path = noise_photo(tmp_path / "labels.png", 0)
    with pytest.raises(InvalidData, match=r"labels\.png is not a label map"):
        load_labels(path, 2)


def test_a_share_of_the_samples_is_held_out_evenly():
    samples = [Sample(Path(f"{index}.png"), index // 10) for index in range(30)]
    kept, held = held_out(samples, 0.2)
    assert [sample.image.stem for sample in held] == ["4", "9", "14", "19", "24", "29"]
    assert sorted(kept + held, key=samples.index) == samples
    assert held_out(samples, 0) == (samples, [])


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_a_share_that_leaves_too_little_to_train_is_refused(share):
    with pytest.raises(InvalidData, match="the share to hold out must be between"):
        held_out([], share)
