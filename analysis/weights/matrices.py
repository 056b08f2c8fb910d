"""W_Q, W_K, W_V and W_O of one layer, with the norms around them, for every architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import SpecError
from analysis.model.handle import Model
from analysis.model.probe import relative_error, tolerance
from analysis.model.readout import NormForm, identity_norm, norm_form
from analysis.model.stream import linear_weights
from analysis.weights.front import OWN, ROOTLESS, Call, Front, Projected, attention_calls

#: Tokens of the pass that gives the attention module its arguments.
_PROBE = (1, 2, 3)
#: Vectors that go through the front at once.
CHUNK = 1024
#: Seeded random vectors on which the found matrices are checked.
_CHECKED = 5
#: The note of a model whose states contain positions.
EMBEDDING_ONLY = "Position is left out: only the token's embedding is read."


@dataclass(frozen=True)
class HeadMatrices:
    """The matrices of one layer's heads, float32 on the CPU; a vector is a row.

    Attributes:
        layer: The block.
        front: Runs queries, keys and values of its own inputs.
        query, key, value: [head or kv_head, d_model, d] from what attention reads; without the
            roots of norms inside attention.
        query_bias: [head, 1, d_key].
        output: [head, d_head, d_model] each head's part of W_O.
        norm: The norm before attention. post: The norm after W_O. ``identity_norm`` if none.
        scale: The multiplier of attention's output.
        notes: What the matrices leave out, one sentence each.
    """

    layer: int
    front: Front
    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor
    output: Tensor
    norm: NormForm
    post: NormForm
    scale: float | Tensor
    notes: tuple[str, ...]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.query)

    def kv_head(self, head: int) -> int:
        """The keys and values that a head uses."""
        return head // (self.heads // len(self.key))

    def _folded(self, matrix: Tensor) -> Tensor:
        """A matrix that reads the normed state, as one that reads the state over its root."""
        scaled = matrix * self.norm.scale[:, None]
        return scaled - scaled.mean(-2, keepdim=True) if self.norm.kind == "layer" else scaled

    def reads_queries(self, head: int) -> Tensor:
        """[d_model, d_key] W_Q of a head after the norm's scale."""
        return self._folded(self.query[head])

    def reads_keys(self, head: int) -> Tensor:
        """[d_model, d_key] W_K likewise."""
        return self._folded(self.key[self.kv_head(head)])

    def reads_values(self, head: int) -> Tensor:
        """[d_model, d_head] W_V likewise."""
        return self._folded(self.value[self.kv_head(head)])

    def writes(self, head: int) -> Tensor:
        """[d_head, d_model] W_O of a head, times the post-norm's scale and the multiplier."""
        return self.post.centred(self.output[head]) * self.post.scale * self.scale


def probe_calls(model: Model, layers: Sequence[int]) -> list[Call]:
    """The calls from which ``head_matrices`` gets its arguments, in one pass for all layers.

    Raises:
        SpecError: If the queries and keys of a layer can't be read.
    """
    return attention_calls(model, layers, [token % model.info.vocab for token in _PROBE])


@torch.no_grad()
def head_matrices(model: Model, layer: int, call: Call | None = None) -> HeadMatrices:
    """The matrices of a layer's heads.

    They are read from the attention module: it runs on unit vectors at position 0, up to the
    attention function. A check on random vectors refuses what is not affine.

    Args:
        model: The model.
        layer: The block.
        call: From ``probe_calls``; computed unless given.

    Raises:
        SpecError: If the layer has no attention, its queries and keys can't be read, or its output
            can't be split into heads.
    """
    block, width = model.stream.blocks[layer], model.info.d_model
    front = Front(model, layer, call or probe_calls(model, [layer])[0])
    if block.projection is None:
        raise SpecError(
            f"The attention of layer {layer} can't be split into heads.", "Choose another layer."
        )
    norms = ROOTLESS if front.call.inner else OWN
    matrix, bias, error = affine(lambda read: front.run(read, norms, at_zero=True), width)
    if error > loose(model):
        raise SpecError(
            f"The queries, keys or values of layer {layer} are not linear in what attention reads "
            f"(relative error {error:.0e}).",
            "Read the pattern and the heads' outputs instead.",
        )
    weight, _ = linear_weights(block.projection, block.heads * block.d_head)
    (writer,) = block.of("attention")
    norm = front.call.norm
    assert norm is not None  # noqa: S101 - ``attention_call`` refuses a layer without
    return HeadMatrices(
        layer, front, matrix.query, matrix.key, matrix.value, bias.query,
        weight.view(block.heads, block.d_head, -1), norm, _post(model, layer), writer.scale,
        notes_of(model, layer, front),
    )  # fmt: skip


def _post(model: Model, layer: int) -> NormForm:
    module = model.stream.blocks[layer].post_norm
    found = None if module is None else norm_form(module, model.info.d_model)
    return found or identity_norm(model.info.d_model)


def notes_of(model: Model, layer: int, front: Front) -> tuple[str, ...]:
    """What the matrices of a layer leave out, one sentence each."""
    block = model.stream.blocks[layer]
    notes = []
    if front.rotary:
        notes.append("Rotary position is left out: query and key are at the same position.")
    else:
        notes.append(EMBEDDING_ONLY)
    if front.call.inner:
        notes.append(
            "Queries and keys pass a norm inside attention. Singular values and composition keep"
            " its scale and leave out its root."
        )
    if block.post_norm is not None:
        notes.append("The norm after W_O keeps its scale; its root is left out.")
    if block.gated:
        notes.append("The gate of each head depends on the query and is left out.")
    if block.heads != block.kv_heads:
        share = block.heads // block.kv_heads
        notes.append(f"Groups of {share} heads share keys and values.")
    notes.append("Biases of values and W_O are left out: they do not depend on the token.")
    return tuple(notes)


def affine(run: Callable[[Tensor], Projected], width: int) -> tuple[Projected, Projected, float]:
    """The matrices and biases of a front that is affine in its input.

    Args:
        run: A front at position 0.
        width: Size of its input.

    Returns:
        The matrices ([head, width, d]), the biases ([head, 1, d]), and the relative error on
        seeded random vectors at other places.
    """
    zero = torch.zeros(1, width)
    bias = run(zero)
    parts = [run(part) for part in torch.split(torch.eye(width), CHUNK)]
    names = ("query", "key", "value")
    whole = {name: torch.cat([getattr(part, name) for part in parts], 1) for name in names}
    matrix = Projected(**{name: whole[name] - getattr(bias, name) for name in names})
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(_CHECKED, width, generator=generator)
    found = run(probe)
    errors = [
        relative_error(probe @ getattr(matrix, name) + getattr(bias, name), getattr(found, name))
        for name in names
    ]
    return matrix, bias, max(errors)


def loose(model: Model) -> float:
    """The largest relative error of a product of the model's own matrices."""
    return 10 * tolerance(model.dtype)
