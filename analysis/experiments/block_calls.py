"""Run the attention and the MLP of one block with an input of its own for each head and each part.

The model's own modules run, called as in a plain pass of the prompt. Attention runs on a batch of
states. Where it has computed queries, keys and values, each head takes its own of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.experiments.component_layout import Layout
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from analysis.model.readout import NormForm, norm_form
from analysis.model.stream import (
    Block,
    batched,
    edit_output,
    hidden_input,
    hidden_output,
    linear_weights,
)
from analysis.tracing.heads import has_heads

#: Largest relative error of a rebuilt state, in float32 and in other dtypes.
SAME, ROUGHLY = 1e-4, 3e-2


@dataclass(frozen=True)
class HeadJobs:
    """Heads that run, each on states of a batch.

    Attributes:
        head: [job] the head.
        query, key, value: [job] the place in the batch of the state that each input reads.
    """

    head: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int, int]]) -> HeadJobs:
        """From rows of head, query, key and value."""
        return cls(*torch.tensor(rows, dtype=torch.long).reshape(-1, 4).unbind(1))


class _Stop(Exception):  # noqa: N818 - ends a forward pass early; it is no error
    """The pass has computed what is needed."""


@dataclass
class _Mixing:
    """A tap that gives each head its own query, key and value of the batch."""

    jobs: HeadJobs
    gated: bool
    size: int
    others: float = 1.0
    found: Tensor | None = None

    def receive(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values of each job."""
        jobs = self.jobs
        where = query.device
        return (
            query[jobs.query.to(where)], key[jobs.key.to(where)], value[jobs.value.to(where)]
        )  # fmt: skip

    def cut(self, module: Any, shape: tuple[int, int, int]) -> None:
        """Cut nothing."""

    def observe(self, module: Any, value: Tensor, pattern: Tensor, output: Tensor) -> Tensor:
        """Take each job's head; the output goes on only to meet a gate.

        Raises:
            _Stop: If there is no gate.
        """
        number = torch.arange(len(output), device=output.device)
        if not self.gated:
            self.found = output[number, :, self.jobs.head.to(output.device)]
            raise _Stop
        if self.others != 1.0:
            alone = output[number, :, self.jobs.head]
            output = output * self.others
            output[number, :, self.jobs.head] = alone
        spread = output.new_zeros(self.size, *output.shape[1:])
        return spread.index_put((self.jobs.query.to(output.device),), output)


