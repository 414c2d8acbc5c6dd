"""The drift score grows with the distance from the reference, over the last hour alone."""

import math

import numpy as np
import pytest

from service.telemetry.drift import DriftWindow
from tests.service.clock import Clock

BOUNDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SHARES = [0.1] * 10


def window(clock: Clock) -> DriftWindow:
    return DriftWindow(BOUNDS, SHARES, clock)


def fill(drift: DriftWindow, count: int, low: float = 0.0, high: float = 1.0) -> None:
    for value in np.random.default_rng(0).uniform(low, high, count):
        drift.add(float(value))


def test_values_like_the_reference_score_near_0_and_others_more() -> None:
    scores = []
    for high in (1.0, 0.9, 0.7, 0.2):
        drift = window(Clock())
        fill(drift, 5000, high=high)
        scores.append(drift.score())
    assert scores[0] < 0.01
    assert scores == sorted(scores)
    assert scores[-1] > 1


def test_the_score_is_the_population_stability_index() -> None:
    drift = DriftWindow([0.5], [0.5, 0.5], Clock())
    for value in [0.2] * 800 + [0.9] * 200:
        drift.add(value)
    expected = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    assert drift.score() == pytest.approx(expected, abs=0.01)


def test_too_few_values_have_no_score() -> None:
    drift = window(Clock())
    fill(drift, 99)
    assert math.isnan(drift.score())
    fill(drift, 1)
    assert not math.isnan(drift.score())
    assert math.isnan(window(Clock()).score())


def test_values_count_for_an_hour() -> None:
    clock = Clock()
    drift = window(clock)
    fill(drift, 500, high=0.2)
    clock.now += 1800
    fill(drift, 500)
    both = drift.score()
    assert both > 0.25
    clock.now += 1900
    assert drift.score() < 0.1 < both
    clock.now += 1900
    assert math.isnan(drift.score())


def test_a_value_at_a_bound_is_in_the_bin_below_and_none_is_lost() -> None:
    drift = DriftWindow([0.5], [0.5, 0.5], Clock())
    for value in [0.5] * 100 + [0.6] * 100 + [-9.0] * 50 + [9.0] * 50:
        drift.add(value)
    assert drift.score() == pytest.approx(0, abs=1e-6)
