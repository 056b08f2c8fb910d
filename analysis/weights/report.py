"""All heads of a model: kinds, composition and norms of their weights."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.contract.specs import Floats
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.tracing.capture import trace as traced
from analysis.weights.circuits import TokenStates, has_embeddings, sampled
from analysis.weights.matrices import HeadMatrices, head_matrices, probe_calls
from analysis.weights.specs import WeightReport, WeightSpec

#: Tokens in the sample of the copying score of each head.
SAMPLE = 512
#: Most and fewest tokens in the sequence before it repeats.
LONGEST, SHORTEST = 50, 4
#: Most numbers of the composition of heads in memory at once.
_ENTRIES = 1 << 25
#: Pairs of random matrices whose mean composition is the baseline.
_DRAWS = 20


@torch.no_grad()
def compute(model: Model, spec: WeightSpec) -> WeightReport:
    """Kinds of heads, composition and norms; see ``weight_report``.

    Raises:
        SpecError: If the model has no attention, or its matrices can't be read.
        CancelledError: If the caller's progress listener stops the work.
    """
    layers = [at for at, block in enumerate(model.stream.blocks) if block.heads]
    if not layers:
        raise SpecError("This model has no attention heads.", "Read its norms instead.")
    tokens = repeated(model, spec.seed)
    kinds = behaviour(model, tokens)
    found = _Factors(model.info.d_model)
    copies, notes = [], dict[str, None]()
    sizes = np.full((4, model.info.layers), np.nan, np.float32)
    calls = probe_calls(model, layers)
    for done, (layer, call) in enumerate(zip(layers, calls, strict=True)):
        made = head_matrices(model, layer, call)
        notes.update(dict.fromkeys(made.notes))
        copies += _copying(model, made, spec.seed)
        parts = (made.query, made.key, made.value, made.output)
        sizes[:, layer] = [float(part.double().square().sum().sqrt()) for part in parts]
        if spec.composition:
            found.add(layer, made)
        jobs.step(done + 1, len(layers), "Reading heads")
        jobs.pause()
    names, norms = _mlp_norms(model)
    heads = [(layer, head) for layer in layers for head in range(model.stream.blocks[layer].heads)]
    scores = np.stack([*kinds[:3], np.array(copies, np.float32), kinds[3]])
    made_of = found.composition() if spec.composition else np.zeros((3, 0, 0), np.float32)
    return WeightReport(
        np.array([layer for layer, _ in heads], np.int64),
        np.array([head for _, head in heads], np.int64),
        scores.astype(np.float32), len(tokens) // 2, _sampled(model), spec.seed,
        ("W_Q", "W_K", "W_V", "W_O", *names), np.concatenate([sizes, norms]),
        made_of, baseline(model, spec.seed), tuple(notes),
    )  # fmt: skip


def repeated(model: Model, seed: int) -> tuple[int, ...]:
    """A seeded random sequence without special tokens, and once more.

    Raises:
        SpecError: If the model's prompts are too short for it.
    """
    most = model.info.max_positions or 2 * LONGEST
    length = min(LONGEST, most // 2)
    special = {int(one) for one in getattr(model.tokenizer, "all_special_ids", ())}
    usual = [one for one in range(len(model.readout.input_rows)) if one not in special]
    length = min(length, len(usual))
    if length < SHORTEST:
        raise SpecError(
            "The model's prompts are too short for a repeated sequence.", "Choose another model."
        )
    chosen = np.random.default_rng(seed).choice(usual, length, replace=False)
    return (*chosen.tolist(), *chosen.tolist())


def behaviour(model: Model, tokens: Sequence[int]) -> Floats:
    """[4, head] previous-token, duplicate-token, induction and sink scores of all heads."""
    run = traced(model, tuple(tokens))
    jobs.pause()
    length = len(tokens) // 2
    second = np.arange(length, 2 * length)
    scores = []
    for layer, block in enumerate(model.stream.blocks):
        if not block.heads:
            continue
        pattern = run.pattern_of(layer).astype(np.float64)
        every = np.arange(1, 2 * length)
        scores.append(
            np.stack(
                [
                    pattern[:, every, every - 1].mean(-1),
                    pattern[:, second, second - length].mean(-1),
                    pattern[:, second, second - length + 1].mean(-1),
                    (pattern[:, 2:, 0] + run.sink_of(layer)[:, 2:]).mean(-1),
                ]
            )
        )
    found: Floats = np.concatenate(scores, 1).clip(0.0, 1.0).astype(np.float32)
    return found


def _sampled(model: Model) -> int:
    """Tokens in the sample of the copying scores."""
    return min(SAMPLE, len(model.readout.input_rows), len(model.readout.output_rows))


def _copying(model: Model, made: HeadMatrices, seed: int) -> list[float]:
    """The copying score of each head of a layer; NaN if heads can't be read as tokens."""
    if not has_embeddings(model):
        return [float("nan")] * made.heads
    states = TokenStates(model, made)
    sample = sampled(states.size, SAMPLE, seed)
    read, own = states.unit(sample), torch.arange(len(sample))
    scores = []
    for head in range(made.heads):
        logits = read @ made.reads_values(head) @ states.written(made.writes(head), sample)
        scores.append(float((logits.argmax(-1) == own).float().mean()))
    return scores


