import os
from collections.abc import Iterator
from functools import partial

import pytest

from service.frontends.board import BOARD_BYTES, Board, Column, SharedTally
from service.frontends.memory import create_memory
from service.frontends.rate_limits import SharedBucket
from tests.service.clock import Clock


@pytest.fixture
def boards() -> Iterator[list[Board]]:
    """The same board, as the engine and two front ends see it."""
    descriptor = create_memory("board", BOARD_BYTES)
    yield [Board(descriptor, 2) for _ in range(3)]
    os.close(descriptor)


def test_a_counter_is_the_sum_of_the_front_ends(boards: list[Board]) -> None:
    engine, *front_ends = boards
    tallies = [SharedTally(each, Column.IN_FLIGHT, at) for at, each in enumerate(front_ends)]
    tallies[0].add(2)
    tallies[1].add(3)
    assert [each.total for each in tallies] == [5, 5]
    assert [each.own for each in tallies] == [2, 3]
    engine.clear(0)
    assert (tallies[1].total, engine.total(Column.ADMITTED)) == (3, 0)


def test_images_are_reserved_by_instance(boards: list[Board]) -> None:
    engine, first, second = boards
    first.reserve(7, 0, 3)
    second.reserve(7, 1, 1)
    second.reserve(8, 1, 5)
    assert (engine.reserved(7), engine.reserved(8)) == (4, 5)
    engine.set_seconds_per_image(7, 0.25)
    assert first.seconds_per_image(7) == 0.25
    engine.clear_slot(7)
    assert (first.reserved(7), first.reserved(8)) == (0, 5)


def test_a_key_has_one_rate_limit_in_all_front_ends(boards: list[Board]) -> None:
    clock = Clock()
    make = partial(SharedBucket, identity=5, rate=2.0, burst=3, clock=clock)
    first, second = make(boards[1]), make(boards[2])
    assert [first.take(), second.take(), first.take()] == [0, 0, 0]
    assert second.take() == pytest.approx(0.5)
    clock.now += 0.5
    assert (second.take(), first.take() > 0) == (0, True)


def test_keys_whose_places_collide_have_limits_of_their_own(boards: list[Board]) -> None:
    clock = Clock()
    one, other = (SharedBucket(boards[1], at, 1.0, 1, clock) for at in (9, 9 + 4096))
    assert (one.take(), other.take(), one.take() > 0, other.take() > 0) == (0, 0, True, True)


def test_new_limits_of_a_key_give_no_new_burst(boards: list[Board]) -> None:
    clock = Clock()
    before = SharedBucket(boards[1], 5, 1.0, 2, clock)
    assert [before.take(), before.take()] == [0, 0]
    assert SharedBucket(boards[2], 5, 10.0, 20, clock).take() == pytest.approx(0.1)
