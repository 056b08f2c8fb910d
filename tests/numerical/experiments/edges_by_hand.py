"""One edge cut by hand with module hooks, and whole graphs in a Llama written out as loops.

In a model with shared keys and values, a key belongs to several heads. The models here whose edges
are cut with hooks have a key for each head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import analysis
from analysis.model.handle import Model
from tests.numerical.cut_reference import Float64
from tests.support import every_architecture, zoo
from tests.support.tiny import randomise

CLEAN = (5, 9, 33, 2, 8, 41, 7)
#: Differs at two positions.
CORRUPTED = (5, 9, 12, 2, 8, 90, 7)
ANSWER, FOIL = 4, 9


@dataclass(frozen=True)
class Names:
    """Names of the blocks, and in a block of the norm, the projections and the MLP with its norm.

    One projection: query, key and value side by side.
    """

    blocks: str
    attention_norm: str
    projections: tuple[str, ...]
    mlp_norm: str
    mlp: str
    final: str


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_ROPE = Names("model.layers", "input_layernorm", _QKV, "post_attention_layernorm", "mlp",
              "model.norm")  # fmt: skip
NAMES = {
    "llama": _ROPE,
    "qwen3": _ROPE,
    "granite": _ROPE,
    "gpt_oss": _ROPE,
    "gpt2": Names("transformer.h", "ln_1", ("attn.c_attn",), "ln_2", "mlp", "transformer.ln_f"),
    "phi": Names("model.layers", "input_layernorm", _QKV, "input_layernorm", "mlp",
                 "model.final_layernorm"),
    "gemma2": Names("model.layers", "input_layernorm", _QKV, "pre_feedforward_layernorm", "mlp",
                    "model.norm"),
    "olmo2": Names("model.layers", "",
                   ("self_attn.q_proj self_attn.q_norm", "self_attn.k_proj self_attn.k_norm",
                    "self_attn.v_proj"), "", "mlp", "model.norm"),
}  # fmt: skip


def make(family: str) -> Any:
    """A small random model whose heads each have their own key and value."""
    if family not in zoo.CONFIGS:
        return every_architecture.make(family)
    options = {name: value for name, value in zoo.CONFIGS[family].items() if value is not None}
    if "num_key_value_heads" in options:
        options["num_key_value_heads"] = options["num_attention_heads"]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**options)
    config._attn_implementation = "eager"
    return randomise(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), 0)


def lead(logits: Tensor) -> float:
    """The target of these tests, from [vocab]."""
    return float(logits[ANSWER] - logits[FOIL])


class ByHand:
    """A model in float64 in which one edge can be cut, whole or in part.

    Args:
        family: One of ``NAMES``.
        model: The same model as the product sees it, for the states and what each part adds.
    """

    def __init__(self, family: str, model: Model) -> None:
        self.names = NAMES[family]
        self.hf: Any = make(family).double()
        self.hf.config._experts_implementation = "eager"  # the others have no float64
        self.heads = model.info.heads
        runs = [analysis.trace(model, ids) for ids in (CLEAN, CORRUPTED)]
        self.clean = runs[0]
        layers = range(model.info.layers)
        self.senders: dict[str, Tensor] = {"embedding": self._apart(*(r.resid[0] for r in runs))}
        for layer in layers:
            heads = [analysis.head_output(model, run, layer) for run in runs]
            for head in range(self.heads):
                self.senders[f"head {layer}.{head}"] = self._apart(*(one[head] for one in heads))
            self.senders[f"mlp {layer}"] = self._apart(*(run.mlp_out[layer] for run in runs))
        self.parallel = model.info.parallel_blocks

    def _apart(self, clean: Any, corrupted: Any) -> Tensor:
        return torch.from_numpy(clean).double() - torch.from_numpy(corrupted).double()

    @torch.no_grad()
    def logits(self) -> Tensor:
        """[vocab] at the last position."""
        with Float64():
            found: Tensor = self.hf(input_ids=torch.tensor([CLEAN]), use_cache=False).logits
        return found[0, -1]

    def cut(self, sender: str, receiver: str, pos: int, part: float = 1.0) -> float:
        """The lead if a receiver reads a part of the way from a sender to the corrupted one."""
        away = torch.zeros(len(CLEAN), self.clean.resid.shape[-1], dtype=torch.float64)
        away[pos] = part * self.senders[sender][pos]
        with self._reading(receiver, away):
            return lead(self.logits())

    @contextmanager
    def _reading(self, receiver: str, away: Tensor) -> Iterator[None]:
        words = receiver.split()
        if words[0] == "answer":
            module = self.hf.get_submodule(self.names.final)
            handle = module.register_forward_pre_hook(lambda _m, args: (args[0] - away,))
        elif words[0] == "mlp":
            handle = self._mlp(int(words[1]), away)
        else:
            layer, head = (int(number) for number in words[1].split("."))
            handle = self._head(layer, head, ("query", "key", "value").index(words[2]), away)
        try:
            yield
        finally:
            handle.remove()

    def _block(self, layer: int) -> Any:
        return self.hf.get_submodule(self.names.blocks)[layer]

    def _normed(self, layer: int, norm: str, state: Any, away: Tensor) -> Tensor:
        changed = torch.from_numpy(state).double() - away
        if not norm:
            return changed
        with Float64():
            found: Tensor = self._block(layer).get_submodule(norm)(changed)
        return found

    def _mlp(self, layer: int, away: Tensor) -> Any:
        state = self.clean.resid[layer] if self.parallel else self.clean.middle(layer)
        read = self._normed(layer, self.names.mlp_norm, state, away)
        where = away.abs().sum(-1) > 0

        def enter(_module: Any, args: Any) -> Any:
            changed = args[0].clone()
            changed.view(-1, changed.shape[-1])[where] = read[where]
            return (changed, *args[1:])

        return self._block(layer).get_submodule(self.names.mlp).register_forward_pre_hook(enter)

    def _head(self, layer: int, head: int, which: int, away: Tensor) -> Any:
        read = self._normed(layer, self.names.attention_norm, self.clean.resid[layer], away)
        fused = len(self.names.projections) == 1
        name = self.names.projections[0 if fused else which]
        own = read
        for part in name.split():  # a norm over all heads belongs to each head's own input
            module = self._block(layer).get_submodule(part)
            with Float64():
                own = module(own)
        width = own.shape[-1] // (self.heads * (3 if fused else 1))
        start = ((which if fused else 0) * self.heads + head) * width
        where = away.abs().sum(-1) > 0

        def leave(_module: Any, _args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[0, where, start : start + width] = own[where, start : start + width]
            return changed

        return module.register_forward_hook(leave)


class Loops:
    """A Llama with grouped queries, written out: each input of each head reads its own sum.

    Args:
        hf: The model.
        reads: (receiver, sender, pos) -> whether the edge is kept; others carry ``ablated``.
        ablated: Sender -> [pos, d_model].
    """

    def __init__(
        self, hf: Any, reads: Callable[[str, str, int], bool], ablated: dict[str, Tensor]
    ) -> None:
        self.hf, self.reads, self.ablated = hf, reads, ablated
        self.sent: dict[str, Tensor] = {}
        self.constant = torch.zeros(1)

    def _read(self, receiver: str) -> Tensor:
        """[pos, d_model] the biases, and each sender as it is or ablated."""
        total = self.constant.clone()
        for sender, present in self.sent.items():
            for pos in range(len(present)):
                kept = self.reads(receiver, sender, pos)
                total[pos] += present[pos] if kept else self.ablated[sender][pos]
        return total

    @torch.no_grad()
    def run(self, ids: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """[vocab] logits at the last position, and what each sender wrote."""
        model = self.hf.model
        self.sent = {"embedding": model.embed_tokens(torch.tensor(ids))}
        self.constant = torch.zeros_like(self.sent["embedding"])
        places = torch.arange(len(ids))[None]
        turn = model.rotary_emb(self.constant[None], places)
        for layer, block in enumerate(model.layers):
            made = {
                f"head {layer}.{head}": self._head(layer, head, block, turn)
                for head in range(self.hf.config.num_attention_heads)
            }
            self.sent.update(made)
            if block.self_attn.o_proj.bias is not None:
                self.constant += block.self_attn.o_proj.bias
            read = block.post_attention_layernorm(self._read(f"mlp {layer}"))
            self.sent[f"mlp {layer}"] = block.mlp(read)
        last = model.norm(self._read("answer")[-1])
        return self.hf.lm_head(last), self.sent

    def _head(self, layer: int, head: int, block: Any, turn: Any) -> Tensor:
        attention, width = block.self_attn, self.hf.config.head_dim
        group = self.hf.config.num_attention_heads // self.hf.config.num_key_value_heads
        parts = []
        for name, own in (("query", head), ("key", head // group), ("value", head // group)):
            read = block.input_layernorm(self._read(f"head {layer}.{head} {name}"))
            projection = getattr(attention, f"{name[0]}_proj")
            parts.append(projection(read)[:, own * width : (own + 1) * width])
        query, key = (one[None, None] for one in parts[:2])
        query, key = apply_rotary_pos_emb(query, key, *turn)
        scores = query[0, 0] @ key[0, 0].T * attention.scaling
        hidden = torch.ones_like(scores).triu(1).bool()
        pattern = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        weight = attention.o_proj.weight[:, head * width : (head + 1) * width]
        mixed: Tensor = pattern @ parts[2] @ weight.T
        return mixed
