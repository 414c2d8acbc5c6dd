"""The measurements decide how many threads and images an execution gets."""

import pytest

from service.batching.plan import ExecutionPlan, choose_widths
from service.schema.model_status import Measurement, Width


def measured(threads: int, batch_size: int, seconds: float) -> Measurement:
    return Measurement(threads=threads, batch_size=batch_size, seconds=seconds)


def widths(*threads: int) -> tuple[Width, ...]:
    return tuple(Width(threads=each, max_batch_size=1) for each in threads)


@pytest.mark.parametrize(
    ("free", "demand", "threads"),
    [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 5, 1), (8, 100, 1), (3, 1, 2), (1, 1, 1), (0, 1, None)],
)
def test_free_cores_are_spread_over_the_images_in_flight(free, demand, threads):
    width = ExecutionPlan(widths(1, 2, 4, 8)).choose(free, demand)
    assert (width and width.threads) == threads


def test_an_execution_is_never_narrower_than_the_narrowest_width():
    plan = ExecutionPlan(widths(4))
    assert plan.choose(8, 100).threads == 4
    assert plan.choose(3, 1) is None


def test_a_wider_width_is_kept_if_it_makes_one_image_faster():
    rows = [measured(1, 1, 0.040), measured(2, 1, 0.022), measured(4, 1, 0.021)]
    assert [each.threads for each in choose_widths(rows, max_batch_size=8)] == [1, 2]


def test_the_narrowest_width_is_always_kept():
    rows = [measured(1, 1, 0.5), measured(2, 1, 0.01)]
    assert [each.threads for each in choose_widths(rows, max_batch_size=8)] == [1, 2]


def test_batches_are_the_smallest_with_nearly_the_best_throughput():
    rows = [measured(1, 1, 0.010), measured(1, 2, 0.011), measured(1, 4, 0.013)]
    rows += [measured(1, 8, 0.026)]

    def chosen(**limits) -> int:
        (width,) = choose_widths(rows, **{"max_batch_size": 8, **limits})
        return width.max_batch_size

    assert chosen() == 4  # 8 would give 1 % more
    assert chosen(max_seconds=0.012) == 2
    assert chosen(max_seconds=0.001) == 1
    assert chosen(max_batch_size=3) == 3


def test_batches_on_a_cpu_are_the_largest_in_which_an_image_does_not_cost_clearly_more():
    rows = [measured(1, 1, 0.010), measured(1, 4, 0.043), measured(1, 8, 0.092)]
    (width,) = choose_widths(rows, max_batch_size=8, is_on_cpu=True)
    assert width.max_batch_size == 4
    (width,) = choose_widths(rows, max_batch_size=8, is_on_cpu=True, max_seconds=0.03)
    assert width.max_batch_size == 1


def test_the_expected_duration_is_proportional_to_the_nearest_measured_batch():
    plan = ExecutionPlan(widths(1), (measured(1, 1, 0.01), measured(1, 4, 0.02)), pixels=100)
    assert plan.seconds(1, 1) == pytest.approx(0.01)
    assert plan.seconds(1, 2) == pytest.approx(0.02)
    assert plan.seconds(1, 3) == pytest.approx(0.015)
    assert plan.seconds(1, 8) == pytest.approx(0.04)
    assert plan.seconds(2, 1) == 0
    assert plan.seconds(1, 1, pixels=200) == pytest.approx(0.02)
    assert plan.slot_seconds_per_image == pytest.approx(0.005)


def test_without_measurements_the_expected_duration_is_zero():
    plan = ExecutionPlan(widths(1))
    assert (plan.seconds(1, 1), plan.slot_seconds_per_image) == (0, 0)
