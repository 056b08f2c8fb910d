"""The tasks view's controls for sums: the example and the number of digits."""

from __future__ import annotations

from dash_app.views.tasks import actions
from tests.support.components import text


def test_the_example_sum_fits_each_model() -> None:
    whole = text(actions.own_sum("smollm2-135m-instruct"))
    assert "1230912 + 12391989 =" in whole
    part = text(actions.own_sum("addition-5digit"))
    assert "30912+91989=" in part
    assert "at most 5 digits" in part


def test_digits_are_fixed_for_a_model_that_adds() -> None:
    assert actions.digits_of("addition-5digit", 2, fixed=False) == (5, True)
    assert actions.digits_of("smollm2-135m-instruct", 5, fixed=True) == (2, False)
    assert actions.digits_of("smollm2-135m-instruct", 4, fixed=False) == (4, False)
