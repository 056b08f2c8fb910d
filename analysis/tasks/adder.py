"""The small decoder that adds: its tokenizer, one token a character, and its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from analysis.tasks import addition
from analysis.tasks.addition import Ints

END, UNKNOWN = "<end>", "<unk>"
VOCABULARY = (*"0123456789", "+", "=", END, UNKNOWN)
END_ID = VOCABULARY.index(END)
#: Positions of an exported model: longer sums than it was trained on can be typed and looked at.
POSITIONS = 40


def tokenizer(length: int) -> Any:
    """A Hugging Face tokenizer for sums of at most ``length`` tokens; spaces mean nothing to it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = models.WordLevel({text: place for place, text in enumerate(VOCABULARY)}, UNKNOWN)
    inner = Tokenizer(words)
    inner.normalizer = normalizers.Replace(Regex(r"\s"), "")
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token=END, unk_token=UNKNOWN, model_max_length=length
    )


def length_of(digits: int) -> int:
    """Tokens of a prompt, its answer and the end."""
    return 2 * digits + 2 + digits + 1 + 1


def config(digits: int, width: int, layers: int = 2, heads: int = 4) -> Any:
    """GPT-2 in small: LayerNorm, learned positions, untied embeddings."""
    return GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=length_of(digits),
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=END_ID,
    )


def lengthened(model: Any, digits: int) -> Any:
    """A copy with ``POSITIONS`` positions, those it was not trained on all zero.

    Its config says how many digits it adds, as ``operand_digits``.
    """
    shape = config(digits, model.config.n_embd, model.config.n_layer, model.config.n_head)
    shape.n_positions, shape.operand_digits = max(POSITIONS, length_of(digits)), digits
    longer = GPT2LMHeadModel(shape)
    weights = dict(model.state_dict())
    rows = weights["transformer.wpe.weight"]
    table = rows.new_zeros(shape.n_positions, rows.shape[1])
    table[: len(rows)] = rows
    weights["transformer.wpe.weight"] = table
    longer.load_state_dict(weights)
    return longer


def new_model(digits: int, width: int, seed: int) -> Any:
    """A freshly drawn model."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(config(digits, width))


def sequences(a: Ints, b: Ints, digits: int) -> torch.Tensor:
    """[n, length] token ids of prompt, answer and end."""
    plus, equals = VOCABULARY.index("+"), VOCABULARY.index("=")
    rows = len(a)
    parts = [
        addition.columns(a, digits)[:, ::-1],
        np.full((rows, 1), plus),
        addition.columns(b, digits)[:, ::-1],
        np.full((rows, 1), equals),
        addition.columns(a + b, digits + 1)[:, ::-1],
        np.full((rows, 1), END_ID),
    ]
    return torch.from_numpy(np.concatenate(parts, 1).astype(np.int64))


@torch.no_grad()
def exact(model: Any, a: Ints, b: Ints, digits: int, batch: int = 2048) -> np.ndarray[Any, Any]:
    """[n] whether greedy decoding gives the whole answer and the end.

    Every token of the right answer is the model's first choice after the right tokens before
    it: exactly when greedy decoding writes it, found in one pass.
    """
    right = []
    for start in range(0, len(a), batch):
        ids = sequences(a[start : start + batch], b[start : start + batch], digits)
        asked = 2 * digits + 2
        chosen = model(input_ids=ids[:, :-1]).logits[:, asked - 1 :].argmax(-1)
        right.append((chosen == ids[:, asked:]).all(1).numpy())
    return np.concatenate(right)
