"""Attention from its normed input to queries, keys and values, as the model's own modules compute.

No weight is found by its name. The attention module runs on inputs of ours up to the attention
function. On unit vectors this gives W_Q, W_K and W_V of every head, also where a model fuses them,
adds an adapter, quantises them or has a low-rank path (latent attention).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from analysis.errors import SpecError
from analysis.model.attention_hooks import observing
from analysis.model.handle import Model
from analysis.model.readout import NormForm, identity_norm, norm_form
from analysis.model.stream import Block, hidden_input
from analysis.model.writers import norm_like
from analysis.tracing.intervention_hooks import Edits


class _Stop(Exception):  # noqa: N818 - not an error: the rest of the pass is not needed
    """Ends a pass."""


@dataclass(frozen=True)
class Projected:
    """Queries, keys and values of some vectors, float32 on the CPU.

    Attributes:
        query: [head, n, d_key]. key: [kv_head, n, d_key]. value: [kv_head, n, d_head].
    """

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass
class Call:
    """One call of a layer's attention in a pass.

    Attributes:
        args, kwargs: The arguments of the attention module.
        state: [pos, d_model] the block's input. read: [pos, d_model] what attention reads.
        norm: The norm between the two; ``identity_norm`` if there is none.
        projected: Queries, keys and values, as the attention function gets them.
        mask: [head or 1, query, key] what is added to the scores; None if nothing is.
        options: The attention function's further arguments, such as the scale.
        softmax: [head, query, key] the input of the softmax; None if it was not seen.
        inner: (norm inside attention, its form, its input) in the order of the calls.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: Tensor = field(default_factory=lambda: torch.zeros(0))
    read: Tensor = field(default_factory=lambda: torch.zeros(0))
    norm: NormForm | None = None
    projected: Projected | None = None
    mask: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)
    softmax: Tensor | None = None
    inner: list[tuple[nn.Module, NormForm, Tensor]] = field(default_factory=list)


class _Softmax(TorchFunctionMode):
    """Keeps the input of the last softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.softmax, nn.functional.softmax, Tensor.softmax):
            self.seen = args[0].detach().float().cpu()
        return func(*args, **(kwargs or {}))


class _Reader:
    """A tap that receives the arguments of the attention function in some modules.

    Without ``edits`` it ends the pass there; with them the pass goes on. ``received`` has queries,
    keys and values, the mask and the options, by the module's id.
    """

    def __init__(self, modules: Sequence[nn.Module], edits: Edits | None = None) -> None:
        self.edits, self._ids = edits, {id(one) for one in modules}
        self.received: dict[int, tuple[Projected, Tensor | None, dict[str, Any]]] = {}

    def cut(self, module: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
        """The edges that the run's interventions knock out."""
        if self.edits is None:
            return None
        return self.edits.cut(self.edits.model.stream.layer(module), shape)

    def observe(self, module: nn.Module, value: Any, pattern: Any, output: Any) -> Tensor | None:
        """The heads' outputs of the run: those of a held pattern, if it is held."""
        return None if self.edits is None else self.edits.held(module, value, pattern, output)[1]

    def receive(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: Any
    ) -> None:
        """Keep the arguments of a module's call."""
        if id(module) not in self._ids:
            return
        projected = Projected(*(_own(part)[0] for part in (query, key, value)))
        kept = None if mask is None else _own(mask)[0]
        self.received[id(module)] = projected, kept, dict(options)
        if self.edits is None:
            raise _Stop


def _own(tensor: Tensor) -> Tensor:
    kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind, copy=True)


def attention_of(model: Model, layer: int) -> nn.Module:
    """The attention module of a layer, if its queries and keys can be read.

    Raises:
        SpecError: If the layer has none, or does not use transformers' attention function.
    """
    block = model.stream.blocks[layer]
    if block.attention is None:
        raise SpecError(f"Layer {layer} has no attention.", "Choose another layer.")
    if model.stream.by_hooks:
        raise SpecError(
            f"The attention of {model.info.architecture} computes its scores inside its own code, "
            "so its queries and keys can't be read.",
            "Read its pattern and its heads' outputs instead.",
        )
    return block.attention


def attention_call(
    model: Model, layer: int, token_ids: Sequence[int], interventions: Sequence[Any] = ()
) -> Call:
    """Run a prompt up to a layer, and keep what its attention reads and computes.

    Raises:
        SpecError: If the layer's queries and keys can't be read.
    """
    return attention_calls(model, (layer,), token_ids, interventions)[0]


