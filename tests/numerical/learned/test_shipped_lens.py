"""The lens in the package, compared with the figures in its card and header."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.learned import library, translators
from analysis.learned.library import Evaluation, LensInfo
from analysis.lens_training import texts
from analysis.lens_training.training import evaluate, table
from tests.numerical.conftest import Case

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def shipped(data_dir: object) -> LensInfo:
    """The lens in a new installation."""
    found = library.available(MODEL)
    assert found is not None
    assert found.shipped
    return found


def test_it_is_small_and_beats_the_logit_lens_on_its_evaluation(shipped: LensInfo) -> None:
    assert shipped.nbytes <= 8_000_000
    assert shipped.layers == 30
    own, human = shipped.evaluations
    assert min(own.tokens, human.tokens) >= 1000
    assert min(own.better, human.better) >= 25


def test_the_card_quotes_the_command_and_every_figure(shipped: LensInfo) -> None:
    card = (library.SHIPPED / "README.md").read_text("utf-8")
    assert shipped.command in card
    for found in shipped.evaluations:
        assert table(found) in card


def mean(found: Evaluation, lens: str) -> float:
    return float(np.mean([getattr(row, f"{lens}_kl") for row in found.rows]))


@pytest.mark.real
def test_it_decodes_a_prompt_better_than_the_logit_lens(smollm: Case, shipped: LensInfo) -> None:
    """Test every row before the last: row 0 alone (100 nats with the logit lens) proves nothing."""
    kl = {
        name: analysis.decode(smollm.model, smollm.trace, decoder=name).kl_to_final[:-1].mean(1)
        for name in ("output", "learned")
    }
    assert (kl["learned"] < 0.6 * kl["output"]).all()


@pytest.mark.full
@pytest.mark.real
def test_fresh_text_gives_the_published_figures(smollm: Case, shipped: LensInfo) -> None:
    lens = translators.load_lens(shipped)
    fresh = (
        texts.generated(smollm.model, 300, 77, "held_out"),
        texts.manual(smollm.model, 300, 77),
    )
    for text, recorded in zip(fresh, shipped.evaluations, strict=True):
        found = evaluate(smollm.model, lens, text, 300)
        assert found.tokens == 300
        assert found.better >= 25
        assert mean(found, "learned") < 1.25 * mean(recorded, "learned")
        assert mean(found, "logit") > 0.8 * mean(recorded, "logit")
        for one, told in zip(found.rows, recorded.rows, strict=True):  # no row hides behind row 0
            assert one.learned_kl < 1.4 * told.learned_kl
            assert 0.75 * told.logit_kl < one.logit_kl < 1.25 * told.logit_kl
