"""Flow graphs by slow arithmetic: every vector, one node after another, in float64.

It covers a grouped-query model (llama), a parallel one (phi) and two with post-norms (olmo2,
gemma2). Patterns are the model's own; values, projections and norms come from modules by name. It
shares no code with ``analysis``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Key = tuple[str, int, int]
#: (source node, head) -> share
Divided = dict[tuple[Key, int | None], float]
Divide = Callable[["Slow", str, int, int], Divided]


@dataclass
class Slow:
    """A forward pass with all its vectors."""

    hf: Any
    rows: list[np.ndarray] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    patterns: list[np.ndarray] = field(default_factory=list)
    biases: list[np.ndarray] = field(default_factory=list)
    attn: list[np.ndarray] = field(default_factory=list)
    mlp: list[np.ndarray] = field(default_factory=list)

    @property
    def parallel(self) -> bool:
        return self.hf.config.model_type == "phi"

    def lens(self, state: np.ndarray) -> np.ndarray:
        """Log-probabilities by the model's own norm and unembedding."""
        x = torch.from_numpy(np.array(state))[None, None]
        logits = self.hf.lm_head(self.norm(x))[0, 0]
        cap = getattr(self.hf.config, "final_logit_softcapping", None)
        logits = torch.tanh(logits / cap) * cap if cap else logits
        return torch.log_softmax(logits, -1).numpy()

    @property
    def norm(self) -> Any:
        body = self.hf.model
        return body.final_layernorm if self.parallel else body.norm


def _scale(norm: Any) -> torch.Tensor:
    gemma = type(norm).__name__.startswith("Gemma")
    return 1.0 + norm.weight if gemma else norm.weight


def _eps(norm: Any) -> float:
    return float(next(getattr(norm, n) for n in ("eps", "variance_epsilon") if hasattr(norm, n)))


