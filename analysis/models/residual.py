"""Find who writes to the residual stream, from watched passes over short probes.

No table of architectures: the blocks are those that the model class itself
records, and the two writers of a block are the two modules inside it whose
outputs make up what the block adds to the stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.models.blocks import find_blocks
from analysis.models.parallel import reads_same_state
from analysis.models.probe import Record, watched_pass
from analysis.models.stream import Stream
from analysis.models.tolerance import relative_error, tolerance
from analysis.models.writers import solve_block


def find_stream(model: nn.Module, probes: Sequence[Tensor]) -> tuple[Stream, list[Record]]:
    """Solve for the writers of every block on each probe.

    Args:
        model: A decoder with the observed attention function set.
        probes: Token ids, [1, pos] each; the answer must be the same on all of them.

    Raises:
        UnsupportedModelError: If a block's increment is no sum of two of its modules' outputs,
            or is more than one such sum.
    """
    named = find_blocks(model)
    records, by_hooks = _watch_probes(model, probes)
    dtype = next(model.parameters()).dtype
    _check_chain(records[0], named, tolerance(dtype))
    blocks = [solve_block(layer, *entry, records, dtype) for layer, entry in enumerate(named)]
    first = records[0].of(named[0][1])
    d_model = int(first.left.shape[-1]) if first is not None else 0
    stream = Stream(blocks, d_model=d_model, by_hooks=by_hooks)
    stream.layer_of = {
        id(block.attention): layer
        for layer, block in enumerate(blocks)
        if block.attention is not None
    }
    stream.parallel = reads_same_state(model, stream, probes[0], records[0])
    return stream, records


def _watch_probes(model: nn.Module, probes: Sequence[Tensor]) -> tuple[list[Record], bool]:
    """Records of all probes, and whether attention had to be heard by hooks."""
    records = [watched_pass(model, probe) for probe in probes]
    if any(record.attention for record in records):
        return records, False
    return [watched_pass(model, probe, by_hooks=True) for probe in probes], True


def _check_chain(record: Record, named: list[tuple[str, nn.Module]], limit: float) -> None:
    calls = [record.of(module) for _, module in named]
    for layer, (here, after) in enumerate(itertools.pairwise(calls)):
        if here is None or after is None or after.entered is None:
            raise UnsupportedModelError(f"Layer {layer} did not run.", "It can't be traced.")
        error = relative_error(here.left, after.entered)
        if error > limit:
            raise UnsupportedModelError(
                f"What leaves layer {layer} is not what enters layer {layer + 1} "
                f"(relative error {error:.1e}).",
                "The residual stream of this model can't be followed.",
            )