class _Factors:
    """The thin factors of W_QK and W_OV of all heads, as far as composition needs them.

    Args:
        width: d_model.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.layers: list[int] = []
        #: For each layer [head, d_head, d_model] what |W_OV| needs of the earlier head.
        self.earlier: list[Tensor] = []
        #: For each layer and Q, K, V: [head, d_model, d] what it needs of the later head.
        self.later: list[tuple[Tensor, Tensor, Tensor]] = []
        self.sizes: list[tuple[Tensor, Tensor]] = []

    def add(self, layer: int, made: HeadMatrices) -> None:
        """Add a layer. Q R-factors replace d_model-wide matrices wherever only a norm is wanted."""
        heads = range(made.heads)
        query = torch.stack([made.reads_queries(head) for head in heads])
        key = torch.stack([made.reads_keys(head) for head in heads])
        value = torch.stack([made.reads_values(head) for head in heads])
        write = torch.stack([made.writes(head) for head in heads])
        of_query, of_key, of_value, of_write = (
            torch.linalg.qr(part, mode="r").R for part in (query, key, value, write.mT)
        )
        self.layers.append(layer)
        self.earlier.append(of_value @ write)
        self.later.append((query @ of_key.mT, key @ of_query.mT, value @ of_write.mT))
        norms = (of_query @ of_key.mT, of_value @ of_write.mT)
        qk, ov = (torch.linalg.matrix_norm(part) for part in norms)
        self.sizes.append((qk, ov))

    def composition(self) -> Floats:
        """[3, n, n] Q-, K- and V-composition; rows are the earlier heads.

        |A B|² is the product of AᵀA and B Bᵀ, entry by entry. A pass over their rows, a few at a
        time, gives all pairs of heads with one matrix product, and needs d_model / d_head² of the
        work of the products A B themselves.
        """
        counts = [len(part) for part in self.earlier]
        total = sum(counts)
        layers = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        squares = torch.zeros(total, 3 * total, dtype=torch.float64)
        step = max(1, _ENTRIES // (4 * total * self.width))
        for start in range(0, self.width, step):
            rows = slice(start, min(start + step, self.width))
            squares += self._products(rows)
            jobs.step(rows.stop, self.width, "Composing heads")
            jobs.pause()
        made = squares.clamp_min(0).sqrt().view(total, 3, total).transpose(0, 1)
        qk, ov = (torch.cat([one[at] for one in self.sizes]).double() for at in (0, 1))
        made = made / (ov[:, None] * torch.stack([qk, qk, ov])[:, None])
        made[:, layers[:, None] >= layers] = torch.nan
        found: Floats = made.numpy().astype(np.float32)
        return found

    def _products(self, rows: slice) -> Tensor:
        """[n, 3 n] the part of some rows in the products of AᵀA and B Bᵀ; both are symmetric.

        Entries right of the rows stand for those below them too, so they count twice.
        """
        twice = torch.full((self.width - rows.start,), 2.0)
        twice[: rows.stop - rows.start] = 1.0
        left = [part[..., rows].mT @ (part[..., rows.start :] * twice) for part in self.earlier]
        right = [
            [part[:, rows] @ part[:, rows.start :].mT for part in parts] for parts in self.later
        ]
        first = torch.cat([part.flatten(1) for part in left])
        second = torch.cat([parts[kind].flatten(1) for kind in range(3) for parts in right])
        return (first @ second.T).double()


def baseline(model: Model, seed: int) -> float:
    """The mean composition of seeded random matrices of one head's shape."""
    width, size = model.info.d_model, model.info.d_head
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(_DRAWS):
        a, b, c, d = (torch.randn(width, size, generator=generator) for _ in range(4))
        of_a, of_d = (torch.linalg.qr(part, mode="r").R for part in (a, d))
        one, other = of_a @ b.T, c @ of_d.T
        scores.append(float((one @ other).norm() / one.norm() / other.norm()))
    return float(np.mean(scores))


def _mlp_norms(model: Model) -> tuple[list[str], Floats]:
    """Names and [name, layer] norms of the matrices outside attention; of experts the mean."""
    found: dict[str, dict[int, list[float]]] = {}
    for layer, block in enumerate(model.stream.blocks):
        inside = set() if block.attention is None else {
            id(part) for part in block.attention.parameters()
        }  # fmt: skip
        for name, weight in block.module.named_parameters():
            if id(weight) in inside or weight.ndim < 2 or not weight.is_floating_point():
                continue
            short = re.sub(r"\.\d+(?=\.)", ".*", name).removesuffix(".weight")
            sizes = weight.detach().float().square().sum((-1, -2)).sqrt()
            found.setdefault(short, {}).setdefault(layer, []).extend(sizes.reshape(-1).tolist())
    norms = np.full((len(found), model.info.layers), np.nan, np.float32)
    for row, by_layer in enumerate(found.values()):
        for layer, every in by_layer.items():
            norms[row, layer] = np.mean(every)
    return list(found), norms


def weight_report(model: Model, *, seed: int = 0, composition: bool = True) -> WeightReport:
    """Kinds of heads, composition between heads, and norms of the weights, by layer.

    Kinds come from the patterns on one seeded random sequence that is repeated once (Olsson et al.
    2022, arXiv 2209.11895), and, for copying, from the weights. Composition is
    ``|W_QK W_OV| / (|W_QK| |W_OV|)`` with Frobenius norms (Elhage et al. 2021), with the scales of
    the norms multiplied in; it is computed through the d_head-wide factors.

    Args:
        model: From ``load_model``.
        seed: The seed of the sequence and of the sampled tokens.
        composition: Whether composition is computed.

    Raises:
        SpecError: If the model has no attention, or its queries and keys can't be read.
    """
    return compute(model, WeightSpec(seed, composition))
