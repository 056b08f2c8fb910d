"""Sums of equal length: positions with names, states, and what writes each digit of the answer.

In the contributions the token is the right digit, and the foil is the digit that the other carry
would give. A contribution to their difference is a component's effect on the carry; constants that
all digits share cancel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.attribution.direct import attribute_logit
from analysis.attribution.specs import Attribution
from analysis.contract import jobs
from analysis.contract.specs import Floats, Ints
from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.stream import linear_weights
from analysis.store.memo import Memo
from analysis.tasks import addition, suites
from analysis.tasks.batch import States, states
from analysis.tasks.suites import Encoded, encode
from analysis.tasks.sum_specs import ContributionReport, ContributionSpec
from analysis.tracing.heads import has_heads
from analysis.tracing.storage import of_layer

KINDS = ("row", "attention", "head", "mlp")
#: Models with more components than this are examined without their heads.
MAX_COMPONENTS = 100


@dataclass(frozen=True, eq=False)
class Table:
    """Sums of equal length.

    Attributes:
        a, b: [sum] operands.
        digits: Of each operand.
        encoded: [sum] prompt and right answer as tokens.
        places: [pos] names of all positions.
        answers: Position of each answer column's digit token, the units first.
        texts: [sum] the prompts.
    """

    a: Ints
    b: Ints
    digits: int
    encoded: tuple[Encoded, ...]
    places: tuple[str, ...]
    answers: tuple[int, ...]
    texts: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[int, ...]:
        """Positions from the first operand on; earlier ones are the same in every sum."""
        start = min((p for p in self.encoded[0].places.get(f"a{self.digits - 1}", ())), default=0)
        return tuple(range(start, len(self.places)))

    @property
    def length(self) -> int:
        """Tokens of each answer."""
        return len(self.places) - self.encoded[0].start

    @property
    def carry(self) -> Ints:
        """[sum, digits + 1] the carry into each column."""
        return addition.carries(self.a, self.b, self.digits)

    @property
    def sums(self) -> Ints:
        """[sum, digits] the raw digit sums."""
        return addition.digit_sums(self.a, self.b, self.digits)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        """[sum] tokens of prompt and answer."""
        return [one.token_ids for one in self.encoded]

    def part(self, places: np.ndarray) -> Table:
        """Some of the sums."""
        encoded = tuple(self.encoded[place] for place in places)
        texts = tuple(self.texts[place] for place in places) if self.texts else ()
        return Table(
            self.a[places], self.b[places], self.digits, encoded, self.places, self.answers, texts
        )


def table(model: Model, a: Ints, b: Ints, digits: int, *, padded: bool) -> Table:
    """Write sums as a model's tokens.

    Args:
        model: The model that reads them.
        a: [sum] first operands.
        b: [sum] second operands.
        digits: Of each operand.
        padded: Whether sums are written as the trained adder reads them.

    Raises:
        SpecError: If the sums don't all have one token for each digit at the same positions.
    """
    prompts = [
        suites.written(int(x), int(y), "+", int(x + y), digits, padded)
        for x, y in zip(a, b, strict=True)
    ]
    encoded = tuple(encode(model.tokenizer, prompt) for prompt in prompts)
    first = encoded[0]
    columns = [name for name in first.places if name.startswith("answer")]
    one_token = all(len(first.places[name]) == 1 for name in columns)
    alike = all(
        len(one.token_ids) == len(first.token_ids) and one.places == first.places for one in encoded
    )
    if not (one_token and alike and columns):
        raise SpecError(
            "These sums don't have one token for each digit at the same positions.",
            "Use a model that splits numbers into digits.",
        )
    answers = tuple(first.places[f"answer{column}"][0] for column in range(len(columns)))
    texts = tuple(prompt.text for prompt in prompts)
    names = _names(model, first)
    return Table(np.asarray(a), np.asarray(b), digits, encoded, names, answers, texts)


def _names(model: Model, one: Encoded) -> tuple[str, ...]:
    names = [model.tokenizer.decode([token]) for token in one.token_ids]
    for name, positions in one.places.items():
        for position in positions:
            names[position] = name
    return tuple(names)


def random_sums(
    model: Model, count: int, seed: int, digits: int, *, padded: bool, chains: float = 0.5
) -> Table:
    """Random sums without repeats, a share ``chains`` of them with long carry chains.

    Padded sums are held out: training never saw them. Others have operands without leading zeros
    and a sum one digit longer, so that all have equal length; there can be fewer than ``count``.

    Raises:
        SpecError: If the sums don't all have one token for each digit at the same positions.
    """
    rng = np.random.default_rng([seed, 101])
    if padded:
        a, b = addition.sample_part(rng, 4 * count + 100, "test", digits, chains)
    else:
        a, b = addition.random_pairs(rng, 8 * count + 400, digits, chains)
        low = 10 ** (digits - 1)
        fits = (a >= low) & (b >= low) & (a + b >= 10**digits)
        a, b = a[fits], b[fits]
    _, first = np.unique(np.stack([a, b]), axis=1, return_index=True)
    kept = np.sort(first)[:count]
    return table(model, a[kept], b[kept], digits, padded=padded)


def operand_digits(model: Model) -> int | None:
    """Digits that the trained adder pads operands to, by its config; None for other models."""
    found = getattr(model.hf.config, "operand_digits", None)
    return None if found is None else int(found)


def table_for_model(model: Model, digits: int, count: int, seed: int) -> Table:
    """Random sums as the model reads them; the trained adder's own digits replace ``digits``.

    Raises:
        SpecError: If the model does not read and write one token for each digit.
    """
    own = operand_digits(model)
    return random_sums(model, count, seed, own or digits, padded=own is not None)


@dataclass(frozen=True, slots=True)
class Component:
    """A residual row, an attention or MLP output, or one head's part of the former.

    Attributes:
        kind: One of ``KINDS``.
        index: The row, or the layer.
        head: For a head.
    """

    kind: str
    index: int
    head: int | None = None

    @property
    def name(self) -> str:
        """Such as row 1, head 0.3, mlp 1."""
        return f"{self.kind} {self.index}" + ("" if self.head is None else f".{self.head}")


def all_components(model: Model, kinds: tuple[str, ...] = KINDS) -> tuple[Component, ...]:
    """A model's components, in the order in which they are computed."""
    found = [Component("row", 0)]
    for layer in range(model.info.layers):
        found.append(Component("attention", layer))
        if has_heads(model, layer):
            found += [
                Component("head", layer, head) for head in range(model.stream.blocks[layer].heads)
            ]
        found += [Component("mlp", layer), Component("row", layer + 1)]
    return tuple(component for component in found if component.kind in kinds)


