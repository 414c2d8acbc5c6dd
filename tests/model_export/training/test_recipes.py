"""A recipe is data, with stages of input sizes and changes from the command line."""

import dataclasses

import pytest

from model_export.errors import InvalidModel
from model_export.training.recipes import RECIPES, learning_rate

RECIPE = RECIPES["classification"]


def test_input_sizes_are_stages_of_equal_length():
    recipe = RECIPE.changed(epochs=6, input_sizes=((32, 32), (64, 64), (96, 96)))
    sides = [recipe.input_size(epoch)[0] for epoch in range(6)]
    assert sides == [32, 32, 64, 64, 96, 96]


def test_changes_that_are_none_leave_the_recipe_unchanged():
    changed = RECIPE.changed(epochs=3, batch_size=None, learning_rate=None)
    assert changed == dataclasses.replace(RECIPE, epochs=3)


def test_the_learning_rate_warms_up_and_falls_to_0():
    rates = [learning_rate(RECIPE, step / 1000) for step in range(1001)]
    peak = rates.index(max(rates))
    assert peak == 100
    assert max(rates) == pytest.approx(RECIPE.learning_rate)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[0] < 0.02 * RECIPE.learning_rate
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mixup": -1}, "recipe field mixup: Input should be greater than or equal to 0, not -1"),
        ({"epochs": "many"}, "recipe field epochs: Input should be a valid integer"),
        ({"mixing": 1}, "recipes have no mixing"),
    ],
)
def test_a_field_that_is_unknown_or_out_of_range_is_refused(changes, sentence):
    with pytest.raises(InvalidModel, match=sentence):
        RECIPE.changed(**changes)


@pytest.mark.parametrize(
    ("task", "recipe", "field"),
    [
        ("classification", "segmentation-strong", "class_weight_offset"),
        ("segmentation", "classification-strong", "random_erasing"),
    ],
)
def test_a_recipe_of_another_task_is_refused(task, recipe, field):
    RECIPES[task].check_task(task)
    with pytest.raises(InvalidModel, match=f"{field} does not apply to {task}"):
        RECIPES[recipe].check_task(task)