@torch.no_grad()
def attention_calls(
    model: Model, layers: Sequence[int], token_ids: Sequence[int], interventions: Sequence[Any] = ()
) -> list[Call]:
    """Run a prompt once, up to the last of some layers, and keep what each one's attention reads.

    Raises:
        SpecError: If the queries and keys of a layer can't be read.
    """
    modules = [attention_of(model, layer) for layer in layers]
    if len({id(one) for one in modules}) < len(modules):  # layers share a module
        return [attention_call(model, layer, token_ids, interventions) for layer in layers]
    edits = Edits(model, tuple(interventions), len(token_ids))
    reader, mode = _Reader(modules, edits), _Softmax()
    watched = [
        _Watched(model.stream.blocks[layer], module, mode, is_last=module is modules[-1])
        for layer, module in zip(layers, modules, strict=True)
    ]
    with model.lock, edits.applied(), ExitStack() as stack:
        stack.enter_context(observing(modules, reader, by_hooks=False))
        for one in watched:
            for handle in one.hooks():
                stack.callback(handle.remove)
        stack.enter_context(mode)
        with suppress(_Stop):
            model.hf(
                input_ids=torch.tensor([list(token_ids)], device=model.device), use_cache=False
            )
    return [one.finished(reader, layer) for one, layer in zip(watched, layers, strict=True)]


