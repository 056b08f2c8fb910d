"""One head's OV and QK circuit for the states of a prompt, read as tokens."""

from __future__ import annotations

import torch

from analysis.contract.specs import resolve_index
from analysis.model.handle import Model
from analysis.tracing.capture import Trace
from analysis.tracing.tokens import vocabulary
from analysis.tracing.vocabulary import extremes
from analysis.weights.circuits import TokenStates, floats, ints, wanted_keys
from analysis.weights.matrices import EMBEDDING_ONLY, head_matrices
from analysis.weights.specs import StateCircuits, StateCircuitSpec

#: Replaces ``EMBEDDING_ONLY``: states contain positions, and the embeddings of keys do not.
KEYS = "The keys are embeddings without a position."


@torch.no_grad()
def compute(model: Model, trace: Trace, spec: StateCircuitSpec) -> StateCircuits:
    """A head's circuits for the states of a row; see ``state_circuits``.

    Raises:
        SpecError: If there is no such layer, head or row, or the head's matrices can't be read.
        CancelledError: If the caller's progress listener stops the work.
    """
    trace.require_model(model)
    layer = resolve_index("Layer", spec.layer, model.info.layers)
    head = model.head_index(layer, spec.head)
    row = layer if spec.row is None else resolve_index("Row", spec.row, model.info.layers + 1)
    made = head_matrices(model, layer)
    tokens = TokenStates(model, made)
    states = torch.from_numpy(trace.resid[row])
    logits = tokens.written(made.norm.unit(states) @ made.reads_values(head) @ made.writes(head))
    up, more, down, less = extremes(logits, spec.k)
    own = torch.tensor(trace.token_ids)
    seen = own < tokens.size
    mine = logits.gather(1, own.clamp(max=tokens.size - 1)[:, None])
    ranks = torch.where(seen, (logits > mine).sum(1) + 1, -1)
    keys, scores = wanted_keys(tokens, head, made.norm.full(states), spec.k)
    notes = tuple(KEYS if one == EMBEDDING_ONLY else one for one in made.notes)
    ids = {int(one) for part in (own, up, down, keys) for one in part.flatten()}
    return StateCircuits(
        layer, head, row, ints(own), ints(ranks), ints(up), floats(more), ints(down),
        floats(less), ints(keys), floats(scores), notes, vocabulary(model.tokenizer, ids),
    )  # fmt: skip


def state_circuits(
    model: Model, trace: Trace, layer: int, head: int, row: int | None = None, *, k: int = 8
) -> StateCircuits:
    """One head's OV and QK circuit for the states of a row, read as tokens.

    As ``circuits``, but the head reads the states of a prompt instead of embeddings: what it would
    write if it read one state only, and the tokens whose embeddings it would look for from that
    state. With ``row = layer`` these are the states that the head really reads.

    Args:
        model: From ``load_model``.
        trace: From ``trace``.
        layer: The block.
        head: The head.
        row: The row whose states are read; the head's own input unless given.
        k: Tokens in each list.

    Raises:
        SpecError: If there is no such layer, head or row, or the architecture's queries and keys
            can't be read.
    """
    return compute(model, trace, StateCircuitSpec(layer, head, row, k))
