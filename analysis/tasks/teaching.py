"""Two decoders that are built by hand, with their circuits: the truth that techniques must find.

Each is a GPT-2 of two layers whose weights are computed, not trained. The residual stream has a
slot for the token, for the previous token, for the output and for the position, one coordinate for
each value. A large constant fills two more coordinates. It keeps the scale of the norms steady, and
the norms' own factors undo them: each head reads the slots as they are. No MLP writes anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.errors import SpecError
from analysis.tasks.adder import UNKNOWN, tokenizer

START = "<start>"
#: Positions of a prompt, its start token included.
POSITIONS = 24
LAYERS, HEADS, WIDTH = 2, 2, 64
_D_HEAD = WIDTH // HEADS
#: Tokens in a vocabulary. It sets the size of three slots.
_TOKENS = 12
#: First coordinates of the slots.
_TOKEN, _PREVIOUS, _OUTPUT, _POSITION = 0, _TOKENS, 2 * _TOKENS, 3 * _TOKENS
#: Two coordinates with the constant and its opposite; one that no head reads.
_CONSTANT, _SPARE = _POSITION + POSITIONS, _POSITION + POSITIONS + 2
_SIZE = 16.0
#: Scores before the softmax: on the previous token; on a match; on the start token.
_BEFORE, _MATCH, _REST = 14.0, 12.0, 7.0
#: Logit of the token that the output slot has in full.
_LOGIT = 10.0
#: Logit of the unknown token, which leads where the output slot is empty.
_NOTHING = 1.0
#: What the heads that rest write, for the last letter.
_SMALL = 0.1
CIRCUIT_FILE = "circuit.json"


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge between two components, as ``analysis.component_graph`` names them.

    Attributes:
        sender, receiver: "embedding" or "head 0.1"; "head 1.0 key" or "answer".
        position: The position at which the receiver reads.
    """

    sender: str
    receiver: str
    position: int


@dataclass(frozen=True, slots=True)
class Attends:
    """An edge of one head's attention pattern: it reads ``source`` from ``target``."""

    layer: int
    head: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """A built circuit, and a pair of prompts that shows it.

    Attributes:
        name: The model's name in the catalogue.
        title: What it does.
        symbols: The vocabulary, without the start token and the unknown token.
        clean: A prompt that the model continues with ``answer``; position 0 is the start token.
        corrupted: The same with other letters; the model continues it with ``foil``.
        answer, foil: Tokens.
        heads: Layer and head -> kind of the head, as ``analysis.weight_report`` names it if it
            has that kind.
        composition: "K" or "V": what the second head reads from the first.
        attends: The edges of attention that carry the answer of ``clean``.
        edges: The edges between components that carry the answer of the pair. Edges on which both
            prompts agree are left out.
    """

    name: str
    title: str
    symbols: str
    clean: str
    corrupted: str
    answer: str
    foil: str
    heads: dict[str, str]
    composition: str
    attends: tuple[Attends, ...]
    edges: tuple[Edge, ...]


INDUCTION = Circuit(
    "induction-by-hand",
    "Induction: the token that followed the last token before",
    "abcdefghij",
    clean="cadbea",
    corrupted="hfigjf",
    answer="d",
    foil="i",
    heads={"0.1": "previous", "1.0": "induction"},
    composition="K",
    attends=(Attends(0, 1, 2, 3), Attends(1, 0, 3, 6)),
    edges=(
        Edge("embedding", "head 0.1 value", 2),
        Edge("head 0.1", "head 1.0 key", 3),
        Edge("embedding", "head 1.0 query", 6),
        Edge("embedding", "head 1.0 value", 3),
        Edge("head 1.0", "answer", 6),
    ),
)
COPY = Circuit(
    "copy-by-hand",
    "Previous token and copy: after '=', the letter before the star",
    "abcdefgh*=",
    clean="ca*db=",
    corrupted="ge*hf=",
    answer="a",
    foil="e",
    heads={"0.0": "previous", "1.1": "copies what head 0.0 wrote at the star"},
    composition="V",
    attends=(Attends(0, 0, 2, 3), Attends(1, 1, 3, 6)),
    edges=(
        Edge("embedding", "head 0.0 value", 2),
        Edge("head 0.0", "head 1.1 value", 3),
        Edge("head 1.1", "answer", 6),
    ),
)
CIRCUITS = {one.name: one for one in (INDUCTION, COPY)}


