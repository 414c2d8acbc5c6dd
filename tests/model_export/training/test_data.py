"""Random views keep image and labels together, and batches are reproducible."""

import multiprocessing
import os
import random
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from model_export.errors import InvalidModel
from model_export.samples import IGNORED, Sample
from model_export.training.data import (
    Batches,
    Samples,
    classification_view,
    load,
    segmentation_view,
)
from model_export.training.interruption import SIGNALS
from model_export.training.processes import Processes
from model_export.training.recipes import RECIPES
from tests.model_export.files import COLORS, noise_photo

CLASSIFICATION = RECIPES["classification"].changed(color_jitter=0.0)
SEGMENTATION = RECIPES["segmentation"].changed(color_jitter=0.0)


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


def test_pixels_outside_the_photo_are_ignored():
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


def test_a_view_depends_only_on_seed_epoch_and_index(samples):
    view, _ = viewed(samples)[3]
    assert torch.equal(viewed(samples)[3][0], view)
    for other in (viewed(samples, seed=1), viewed(samples, epoch=1)):
        assert not torch.equal(other[3][0], view)


def parts(samples=12, batch_size=4, rank=0, count=1, accumulate=1, **place):
    own = Processes(torch.device("cpu"), rank, count)
    batches = Batches(samples, batch_size, own, accumulate)
    return batches.parts(**({"seed": 0, "epoch": 0, "start": 0} | place))


def test_a_worker_process_makes_the_same_batches(samples):
    order = parts(samples=7, batch_size=2)
    given, expected = (list(load(viewed(samples), order, workers)) for workers in (1, 0))
    assert len(given) == 3  # of 7 samples: the last batch is not full
    for (images, targets), (wanted_images, wanted) in zip(given, expected, strict=True):
        assert torch.equal(images, wanted_images)
        assert torch.equal(targets, wanted)


def test_a_signal_for_the_whole_process_group_does_not_end_the_workers(samples):
    order = parts(samples=7, batch_size=1)
    loaded = load(viewed(samples), order, 1)
    next(loaded)
    (worker,) = multiprocessing.active_children()
    for number in SIGNALS:
        os.kill(worker.pid, number)
    assert len(list(loaded)) == 6


def test_loading_leaves_the_global_random_state_alone(samples):
    before = torch.get_rng_state()
    list(load(viewed(samples), parts(samples=7), 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_and_seed_is_shuffled_differently():
    orders = [parts(), parts(epoch=1), parts(seed=1)]
    assert all(sorted(chain(*order)) == list(range(12)) for order in orders)
    assert len({str(order) for order in orders}) == 3


def test_an_epoch_can_start_after_any_batch():
    assert parts(start=1) == parts()[1:]


def test_processes_and_accumulated_parts_divide_the_same_batches():
    whole = [set(batch) for batch in parts()]
    shares = [parts(rank=rank, count=2, accumulate=2) for rank in (0, 1)]
    assert {len(part) for share in shares for part in share} == {1}
    for index, batch in enumerate(whole):
        own = (share[2 * index : 2 * index + 2] for share in shares)
        assert set(chain(*chain(*own))) == batch


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InvalidModel, match="batch of 4 images cannot be divided into 3 equal"):
        parts(accumulate=3)


def test_label_shares_count_only_labelled_pixels(tmp_path):
    Image.fromarray(np.array([[0, 0, 0, 1, 255, 255]], np.uint8)).save(tmp_path / "labels.png")
    pair = Sample(noise_photo(tmp_path / "photo.png", 0), tmp_path / "labels.png")
    data = Samples([pair], segmentation_view(SEGMENTATION, (32, 32)), 3, 0)
    assert data.label_shares(3).tolist() == [0.75, 0.25, 0.0]