@dataclass
class _Layer:
    """What is constant about one block: its output projection by head, its norm, its biases."""

    block: Block
    weight: Tensor
    bias: Tensor
    post: NormForm | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class BlockCalls:
    """The blocks of a model, called one at a time on states of one prompt's length.

    Args:
        model: From ``load_model``.
        ids: Token ids of a prompt; it runs once.

    Attributes:
        resid: [row, pos, d_model] the states of the plain pass, float32 on the CPU.
        logits: [vocab] its logits at the last position.

    Raises:
        SpecError: If a block has other parts than attention with heads and an MLP.
    """

    def __init__(self, model: Model, ids: Sequence[int]) -> None:
        require_components(model)
        self.model, self.positions = model, len(ids)
        self._layers = [_layer(model, block) for block in model.stream.blocks]
        self.resid, self.logits = self._plain_pass(ids)
        if any(one.block.gated for one in self._layers):
            self._require_separate_heads()

    @torch.no_grad()
    def _plain_pass(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Run the prompt, and keep how each block is called."""
        states: list[Tensor] = []

        def keep(layer: _Layer) -> Any:
            """A hook that keeps a block's arguments and the state it reads."""

            def hook(_module: Any, args: Any, kwargs: Any) -> None:
                """Keep them."""
                layer.args, layer.kwargs = tuple(args), dict(kwargs)
                state = hidden_input(args, kwargs)
                assert state is not None  # noqa: S101 - loading refuses such a block
                states.append(_plain(batched(state, 1)[0]))

            return hook

        def last(_module: Any, _args: Any, output: Any) -> None:
            """Keep the last row."""
            states.append(_plain(batched(hidden_output(output), 1)[0]))

        with self.model.lock, ExitStack() as stack:
            for one in self._layers:
                handle = one.block.module.register_forward_pre_hook(keep(one), with_kwargs=True)
                stack.callback(handle.remove)
            handle = self._layers[-1].block.module.register_forward_hook(last)
            stack.callback(handle.remove)
            tokens = torch.tensor([list(ids)], device=self.model.device)
            logits = self.model.hf(input_ids=tokens, use_cache=False).logits[0, -1]
        return torch.stack(states), _plain(logits)

    def _call(self, layer: _Layer, states: Tensor) -> None:
        """Call a block on other states [batch, pos, d_model]."""
        own = hidden_input(layer.args, layer.kwargs)
        assert own is not None  # noqa: S101 - see above
        given = states.to(own.device, own.dtype)
        if layer.args:
            layer.block.module(given, *layer.args[1:], **layer.kwargs)
        else:
            layer.block.module(**{**layer.kwargs, "hidden_states": given})

    def heads(self, layer: int, states: Tensor, jobs: HeadJobs, others: float = 1.0) -> Tensor:
        """[job, pos, d_head] what each job's head gives to the output projection.

        Args:
            layer: The block.
            states: [batch, pos, d_model] states that inputs of heads read.
            jobs: Which head reads which of them. If the attention has a gate, no two jobs may share
                a query: the gate belongs to it.
            others: A factor on the other heads before a gate, to test that they don't matter.
        """
        own = self._layers[layer]
        block, mixing = own.block, _Mixing(jobs, own.block.gated, len(states), others)

        def gate(_module: Any, args: Any, kwargs: Any) -> None:
            """Take each job's head after the gate."""
            state = hidden_input(args, kwargs)
            assert state is not None  # noqa: S101 - a projection reads states
            shaped = state.reshape(len(states), self.positions, block.heads, -1)
            mixing.found = shaped[jobs.query, :, jobs.head]
            raise _Stop

        with self.model.lock, ExitStack() as stack:
            if block.gated:
                assert block.projection is not None  # noqa: S101 - require_components
                handle = block.projection.register_forward_pre_hook(gate, with_kwargs=True)
                stack.callback(handle.remove)
            attending = [part for part in (block.attention,) if part is not None]
            stack.enter_context(observing(attending, mixing, by_hooks=False))
            with suppress(_Stop):
                self._call(own, states)
        if mixing.found is None:
            raise _cannot(layer)
        return mixing.found.to("cpu", torch.float32)

    def mlp(self, layer: int, states: Tensor) -> Tensor:
        """[batch, pos, d_model] what the MLP adds to the stream if it reads ``states``."""
        own, found = self._layers[layer], list[Tensor]()

        def keep(writer: Any) -> Any:
            """A hook that keeps what a writer adds."""

            def hook(_module: Any, _args: Any, output: Any) -> None:
                """Keep it."""
                state = batched(hidden_output(output), len(states)).to("cpu", torch.float32)
                found.append(writer.written(state))

            return hook

        with self.model.lock, ExitStack() as stack:
            for writer in own.block.of("attention"):  # the state given is the one after attention
                stack.callback(edit_output(writer.module, torch.zeros_like, len(states)).remove)
            for writer in own.block.of("mlp"):
                stack.callback(writer.module.register_forward_hook(keep(writer)).remove)
            self._call(own, states)
        return torch.stack(found).sum(0)

    def added(self, layer: int, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads and the biases of attention add to the stream.

        A norm after the projection is applied to each part with the scale of their sum.

        Args:
            layer: The block.
            mixed: [..., head, pos, d_head] from ``heads``.

        Returns:
            [..., head, pos, d_model] and [..., pos, d_model].
        """
        own = self._layers[layer]
        (writer,) = own.block.of("attention")
        parts = mixed @ own.weight
        bias = own.bias.expand(*parts.shape[:-3], *parts.shape[-2:])
        if own.post is not None:
            whole = parts.sum(-3) + bias
            parts = own.post.frozen(parts, whole.unsqueeze(-3))
            bias = own.post.frozen(bias, whole) + own.post.bias
        scale = writer.scale
        return (parts if isinstance(scale, float) and scale == 1.0 else parts * scale), (
            writer.written(bias)
        )

    @property
    def steady_biases(self) -> bool:
        """Whether what biases of attention add is the same in every run."""
        return not any(one.post is not None and bool(one.bias.any()) for one in self._layers)

    def logits_of(self, states: Tensor) -> Tensor:
        """[n, vocab] of last states [n, d_model]."""
        readout = self.model.readout
        dtype = self.model.dtype if self.model.dtype.is_floating_point else torch.float32
        logits: Tensor = readout.logits(states.to(readout.device, dtype))
        return logits.to("cpu")

    @torch.no_grad()
    def _require_separate_heads(self) -> None:
        """Refuse a norm between heads and projection: it makes each head depend on the others.

        Raises:
            SpecError: Naming the layer.
        """
        for number, own in enumerate(self._layers):
            if not own.block.gated:
                continue
            jobs, state = HeadJobs.of([(0, 0, 0, 0)]), self.resid[number][None]
            alone, beside = (self.heads(number, state, jobs, others) for others in (1.0, 2.0))
            if not torch.allclose(alone, beside, rtol=1e-3):
                raise SpecError(
                    f"A norm joins the heads of layer {number} before the output projection, so"
                    " their outputs are not separate senders.",
                    "Use the flow graph, or patch whole heads.",
                )


def layout_of(model: Model) -> Layout:
    """The components of a model."""
    blocks = model.stream.blocks
    return Layout(
        tuple(block.heads for block in blocks),
        tuple(bool(block.of("mlp")) for block in blocks),
        model.stream.parallel,
    )


@dataclass
class States:
    """One run, from the embedding up.

    Attributes:
        senders: [sender, pos, d_model] what each sender adds.
        mixed: [layer][head, pos, d_head] what the heads give to the output projection.
        inputs: [layer][pos, d_model] the state that heads read.
        middles: [layer][pos, d_model] the state that the MLP reads.
        last: [d_model] the last state at the last position.
    """

    senders: Tensor
    mixed: list[Tensor]
    inputs: list[Tensor]
    middles: list[Tensor]
    last: Tensor


def states_of(calls: BlockCalls, layout: Layout, embedding: Tensor) -> States:
    """Run the blocks on an embedding [pos, d_model], part by part."""
    senders = torch.zeros(layout.shape[1], *embedding.shape)
    senders[0] = embedding
    state, mixed, inputs, middles = embedding, list[Tensor](), list[Tensor](), list[Tensor]()
    for layer, heads in enumerate(layout.heads):
        jobs.check_cancelled()
        first = int(layout.first_sender[layer])
        gated = calls.model.stream.blocks[layer].gated
        rows = [(head, head if gated else 0, 0, 0) for head in range(heads)]
        inputs.append(state)
        several = state.expand(heads if gated else 1, -1, -1)
        mixed.append(calls.heads(layer, several, HeadJobs.of(rows)))
        added, bias = calls.added(layer, mixed[-1])
        senders[first : first + heads] = added
        middle = state + added.sum(0) + bias
        middles.append(state if layout.parallel else middle)
        if layout.mlps[layer]:
            senders[first + heads] = calls.mlp(layer, middles[-1][None])[0]
            middle = middle + senders[first + heads]
        state = middle
    return States(senders, mixed, inputs, middles, state[-1])


def _layer(model: Model, block: Block) -> _Layer:
    weight, bias = linear_weights(block.projection, block.heads * block.d_head)
    post = None
    if block.post_norm is not None:
        post = norm_form(block.post_norm, model.info.d_model)
    by_head = weight.view(block.heads, block.d_head, -1)
    return _Layer(block, by_head, bias, post)


def _plain(state: Tensor) -> Tensor:
    return state.detach().to("cpu", torch.float32, copy=True)


def _cannot(layer: int) -> SpecError:
    return SpecError(
        f"The attention of layer {layer} does not take separate queries, keys and values.",
        "Use the flow graph, or patch whole heads.",
    )


def require_components(model: Model) -> None:
    """Refuse a model whose residual stream is not a plain sum of heads and MLPs.

    Raises:
        SpecError: Saying which block is not.
    """
    if model.stream.by_hooks:
        raise SpecError(
            f"The attention of {model.info.architecture} is observed with hooks, so a head can't be"
            " given a query, a key and a value of its own.",
            "Use the flow graph, or patch whole heads.",
        )
    for number, block in enumerate(model.stream.blocks):
        others = {writer.part for writer in block.writers} - {"attention", "mlp"}
        plain = isinstance(block.carry, float) and block.carry == 1.0
        plain = plain and all(writer.offset is None for writer in block.writers)
        if others or not plain or not has_heads(model, number) or not _one_attention(block):
            raise SpecError(
                f"Layer {number} adds something other than heads and an MLP to the residual"
                " stream.",
                "Choose a model whose blocks are attention with heads and an MLP.",
            )


def _one_attention(block: Block) -> bool:
    return len(block.of("attention")) == 1 and isinstance(block.attention, nn.Module)