def known_circuit(name: str) -> Circuit:
    """The circuit of a model that is built by hand.

    Raises:
        SpecError: If the model is another one.
    """
    found = CIRCUITS.get(name) if isinstance(name, str) else None
    if found is None:
        raise SpecError(
            f"The circuit of {name!r} is not known.", f"Choose one of: {', '.join(CIRCUITS)}."
        )
    return found


def vocabulary(circuit: Circuit) -> tuple[str, ...]:
    """The tokens in the order of their ids."""
    return (*circuit.symbols, START, UNKNOWN)


def build(circuit: Circuit) -> Any:
    """The transformers model of a circuit: a ``GPT2LMHeadModel``.

    Args:
        circuit: One of ``CIRCUITS``.
    """
    from transformers import GPT2LMHeadModel

    model: Any = GPT2LMHeadModel(_config())
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    own = [int(name[-1]) for name in circuit.heads]
    letters = _letters(circuit)
    copies = _match(circuit, letters) if circuit is INDUCTION else _star(circuit, letters)
    made = ([_previous(), _resting(circuit, letters)], [copies, _resting(circuit, letters)])
    for layer, (heads, place) in enumerate(zip(made, own, strict=True)):
        ordered = heads if place == 0 else heads[::-1]
        _write_attention(weights, f"transformer.h.{layer}", ordered)
    _write_embeddings(weights)
    _write_norms(weights)
    model.load_state_dict(weights)
    return model.eval()


def export(circuit: Circuit, folder: Path) -> None:
    """Write model, tokenizer and circuit as a folder that ``analysis.load_model`` opens."""
    build(circuit).save_pretrained(folder)
    words = vocabulary(circuit)
    tokenizer(POSITIONS, words, start=START, end=START).save_pretrained(folder)
    text = json.dumps(asdict(circuit), indent=1)
    (folder / CIRCUIT_FILE).write_text(f"{text}\n", encoding="utf-8")


def _config() -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=_TOKENS, n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        n_inner=8, activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, tie_word_embeddings=False, use_cache=False,
        bos_token_id=_TOKENS - 2, eos_token_id=_TOKENS - 2,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Head:
    """The matrices of a head, [d_model, d_head] and for the output [d_head, d_model].

    Attributes:
        query, key, value, output: The matrices.
        rests: The constant that a query has in its last coordinate.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    rests: float = 0.0


def _empty() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = [torch.zeros(WIDTH, _D_HEAD) for _ in range(3)]
    return inputs[0], inputs[1], inputs[2], torch.zeros(_D_HEAD, WIDTH)


def _root(score: float) -> float:
    """What queries and keys are multiplied by for a score: it is divided by √d_head."""
    return float((score * _D_HEAD**0.5) ** 0.5)


def _letters(circuit: Circuit) -> list[int]:
    """Ids of the letters."""
    return [number for number, symbol in enumerate(circuit.symbols) if symbol.isalpha()]


def _copies(value: Tensor, output: Tensor, letters: Sequence[int], read: int, write: int) -> None:
    """Let a head move tokens from the slot ``read`` to the slot ``write``."""
    for number in letters:
        value[read + number, number] = 1.0
        output[number, write + number] = 1.0


def _previous() -> _Head:
    """Each position reads the token before it. Position 0 has none, and reads its own."""
    query, key, value, output = _empty()
    for pos in range(1, POSITIONS):
        query[_POSITION + pos, pos - 1] = _root(_BEFORE)
        key[_POSITION + pos - 1, pos - 1] = _root(_BEFORE)
    _copies(value, output, range(_TOKENS), _TOKEN, _PREVIOUS)
    return _Head(query, key, value, output)


def _match(circuit: Circuit, letters: Sequence[int]) -> _Head:
    """The position whose previous token is the query's token; its token is copied."""
    query, key, value, output = _empty()
    for number in letters:
        query[_TOKEN + number, number] = key[_PREVIOUS + number, number] = _root(_MATCH)
    _copies(value, output, letters, _TOKEN, _OUTPUT)
    return _Head(query, _with_rest(circuit, key), value, output, rests=_root(_REST))