def affordable_components(model: Model) -> tuple[Component, ...]:
    """All components of a small model; those of a large one except its heads."""
    every = all_components(model)
    if len(every) <= MAX_COMPONENTS:
        return every
    return all_components(model, ("row", "attention", "mlp"))


def component_named(model: Model, name: str) -> Component:
    """A component by its name.

    Raises:
        SpecError: If the model has none of that name.
    """
    found = next((one for one in all_components(model) if one.name == name), None)
    if found is None:
        raise SpecError(
            f"This model has no component named {name!r}.",
            "Use a name such as row 1, attention 0, head 0.3 or mlp 1.",
        )
    return found


def collect_states(
    model: Model,
    sums: Table,
    components: tuple[Component, ...],
    label: str,
    places: Sequence[int] | None = None,
) -> dict[Component, Floats]:
    """[sum, place, d_model] states of each component over all sums.

    A head's states go through the output projection, without bias.

    Args:
        model: The model.
        sums: The sums.
        components: The components.
        label: What the progress listener reads.
        places: Positions; all unless given.
    """
    where = list(range(len(sums.places)) if places is None else places)
    size = (len(sums.a), len(where), model.info.d_model)
    found = {component: np.empty(size, np.float32) for component in components}
    whole = any(component.kind != "row" for component in components)
    since = min(where)
    for batch in states(model, sums.token_ids, whole=whole, label=label, since=since):
        kept = [place - batch.first for place in where]
        for component, values in _states_of(model, batch, components):
            found[component][list(batch.which)] = values[:, kept]
    return found


def _states_of(
    model: Model, batch: States, components: tuple[Component, ...]
) -> Iterator[tuple[Component, Floats]]:
    arrays = {"row": batch.resid, "attention": batch.attn_out, "mlp": batch.mlp_out}
    for component in components:
        if component.kind == "head":
            yield component, _head_states(model, batch, component)
        else:
            yield component, arrays[component.kind][:, component.index]


