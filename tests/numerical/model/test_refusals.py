"""A model that lies is refused, with the identity, the layer and the error."""

from __future__ import annotations

import pytest

from analysis.errors import UnsupportedModelError
from analysis.ledger import check, require
from tests.support import broken_models, built, zoo


def test_a_third_writer_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer 0 .*relative error \d") as caught:
        built.understood(broken_models.with_blocks(broken_models.ThirdWriter))
    assert "third part" in caught.value.hint


def test_ambiguous_writers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer 0 \d+ different pairs"):
        built.understood(broken_models.with_blocks(broken_models.Ambiguous))


def test_bent_logits_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="logits are neither"):
        built.understood(broken_models.bent())


def test_an_identity_that_fails_after_load_is_named() -> None:
    """Weights changed behind the model's back: the readout no longer gives its logits."""
    model = built.understood(zoo.make("llama"), "llama")
    model.readout.logit_scale = 1.1
    ledger = check(model, (3,))
    assert not ledger.passed
    assert ledger.colour == "red"
    with pytest.raises(UnsupportedModelError, match="lens at the last row = logits"):
        require(model)