def _seen(hf: Any, tokens: tuple[int, ...]) -> tuple[Any, dict[Any, torch.Tensor]]:
    seen: dict[Any, torch.Tensor] = {}

    def hook(module: Any, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor):
            seen[module] = first.double()

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        seen["entered"] = (args[0] if args else kwargs["hidden_states"]).double()

    handles = [module.register_forward_hook(hook) for module in hf.modules()]
    handles.append(hf.model.layers[0].register_forward_pre_hook(enter, with_kwargs=True))
    out = hf(input_ids=torch.tensor([tokens]), output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    return out, seen


@torch.no_grad()
def forward(hf: Any, tokens: tuple[int, ...]) -> Slow:
    """Run ``hf`` (float64, eager attention) and compute all vectors."""
    out, seen = _seen(hf, tokens)
    slow = Slow(hf)
    slow.rows.append(seen["entered"][0].numpy())
    for layer, block in enumerate(hf.model.layers):
        _layer(slow, block, out.attentions[layer][0], seen)
    return slow


def _layer(slow: Slow, block: Any, pattern: torch.Tensor, seen: dict[Any, torch.Tensor]) -> None:
    attention = block.self_attn
    out = attention.dense if slow.parallel else attention.o_proj
    heads, size = pattern.shape[0], pattern.shape[1]
    value = seen[attention.v_proj][0].view(size, -1, out.in_features // heads)
    group = heads // value.shape[1]
    width = value.shape[2]
    raw, weight = seen[out][0], out.weight.T
    vectors = torch.zeros(heads, size, size, weight.shape[1], dtype=torch.float64)
    for head in range(heads):
        projected = value[:, head // group] @ weight[head * width : (head + 1) * width]
        for query in range(size):
            for key in range(query + 1):
                vectors[head, query, key] = pattern[head, query, key] * projected[key]
    bias = torch.zeros(size, weight.shape[1], dtype=torch.float64)
    if out.bias is not None:
        bias = bias + out.bias
    attn, mlp = raw, seen[block.mlp][0]
    if slow.hf.config.model_type in ("olmo2", "gemma2"):
        post = block.post_attention_layernorm
        for query in range(size):
            root = 1.0 / torch.sqrt((raw[query] ** 2).mean() + _eps(post))
            vectors[:, query] *= root * _scale(post)
            bias[query] *= root * _scale(post)
        attn, mlp = seen[post][0], seen[block.post_feedforward_layernorm][0]
    slow.vectors.append(vectors.numpy())
    slow.patterns.append(pattern.numpy())
    slow.biases.append(bias.numpy())
    slow.attn.append(attn.numpy())
    slow.mlp.append(mlp.numpy())
    slow.rows.append(seen[block][0].numpy())


# -- states and their parts ----------------------------------------------------------------


def wholes(slow: Slow, kind: str, layer: int, at: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A state and its parts: residual, MLP and attention."""
    x, a, m = slow.rows[layer][at], slow.attn[layer][at], slow.mlp[layer][at]
    if kind == "block":
        return slow.rows[layer + 1][at], {"residual": x + a, "mlp": m}
    if kind == "mid":
        return x + a, {"residual": x, "attention": a}
    return slow.rows[layer + 1][at], {"residual": x, "mlp": m, "attention": a}


def _names(kind: str, layer: int, at: int) -> dict[str, Key]:
    below = ("mid", layer, at) if kind == "block" else ("block", layer, at)
    return {"residual": below, "mlp": ("mlp", layer, at)}


def scored(score: Callable[[np.ndarray, np.ndarray], float]) -> Divide:
    """Shares by a score of each single part against the whole."""

    def divide(slow: Slow, kind: str, layer: int, at: int) -> Divided:
        whole, parts = wholes(slow, kind, layer, at)
        names = _names(kind, layer, at)
        found = {(names[n], None): score(z, whole) for n, z in parts.items() if n != "attention"}
        if "attention" in parts:
            for head in range(len(slow.vectors[layer])):
                for key in range(at + 1):
                    vector = slow.vectors[layer][head, at, key]
                    found[("block", layer, key), head] = score(vector, whole)
            if np.any(slow.biases[layer]):
                found[("bias", layer, at), None] = score(slow.biases[layer][at], whole)
        total = sum(found.values())
        return {name: value / total for name, value in found.items()}

    return divide


def _spread(
    slow: Slow, kind: str, layer: int, at: int, split: dict[str, float], inside: np.ndarray
) -> Divided:
    """Components by ``split``, attention by ``inside`` [head, key] normalised."""
    names = _names(kind, layer, at)
    found: Divided = {(names[n], None): s for n, s in split.items() if n != "attention"}
    if "attention" in split:
        for head, key in np.ndindex(*inside.shape):
            share = split["attention"] * inside[head, key] / inside.sum()
            name = (("block", layer, key), head)
            found[name] = found.get(name, 0.0) + float(share)
    return found


def _pattern(slow: Slow, layer: int, at: int) -> np.ndarray:
    return slow.patterns[layer][:, at, : at + 1]


def _by_size(parts: dict[str, np.ndarray]) -> dict[str, float]:
    norms = {name: float(np.linalg.norm(part)) for name, part in parts.items()}
    return {name: norm / sum(norms.values()) for name, norm in norms.items()}


def attention(slow: Slow, kind: str, layer: int, at: int) -> Divided:
    _, parts = wholes(slow, kind, layer, at)
    return _spread(slow, kind, layer, at, _by_size(parts), _pattern(slow, layer, at))


def value_weighted(slow: Slow, kind: str, layer: int, at: int) -> Divided:
    _, parts = wholes(slow, kind, layer, at)
    norms = np.linalg.norm(slow.vectors[layer][:, at, : at + 1], axis=-1)
    return _spread(slow, kind, layer, at, _by_size(parts), norms)


def residual_norm(slow: Slow, kind: str, layer: int, at: int) -> Divided:
    _, parts = wholes(slow, kind, layer, at)
    split = _by_size(parts)
    if len(parts) == 3:
        outer = _by_size({"mid": parts["residual"] + parts["attention"], "mlp": parts["mlp"]})
        inner = _by_size({name: parts[name] for name in ("residual", "attention")})
        split = {name: share * outer["mid"] for name, share in inner.items()}
        split["mlp"] = outer["mlp"]
    return _spread(slow, kind, layer, at, split, _pattern(slow, layer, at))


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    return float(sum(np.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))


def _by_kl(decode: Callable[[Slow, np.ndarray], np.ndarray]) -> Divide:
    def divide(slow: Slow, kind: str, layer: int, at: int) -> Divided:
        whole, parts = wholes(slow, kind, layer, at)
        wanted = decode(slow, whole)
        close = {n: 1 / (_kl(wanted, decode(slow, z)) + 1e-10) for n, z in parts.items()}
        split = {name: value / sum(close.values()) for name, value in close.items()}
        return _spread(slow, kind, layer, at, split, _pattern(slow, layer, at))

    return divide


def _hidden(slow: Slow, state: np.ndarray) -> np.ndarray:
    return torch.log_softmax(slow.norm(torch.from_numpy(np.array(state))[None])[0], -1).numpy()


def rollout(slow: Slow, kind: str, layer: int, at: int) -> Divided:
    split = {"residual": 1.0, "mlp": 0.0} if kind == "block" else {}
    if kind != "block":
        split = {"residual": 0.5, "attention": 0.5}
    return _spread(slow, kind, layer, at, split, _pattern(slow, layer, at))


def proximity(z: np.ndarray, y: np.ndarray) -> float:
    return max(float(np.abs(y).sum() - np.abs(z - y).sum()), 0.0)


METHODS: dict[str, Divide] = {
    "proximity": scored(proximity),
    "projection": scored(lambda z, y: max(float(z @ y), 0.0)),
    "norm": scored(lambda z, y: float(np.linalg.norm(z))),
    "attention": attention,
    "value_weighted": value_weighted,
    "residual_norm": residual_norm,
    "kl": _by_kl(lambda slow, state: slow.lens(state)),
    "hidden_kl": _by_kl(_hidden),
    "rollout": rollout,
}


# -- following the mass ------------------------------------------------------------------------


def steps(slow: Slow, layer: int) -> list[tuple[str, Callable[[int], Key]]]:
    """Kinds of states of a layer, the upper first, and the keys of their nodes."""
    if slow.parallel:
        return [("parallel", lambda at: ("block", layer + 1, at))]
    return [
        ("block", lambda at: ("block", layer + 1, at)),
        ("mid", lambda at: ("mid", layer, at)),
    ]


def _reads(slow: Slow, layer: int, at: int) -> Key:
    return ("block", layer, at) if slow.parallel else ("mid", layer, at)


def down(
    slow: Slow, divide: Divide, row: int, roots: tuple[int, ...]
) -> dict[Any, tuple[float, float]]:
    """(target, source, head) -> (share, flow)."""
    mass: dict[Key, float] = {("block", row, root): 1.0 / len(roots) for root in roots}
    links: dict[Any, tuple[float, float]] = {}
    for layer in range(row - 1, -1, -1):
        for kind, key in steps(slow, layer):
            for at in range(len(slow.rows[0])):
                here = mass.get(key(at), 0.0)
                if here <= 0.0:
                    continue
                for (source, head), share in divide(slow, kind, layer, at).items():
                    links[key(at), source, head] = (share, here * share)
                    mass[source] = mass.get(source, 0.0) + here * share
                    if source[0] == "mlp":
                        reads = _reads(slow, layer, at)
                        mass[reads] = mass.get(reads, 0.0) + here * share
    return links


def up(slow: Slow, divide: Divide, row: int, roots: tuple[int, ...]) -> dict[Key, float]:
    """The part of each state's mass that comes from the roots."""
    reach: dict[Key, float] = {("block", row, root): 1.0 for root in roots}
    for layer in range(row, len(slow.attn)):
        for at in range(len(slow.rows[0])):
            for kind, key in reversed(steps(slow, layer)):
                reach["mlp", layer, at] = reach.get(_reads(slow, layer, at), 0.0)
                divided = divide(slow, kind, layer, at)
                reach[key(at)] = sum(reach.get(s, 0.0) * share for (s, _), share in divided.items())
    return reach


def signed(slow: Slow, at: int, token: int, foil: int | None) -> dict[Any, float]:
    """(kind, layer, head, source) -> logits, with the final norm's scale frozen."""
    norm, state = slow.norm, slow.rows[-1][at]
    row = slow.hf.lm_head.weight[token].numpy()
    if foil is not None:
        row = row - slow.hf.lm_head.weight[foil].numpy()
    scale = _scale(norm).numpy()
    centre = state.mean() if slow.parallel else 0.0
    sigma = np.sqrt(((state - centre) ** 2).mean() + _eps(norm))

    def read(part: np.ndarray) -> float:
        middle = part.mean() if slow.parallel else 0.0
        return float(((part - middle) / sigma * scale) @ row)

    found = {("residual", 0, None, at): read(slow.rows[0][at])}
    for layer in range(len(slow.attn)):
        for head in range(len(slow.vectors[layer])):
            for key in range(at + 1):
                name = ("attention", layer, head, key)
                found[name] = read(slow.vectors[layer][head, at, key])
        found["bias", layer, None, at] = read(slow.biases[layer][at])
        found["mlp", layer, None, at] = read(slow.mlp[layer][at])
    last = 0.0 if getattr(norm, "bias", None) is None else float(norm.bias.numpy() @ row)
    bias = slow.hf.lm_head.bias
    if bias is not None:
        last += float(bias[token]) - (0.0 if foil is None else float(bias[foil]))
    found["bias", len(slow.attn), None, at] = last
    return found
