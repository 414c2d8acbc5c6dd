"""Waiting images are taken in order, and only those that are still waited for."""

import asyncio

import numpy as np
import pytest

from service.batching.queue import PendingInference, RequestQueue, Urgency
from service.images.photo import PreparedImage


@pytest.fixture
def pending():
    """Make a pending image; must be called in a running loop."""

    def make(
        deadline: float = 10.0,
        *,
        priority: int = 0,
        side: int = 2,
        outputs=("logits",),
        is_default_deadline: bool = False,
        is_background: bool = False,
    ):
        pixels = np.zeros((side, side, 3), np.uint8)
        photo = PreparedImage(pixels, side, side)
        future = asyncio.get_running_loop().create_future()
        urgency = Urgency(deadline, priority, is_default_deadline, is_background)
        return PendingInference(photo, outputs, urgency, 0.0, future)

    return make


async def test_the_nearest_deadline_goes_first_then_the_priority_then_the_oldest(pending):
    late, urgent = pending(9), pending(1)
    low, high, younger = pending(5, priority=2), pending(5, priority=1), pending(5, priority=2)
    queue = RequestQueue()
    queue.put([late, low, younger, high, urgent])
    group = queue.head()
    assert queue.holds(group, 5)
    assert not queue.holds(group, 6)
    assert queue.take(group, 10) == [urgent, high, low, younger, late]
    assert queue.head() is None


async def test_default_deadlines_leave_the_order_to_the_priority(pending):
    unhurried = pending(5, is_default_deadline=True)
    low = pending(6, is_default_deadline=True, priority=2)
    high = pending(7, is_default_deadline=True, priority=1)
    asked = pending(8)
    queue = RequestQueue()
    queue.put([unhurried, low, high, asked])
    assert queue.take(queue.head(), 10) == [asked, high, low, unhurried]


async def test_background_images_come_last_and_in_a_batch_of_their_own(pending):
    background, other = pending(1, is_background=True), pending(9)
    queue = RequestQueue()
    queue.put([background, other])
    assert queue.take(queue.head(), 10) == [other]
    assert queue.take(queue.head(), 10) == [background]


async def test_only_images_of_one_shape_and_one_set_of_outputs_are_taken_together(pending):
    small, large, asks_for_more = pending(3), pending(2, side=4), pending(1, outputs=("tokens",))
    also_small = pending(4)
    queue = RequestQueue()
    queue.put([small, large, asks_for_more, also_small])
    batches = []
    while (group := queue.head()) is not None:
        batches.append(queue.take(group, 10))
    assert batches == [[asks_for_more], [large], [small, also_small]]


async def test_no_more_images_are_taken_than_requested(pending):
    images = [pending(n) for n in range(5)]
    queue = RequestQueue()
    queue.put(images)
    group = queue.head()
    assert queue.take(group, 2) == images[:2]
    assert len(queue.waiting) == 3
    assert queue.head() == group


async def test_a_discarded_image_neither_counts_nor_is_taken(pending):
    images = [pending(n) for n in range(4)]
    queue = RequestQueue()
    queue.put(images)
    for image in (images[0], images[2]):
        queue.discard(image)
        queue.discard(image)
    assert list(queue.waiting) == [images[1], images[3]]
    assert queue.oldest is images[1]
    group = queue.head()
    assert queue.holds(group, 2)
    assert not queue.holds(group, 3)
    assert queue.take(group, 4) == [images[1], images[3]]


async def test_an_image_whose_future_is_done_is_removed_and_not_taken(pending):
    done, waits = pending(1), pending(2)
    queue = RequestQueue()
    queue.put([done, waits])
    done.future.cancel()
    assert queue.take(queue.head(), 1) == [waits]
    assert queue.head() is None


async def test_a_group_whose_images_are_all_discarded_is_gone(pending):
    gone, stays = pending(1), pending(2, side=4)
    queue = RequestQueue()
    queue.put([gone, stays])
    head = queue.head()
    queue.discard(gone)
    assert queue.head() not in (head, None)
    assert queue.take(queue.head(), 10) == [stays]


async def test_everything_is_taken_oldest_first(pending):
    images = [pending(3), pending(1, side=4), pending(2)]
    queue = RequestQueue()
    queue.put(images)
    assert queue.take_all() == images
    assert (queue.waiting, queue.oldest, queue.head()) == ({}, None, None)
