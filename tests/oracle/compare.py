"""Compare states, patterns and logits with TransformerLens's bridge and nnsight.

    make oracle        # makes .venv-oracle, then runs this on the default model

Each library loads the same files in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import analysis
from analysis.contract.specs import Floats
from analysis.model import default_model
from analysis.tracing.capture import Trace

PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return a +",
    "日本の首都は 🙂, and 17 + 25 =",
)
#: Norm of the difference over the norm, at each state, pattern row and logit vector.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Seen:
    """One pass by a library: [row, pos, d], [layer, head, query, key], [pos, vocab]."""

    resid: Floats
    pattern: Floats
    logits: Floats


def _loaded(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    ).eval()


def _plain(tensors: list[Any]) -> Floats:
    return np.stack([tensor.detach()[0].float().numpy() for tensor in tensors])


def transformer_lens(folder: str) -> Callable[[torch.Tensor], Seen]:
    """Run TransformerLens's bridge without folding or centring."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        folder,
        hf_model=_loaded(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )

    def look(ids: torch.Tensor) -> Seen:
        logits, cache = bridge.run_with_cache(ids)
        blocks = range(bridge.cfg.n_layers)
        rows = [cache["blocks.0.hook_resid_pre"]]
        rows += [cache[f"blocks.{at}.hook_resid_post"] for at in blocks]
        patterns = [cache[f"blocks.{at}.attn.hook_pattern"] for at in blocks]
        return Seen(_plain(rows), _plain(patterns), _plain([logits])[0])

    return look


def nnsight(folder: str) -> Callable[[torch.Tensor], Seen]:
    """Run nnsight's trace."""
    from nnsight import TransformersModel

    model = TransformersModel(_loaded(folder), tokenizer=AutoTokenizer.from_pretrained(folder))

    def look(ids: torch.Tensor) -> Seen:
        with torch.no_grad(), model.trace(ids, use_cache=False):
            rows, patterns = [model.model.embed_tokens.output].save(), [].save()
            for block in model.model.layers:
                patterns.append(block.self_attn.output[1])
                rows.append(block.output)
            logits = model.lm_head.output.save()
        return Seen(_plain(rows), _plain(patterns), _plain([logits])[0])

    return look


def difference(one: Floats, other: Floats) -> float:
    """Largest over all vectors of the last axis: norm of the difference over the norm."""
    assert one.shape == other.shape, f"{one.shape} beside {other.shape}"
    apart = np.linalg.norm(one - other, axis=-1)
    return float((apart / np.maximum(np.linalg.norm(other, axis=-1), 1e-30)).max())


def compare(ours: Trace, theirs: Seen) -> dict[str, float]:
    """The largest relative difference of each quantity."""
    return {
        "residual states": difference(ours.resid, theirs.resid),
        "patterns": difference(ours.pattern, theirs.pattern),
        "logits": difference(ours.logits, theirs.logits),
    }


def look_at(model: Any, look: Callable[[torch.Tensor], Seen], name: str) -> float:
    """Print the differences of every prompt and return the largest.

    Raises:
        SystemExit: If another sequence also counts as equal, so the comparison proves nothing.
    """
    worst = 0.0
    for prompt in PROMPTS:
        trace = analysis.trace(model, prompt)
        found = compare(trace, look(torch.tensor([trace.token_ids])))
        shown = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
        print(f"{name:16} {prompt!r:40} {shown}", flush=True)
        worst = max(worst, *found.values())
    other = compare(trace, look(torch.tensor([trace.token_ids[::-1]])))
    if min(other.values()) < 100 * TOLERANCE:
        raise SystemExit(f"{name}: a reversed prompt gives the same numbers: {other}")
    return worst


def main() -> int:
    """Compare with both libraries; return 1 if one differs by more than the tolerance."""
    folder = str(default_model.ensure())
    model = analysis.load_model("smollm2-135m-instruct", device="cpu")
    worst = max(
        look_at(model, transformer_lens(folder), "TransformerLens"),
        look_at(model, nnsight(folder), "nnsight"),
    )
    print(f"largest relative difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