def _star(circuit: Circuit, letters: Sequence[int]) -> _Head:
    """From '=', the star; the token before it is copied."""
    query, key, value, output = _empty()
    query[_TOKEN + circuit.symbols.index("="), 0] = _root(_MATCH)
    key[_TOKEN + circuit.symbols.index("*"), 0] = _root(_MATCH)
    _copies(value, output, letters, _PREVIOUS, _OUTPUT)
    return _Head(query, _with_rest(circuit, key), value, output, rests=_root(_REST))


def _resting(circuit: Circuit, letters: Sequence[int]) -> _Head:
    """A head that reads the start token from everywhere, and writes where no head reads."""
    query, key, value, output = _empty()
    for number in letters:
        value[_TOKEN + number, 0] = _SMALL * (number + 1) / len(letters)
    output[0, _SPARE] = 1.0
    return _Head(query, _with_rest(circuit, key), value, output, rests=_root(_REST))


def _with_rest(circuit: Circuit, key: Tensor) -> Tensor:
    """The keys, with the start token in their last coordinate."""
    key[_TOKEN + vocabulary(circuit).index(START), -1] = _root(_REST)
    return key


def _write_attention(weights: dict[str, Tensor], block: str, heads: Sequence[_Head]) -> None:
    matrix, bias = weights[f"{block}.attn.c_attn.weight"], weights[f"{block}.attn.c_attn.bias"]
    for number, head in enumerate(heads):
        columns = slice(number * _D_HEAD, (number + 1) * _D_HEAD)
        for place, part in enumerate((head.query, head.key, head.value)):
            matrix[:, place * WIDTH : (place + 1) * WIDTH][:, columns] = part
        bias[columns.stop - 1] = head.rests
        weights[f"{block}.attn.c_proj.weight"][columns] = head.output


def _write_embeddings(weights: dict[str, Tensor]) -> None:
    tokens, places = weights["transformer.wte.weight"], weights["transformer.wpe.weight"]
    for number in range(_TOKENS):
        tokens[number, _TOKEN + number] = 1.0
        weights["lm_head.weight"][number, _OUTPUT + number] = _LOGIT
    for pos in range(POSITIONS):
        places[pos, _POSITION + pos] = 1.0
    places[:, _CONSTANT], places[:, _CONSTANT + 1] = _SIZE, -_SIZE
    weights["lm_head.weight"][_TOKENS - 1, _CONSTANT] = _NOTHING / _SIZE


def _write_norms(weights: dict[str, Tensor]) -> None:
    """Factors and biases that give back the state: its sum and length are known in each norm.

    Token and position are one coordinate of 1 each; the first layer adds the previous token, the
    second one the output.
    """
    for name, ones in (("h.0.ln_1", 2), ("h.0.ln_2", 3), ("h.1.ln_1", 3), ("h.1.ln_2", 4),
                       ("ln_f", 4)):  # fmt: skip
        mean = ones / WIDTH
        variance = (ones + 2 * _SIZE**2) / WIDTH - mean**2
        weights[f"transformer.{name}.weight"][:] = (variance + 1e-5) ** 0.5
        weights[f"transformer.{name}.bias"][:] = mean