@dataclass
class _Watched:
    """Records one call of a layer's attention.

    Attributes:
        block, module: The block and its attention. mode: Sees each softmax.
        is_last: Whether the pass ends after this layer.
        call: What is known of the call. norms: (norm, input, output) outside attention.
        inner: (norm, input) inside it.
    """

    block: Block
    module: nn.Module
    mode: _Softmax
    is_last: bool
    call: Call = field(default_factory=Call)
    norms: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)
    inner: list[tuple[nn.Module, Tensor]] = field(default_factory=list)

    def hooks(self) -> Iterator[Any]:
        """Hooks on the block, on attention and on the norms."""
        yield self.block.module.register_forward_pre_hook(self._enter_block, with_kwargs=True)
        yield self.module.register_forward_pre_hook(self._enter, with_kwargs=True)
        for part in self.block.module.modules():
            if _may_be_norm(part):
                yield part.register_forward_hook(self._after_norm, with_kwargs=True)
        yield self.module.register_forward_hook(self._leave)

    def _enter_block(self, _module: Any, args: Any, kwargs: Any) -> None:
        state = hidden_input(args, kwargs)
        self.call.state = self.call.state if state is None else _own(state)[0]

    def _enter(self, _module: Any, args: Any, kwargs: Any) -> None:
        self.call.args, self.call.kwargs = args, dict(kwargs)
        state = hidden_input(args, kwargs)
        self.call.read = self.call.read if state is None else _own(state)[0]
        self.mode.seen = None

    def _after_norm(self, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Record the input of a norm."""
        state = hidden_input(args, kwargs)
        if state is None or not isinstance(output, Tensor):
            return
        if any(part is one for one in self.module.modules()):
            self.inner.append((part, _own(state)))
        elif state.dim() == 3:
            self.norms.append((part, _own(state)[0], _own(output)[0]))

    def _leave(self, _module: Any, _args: Any, _output: Any) -> None:
        seen = self.mode.seen
        self.call.softmax = None if seen is None or seen.dim() != 4 else seen[0]
        if self.is_last:
            raise _Stop

    def finished(self, reader: _Reader, layer: int) -> Call:
        """The call, with the norm between the block's input and what attention reads.

        Raises:
            SpecError: If the attention function was not called, or there is no single norm.
        """
        if id(self.module) not in reader.received:
            raise _unreadable(layer)
        call = self.call
        call.projected, call.mask, call.options = reader.received[id(self.module)]
        forms = [(part, norm_form(part, state.shape[-1]), state) for part, state in self.inner]
        call.inner = [(part, form, state) for part, form, state in forms if form is not None]
        call.norm = _norm_between(call, self.norms)
        if call.norm is None:
            raise SpecError(
                f"What the attention of layer {layer} reads is not the block's input after one"
                " norm.",
                "Choose another layer or model.",
            )
        return call


def _may_be_norm(part: nn.Module) -> bool:
    """Whether a module has vectors but no matrix and no children."""
    weights = list(part.parameters(recurse=False))
    return bool(weights) and norm_like(part) and not list(part.children())


def _norm_between(call: Call, norms: Sequence[tuple[nn.Module, Tensor, Tensor]]) -> NormForm | None:
    if torch.equal(call.read, call.state):
        return identity_norm(call.state.shape[-1])
    for part, state, output in norms:
        if torch.equal(state, call.state) and torch.equal(output, call.read):
            return norm_form(part, state.shape[-1])
    return None


def _unreadable(layer: int) -> SpecError:
    return SpecError(
        f"The queries and keys of layer {layer} can't be read on their own.",
        "Read its pattern and its heads' outputs instead.",
    )


#: What becomes of the norms inside attention (of queries and keys, or of a latent state): they run
#: as they are, with the root of the recorded pass, or without a root.
OWN, FROZEN, ROOTLESS = "own", "frozen", "rootless"


@dataclass(frozen=True)
class Front:
    """A layer's attention up to the attention function, for inputs of ours.

    Attributes:
        model: The model. layer: The block. call: The recorded pass, which gives the arguments.
    """

    model: Model
    layer: int
    call: Call

    @property
    def module(self) -> nn.Module:
        """The attention module."""
        return attention_of(self.model, self.layer)

    @property
    def rotary(self) -> bool:
        """Whether positions enter by an argument that the front can set to position 0."""
        found = self.call.kwargs.get("position_embeddings")
        return isinstance(found, Tensor) or (
            isinstance(found, tuple) and all(isinstance(part, Tensor) for part in found)
        )

    @torch.no_grad()
    def run(self, read: Tensor, norms: str = OWN, *, at_zero: bool = False) -> Projected:
        """Queries, keys and values of normed inputs.

        Args:
            read: [n, d_model] what attention reads; with positions of their own, n is that of the
                recorded pass.
            norms: What becomes of the norms inside attention.
            at_zero: Whether all inputs are at position 0, so that nothing is rotated.

        Raises:
            SpecError: If the module can't run on them.
        """
        args, kwargs = self._arguments(read, at_zero=at_zero)
        reader = _Reader([self.module])
        try:
            with (
                self.model.lock,
                self._inner(norms),
                observing([self.module], reader, by_hooks=False),
                suppress(_Stop),
            ):
                self.module(*args, **kwargs)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise _unreadable(self.layer) from error
        if id(self.module) not in reader.received:
            raise _unreadable(self.layer)
        return reader.received[id(self.module)][0]

    def _arguments(self, read: Tensor, *, at_zero: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call, n = self.call, len(read)
        like = hidden_input(call.args, call.kwargs)
        assert like is not None  # noqa: S101 - recorded with its hidden states
        states = read[None].to(like)
        args, kwargs = call.args, dict(call.kwargs)
        if args:
            args = (states, *args[1:])
        else:
            kwargs["hidden_states"] = states
        if at_zero:
            kwargs = {name: _at_zero(name, value, n) for name, value in kwargs.items()}
            args = tuple(
                value if place == 0 else _at_zero("attention_mask", value, n)
                for place, value in enumerate(args)
            )
        return args, kwargs

    @contextmanager
    def _inner(self, norms: str) -> Iterator[None]:
        """Replace the outputs of the norms inside attention."""
        if norms == OWN:
            yield
            return
        forms = {id(part): form for part, form, _ in self.call.inner}
        recorded = [(id(part), state) for part, _, state in self.call.inner]

        def hook(part: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            """Compute the norm's output anew, with its own statistics or frozen ones."""
            state, form = hidden_input(args, kwargs), forms[id(part)]
            assert state is not None  # noqa: S101 - recorded with its input
            given = state.float().cpu()
            made = form.centred(given) * form.scale + form.bias
            if norms == FROZEN:
                place = next(at for at, (key, _) in enumerate(recorded) if key == id(part))
                made = form.frozen(given, recorded.pop(place)[1]) + form.bias
            return made.to(output)

        handles = [
            part.register_forward_hook(hook, with_kwargs=True)
            for part in {id(part): part for part, _, _ in self.call.inner}.values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _at_zero(name: str, value: Any, n: int) -> Any:
    """An argument of attention for n vectors at position 0."""
    if name == "position_embeddings":
        parts = value if isinstance(value, tuple) else (value,)
        zero = tuple(part[:, :1].expand(-1, n, *part.shape[2:]) for part in parts)
        return zero if isinstance(value, tuple) else zero[0]
    if name in ("position_ids", "cache_position") and isinstance(value, Tensor):
        return torch.zeros_like(value[..., :1]).expand(*value.shape[:-1], n)
    return None if name == "attention_mask" and isinstance(value, Tensor) else value
