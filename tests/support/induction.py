"""A GPT-2 of two layers whose weights are set by hand: it continues a repeated pair of tokens.

Head 0.0 looks at the position before, and writes that token to a part of the state of its own. Head
1.0 looks for a position that follows a token like the present one, and copies the token there to
the part that the unembedding reads (an induction head; Olsson et al., 2022, arXiv 2209.11895). The
other heads and the MLPs write next to nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.support.tiny import vocab_size

#: Width of a token's code, number of positions, and the tokens that have a code.
CODE, POSITIONS, TOKENS = 24, 12, 24
#: Slots of the state: the token, its position, the token before, and the answer.
TOKEN = slice(0, CODE)
PLACE = slice(CODE, CODE + POSITIONS)
BEFORE = slice(CODE + POSITIONS, 2 * CODE + POSITIONS)
ANSWER = slice(2 * CODE + POSITIONS, 3 * CODE + POSITIONS)
WIDTH = 3 * CODE + POSITIONS + 12
HEADS = 4
#: Factors of the queries: a softmax that is fully saturated would have no gradient.
SHARP = (3.0, 11.0)
#: The position has most of a state's length, so that norms hardly depend on the tokens.
LONG, SHORT = 3.0, 0.05


def induction_model() -> Any:
    """The model."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size(), n_positions=POSITIONS, n_embd=WIDTH, n_layer=2, n_head=HEADS,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        faint = 1e-4 * torch.randn(weight.shape)
        weight.copy_(torch.ones_like(weight) if "ln_" in name and "weight" in name else faint)
    own = torch.eye(CODE)
    model.transformer.wte.weight[:TOKENS, TOKEN] = own[:TOKENS]
    model.transformer.wpe.weight[:, PLACE] = LONG * torch.eye(POSITIONS)
    model.lm_head.weight[:TOKENS, ANSWER] = 60 * own[:TOKENS]
    first, second = model.transformer.h
    # The query of a position is the key of the one before it.
    _head(first.attn, PLACE, SHARP[0] * torch.eye(POSITIONS).roll(-1, 1), PLACE, TOKEN, BEFORE)
    _head(second.attn, TOKEN, SHARP[1] * own, BEFORE, TOKEN, ANSWER)
    return model


def _head(attention: Any, queries: slice, turn: Any, keys: slice, values: slice, to: slice) -> None:
    """Set the first head: which slots it compares, and which it copies where."""
    size = WIDTH // HEADS
    wide = queries.stop - queries.start
    code = values.stop - values.start
    both = attention.c_attn.weight
    both[queries, :wide] = turn
    both[keys, WIDTH : WIDTH + wide] = torch.eye(wide)
    both[values, 2 * WIDTH : 2 * WIDTH + code] = torch.eye(code)
    attention.c_proj.weight[:code, to] = SHORT * torch.eye(code)
    assert max(wide, code) <= size