@torch.no_grad()
def _head_states(model: Model, batch: States, component: Component) -> Floats:
    block, head = model.stream.blocks[component.index], component.head or 0
    weight, _ = linear_weights(block.projection, block.heads * block.d_head)
    own = weight.view(block.heads, block.d_head, -1)[head]
    shared = head // (block.heads // block.kv_heads)
    pattern = torch.from_numpy(of_layer(batch.pattern, component.index)[:, head])
    value = torch.from_numpy(of_layer(batch.value, component.index)[:, shared])
    mixed = pattern @ value
    if component.index in batch.gates:
        mixed = mixed * torch.from_numpy(batch.gates[component.index][:, :, head])
    output: Floats = (mixed @ own * block.attention_scale).numpy()
    return output


def report(model: Model, sums: Table) -> ContributionReport:
    """Average attribution and attention over sums, by answer column and carry.

    Args:
        model: From ``analysis.load_model``.
        sums: From ``sum_table``.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    found: dict[tuple[int, int], list[Attribution]] = {}
    columns = [column for column in range(len(sums.answers)) if column <= sums.digits]
    info, length = model.info, len(sums.places)
    attention = np.zeros((len(columns), info.layers, info.heads, length))
    for batch in states(model, sums.token_ids, label="Attributing digits"):
        for place, trace in batch.traces(model):
            for column in columns:
                position = sums.answers[column] - 1
                carry = int(sums.carry[place, column])
                token, foil = _token_and_foil(model, sums, place, column, carry)
                attribution = attribute_logit(model, trace, position, token, foil)
                found.setdefault((column, carry), []).append(attribution)
                for layer in range(info.layers):
                    pattern = trace.pattern_of(layer)[:, position]
                    attention[column, layer, : len(pattern)] += pattern
            jobs.pause()
    return _averages(model, sums, columns, found, attention / len(sums.a))


def _token_and_foil(
    model: Model, sums: Table, place: int, column: int, carry: int
) -> tuple[int, int]:
    """Tokens of the right digit and of the digit that the other carry would give."""
    right = int(sums.a[place] + sums.b[place]) // 10**column % 10
    other = (right + (-1 if carry else 1)) % 10
    token = sums.encoded[place].token_ids[sums.answers[column]]
    ids = model.tokenizer(str(other), add_special_tokens=False)["input_ids"]
    return token, int(ids[-1])


def _averages(
    model: Model,
    sums: Table,
    columns: list[int],
    found: dict[tuple[int, int], list[Attribution]],
    attention: np.ndarray,
) -> ContributionReport:
    layers, heads = model.info.layers, model.info.heads
    shape = (len(columns), 2)
    counts = np.zeros(shape, np.int64)
    by_head = np.full((*shape, layers, heads), np.nan, np.float32)
    spread, by_mlp = by_head.copy(), np.full((*shape, layers), np.nan, np.float32)
    embedding = np.full(shape, np.nan, np.float32)
    for (column, carry), own in found.items():
        parts = np.stack([one.heads for one in own])
        counts[column, carry] = len(own)
        by_head[column, carry] = parts.mean(0)
        spread[column, carry] = _half_interval(parts)
        by_mlp[column, carry] = np.stack([one.mlps for one in own]).mean(0)
        embedding[column, carry] = np.mean([one.embedding for one in own])
    return ContributionReport(
        np.array(columns, np.int64), sums.places, counts, by_head, by_mlp, embedding, spread,
        attention.astype(np.float32),
        np.array([sums.answers[column] - 1 for column in columns], np.int64),
        sums.texts, sums.carry[:, : len(columns)], sums.length,
    )  # fmt: skip


def _half_interval(parts: np.ndarray) -> np.ndarray:
    """[...] half a 95 % interval of the mean over the first axis; NaN for a single entry."""
    if len(parts) < 2:
        return np.full(parts.shape[1:], np.nan)
    half: np.ndarray = 1.96 * parts.std(0, ddof=1) / np.sqrt(len(parts))
    return half


def compute(
    model: Model, spec: ContributionSpec, _memo: Memo | None = None, _longest: int | None = None
) -> ContributionReport:
    """What writes each digit of the sums of a spec."""
    return report(model, table_for_model(model, spec.digits, spec.sums, spec.seed))
