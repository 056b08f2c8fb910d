"""The ledger's badge and tables show the ledger's entries."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.contract.ledger import Ledger, LedgerEntry
from analysis.registry import technique_for
from dash_app.state.selection import RunRef, Selection
from dash_app.views import ledger
from dash_app.views.ledger import badge, table
from tests.support.components import text
from tests.support.fake_service import FakeService, refuse


def made_ledger(error: float, *, exact: bool = True) -> Ledger:
    entry = LedgerEntry(2, "resid + attention + MLP = next row", error, 1e-5 if exact else 2e-2)
    return Ledger((entry,), "float32" if exact else "bfloat16", exact)


@pytest.mark.parametrize(
    ("found", "style", "word"),
    [
        (made_ledger(3e-7), "is-ok", "adds up, error 3e-07"),
        (made_ledger(4e-3, exact=False), "is-warn", "adds up roughly, error 4e-03"),
        (made_ledger(0.5), "is-bad", "does not add up"),
    ],
)
def test_the_badge_has_the_ledgers_colour_and_error(found: Ledger, style: str, word: str) -> None:
    drawn = badge(found, 4)
    assert style in drawn.className
    assert word in drawn.children
    assert "of this run at position 4" in drawn.title


def test_a_failed_identity_is_marked_in_its_row() -> None:
    drawn = text(table("Model", made_ledger(0.5)))
    assert "does not add up" in drawn
    assert "5.0e-01" in drawn


@pytest.fixture
def run() -> RunRef:
    return RunRef(
        model="fake", prompt="The capital", new=1, attempt=1, token_ids=(0, 1, 5), layers=12,
        heads=6, vocab=40, layer=11, prompt_length=2,
    )  # fmt: skip


def shown(service: FakeService, run: RunRef, selection: Selection) -> tuple[Any, Any, Any]:
    """What the panel shows after its job."""
    ready = ledger.measure(service, run, selection, lambda start, end: None)
    return ledger.draw(service, run, selection, ready)


def test_both_ledgers_are_requested(run: RunRef) -> None:
    service = FakeService()
    assert ledger.measure(service, run, Selection(pos=1), lambda start, end: None) == {"done": 1}
    assert service.calls == ["run_ledger", "ledger"]
    found = ledger.draw(service, run, Selection(pos=1), None)
    assert "hidden 3.0% of the flow" in text(found[2])
    assert "position 1" in text(found[2])


def test_a_failure_gives_a_message(run: RunRef) -> None:
    service = FakeService()
    service.fail["ledger"] = refuse("The worker stopped.", "Run it again.")
    assert "The worker stopped. Run it again." in text(shown(service, run, Selection())[1])


def test_the_ledger_of_the_model_stays_when_that_of_the_run_fails(run: RunRef) -> None:
    service = FakeService()
    service.fail["run_ledger"] = refuse("The worker stopped.", "Run it again.")
    found = shown(service, run, Selection())
    assert "not measured" in text(found[0])
    assert "on random probes" in text(found[1])
    assert "The worker stopped. Run it again." in text(found[2])


def test_the_ledger_of_the_run_stays_when_that_of_the_model_fails(run: RunRef) -> None:
    service = FakeService()
    service.fail["ledger"] = refuse("The worker stopped.", "Run it again.")
    found = shown(service, run, Selection())
    assert "adds up" in text(found[0])
    assert "hidden 3.0% of the flow" in text(found[2])


def test_the_badge_is_that_of_the_run_and_not_of_the_model(
    run: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeService()
    answers = {"ledger": made_ledger(3e-7), "run_ledger": made_ledger(0.5)}
    ask = service.ask

    def answer(subject: Any, spec: Any, job: Any = None) -> Any:
        return answers.get(technique_for(spec).name) or ask(subject, spec, job)

    monkeypatch.setattr(service, "ask", answer)
    found = ledger.draw(service, run, Selection(), None)
    assert "does not add up, error 5e-01" in text(found[0])
    assert "does not add up" not in text(found[1])
