"""The form of the tasks view: the example sum, the number of digits, and the address."""

from __future__ import annotations

from dash_app.state.selection import Selection
from dash_app.views.tasks import actions
from tests.support.components import text
from tests.wiring.views.test_tasks import FORM, Service, suite


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


def test_a_report_in_the_memo_is_the_one_of_the_form() -> None:
    assert actions.known(Service(suite()), "suite", FORM) == {"form": FORM}
    assert actions.known(Service(), "suite", FORM) is None
    assert actions.known(Service(suite()), "suite", {**FORM, "size": None}) is None


def test_an_address_fills_the_form_but_keeps_an_uploaded_list() -> None:
    chosen = Selection(suite="facts", prompts=7, digits=3)
    form = actions.from_address({**FORM, "model": "m"}, chosen)
    assert (form["suite"], form["size"], form["digits"]) == ("facts", 7, 3)
    own = actions.from_address({**FORM, "model": "addition-5digit", "suite": "own"}, chosen)
    assert (own["suite"], own["digits"]) == ("own", 5)
