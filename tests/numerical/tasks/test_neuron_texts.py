"""Texts on which neurons fire most, against one forward pass a text with a plain hook."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.contract import jobs
from analysis.errors import CancelledError, PromptError, SpecError
from analysis.export.sheets import one_frame
from analysis.tasks import suites
from analysis.tasks.neuron_text_specs import NeuronTextSpec
from tests.numerical.conftest import Case
from tests.numerical.weights import reference

TEXTS = ("the capital of France", "a river", "the stone of the river is a stone", "is", "of a is")


def activations(hf: Any, module: torch.nn.Module, ids: list[int]) -> np.ndarray:
    """[pos, neuron] what the down projection reads in one pass over one text."""
    kept: list[np.ndarray] = []
    handle = module.register_forward_pre_hook(lambda _m, args: kept.append(args[0][0].numpy()))
    with torch.no_grad():
        hf(torch.tensor([ids]))
    handle.remove()
    return kept[0]


def down(hf: Any, layer: int) -> torch.nn.Module:
    """GPT-2's or Llama's down projection by its name."""
    found: torch.nn.Module = (
        hf.transformer.h[layer].mlp.c_proj
        if hasattr(hf, "transformer")
        else hf.model.layers[layer].mlp.down_proj
    )
    return found


def test_every_neuron_by_one_pass_a_text(small: Case) -> None:
    model = small.model
    found = analysis.neuron_texts(model, 1, TEXTS, k=3)
    each = [
        activations(model.hf, down(model.hf, 1), list(model.tokenizer(text)["input_ids"]))
        for text in TEXTS
    ]
    assert found.texts == TEXTS
    assert found.best.shape == (each[0].shape[1], 3)
    for neuron in range(len(found.best)):
        peaks = np.array([np.abs(one[:, neuron]).max() for one in each])
        assert len(set(found.best[neuron].tolist())) == 3
        np.testing.assert_allclose(peaks[found.best[neuron]], np.sort(peaks)[::-1][:3], atol=1e-6)
        for at, firing in enumerate(found.of(neuron)):
            text = each[firing.text][:, neuron]
            assert firing.position == int(np.abs(text).argmax())
            assert firing.activation == pytest.approx(text[firing.position], abs=1e-5)
            ids = model.tokenizer(TEXTS[firing.text])["input_ids"]
            assert firing.token == model.tokenizer.decode([ids[firing.position]])
            assert found.positions[neuron, at] == firing.position
    assert len(one_frame(found).rows) == 3 * len(found.best)


def test_a_suite_is_written_as_the_model_reads_it(adder: Any) -> None:
    found = analysis.neuron_texts(adder, 0, suite="addition", size=12, k=2)
    prompts = suites.build("addition", 12, 0, 5, padded=True).prompts
    assert found.texts == tuple(prompt.text + prompt.answer for prompt in prompts)
    one = found.of(3, around=20)[0]
    assert one.before + one.token + one.after == found.texts[one.text]
    with pytest.raises(SpecError, match="9999"):
        found.of(9999)


def test_refusals_and_cancels(small: Case) -> None:
    with pytest.raises(SpecError, match="empty"):
        NeuronTextSpec("m", 0, texts=" \n ")
    with pytest.raises(SpecError, match="21 texts"):
        NeuronTextSpec("m", 0, k=21)
    with pytest.raises(SpecError, match="characters"):
        NeuronTextSpec("m", 0, texts="a" * 200_001)
    with pytest.raises(PromptError, match="Text 2: "):
        analysis.neuron_texts(small.model, 0, ["is", "is " * 4000])
    mixtral = reference.model_of("mixtral")
    with pytest.raises(SpecError, match="mixes experts"):
        analysis.neuron_texts(mixtral, 1, ["b"])

    def stop(*_step: Any) -> None:
        raise CancelledError

    with jobs.listening(stop), pytest.raises(CancelledError):
        analysis.neuron_texts(small.model, 0, TEXTS)
