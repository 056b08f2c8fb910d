"""A model that breaks an identity is refused with the identity, the layer and the error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.llama import modeling_llama

import analysis
from analysis import ledger as ledger_module
from analysis.contract.ledger import LedgerSpec
from analysis.errors import SpecError, UnsupportedModelError
from analysis.ledger import check, check_run, require
from tests.support import broken_models, built, zoo


def test_blocks_with_a_third_writer_count_as_a_whole() -> None:
    model = built.understood(broken_models.with_blocks(broken_models.ThirdWriter))
    require(model)
    assert model.info.parts == ("whole_block",)
    assert "can't be split into parts" in model.info.missing[0]


def test_a_second_pair_without_attention_is_not_taken_for_the_writers() -> None:
    model = built.understood(broken_models.with_blocks(broken_models.SecondPair))
    require(model)
    block = model.stream.blocks[0]
    assert (type(block.attention_writer).__name__, type(block.mlp_writer).__name__) == (
        "LlamaAttention", "LlamaMLP"
    )  # fmt: skip


def test_ambiguous_writers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer 0 \d+ different sets"):
        built.understood(broken_models.with_blocks(broken_models.Ambiguous))


def test_changed_logits_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="logits are neither"):
        built.understood(broken_models.bent())


def test_an_identity_that_fails_after_load_is_named() -> None:
    """Weights changed after loading: the readout no longer gives the model's logits."""
    model = built.understood(zoo.make("llama"), "llama")
    model.readout.logit_scale = 1.1
    ledger = check(model, (3,))
    assert not ledger.passed
    assert ledger.colour == "red"
    with pytest.raises(UnsupportedModelError, match="lens at the last row = logits"):
        require(model)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_model_that_fails_one_of_the_first_five_identities_is_refused(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built.understood(zoo.make("llama"), "llama")
    failing = tuple(
        (own, name, (lambda _probe: (0.5, "")) if own == number else measure, logits)
        for own, name, measure, logits in ledger_module.IDENTITIES
    )
    monkeypatch.setattr(ledger_module, "IDENTITIES", failing)
    with pytest.raises(UnsupportedModelError, match=r"fails: relative error 5.0e-01"):
        require(model)


def test_heads_that_are_not_pattern_times_values_are_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stream, lens and patterns are right; whatever needs heads is refused with a message."""
    plain = modeling_llama.eager_attention_forward

    def bent(*args: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        output, pattern = plain(*args, **options)
        return output + 0.3 * output.sin(), pattern

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", bent)
    model = built.understood(zoo.make("llama"), "bent")
    ledger = check(model)
    assert ledger.passed
    notes = {entry.number: entry.note for entry in ledger.entries}
    assert "3 layers, whose attention can't be split into heads" in notes[5]
    assert "not measured" in notes[6]
    trace = analysis.trace(model, [5, 9, 33, 2])
    assert check_run(model, trace, LedgerSpec()).passed
    assert np.isfinite(analysis.decode(model, trace).entropy).all()
    for read in (
        lambda: analysis.head_output(model, trace, 0),
        lambda: analysis.attribute(model, trace),
        lambda: analysis.flow(model, trace),
    ):
        with pytest.raises(SpecError, match="can't be split into heads"):
            read()
    assert analysis.flow(model, trace, method="attention").links
