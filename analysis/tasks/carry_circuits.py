"""Which head makes carries, from its weights alone: what its QK reads and what its OV writes.

Every head is examined as if it read the embeddings. The score of a pair of positions follows from
W_QK, and what a head writes from W_OV. No MLP and no logit is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats
from analysis.errors import SpecError
from analysis.inside_block.scores import capped
from analysis.model.handle import Model
from analysis.model.stream import linear_weights
from analysis.store.memo import Memo
from analysis.tasks.sum_specs import CarryCircuits, CarryCircuitSpec
from analysis.tasks.sum_table import Table, operand_digits, table_for_model
from analysis.weights.circuits import score_scale
from analysis.weights.front import Front, attention_call

DIGITS = 10
#: Random sums in which each digit's token is looked up at each position.
_LOOKED_UP = 200


def compute(
    model: Model, spec: CarryCircuitSpec, _memo: Memo | None = None, _longest: int | None = None
) -> CarryCircuits:
    """How much each head looks like one that makes carries; see ``carry_circuits``."""
    return carry_circuits(model, spec.digits, seed=spec.seed)


@torch.no_grad()
def carry_circuits(model: Model, digits: int = 5, *, seed: int = 0) -> CarryCircuits:
    """Find the heads that make carries from their QK and OV circuits, without running the model.

    A carry into a column is a function of the two digits in the column below. A head can make it if
    (1) its QK circuit makes the state that writes the column read these two digits, and (2) its OV
    circuit then writes one vector if they add up to 10 or more, and another if not. Each head gets
    the product of two shares, averaged over columns:

    - The attention weight on the two digits of the column below. It is the softmax of the scores
      q · k of embeddings at their positions, with the digits of other positions averaged out.
    - The share of the variance of the head's output over the 100 pairs of these digits that the
      carry explains (1: the output is one bit).

    A head of a later layer also reads what earlier layers write. Its composition with them is left
    out, so this finds heads that make a carry from the embeddings only.

    Args:
        model: A model that splits numbers into digits.
        digits: Of each operand; the trained adder's own digits replace it.
        seed: The seed of the sums in which the digits' tokens are looked up.

    Raises:
        SpecError: If the digits have no tokens of their own, or the model's queries and keys can't
            be read.
        CancelledError: If the caller's progress listener stops the work.
    """
    sums = table_for_model(model, operand_digits(model) or digits, _LOOKED_UP, seed)
    _require_columns(sums)
    tokens = _same_digit_everywhere(sums)
    layers = [at for at, block in enumerate(model.stream.blocks) if block.heads]
    if not layers:
        raise SpecError("This model has no attention heads.", "Choose another model.")
    rows = _embeddings(model, layers[0], tokens)
    columns = tuple(range(1, sums.digits))
    found: list[_Layer] = []
    for done, layer in enumerate(layers):
        found.append(_layer(model, layer, sums, columns, tokens, rows))
        jobs.step(done + 1, len(layers), "Reading heads")
        jobs.pause()
    heads = [(layer, head) for layer in layers for head in range(model.stream.blocks[layer].heads)]
    return CarryCircuits(
        layers=np.array([layer for layer, _ in heads], np.int64),
        heads=np.array([head for _, head in heads], np.int64),
        columns=np.array(columns, np.int64),
        reads=np.concatenate([one.reads for one in found]),
        carry=np.concatenate([one.carry for one in found]),
        outputs=np.concatenate([one.outputs for one in found]),
    )


def _require_columns(sums: Table) -> None:
    if sums.digits < 2:
        raise SpecError("A sum of one-digit numbers has no column below.", "Use 2 digits or more.")


def _same_digit_everywhere(sums: Table) -> Tensor:
    """[digit, pos] the tokens of a sum with the same digit at every named position.

    Raises:
        SpecError: If a digit has several tokens, or none in the sums.
    """
    ids = np.array(sums.token_ids)
    named = [at for at, name in enumerate(sums.places) if _digit_place(name)]
    known: dict[int, int] = {}
    texts = [f"{a:0{sums.digits}d}" for a in sums.a.tolist()]
    for column in range(sums.digits):
        at = sums.places.index(f"a{column}")
        for text, token in zip(texts, ids[:, at].tolist(), strict=True):
            digit = int(text[sums.digits - 1 - column])
            if known.setdefault(digit, token) != token:
                raise _no_tokens(digit)
    missing = [digit for digit in range(DIGITS) if digit not in known]
    if missing:
        raise _no_tokens(missing[0])
    made = np.repeat(ids[:1], DIGITS, 0)
    for digit in range(DIGITS):
        made[digit, named] = known[digit]
    return torch.from_numpy(made)


def _digit_place(name: str) -> bool:
    return name.rstrip("0123456789") in ("a", "b", "answer") and name[-1].isdigit()


def _no_tokens(digit: int) -> SpecError:
    return SpecError(
        f"The digit {digit} does not have one token of its own at every position.",
        "Use a model that splits numbers into digits.",
    )


def _embeddings(model: Model, layer: int, tokens: Tensor) -> Tensor:
    """[digit, pos, d_model] what enters the first block: tokens and positions, embedded."""
    return torch.stack([attention_call(model, layer, row.tolist()).state for row in tokens])


@dataclass(frozen=True)
class _Layer:
    """The heads of one layer.

    Attributes:
        reads: [head, column, digit column] attention weights.
        carry: [head, column]. outputs: [head, column, 19].
    """

    reads: Floats
    carry: Floats
    outputs: Floats


def _layer(
    model: Model, layer: int, sums: Table, columns: Sequence[int], tokens: Tensor, rows: Tensor
) -> _Layer:
    """What the heads of a layer read and write at the state that writes each column."""
    block = model.stream.blocks[layer]
    front = Front(model, layer, attention_call(model, layer, tokens[0].tolist()))
    norm = front.call.norm
    assert norm is not None  # noqa: S101 - ``attention_call`` refuses a layer without
    made = [front.run(norm.full(row)) for row in rows]
    query, key, value = (
        torch.stack([getattr(one, name) for one in made]).double()
        for name in ("query", "key", "value")
    )
    share = block.heads // key.shape[1]
    key, value = (part.repeat_interleave(share, 1) for part in (key, value))
    weight, _ = linear_weights(block.projection, block.heads * block.d_head)
    output = weight.view(block.heads, block.d_head, -1).double()
    size = (block.heads, len(columns))
    reads = np.full((*size, sums.digits), np.nan, np.float32)
    carry, outputs = np.full(size, np.nan, np.float32), np.full((*size, 19), np.nan, np.float32)
    for at, column in enumerate(columns):
        scores = _scores(front, query, key, sums.answers[column] - 1)
        reads[:, at] = _reads(scores, sums).float().numpy()
        places = [sums.places.index(f"{name}{column - 1}") for name in "ab"]
        carry[:, at], outputs[:, at] = _one_bit(_written(scores, value, output, places))
    return _Layer(reads, carry, outputs)


def _scores(front: Front, query: Tensor, key: Tensor, asking: int) -> Tensor:
    """[query digit, head, key digit, key position] the inputs of the softmax at one position."""
    options = front.call.options
    products = torch.einsum("ahd,bhkd->ahbk", query[:, :, asking], key[:, :, : asking + 1])
    scores = products * score_scale(options, query.shape[-1])
    scores = capped(scores, float(options.get("softcap") or 0.0))
    mask = front.call.mask
    if mask is None or not mask.is_floating_point():
        return scores
    return scores + mask[:, asking, : asking + 1].double()[:, None, :]


def _reads(scores: Tensor, sums: Table) -> Tensor:
    """[head, digit column] mean weight on both digits of each column; digits averaged out."""
    sizes = torch.logsumexp(scores, 2) - np.log(DIGITS)
    weights = torch.softmax(sizes, -1).mean(0)
    pairs = [[sums.places.index(f"{name}{n}") for name in "ab"] for n in range(sums.digits)]
    return torch.stack([weights[:, pair].sum(-1) for pair in pairs], -1)


def _written(scores: Tensor, value: Tensor, output: Tensor, places: list[int]) -> Tensor:
    """[head, digit of a, digit of b, d_model] what heads write from the column below.

    The weights of its two positions are those for their digits. The digits of other positions, and
    the query's, are averaged out.
    """
    first, second = places
    sizes = torch.logsumexp(scores, 2) - np.log(DIGITS)
    rest = sizes.clone()
    rest[..., places] = -torch.inf
    others = torch.logsumexp(rest, -1)[..., None, None]
    one = scores[:, :, :, first, None].expand(-1, -1, -1, DIGITS)
    other = scores[:, :, None, :, second].expand(-1, -1, DIGITS, -1)
    total = torch.logsumexp(torch.stack([one, other, others.expand_as(one)]), 0)
    from_first, from_second = ((part - total).exp().mean(0) for part in (one, other))
    of_first, of_second = (
        value[:, :, place].transpose(0, 1) @ output for place in (first, second)
    )  # [head, digit, d_model]
    return (
        from_first[..., None] * of_first[:, :, None] + from_second[..., None] * of_second[:, None]
    )


def _one_bit(written: Tensor) -> tuple[Floats, Floats]:
    """How far the output [head, 10, 10, d_model] is one bit, and its mean by digit sum.

    Returns:
        [head] share of its variance that the carry explains, and [head, 19] its place between the
        mean without (0) and with a carry (1), for each sum of the two digits.
    """
    digits = torch.arange(DIGITS)
    sums = (digits[:, None] + digits).flatten()
    flat = written.flatten(1, 2)
    carried = sums >= DIGITS
    centre = flat.mean(1, keepdim=True)
    with_it, without = flat[:, carried].mean(1), flat[:, ~carried].mean(1)
    between = sum(
        float(which.sum()) * (mean - centre[:, 0]).square().sum(-1)
        for which, mean in ((carried, with_it), (~carried, without))
    )
    whole = (flat - centre).square().sum((1, 2))
    step = with_it - without
    along = torch.einsum("hnd,hd->hn", flat - without[:, None], step)
    along = along / step.square().sum(-1, keepdim=True).clamp_min(torch.finfo(along.dtype).tiny)
    by_sum = torch.stack([along[:, sums == total].mean(-1) for total in range(19)], -1)
    share = between / whole.clamp_min(torch.finfo(whole.dtype).tiny)
    return share.float().numpy(), by_sum.float().numpy()
